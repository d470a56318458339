"""Estimated depth made fit for a mesh: steady where nothing moves, sky behind all, sharp edges.

Each step judges the clip first and leaves alone what it would not better; which were taken is part
of the result. All of them work on inverse depth, in which a network's errors are about even.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from ex4d.framestore import each_frame, new_frames, value_range
from ex4d.protocol.documents import RefinementStep
from ex4d.task import Task
from ex4d.threads import ALL_CORES

from .units import fitted_inverse_depth, percentile_range

#: Frames of which the unmoved background is the median.
_BACKGROUND_FRAMES = 15
#: Levels of 255 by which an unmoved pixel may differ from the background.
_UNMOVED_LEVELS = 10.0
#: The camera stands if this share of the corners of the picture moves by less than so many pixels.
_STANDING_SHARE, _STANDING_PX = 0.6, 0.5
_CORNERS, _LEAST_CORNERS, _CORNER_DISTANCE_PX = 400, 12, 5
#: Depth of an unmoved pixel may be off the background's by this share of it.
_STEADY_SHARE = 0.15
#: Pixels of a frame on which flicker is measured.
_FIT_SAMPLE = 1 << 15
#: Sky is farther than so many times the clip's nearest surface, covers at least this share of half
#: of the frames, and differs by few levels from pixel to pixel.
_SKY_TIMES_NEAREST = 30.0
_SKY_SHARE = 0.02
_SKY_LEVELS = 4.0
#: An edge is a jump of this share of its nearer side's inverse depth, and of this share of the
#: range of the clip.
_EDGE_STEP, _EDGE_RANGE = 0.1, 0.04
#: How many pixels an edge may be smeared to either side, as a share of the longer side.
_SMEAR_SHARE = 0.0125
#: Edges are sharp already if fewer of their pixels than this lie midway between the two sides:
#: 0.01 to 0.20 of true depth and 0.29 to 0.46 of degraded depth in the generated scenes.
_BLURRED_SHARE = 0.24
#: Colours farther apart than this, in levels of 255, belong to different things.
_COLOR_LEVELS = 20.0
#: A pixel this near to its side's mean, as a share of the edge, is left as it is.
_KEPT_SHARE = 0.1
#: A pixel whose neighbours speak for both sides almost equally, by less than this, is uncertain.
_LEAST_MARGIN = 0.1


@dataclass(frozen=True, eq=False)
class Refined:
    """What was done to the depth of a clip.

    Attributes:
        steps: The steps that were taken.
        uncertain: (frames, height, width) bool: pixels that may belong to either side of an edge;
            None if edges were left alone.
    """

    steps: tuple[RefinementStep, ...]
    uncertain: NDArray[np.bool_] | None


def refine(depth: NDArray[np.float32], frames: NDArray[np.uint8], *, task: Task) -> Refined:
    """Refine the depth of a clip, in place.

    Args:
        depth: (frames, height, width) float32 z-depth, positive and finite.
        frames: (frames, height, width, 3) uint8 sRGB.
        task: Told about every frame, stage `refining`; asked whether to stop.
    """
    steps: list[RefinementStep] = []
    for frame in each_frame(depth):
        np.reciprocal(frame, out=frame)
    inverse = depth
    low, high = percentile_range(inverse)
    if hold_still(inverse, frames, task=task):
        steps.append("steady")
    if send_sky_back(inverse, frames, low=value_range(inverse)[0], high=high):
        steps.append("sky")
    uncertain = snap_edges(inverse, frames, spread=high - low, task=task)
    if uncertain is not None:
        steps.append("edges")
    for frame in each_frame(inverse):
        np.reciprocal(frame, out=frame)
    return Refined(tuple(steps), uncertain)


def hold_still(inverse: NDArray[np.float32], frames: NDArray[np.uint8], *, task: Task) -> bool:
    """Take flicker from a clip whose camera stands, in place; whether it does.

    What did not move keeps the median of its inverse depth over the clip; each frame is first
    brought to it by one scale and one shift.
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, _BACKGROUND_FRAMES).round().astype(int))
    if len(chosen) < 3:
        return False
    if not camera_stands(frames):
        return False
    background = np.median(frames[chosen], axis=0).astype(np.float32)
    reference = np.median(inverse[chosen], axis=0)
    least, _ = value_range(inverse)
    for index, frame in enumerate(each_frame(inverse)):
        task.step("refining", index + 1, 2 * len(frames))
        still = _is_unmoved(frames[index], background)
        # A flash, a fade or a cut: nothing tells how this frame lies to the others.
        if not still.any():
            continue
        pixels = np.flatnonzero(still)[:: max(1, still.sum() // _FIT_SAMPLE)]
        scale, shift = fitted_inverse_depth(frame.ravel()[pixels], reference.ravel()[pixels])
        if scale > 0:
            frame[:] = np.maximum(frame * np.float32(scale) + np.float32(shift), least)
        # A plain thing that comes nearer may show no change of colour.
        still &= np.abs(frame - reference) <= _STEADY_SHARE * reference
        frame[still] = reference[still]
    return True


def camera_stands(frames: NDArray[np.uint8]) -> bool:
    """Whether most corners of a clip's first frame are where they were, halfway and at the end."""
    first, *others = (
        cv2.cvtColor(frames[index], cv2.COLOR_RGB2GRAY) for index in (0, len(frames) // 2, -1)
    )
    corners = cv2.goodFeaturesToTrack(first, _CORNERS, 0.01, _CORNER_DISTANCE_PX)
    if corners is None or len(corners) < _LEAST_CORNERS:
        return False
    for other in others:
        found, is_found, _ = cv2.calcOpticalFlowPyrLK(first, other, corners, corners.copy())
        moved_px = np.hypot(*(found - corners).reshape(-1, 2).T)
        if ((is_found.ravel() == 1) & (moved_px < _STANDING_PX)).mean() < _STANDING_SHARE:
            return False
    return True


def _is_unmoved(frame: NDArray[np.uint8], background: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a frame looks as the background does, a margin around what moves excluded."""
    difference = cv2.blur(np.abs(frame - background).max(axis=-1), (3, 3))
    moved = (difference > _UNMOVED_LEVELS).astype(np.uint8)
    side = 2 * _smear_px(moved) + 1
    return cv2.dilate(moved, np.ones((side, side), np.uint8)) == 0


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


def snap_edges(
    inverse: NDArray[np.float32], frames: NDArray[np.uint8], *, spread: float, task: Task
) -> NDArray[np.bool_] | None:
    """Give the pixels of blurred depth edges to the side whose colour they have, in place.

    Neighbours that lie flat vote, the more the nearer they are in place and colour, as in the joint
    bilateral filter (Petschnigg et al. 2004); the winning side's mean is taken, so that nothing
    is left in between.

    Args:
        inverse: (frames, height, width) inverse depth.
        frames: The clip.
        spread: Range of inverse depth over the clip.
        task: Told about every frame.

    Returns:
        (frames, height, width) bool: where the vote was close; None if edges are sharp already.
    """
    sample = inverse[:: max(1, len(inverse) // 5)]
    if np.mean([_blurred_share(frame, spread) for frame in sample]) < _BLURRED_SHARE:
        return None
    uncertain = new_frames(inverse.shape, np.bool_)
    for index, frame in enumerate(each_frame(inverse)):
        low, high, band = _edges(frame, spread)
        slope, source = _slope(frame), frame.copy()
        ALL_CORES.over_rows(
            len(frame), _vote, source, frames[index], low, high, band, slope,
            2 * _smear_px(frame), frame, uncertain[index],
        )  # fmt: skip
        # Single pixels that voted otherwise than all around them.
        smooth = cv2.medianBlur(frame, 3)
        frame[band] = smooth[band]
        task.step("refining", len(inverse) + index + 1, 2 * len(inverse))
    return uncertain


def _smear_px(image: NDArray[np.generic]) -> int:
    return max(2, round(_SMEAR_SHARE * max(image.shape)))


def _slope(inverse: NDArray[np.float32]) -> NDArray[np.float32]:
    """Change of inverse depth from pixel to pixel."""
    x = cv2.Sobel(inverse, cv2.CV_32F, 1, 0, scale=1 / 8)
    y = cv2.Sobel(inverse, cv2.CV_32F, 0, 1, scale=1 / 8)
    return np.hypot(x, y)


def _edges(
    inverse: NDArray[np.float32], spread: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Least and largest inverse depth near each pixel, and the pixels in reach of an edge.

    On a slope, twice as large a window has twice the range; at an edge it has the same.
    """
    smear_px = _smear_px(inverse)
    small, large = (
        np.ones((side, side), np.uint8) for side in (2 * smear_px + 1, 4 * smear_px + 1)
    )
    low, high = cv2.erode(inverse, small), cv2.dilate(inverse, small)
    step = high - low
    wide_step = cv2.dilate(inverse, large) - cv2.erode(inverse, large)
    is_core = (step > _EDGE_STEP * high) & (step > _EDGE_RANGE * spread) & (step > 0.7 * wide_step)
    band = cv2.dilate(is_core.astype(np.uint8), small) > 0
    lowest, highest = cv2.erode(low, small), cv2.dilate(high, small)
    return lowest.astype(np.float32, copy=False), highest.astype(np.float32, copy=False), band


def _blurred_share(inverse: NDArray[np.float32], spread: float) -> float:
    """Of the pixels at edges, how many lie midway between the sides."""
    low, high, band = _edges(inverse, spread)
    if not band.any():
        return 0.0
    place = (inverse[band] - low[band]) / np.maximum(high[band] - low[band], 1e-12)
    return float(((place > 0.25) & (place < 0.75)).mean())


@njit(nogil=True, cache=True)
def _vote(  # noqa: PLR0913
    inverse, rgb, low, high, band, slope, reach, result, uncertain, first, end
):
    """Decide the pixels of a band, some rows of them."""
    height_px, width_px = inverse.shape
    per_color = 1 / (2 * _COLOR_LEVELS * _COLOR_LEVELS)
    per_place = 2 / np.float32(reach * reach)
    for j in range(first, end):
        for i in range(width_px):
            if not band[j, i]:
                continue
            middle = (low[j, i] + high[j, i]) / 2
            # Half of this weight is lost where a window's range would be crossed in 20 pixels.
            per_slope = 20 / max(high[j, i] - low[j, i], 1e-12)
            near = far = near_sum = far_sum = 0.0
            # Every other pixel, itself among them: reach is even.
            for y in range(max(j % 2, j - reach), min(height_px, j + reach + 1), 2):
                for x in range(max(i % 2, i - reach), min(width_px, i + reach + 1), 2):
                    red = float(rgb[y, x, 0]) - rgb[j, i, 0]
                    green = float(rgb[y, x, 1]) - rgb[j, i, 1]
                    blue = float(rgb[y, x, 2]) - rgb[j, i, 2]
                    tilt = slope[y, x] * per_slope
                    weight = np.exp(
                        -(red * red + green * green + blue * blue) * per_color
                        - ((y - j) ** 2 + (x - i) ** 2) * per_place
                        - tilt * tilt
                    )
                    if inverse[y, x] > middle:
                        near += weight
                        near_sum += weight * inverse[y, x]
                    else:
                        far += weight
                        far_sum += weight * inverse[y, x]
            total = near + far
            if total < 1e-12:
                uncertain[j, i] = True
                continue
            value = near_sum / near if near > far else far_sum / far
            # What lies on its side already keeps the slope of its surface.
            if abs(value - inverse[j, i]) > _KEPT_SHARE * (high[j, i] - low[j, i]):
                result[j, i] = value
            uncertain[j, i] = abs(near - far) < _LEAST_MARGIN * total
