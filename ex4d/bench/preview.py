"""The preview engine against the truth of the sample, against Telea inpainting and the clock.

Flicker is how much the picture changes from frame to frame where the source saw neither: the mean
absolute difference of consecutive frames over the pixels that are unseen in both, in grey levels.
The camera moves, so that the truth has some too; the ratio of the two is what counts.
"""

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ex4d.camera import Intrinsics
from ex4d.clip import Clip
from ex4d.condition import Condition, condition_frames
from ex4d.depth import Depth
from ex4d.diffusion import View, create_engine
from ex4d.dwmesh import default_rules
from ex4d.protocol.documents import PreviewSettings
from ex4d.raster import create_rasteriser
from ex4d.scene import Scene, write_scene
from ex4d.task import Task

from .sample import Sample, load_sample, psnr_db

#: Radius of what Telea's method looks at, in pixels; its authors' and OpenCV's usual value.
_TELEA_RADIUS_PX = 3


class Figures(NamedTuple):
    """How good filled pixels are."""

    psnr_db: float
    flicker: float


def sample_scene(sample: Sample, folder: Path) -> Scene:
    """The sample as a scene on disk."""
    rules = default_rules(float(sample.depth.values.max()))
    return write_scene(
        folder, sample.clip, sample.depth, sample.intrinsics, rules, name="sample", task=Task()
    )


def telea(condition: Condition) -> NDArray[np.uint8]:
    """Each frame inpainted by itself."""
    return np.stack(
        [
            cv2.inpaint(color, (~mask).astype(np.uint8), _TELEA_RADIUS_PX, cv2.INPAINT_TELEA)
            for color, mask in zip(condition.color, condition.mask, strict=True)
        ]
    )


def measure(
    frames: Iterable[NDArray[np.uint8]], sample: Sample, hidden: NDArray[np.bool_]
) -> Figures:
    """Compare with the truth where the source saw nothing.

    Args:
        frames: Each (height, width, 3) uint8.
        sample: The truth.
        hidden: (frames, height, width) bool: unseen in truth and in the condition.
    """
    stacked = np.stack(list(frames))
    changes = [
        np.abs(stacked[i].astype(np.float64) - stacked[i - 1])[hidden[i] & hidden[i - 1]].mean()
        for i in range(1, len(stacked))
        if (hidden[i] & hidden[i - 1]).any()
    ]
    truth = sample.orbit[: len(stacked)]
    return Figures(psnr_db(stacked[hidden], truth[hidden]), float(np.mean(changes)))


def reduced(sample: Sample, frame_step: int, size_px: int) -> Sample:
    """The sample with fewer and smaller frames, for a quick look."""
    chosen = slice(None, None, frame_step)
    size = (size_px, size_px)

    def shrink(images: NDArray[np.uint8], how: int) -> NDArray[np.uint8]:
        return np.stack([cv2.resize(image, size, interpolation=how) for image in images[chosen]])

    trajectory = sample.trajectory
    camera = sample.intrinsics.resized(size_px, size_px)
    scale = size_px / sample.intrinsics.width_px
    depth = np.stack(
        [
            cv2.resize(image, size, interpolation=cv2.INTER_NEAREST_EXACT)
            for image in sample.depth.values[chosen]
        ]
    )
    frames = shrink(sample.clip.frames, cv2.INTER_AREA)
    return Sample(
        Clip(frames, sample.clip.frame_rate / frame_step),
        Depth(depth, sample.depth.info),
        camera,
        sample.radius_m,
        type(trajectory)(
            size_px,
            size_px,
            trajectory.cam_to_world[chosen],
            trajectory.intrinsics_px[chosen] * scale,
            np.arange(len(frames)),
        ),
        shrink(sample.orbit, cv2.INTER_AREA),
        shrink(sample.seen.astype(np.uint8), cv2.INTER_NEAREST_EXACT) > 0,
    )


def compare(sample: Sample, folder: Path) -> tuple[dict[str, Figures], dict[str, float]]:
    """Figures of the truth, of preview and of Telea's method; seconds of each step."""
    scene = sample_scene(sample, folder / "scene")
    rasteriser = create_rasteriser()
    # Compile outside the clock: a server does this once.
    Intrinsics.from_focal(8, 8, 8.0)
    rasteriser.render(scene.mesh(0), np.eye(4), sample.intrinsics)
    start_s = time.perf_counter()
    condition = Condition.of(condition_frames(scene, sample.trajectory, rasteriser, task=Task()))
    rendered_s = time.perf_counter()
    engine = create_engine(PreviewSettings(), rasteriser)
    frames = list(engine.generate(condition, View(scene, sample.trajectory), task=Task()))
    filled_s = time.perf_counter()
    hidden = ~sample.seen & ~condition.mask
    return (
        {
            "truth": measure(sample.orbit, sample, hidden),
            "preview": measure(frames, sample, hidden),
            "telea": measure(telea(condition), sample, hidden),
        },
        {"condition": rendered_s - start_s, "preview": filled_s - rendered_s},
    )


def run() -> None:
    """Print the table."""
    sample = load_sample()
    with tempfile.TemporaryDirectory() as folder:
        figures, times_s = compare(sample, Path(folder))
    print(f"{'':12}{'PSNR unseen':>14}{'flicker':>10}{'against truth':>16}")
    for name, figure in figures.items():
        ratio = figure.flicker / figures["truth"].flicker
        psnr = "" if name == "truth" else f"{figure.psnr_db:.2f} dB"
        print(f"{name:12}{psnr:>14}{figure.flicker:10.2f}{ratio:16.2f}")
    count = len(sample.trajectory)
    print(
        f"{count} frames of {sample.intrinsics.width_px} x {sample.intrinsics.height_px}: "
        f"preview {times_s['preview']:.1f} s; rendering the condition, which no engine can do "
        f"without, {times_s['condition']:.1f} s"
    )
