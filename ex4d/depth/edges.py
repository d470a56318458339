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
#: How many pixels an edge may be smeared to either side, as a share of the longer side: usually,
#: and at most.
_SMEAR_SHARE, _MOST_SMEAR_SHARE = 0.0125, 0.02
#: Edges are sharp already if fewer of their pixels than this lie midway between the two sides:
#: 0.01 to 0.09 of true depth and 0.27 to 0.48 of degraded depth in the generated scenes; 0.19 of a
#: lone edge under a Gaussian.
_BLURRED_SHARE = 0.14
#: If more of the edges than this are those of things too thin for the estimate, it would not be
#: bettered: 0.08 to 0.31 of degraded depth, 0.35 to 0.48 in the scenes of thin things.
_UNRESOLVED_SHARE = 0.4
#: Colours farther apart than this, in levels of 255, belong to different things.
_COLOR_LEVELS = 20.0
#: A pixel that has its side's depth already, but for this share of the edge, is left as it is.
_KEPT_SHARE = 0.1
#: What is farther off than this in place, colour and slope together would weigh under 0.0005.
_MOST_OFF = 7.6
#: Variance that is added to a side's, in smears squared: few or unsure pixels make it level.
_LEVELLING_SHARE = 0.03
#: A pixel weighs 1 / e where depth would change by an edge within so many smears.
_SLOPE_SMEARS = 4.0
#: Reach in which widths of edges are measured, as a share of the longer side; what is wider than so
#: many of it is no edge; of the others so many percent are narrower than what counts, since two
#: edges close to each other look like one that is wide.
_WIDTH_REACH_SHARE, _WIDTH_MOST, _WIDTH_PERCENTILE = 0.025, 1.5, 30
#: What a round corner takes from a square one is not yet thin.
_CORNER_PX = 1.5


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
        Whether it was done; not if edges are sharp already, or mostly those of things that are
        thinner than edges are smeared.
    """
    sample = inverse[:: max(1, len(inverse) // 5)]
    smear_px = measured_smear_px(sample, spread)
    shares = [_shares(frame, spread, smear_px) for frame in each_frame(sample)]
    blurred, unresolved = np.mean(shares, axis=0)
    if blurred < _BLURRED_SHARE or unresolved > _UNRESOLVED_SHARE:
        return False
    pictures = zip(each_frame(inverse), each_frame(frames), strict=True)
    # Cost stays in proportion to the pixels: large pictures are looked at in larger steps.
    stride_px = max(2, smear_px // 3)
    steps = round(2 * smear_px / stride_px)
    for index, (frame, picture) in enumerate(pictures):
        low, high, band = _edges(frame, spread, smear_px)
        estimated = frame.copy()
        ALL_CORES.over_rows(
            len(frame), _vote, estimated, picture, low, high, band, _slope(frame),
            smear_px, stride_px, steps, frame,
        )  # fmt: skip
        # Single pixels that voted otherwise than all around them.
        smooth = cv2.medianBlur(frame, 3)
        frame[band] = smooth[band]
        # What is too thin for the estimate is left as it is.
        unresolved = _unresolved(frame > (low + high) / 2, band, smear_px)
        frame[unresolved] = estimated[unresolved]
        task.step("refining", len(inverse) + index + 1, 2 * len(inverse))
    return True


def edge_band(inverse: NDArray[np.float32], spread: float) -> NDArray[np.bool_]:
    """Pixels of a frame in reach of a depth edge, where an estimate may be of either side.

    Args:
        inverse: (height, width) inverse depth.
        spread: Its range over the clip.
    """
    return _edges(inverse, spread, _share_px(_SMEAR_SHARE, inverse))[2]


def measured_smear_px(sample: NDArray[np.float32], spread: float) -> int:
    """How many pixels the edges of a clip are smeared to either side.

    A step that was blurred by a Gaussian of deviation s has a steepest slope of its height by
    sqrt(2 pi) s, and is over within 2 s to either side.

    Args:
        sample: (frames, height, width) inverse depth.
        spread: Its range over the clip.
    """
    reach_px = _share_px(_WIDTH_REACH_SHARE, sample[0], least_px=5)
    window = np.ones((2 * reach_px + 1,) * 2, np.uint8)
    widths = []
    for frame in each_frame(sample):
        high = cv2.dilate(frame, window)
        step, slope = high - cv2.erode(frame, window), _slope(frame)
        is_edge = (step > _EDGE_STEP * high) & (step > _EDGE_RANGE * spread)
        # Where an edge is steepest; a slope is as steep everywhere. What alternates from pixel to
        # pixel has no slope at all.
        is_edge &= (slope >= cv2.dilate(slope, window)) & (step < _WIDTH_MOST * reach_px * slope)
        widths.append(step[is_edge] / slope[is_edge])
    width_px = np.concatenate(widths)
    if not len(width_px):
        return _share_px(_SMEAR_SHARE, sample[0])
    deviation_px = np.percentile(width_px, _WIDTH_PERCENTILE) / np.sqrt(2 * np.pi)
    most_px = _share_px(_MOST_SMEAR_SHARE, sample[0], least_px=4)
    return int(np.clip(round(2 * deviation_px), 2, most_px))


def _share_px(share: float, image: NDArray[np.generic], *, least_px: int = 2) -> int:
    """A share of the longer side."""
    return max(least_px, round(share * max(image.shape)))


def _unresolved(
    is_near: NDArray[np.bool_], band: NDArray[np.bool_], smear_px: int
) -> NDArray[np.bool_]:
    """Pixels of a band about things that are thinner than edges are smeared.

    An estimate has neither the depth of such a thing nor that of what is behind it, only a mixture,
    and to sharpen that would put a wall where nothing is.
    """
    near = (is_near | ~band).astype(np.uint8)
    # What is left when it is opened by a disk of that radius.
    core = cv2.distanceTransform(near, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > smear_px
    opened_px = cv2.distanceTransform((~core).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    thin = near & (opened_px > smear_px + _CORNER_PX)
    return cv2.dilate(thin, np.ones((2 * smear_px + 1,) * 2, np.uint8)) > 0


def _slope(inverse: NDArray[np.float32]) -> NDArray[np.float32]:
    """Change of inverse depth from pixel to pixel."""
    x = cv2.Sobel(inverse, cv2.CV_32F, 1, 0, scale=1 / 8)
    y = cv2.Sobel(inverse, cv2.CV_32F, 0, 1, scale=1 / 8)
    return np.hypot(x, y)


def _edges(
    inverse: NDArray[np.float32], spread: float, smear_px: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Least and largest inverse depth near each pixel, and the pixels in reach of an edge.

    On a slope, twice as large a window has twice the range; at an edge it has the same.
    """
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


