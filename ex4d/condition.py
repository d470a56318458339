"""What the model sees: colour, mask and depth of a scene along a trajectory."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .camera import Intrinsics, Trajectory
from .errors import InputError
from .framestore import FrameCollector
from .raster import ConditionFrame, Rasteriser
from .scene import Scene
from .source_view import in_source, is_same_lens, is_source_view
from .task import Task


@dataclass(frozen=True)
class Condition:
    """The condition of a whole trajectory, for those who need all of it at once.

    Attributes:
        color: (frames, height, width, 3) uint8 sRGB, 0 where the mask is off.
        mask: (frames, height, width) bool: the source saw this.
        depth: (frames, height, width) float32 z-depth; infinite where no surface is hit.
        coverage: (frames,) float64: share of the pixels that the source saw.
    """

    color: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    depth: NDArray[np.float32]
    coverage: NDArray[np.float64]

    @classmethod
    def of(cls, frames: Iterable[ConditionFrame]) -> "Condition":
        """All of at least one frame; what is a whole condition already stays as it is."""
        if isinstance(frames, Condition):
            return frames
        color, mask, depth = FrameCollector(), FrameCollector(), FrameCollector()
        coverage: list[float] = []
        try:
            for frame in frames:
                color.append(frame.color)
                mask.append(frame.mask)
                depth.append(frame.depth)
                coverage.append(frame.coverage)
            return cls(color.frames(), mask.frames(), depth.frames(), np.array(coverage))
        finally:
            for collector in (color, mask, depth):
                collector.close()

    def __len__(self) -> int:
        return len(self.color)

    def __iter__(self) -> Iterator[ConditionFrame]:
        """The frames in order."""
        for color, mask, depth in zip(self.color, self.mask, self.depth, strict=True):
            yield ConditionFrame(color, mask, depth)


def condition_frames(
    scene: Scene, trajectory: Trajectory, rasteriser: Rasteriser, *, task: Task
) -> Iterator[ConditionFrame]:
    """Render the condition frame by frame; a few frames at a time are in memory.

    Output frame 0 is the source frame with a full mask where it looks from the source camera, since
    the model is conditioned on it; resampled where the picture has another size or a longer lens.

    Args:
        scene: What to look at.
        trajectory: Where from, and at which frame.
        rasteriser: Draws the meshes.
        task: Told about every frame, stage `rendering`.

    Raises:
        InputError: `source_time` if the trajectory looks at a frame that the scene does not have.
    """
    if int(trajectory.source_time.max()) >= len(scene):
        msg = (
            f"expected a trajectory that looks at frames 0 to {len(scene) - 1} of the scene, "
            f"found frame {int(trajectory.source_time.max())}; shorten it or hold the last frame"
        )
        raise InputError("source_time", msg)

    def draw(index: int) -> ConditionFrame:
        source_frame = int(trajectory.source_time[index])
        if index == 0:
            source_view = _source_view(scene, trajectory)
            if source_view is not None:
                return source_view
        return rasteriser.render(
            scene.mesh(source_frame), trajectory.cam_to_world[index], trajectory.intrinsics(index)
        )

    # Reading and meshing of later frames overlaps with the drawing of earlier ones.
    workers = min(os.cpu_count() or 1, 8)
    with ThreadPoolExecutor(workers, "condition") as pool:
        pending: deque[Future[ConditionFrame]] = deque()
        try:
            for index in range(len(trajectory) + workers):
                if index < len(trajectory):
                    pending.append(pool.submit(draw, index))
                if index >= workers:
                    frame = pending.popleft().result()
                    task.step("rendering", index - workers + 1, len(trajectory))
                    yield frame
        finally:
            for future in pending:
                future.cancel()


def _source_view(scene: Scene, trajectory: Trajectory) -> ConditionFrame | None:
    """Output frame 0 if the source saw all of it, from the same place; None otherwise."""
    source, output = scene.intrinsics, trajectory.intrinsics(0)
    pose = trajectory.cam_to_world[0, :3].ravel().tolist()
    if not is_source_view(source, output, pose, scene.document.nearest_depth):
        return None
    index = int(trajectory.source_time[0])
    color, depth = scene.frame(index), scene.depth(index)
    if not is_same_lens(source, output):
        color, depth = _resampled(color, depth, source, output)
    return ConditionFrame(color, np.ones(color.shape[:2], np.bool_), depth)


def _resampled(
    color: NDArray[np.uint8], depth: NDArray[np.float32], source: Intrinsics, output: Intrinsics
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The source's colour and depth as another camera at the same place sees them."""
    # A smaller picture averages first, to about its scale: what is left is a shift and a hair more.
    scale = min(1.0, output.fx_px / source.fx_px, output.fy_px / source.fy_px)
    scaled = source.resized(
        max(2, round(source.width_px * scale)), max(2, round(source.height_px * scale))
    )
    size = (scaled.width_px, scaled.height_px)
    color = cv2.resize(color, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    left_px, top_px = in_source(scaled, output, 0.5, 0.5)
    # OpenCV counts pixels from their centres.
    warp = np.array(
        [
            [scaled.fx_px / output.fx_px, 0.0, left_px - 0.5],
            [0.0, scaled.fy_px / output.fy_px, top_px - 0.5],
        ]
    )
    warped = cv2.warpAffine(
        color,
        warp,
        (output.width_px, output.height_px),
        flags=(cv2.INTER_LINEAR if scale < 1 else cv2.INTER_CUBIC) | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    columns, rows = (
        np.clip(np.floor(values).astype(np.int64), 0, side_px - 1)
        for values, side_px in (
            (
                in_source(source, output, np.arange(output.width_px) + 0.5, 0.0)[0],
                source.width_px,
            ),
            (
                in_source(source, output, 0.0, np.arange(output.height_px) + 0.5)[1],
                source.height_px,
            ),
        )
    )
    return warped.astype(np.uint8, copy=False), depth[rows[:, None], columns]
