"""Estimated depth made steady: every frame is the mean of its neighbours, along the motion.

The camera may move. Depth of the frames around one is fetched along the optical flow of the
picture, brought to its scale and shift, and averaged: that takes noise. Then the frame gets the
scale and shift that its neighbours have on the average or, where they show a trend, by a line
through them: that takes flicker, and leaves what the camera's own motion does to depth.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ex4d.framestore import each_frame
from ex4d.task import Task

from .edges import edge_band
from .units import fitted_inverse_depth

#: Frames on either side that are averaged.
_REACH = 6
#: Longer side of the pictures whose flow is computed, and the shortest side that has any.
_FLOW_SIDE_PX, _LEAST_SIDE_PX = 512, 32
#: Levels of 255 by which a pixel may differ from where it came from.
_SAME_LEVELS = 20.0
#: Depth of a neighbour may be off by this share: more is another thing of the same colour.
_SAME_DEPTH = 0.15
#: Pixels on which scale and shift are fitted; and the least number, and scale, that tell any.
_FIT_SAMPLE, _LEAST_PIXELS, _LEAST_SCALE = 1 << 12, 200, 0.5
#: A trend is one if its slope is so many standard errors from 0.
_TREND_ERRORS = 3.0
#: Frames on which a clip is judged; and the share of its range by which depth of half of the pixels
#: may be off the mean of the frames before and after: at most 0.0007 for true and for merely
#: blurred depth, 0.0025 to 0.027 with noise and flicker, in the generated scenes.
_JUDGED_FRAMES = 5
_UNSTEADY_SHARE = 0.0015
#: OpenCV's types know no absent array, its functions do.
_ABSENT: Any = None


@dataclass(eq=False)
class _Moment:
    """A frame as it was before anything was changed; flow (height, width, 2) in small pixels."""

    index: int
    picture: NDArray[np.uint8]
    inverse: NDArray[np.float32]
    grey: NDArray[np.uint8]
    to_previous: NDArray[np.float32] | None = None
    to_next: NDArray[np.float32] | None = field(default=None, init=False)


@dataclass(frozen=True, eq=False)
class _Neighbour:
    """Inverse depth of another moment, brought to the pixels of the one in question."""

    steps: int
    inverse: NDArray[np.float32]
    is_same: NDArray[np.bool_]


def steady(
    inverse: NDArray[np.float32], frames: NDArray[np.uint8], *, spread: float, task: Task
) -> bool:
    """Take noise and flicker from a clip, in place; not if there is little of them.

    Args:
        inverse: (frames, height, width) inverse depth.
        frames: (frames, height, width, 3) uint8 sRGB.
        spread: Range of inverse depth over the clip.
        task: Told about every frame, stage `refining`.

    Returns:
        Whether it was done.
    """
    if unsteadiness(inverse, frames) <= _UNSTEADY_SHARE * spread:
        return False
    moments = _moments(inverse, frames)
    window: deque[_Moment] = deque(maxlen=2 * _REACH + 1)
    for index in range(len(inverse)):
        while not window or window[-1].index < min(index + _REACH, len(inverse) - 1):
            window.append(next(moments))
        inverse[index] = _steadied(list(window), index - window[0].index, spread)
        task.step("refining", index + 1, 2 * len(inverse))
    return True


def unsteadiness(inverse: NDArray[np.float32], frames: NDArray[np.uint8]) -> float:
    """How far depth of half of the pixels is off the mean of the frames before and after.

    Motion of the camera and of things cancels out in it. 0 where nothing tells.
    """
    count = len(inverse)
    if count < 3 or min(_flow_size(inverse)) < _LEAST_SIDE_PX:
        return 0.0
    jumps = []
    for index in np.unique(np.linspace(1, count - 2, _JUDGED_FRAMES).round().astype(int)):
        around = slice(index - 1, index + 2)
        moments = list(_moments(inverse[around], frames[around]))
        before, after = (next(_neighbours(moments, 1, sign), None) for sign in (-1, 1))
        if before is not None and after is not None:
            is_same = before.is_same & after.is_same
            jump = np.abs(moments[1].inverse - (before.inverse + after.inverse) / 2)
            if is_same.any():
                jumps.append(np.median(jump[is_same]))
    return float(np.median(jumps)) if jumps else 0.0


def _flow_size(inverse: NDArray[np.float32]) -> tuple[int, int]:
    """Width and height of the pictures whose flow is computed."""
    height_px, width_px = inverse.shape[1:]
    scale = min(1.0, _FLOW_SIDE_PX / max(height_px, width_px))
    return max(1, round(width_px * scale)), max(1, round(height_px * scale))


def _moments(inverse: NDArray[np.float32], frames: NDArray[np.uint8]) -> Iterator[_Moment]:
    """The frames in order, each linked to the one before."""
    flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    size = _flow_size(inverse)
    previous = None
    pairs = zip(each_frame(frames), each_frame(inverse), strict=True)
    for index, (picture, depth) in enumerate(pairs):
        small: Any = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        grey: Any = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        moment = _Moment(index, picture.copy(), depth.copy(), grey)
        if previous is not None:
            previous.to_next = flow.calc(previous.grey, moment.grey, _ABSENT)
            moment.to_previous = flow.calc(moment.grey, previous.grey, _ABSENT)
        yield moment
        previous = moment


def _neighbours(moments: Sequence[_Moment], at: int, sign: int) -> Iterator[_Neighbour]:
    """The moments after (`sign` 1) or before (-1) one, near ones first, in its pixels."""
    now = moments[at]
    height_px, width_px = now.inverse.shape
    here = _places(now.grey.shape)
    moved = np.zeros_like(here)
    place = here
    for steps in range(1, _REACH + 1):
        if not 0 <= at + sign * steps < len(moments):
            return
        last, other = moments[at + sign * (steps - 1)], moments[at + sign * steps]
        flow = last.to_next if sign > 0 else last.to_previous
        assert flow is not None  # noqa: S101 - neighbours are linked
        moved += _fetched(flow, place)
        place = here + moved
        large = place
        if here.shape[:2] != now.inverse.shape:
            large = _enlarged(moved, now.inverse.shape)
        red, green, blue = cv2.split(cv2.absdiff(_fetched(other.picture, large), now.picture))
        is_same = cv2.blur(cv2.max(cv2.max(red, green), blue), (3, 3)) < _SAME_LEVELS
        is_same &= cv2.inRange(large, (0, 0), (width_px - 1, height_px - 1)) > 0
        yield _Neighbour(sign * steps, _fetched(other.inverse, large), is_same)


def _fetched(image: NDArray[Any], place: NDArray[np.float32]) -> NDArray[Any]:
    """An image's values at places (height, width, 2), x first, in its own pixels."""
    return cv2.remap(image, place, _ABSENT, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _places(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """(height, width, 2): where each pixel is, x first."""
    height_px, width_px = shape
    places = np.empty((height_px, width_px, 2), np.float32)
    places[..., 0] = np.arange(width_px)
    places[..., 1] = np.arange(height_px)[:, None]
    return places


def _enlarged(moved: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Where each pixel of the large picture has moved to, from the motion of small pixels."""
    height_px, width_px = shape
    factor = np.array([width_px / moved.shape[1], height_px / moved.shape[0]], np.float32)
    large = cv2.resize(moved, (width_px, height_px), interpolation=cv2.INTER_LINEAR) * factor
    large += _places(shape)
    return large


def _steadied(moments: Sequence[_Moment], at: int, spread: float) -> NDArray[np.float32]:
    """Inverse depth of a moment without noise and flicker."""
    now = moments[at].inverse
    # Flow is off at outlines, where the mean would be of two surfaces.
    is_inside = ~edge_band(now, spread)
    total, count = now.copy(), np.ones_like(now)
    steps, scales, shifts = [0], [1.0], [0.0]
    for sign in (1, -1):
        for neighbour in _neighbours(moments, at, sign):
            places = np.flatnonzero(neighbour.is_same)
            if len(places) < _LEAST_PIXELS:
                # A flash, a fade or a cut: nothing tells how what comes then lies to this.
                break
            places = places[:: max(1, len(places) // _FIT_SAMPLE)]
            scale, shift = fitted_inverse_depth(
                neighbour.inverse.ravel()[places], now.ravel()[places]
            )
            if not _LEAST_SCALE < scale < 1 / _LEAST_SCALE:
                break
            brought = neighbour.inverse * np.float32(scale) + np.float32(shift)
            off = np.abs(brought - now)
            is_same = neighbour.is_same & is_inside & (off <= _SAME_DEPTH * now)
            cv2.accumulate(brought, total, is_same.view(np.uint8))
            count += is_same
            steps.append(neighbour.steps)
            scales.append(1 / scale)
            shifts.append(-shift / scale)
    scale, shift = _at_present(steps, scales), _at_present(steps, shifts)
    return np.maximum(total / count * np.float32(scale) + np.float32(shift), now.min())


def _at_present(steps: list[int], values: list[float]) -> float:
    """What a number is at step 0 by its neighbours: on a line where there is a trend, else mean."""
    if len(steps) < 4:
        return values[0]
    x, y = np.array(steps, float), np.array(values)
    slope, value = np.polyfit(x, y, 1)
    error = np.sqrt(
        np.square(y - slope * x - value).sum() / (len(x) - 2) / np.square(x - x.mean()).sum()
    )
    return float(value if abs(slope) > _TREND_ERRORS * error else y.mean())
