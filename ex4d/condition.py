"""What the model sees: colour, mask and depth of a scene along a trajectory."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .camera import Trajectory
from .errors import InputError
from .raster import ConditionFrame, Rasteriser
from .scene import Scene
from .task import Task

#: A camera this close to the source's, in scene units and in the entries of its rotation, shows
#: the source frame itself.
_SAME_POSE = 1e-6
#: The reference's source and output cameras differ by half a pixel, which it ignores in frame 0.
_SAME_INTRINSICS_PX = 0.5


@dataclass(frozen=True)
class Condition:
    """The condition of a whole trajectory.

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

    def __len__(self) -> int:
        return len(self.color)

    def frame(self, index: int) -> ConditionFrame:
        """The condition of output frame `index`."""
        return ConditionFrame(self.color[index], self.mask[index], self.depth[index])


def render_condition(
    scene: Scene, trajectory: Trajectory, rasteriser: Rasteriser, *, task: Task
) -> Condition:
    """Render the condition of a whole trajectory; see `condition_frames`."""
    size = (len(trajectory), trajectory.height_px, trajectory.width_px)
    color = np.empty((*size, 3), np.uint8)
    mask = np.empty(size, np.bool_)
    depth = np.empty(size, np.float32)
    for index, frame in enumerate(condition_frames(scene, trajectory, rasteriser, task=task)):
        color[index], mask[index], depth[index] = frame.color, frame.mask, frame.depth
    return Condition(color, mask, depth, mask.mean(axis=(1, 2)))


def condition_frames(
    scene: Scene, trajectory: Trajectory, rasteriser: Rasteriser, *, task: Task
) -> Iterator[ConditionFrame]:
    """Render the condition frame by frame.

    Output frame 0 is the source frame with a full mask where it looks from the source camera, since
    the model is conditioned on it.

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
        if index == 0 and _is_source_view(scene, trajectory):
            color = scene.frame(source_frame)
            return ConditionFrame(
                color, np.ones(color.shape[:2], np.bool_), scene.depth(source_frame)
            )
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


def _is_source_view(scene: Scene, trajectory: Trajectory) -> bool:
    """Whether the first camera is the source camera, to half a pixel."""
    source, first = scene.intrinsics, trajectory.intrinsics(0)
    differences_px = (
        source.fx_px - first.fx_px,
        source.fy_px - first.fy_px,
        source.cx_px - first.cx_px,
        source.cy_px - first.cy_px,
    )
    return (
        (source.width_px, source.height_px) == (first.width_px, first.height_px)
        and bool(np.allclose(trajectory.cam_to_world[0], np.eye(4), rtol=0, atol=_SAME_POSE))
        and max(map(abs, differences_px)) <= _SAME_INTRINSICS_PX
    )
