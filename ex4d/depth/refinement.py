"""Estimated depth made fit for a mesh: steady in time, sky behind all, edges those of the picture.

Each step judges the clip first and leaves alone what it would not better; which were taken is part
of the result. All of them work on inverse depth, in which a network's errors are about even.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from ex4d.framestore import each_frame, new_frames, value_range
from ex4d.protocol.documents import RefinementStep
from ex4d.task import Task

from .edges import snap_edges
from .steadiness import steady
from .units import percentile_range

#: Sky is farther than so many times the clip's nearest surface, covers at least this share of half
#: of the frames, and differs by few levels from pixel to pixel.
_SKY_TIMES_NEAREST = 30.0
_SKY_SHARE = 0.02
_SKY_LEVELS = 4.0


def refine(
    depth: NDArray[np.float32], frames: NDArray[np.uint8], *, task: Task
) -> tuple[RefinementStep, ...]:
    """Refine the depth of a clip, in place.

    Args:
        depth: (frames, height, width) float32 z-depth, positive and finite.
        frames: (frames, height, width, 3) uint8 sRGB.
        task: Told about every frame, stage `refining`; asked whether to stop.

    Returns:
        The steps that were taken.
    """
    steps: list[RefinementStep] = []
    for frame in each_frame(depth):
        np.reciprocal(frame, out=frame)
    inverse = depth
    low, high = percentile_range(inverse)
    if steady(inverse, frames, spread=high - low, task=task):
        steps.append("steady")
    if send_sky_back(inverse, frames, low=value_range(inverse)[0], high=high):
        steps.append("sky")
    if snap_edges(inverse, frames, spread=high - low, task=task):
        steps.append("edges")
    for frame in each_frame(inverse):
        np.reciprocal(frame, out=frame)
    return tuple(steps)


def send_sky_back(
    inverse: NDArray[np.float32], frames: NDArray[np.uint8], *, low: float, high: float
) -> bool:
    """Give sky the clip's farthest depth, in place; whether there is any.

    Sky is far, plain, and reaches the upper border.

    Args:
        inverse: (frames, height, width) inverse depth.
        frames: The clip.
        low: Inverse depth that sky gets.
        high: Inverse depth of the clip's nearest surface.
    """
    skies = new_frames(inverse.shape, np.bool_)
    for index, frame in enumerate(each_frame(inverse)):
        skies[index] = _sky(frame, frames[index], high / _SKY_TIMES_NEAREST)
    if np.median([sky.mean() for sky in each_frame(skies)]) < _SKY_SHARE:
        return False
    for frame, sky in zip(each_frame(inverse), skies, strict=True):
        frame[sky] = low
    return True


def _sky(inverse: NDArray[np.float32], frame: NDArray[np.uint8], limit: float) -> NDArray[np.bool_]:
    detail = np.abs(cv2.Laplacian(frame, cv2.CV_32F)).max(axis=-1)
    plain = (inverse < limit) & (cv2.blur(detail, (5, 5)) < _SKY_LEVELS)
    _, labels = cv2.connectedComponents(plain.astype(np.uint8))
    at_top = np.unique(labels[0])
    return np.isin(labels, at_top[at_top > 0])