def _shares(inverse: NDArray[np.float32], spread: float, smear_px: int) -> tuple[float, float]:
    """Of the pixels at edges, the shares midway between the sides and unresolved."""
    low, high, band = _edges(inverse, spread, smear_px)
    if not band.any():
        return 0.0, 0.0
    place = (inverse[band] - low[band]) / np.maximum(high[band] - low[band], 1e-12)
    unresolved = _unresolved(inverse > (low + high) / 2, band, smear_px)
    return float(((place > 0.25) & (place < 0.75)).mean()), float(unresolved[band].mean())


@njit(nogil=True, cache=True)
def _vote(  # noqa: PLR0913
    inverse, rgb, low, high, band, slope, smear, stride, steps, result, first, end
):
    """Decide the pixels of a band, some rows of them."""
    height_px, width_px = inverse.shape
    reach = stride * steps
    per_color = np.float32(1 / (2 * _COLOR_LEVELS * _COLOR_LEVELS))
    most_color = int(_MOST_OFF / per_color)
    levelling = _LEVELLING_SHARE * smear * smear
    per_place = np.float32(2 / (reach * reach))
    # Of the far and the near side: weight, x, y, xx, xy, yy, value, x value, y value.
    sums = np.empty((2, 9))
    for j in range(first, end):
        for i in range(width_px):
            if not band[j, i]:
                continue
            step = max(high[j, i] - low[j, i], np.float32(1e-12))
            middle = (low[j, i] + high[j, i]) / 2
            # Little weight is left where a window's range would be crossed in so many smears.
            per_slope = np.float32(_SLOPE_SMEARS * smear) / step
            sums[:] = 0
            # The pixel itself is among them.
            for y in range(max(j % stride, j - reach), min(height_px, j + reach + 1), stride):
                for x in range(max(i % stride, i - reach), min(width_px, i + reach + 1), stride):
                    # Whole numbers, of which most pairs of pixels need no more.
                    red = np.int32(rgb[y, x, 0]) - np.int32(rgb[j, i, 0])
                    green = np.int32(rgb[y, x, 1]) - np.int32(rgb[j, i, 1])
                    blue = np.int32(rgb[y, x, 2]) - np.int32(rgb[j, i, 2])
                    color = red * red + green * green + blue * blue
                    if color > most_color:
                        continue
                    tilt = slope[y, x] * per_slope
                    right, down = np.float32(x - i), np.float32(y - j)
                    off = (right * right + down * down) * per_place + tilt * tilt
                    off += color * per_color
                    if off > _MOST_OFF:
                        continue
                    weight = np.exp(-off)
                    value = inverse[y, x]
                    side = sums[1 if value > middle else 0]
                    weight_x, weight_y = weight * right, weight * down
                    side[0] += weight
                    side[1] += weight_x
                    side[2] += weight_y
                    side[3] += weight_x * right
                    side[4] += weight_x * down
                    side[5] += weight_y * down
                    side[6] += weight * value
                    side[7] += weight_x * value
                    side[8] += weight_y * value
            if sums[0, 0] + sums[1, 0] < 1e-12:
                continue
            if sums[1, 0] > sums[0, 0]:
                value = min(max(_continued(sums[1], levelling), middle), high[j, i])
            else:
                value = max(min(_continued(sums[0], levelling), middle), low[j, i])
            if abs(value - inverse[j, i]) > _KEPT_SHARE * step:
                result[j, i] = value


@njit(inline="always")
def _continued(side, levelling):
    """Where the plane through a side's pixels, by weighted least squares, has the pixel itself."""
    weight = side[0]
    x, y, value = side[1] / weight, side[2] / weight, side[6] / weight
    xx = side[3] / weight - x * x + levelling
    yy = side[5] / weight - y * y + levelling
    xy = side[4] / weight - x * y
    xv, yv = side[7] / weight - x * value, side[8] / weight - y * value
    determinant = xx * yy - xy * xy
    return value - ((xv * yy - yv * xy) * x + (yv * xx - xv * xy) * y) / determinant
