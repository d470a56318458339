"""From what a file or an estimator says to z-depth in the scene's units.

The whole clip is treated alike: one range, one scale. A range for each frame would make surfaces
move that stand still.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ex4d.errors import InputError
from ex4d.framestore import each_frame, value_range
from ex4d.protocol.documents import DepthInfo, DepthRange

from . import Depth, DepthEstimator, Estimate

#: What lies farther than so many times the clip's nearest depth is sky, and is moved to there:
#: renderers write infinity or 1e10 for it, which float32 positions cannot hold apart.
SKY_FACTOR = 1e5
#: The reference: depth = 10000 / (3900 d) for disparity d in [0, 1] over the whole clip, clipped.
_REFERENCE_NUMERATOR = 10_000.0
_REFERENCE_SCALE = 3_900.0
_REFERENCE_NEAREST, _REFERENCE_FARTHEST = np.float32(1e-4), np.float32(1e4)
#: Depth of the clip's nearest surface where depth has a free scale; as the reference's disparity.
NEAREST_DEPTH = _REFERENCE_NUMERATOR / _REFERENCE_SCALE
#: Single pixels beyond these are outliers, and networks write 0 for all that is far.
_LOW_PERCENTILE, _HIGH_PERCENTILE = 0.1, 99.9
#: Percentiles are taken of about so many numbers, evenly spread over the clip.
_SAMPLE_SIZE = 1 << 24
#: What an estimator says is nearer than this share of the 0.1 percentile is an outlier.
_NEAREST_SHARE = 0.1
#: Frames on which disparity is fitted to metric depth, and pixels of each.
_KEY_FRAMES = 5
_KEY_SAMPLE = 1 << 16
#: Rounds of a fit, and the share by which the last one changes anything.
_FIT_ROUNDS, _FIT_CHANGE = 30, 1e-5


def key_frames(frame_count: int) -> NDArray[np.int64]:
    """The frames whose metric depth `depth_of` is given for calibration, spread over the clip."""
    return np.unique(np.linspace(0, frame_count - 1, _KEY_FRAMES).round().astype(np.int64))


def depth_of(
    estimate: Estimate,
    estimator: DepthEstimator,
    spread: DepthRange = "percentile",
    metric: Estimate | None = None,
) -> Depth:
    """The depth that an estimate means.

    - Affine disparity is spread over [0, 1] and turned into depth as the reference does it, or
      fitted to metric depth.
    - Depth up to scale is scaled so that the clip's nearest lies at `NEAREST_DEPTH`.
    - Metric depth stays as it is.

    Args:
        estimate: Its values are overwritten: a clip must not be in memory twice.
        estimator: What made it.
        spread: For affine disparity.
        metric: For `calibrated` alone: metric depth of the clip's `key_frames`.

    Raises:
        InputError: `depth_values` for values that are not finite, for disparity that is the same
            everywhere, or for depth that is 0; `depth_calibration` if disparity and metric depth do
            not go together.
    """
    values = estimate.values
    is_disparity = estimate.kind == "affine_disparity"
    is_calibrated = is_disparity and spread == "calibrated"
    for index, frame in enumerate(each_frame(values)):
        wrong = ~np.isfinite(frame)
        if wrong.any():
            msg = (
                f"expected finite numbers from {estimator.name}, found others in "
                f"{100 * wrong.mean():.2g} % of frame {index}; take another estimator or other "
                "frames"
            )
            raise InputError("depth_values", msg)
    if is_calibrated:
        assert metric is not None  # noqa: S101 - the caller's part
        _calibrate(values, metric.values, estimator.name)
    elif is_disparity:
        low, high = value_range(values) if spread == "min_max" else percentile_range(values)
        disparity_to_depth(values, low, high, f"what {estimator.name} saw")
    else:
        _proportional_depth(values, estimator.name, is_metric=estimate.kind == "metric_depth")
    info = DepthInfo(
        source=estimator.name,
        kind="disparity" if is_disparity else "depth",
        unit="metres" if is_calibrated or estimate.kind == "metric_depth" else "scene",
        licence=estimator.licence,
        weights=f"{estimator.weights.name} {estimator.weights.version}",
        spread=spread if is_disparity else "proportional",
    )
    return Depth(values, info)


def depth_from_disparity(disparity: NDArray[np.float32]) -> NDArray[np.float32]:
    """z-depth from disparity in [0, 1], in the reference's units: the nearest lies at 2.564.

    Args:
        disparity: Any shape, float32; 1 is nearest.

    Returns:
        Same shape, float32, within 1e-4..1e4.
    """
    scale = np.float32(NEAREST_DEPTH)
    # The floor is the disparity of the farthest depth: no division by zero.
    depth = scale / np.maximum(disparity, scale / _REFERENCE_FARTHEST)
    return np.clip(depth, _REFERENCE_NEAREST, _REFERENCE_FARTHEST).astype(np.float32, copy=False)


def percentile_range(values: NDArray[np.float32]) -> tuple[float, float]:
    """0.1 and 99.9 percentiles of a clip."""
    step = max(1, values.size // _SAMPLE_SIZE)
    # A step that shares a divisor with the width would skip columns.
    while math.gcd(step, values.shape[-1]) > 1:
        step += 1
    size = values[0].size
    sample = np.concatenate(
        [
            # Every `step`-th number of the whole clip.
            frame.reshape(-1)[-index * size % step :: step].copy()
            for index, frame in enumerate(each_frame(values))
        ]
    )
    low, high = np.percentile(sample, [_LOW_PERCENTILE, _HIGH_PERCENTILE])
    return float(low), float(high)


def disparity_to_depth(
    disparity: NDArray[np.float32], low: float, high: float, source: str
) -> None:
    """Turn affine disparity into z-depth, in place, frame by frame.

    Args:
        disparity: (frames, height, width), finite.
        low: What becomes disparity 0; what is lower as well.
        high: What becomes disparity 1; what is higher as well.
        source: Where it came from, for people.

    Raises:
        InputError: `depth_values` where the range is empty.
    """
    if not low < high:
        msg = f"expected disparity that varies in {source}, found {low:g} everywhere; check it"
        raise InputError("depth_values", msg)
    for frame in each_frame(disparity):
        # Halves, since the difference of two large numbers may be too large for float32.
        unit = (frame / 2 - np.float32(low / 2)) / np.float32(high / 2 - low / 2)
        frame[:] = depth_from_disparity(np.clip(unit, 0, 1).astype(np.float32, copy=False))


def fitted_inverse_depth(
    disparity: NDArray[np.floating], inverse_depth: NDArray[np.floating]
) -> tuple[float, float]:
    """Scale and shift from disparity to inverse depth, by least absolute differences.

    Edges and moving things, where two estimates differ most, weigh little in it: least squares are
    repeated, each time with the inverse of the last differences for weights.
    """
    x, y = disparity.astype(np.float64).ravel(), inverse_depth.astype(np.float64).ravel()
    weights = np.ones_like(x)
    scale, shift = 0.0, 0.0
    smallest = 1e-4 * np.abs(y).mean()
    for _ in range(_FIT_ROUNDS):
        total, before = weights.sum(), scale
        x_mean, y_mean = weights @ x / total, weights @ y / total
        away = x - x_mean
        variance = weights @ np.square(away) / total
        if variance == 0:
            return 0.0, float(y_mean)
        scale = weights @ (away * (y - y_mean)) / total / variance
        shift = y_mean - scale * x_mean
        if abs(scale - before) <= _FIT_CHANGE * abs(scale):
            break
        weights = 1 / np.maximum(np.abs(scale * x + shift - y), smallest)
    return float(scale), float(shift)


def _calibrate(disparity: NDArray[np.float32], metric: NDArray[np.float32], name: str) -> None:
    """Turn affine disparity into metres, in place, by metric depth of the key frames."""
    nearest, farthest = percentile_range(metric)
    if not 0 < nearest <= farthest < np.inf:
        msg = (
            "expected metric depth above 0 to calibrate with, found other values; take another "
            "range or other frames"
        )
        raise InputError("depth_calibration", msg)
    step = max(1, metric[0].size // _KEY_SAMPLE)
    own = disparity[key_frames(len(disparity))].reshape(len(metric), -1)[:, ::step]
    truth = np.clip(metric.reshape(len(metric), -1)[:, ::step], nearest, farthest)
    scale, shift = fitted_inverse_depth(own, 1 / truth)
    if not scale > 0:
        msg = (
            f"expected disparity from {name} to grow where metric depth falls, found that it does "
            "not; take another range or other frames"
        )
        raise InputError("depth_calibration", msg)
    # Beyond what the metric estimate saw nothing is known: the sky stays there.
    least, most = np.float32(1 / farthest), np.float32(1 / (nearest * _NEAREST_SHARE))
    for frame in each_frame(disparity):
        frame[:] = 1 / np.clip(frame * np.float32(scale) + np.float32(shift), least, most)


def bring_sky_near(depth: NDArray[np.float32], nearest: float) -> None:
    """Move to `SKY_FACTOR` times the nearest what is farther, in place."""
    farthest = min(nearest * SKY_FACTOR, float(np.finfo(np.float32).max))
    for frame in each_frame(depth):
        np.minimum(frame, np.float32(farthest), out=frame)


def _proportional_depth(depth: NDArray[np.float32], name: str, *, is_metric: bool) -> None:
    """Scale depth, in place, unless it is metric; never shift it."""
    nearest, _ = percentile_range(depth)
    if nearest <= 0:
        msg = (
            f"expected depth above 0 from {name}, found 0 or less in more than a thousandth of the "
            "clip; take another estimator or other frames"
        )
        raise InputError("depth_values", msg)
    for frame in each_frame(depth):
        np.maximum(frame, np.float32(nearest * _NEAREST_SHARE), out=frame)
    bring_sky_near(depth, nearest)
    if not is_metric:
        for frame in each_frame(depth):
            np.multiply(frame, np.float32(NEAREST_DEPTH / nearest), out=frame)
