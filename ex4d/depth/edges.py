"""Blurred depth edges made sharp, where the picture has its edges."""

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from ex4d.framestore import each_frame
from ex4d.task import Task
from ex4d.threads import ALL_CORES

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
#: A pixel that has its side's depth already, but for this share of the edge, is left as it is.
_KEPT_SHARE = 0.1
#: What is farther off than this in place, colour and slope together would weigh under 0.0005.
_MOST_OFF = 7.6
#: Variance in square pixels that is added to a side's: few or unsure pixels make it level.
_LEVELLING_PX2 = 0.5


def snap_edges(
    inverse: NDArray[np.float32], frames: NDArray[np.uint8], *, spread: float, task: Task
) -> bool:
    """Give the pixels of blurred depth edges to the side whose colour they have, in place.

    Neighbours that lie flat vote, the more the nearer they are in place and colour, as in the joint
    bilateral filter (Petschnigg et al. 2004). The winning side's plane is continued to the pixel,
    so that nothing is left in between and slopes stay slopes: a side's mean would make stairs of
    them, whose steps count as stretched. A plane in space is one in inverse depth too.

    Args:
        inverse: (frames, height, width) inverse depth.
        frames: The clip.
        spread: Range of inverse depth over the clip.
        task: Told about every frame.

    Returns:
        Whether it was done; not if edges are sharp already.
    """
    sample = inverse[:: max(1, len(inverse) // 5)]
    if np.mean([_blurred_share(frame, spread) for frame in each_frame(sample)]) < _BLURRED_SHARE:
        return False
    pictures = zip(each_frame(inverse), each_frame(frames), strict=True)
    smear_px = _smear_px(inverse[0])
    # Cost stays in proportion to the pixels: large pictures are looked at in larger steps.
    stride_px = max(2, smear_px // 3)
    steps = round(2 * smear_px / stride_px)
    for index, (frame, picture) in enumerate(pictures):
        low, high, band = _edges(frame, spread)
        ALL_CORES.over_rows(
            len(frame), _vote, frame.copy(), picture, low, high, band, _slope(frame),
            stride_px, steps, frame,
        )  # fmt: skip
        # Single pixels that voted otherwise than all around them.
        smooth = cv2.medianBlur(frame, 3)
        frame[band] = smooth[band]
        task.step("refining", len(inverse) + index + 1, 2 * len(inverse))
    return True


def edge_band(inverse: NDArray[np.float32], spread: float) -> NDArray[np.bool_]:
    """Pixels of a frame in reach of a depth edge, where an estimate may be of either side.

    Args:
        inverse: (height, width) inverse depth.
        spread: Its range over the clip.
    """
    return _edges(inverse, spread)[2]


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
    inverse, rgb, low, high, band, slope, stride, steps, result, first, end
):
    """Decide the pixels of a band, some rows of them."""
    height_px, width_px = inverse.shape
    reach = stride * steps
    per_color = 1 / (2 * _COLOR_LEVELS * _COLOR_LEVELS)
    per_place = 2 / np.float32(reach * reach)
    # Of the far and the near side: weight, x, y, xx, xy, yy, value, x value, y value.
    sums = np.empty((2, 9))
    for j in range(first, end):
        for i in range(width_px):
            if not band[j, i]:
                continue
            step = max(high[j, i] - low[j, i], 1e-12)
            middle = (low[j, i] + high[j, i]) / 2
            # Half of this weight is lost where a window's range would be crossed in 20 pixels.
            per_slope = 20 / step
            sums[:] = 0
            # The pixel itself is among them.
            for y in range(max(j % stride, j - reach), min(height_px, j + reach + 1), stride):
                for x in range(max(i % stride, i - reach), min(width_px, i + reach + 1), stride):
                    red = float(rgb[y, x, 0]) - rgb[j, i, 0]
                    green = float(rgb[y, x, 1]) - rgb[j, i, 1]
                    blue = float(rgb[y, x, 2]) - rgb[j, i, 2]
                    tilt = slope[y, x] * per_slope
                    right, down = float(x - i), float(y - j)
                    off = (red * red + green * green + blue * blue) * per_color
                    off += (right * right + down * down) * per_place + tilt * tilt
                    if off > _MOST_OFF:
                        continue
                    weight = np.exp(-off)
                    value = inverse[y, x]
                    side = sums[1 if value > middle else 0]
                    side[0] += weight
                    side[1] += weight * right
                    side[2] += weight * down
                    side[3] += weight * right * right
                    side[4] += weight * right * down
                    side[5] += weight * down * down
                    side[6] += weight * value
                    side[7] += weight * value * right
                    side[8] += weight * value * down
            if sums[0, 0] + sums[1, 0] < 1e-12:
                continue
            if sums[1, 0] > sums[0, 0]:
                value = min(max(_continued(sums[1]), middle), high[j, i])
            else:
                value = max(min(_continued(sums[0]), middle), low[j, i])
            if abs(value - inverse[j, i]) > _KEPT_SHARE * step:
                result[j, i] = value


@njit(inline="always")
def _continued(side):
    """Where the plane through a side's pixels, by weighted least squares, has the pixel itself."""
    weight = side[0]
    x, y, value = side[1] / weight, side[2] / weight, side[6] / weight
    xx = side[3] / weight - x * x + _LEVELLING_PX2
    yy = side[5] / weight - y * y + _LEVELLING_PX2
    xy = side[4] / weight - x * y
    xv, yv = side[7] / weight - x * value, side[8] / weight - y * value
    determinant = xx * yy - xy * xy
    return value - ((xv * yy - yv * xy) * x + (yv * xx - xv * xy) * y) / determinant
