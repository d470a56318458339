"""The rendered sample with its truth, from the folder `tests/data/sample` of the source tree."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ex4d.camera import Intrinsics, Trajectory, move
from ex4d.clip import Clip, read_clip
from ex4d.depth import Depth
from ex4d.depth.files import read_depth
from ex4d.errors import InputError

SAMPLE_FOLDER = Path(__file__).parents[2] / "tests" / "data" / "sample"


@dataclass(frozen=True)
class Sample:
    """A rendered clip and a true second view of it.

    Attributes:
        clip: The source view.
        depth: Its true z-depth in metres.
        intrinsics: Of both views.
        radius_m: Distance of the orbit's pivot.
        trajectory: The orbit to the right, frame by frame.
        orbit: (frames, height, width, 3) uint8: what a camera on the orbit truly sees.
        seen: (frames, height, width) bool: which of its pixels the source sees at the same time.
    """

    clip: Clip
    depth: Depth
    intrinsics: Intrinsics
    radius_m: float
    trajectory: Trajectory
    orbit: NDArray[np.uint8]
    seen: NDArray[np.bool_]


def load_sample(folder: Path = SAMPLE_FOLDER) -> Sample:
    """Read the sample.

    Raises:
        InputError: `sample_missing` where the source tree is not at hand.
    """
    facts_path = folder / "sample.json"
    if not facts_path.is_file():
        msg = f"expected the sample in {folder}, found none; run this from the source tree"
        raise InputError("sample_missing", msg)
    facts = json.loads(facts_path.read_text())
    clip = read_clip(folder / "source.mp4")
    frame_count, height_px, width_px, _ = clip.frames.shape
    depth = read_depth(
        folder / "depth.npz",
        kind="metric",
        frame_count=frame_count,
        width_px=width_px,
        height_px=height_px,
    )
    intrinsics = Intrinsics.from_focal(width_px, height_px, facts["focal_px"])
    with np.load(folder / "seen.npz") as arrays:
        seen = np.unpackbits(arrays["seen"], axis=-1, count=width_px).astype(np.bool_)
    return Sample(
        clip,
        depth,
        intrinsics,
        facts["radius_m"],
        move(
            "orbit_right",
            frame_count=frame_count,
            radius=facts["radius_m"],
            intrinsics=intrinsics,
            amount=facts["orbit_deg"],
        ),
        read_clip(folder / "orbit.mp4").frames,
        seen,
    )


def psnr_db(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two arrays of 8-bit values."""
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10 * np.log10(255.0**2 / error)) if error else float("inf")
