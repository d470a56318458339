"""From an estimator's numbers to depth; without torch."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from ex4d.depth import Depth, DepthEstimator, Estimate, EstimateKind, create_estimator
from ex4d.depth.models import DEPTH_MODELS
from ex4d.depth.units import (
    NEAREST_DEPTH,
    SKY_FACTOR,
    depth_of,
    key_frames,
    percentile_range,
)
from ex4d.errors import InputError
from ex4d.protocol.documents import DepthRange, UsedPart
from ex4d.weights.files import PublishedModel

SHAPE = (4, 60, 80)


class Oracle:
    """An estimator in name alone."""

    name = "oracle"
    licence = "Apache-2.0"
    weights = UsedPart(role="depth weights", name="oracle.pth", version="0123", licence="")


ORACLE = cast("DepthEstimator", Oracle())


def disparity() -> np.ndarray:
    """From 1 to 3, with one pixel far out on either side."""
    values = np.linspace(1, 3, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE).copy()
    values[0, 0, 0], values[-1, -1, -1] = -50, 90
    return values


def depth_from(values: np.ndarray, kind: EstimateKind, spread: DepthRange = "percentile") -> Depth:
    return depth_of(Estimate(values.copy(), kind), ORACLE, spread)


def test_min_max_is_the_references() -> None:
    values = disparity()
    found = depth_from(values, "affine_disparity", "min_max")
    unit = (values - values.min()) / np.ptp(values)
    expected = np.clip(10_000 / np.maximum(3900 * unit, 1e-5), 1e-4, 1e4)
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)
    assert found.info.spread == "min_max"
    assert found.info.kind == "disparity"
    assert found.info.unit == "scene"
    assert found.info.weights == "oracle.pth 0123"


def test_percentiles_leave_outliers_out() -> None:
    found = depth_from(disparity(), "affine_disparity")
    assert found.info.spread == "percentile"
    # Two pixels of 19,200 far out move nothing: the middle stays in the middle.
    middle = found.values[2, 0, 0]
    assert middle == pytest.approx(NEAREST_DEPTH / 0.5, rel=0.01)
    assert found.values.min() == pytest.approx(NEAREST_DEPTH)
    assert found.values.max() == pytest.approx(1e4)
    with_outliers = depth_from(disparity(), "affine_disparity", "min_max").values[2, 0, 0]
    assert abs(with_outliers - middle) > 0.5


def test_percentiles_of_a_clip_larger_than_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.tile(np.linspace(0, 1, SHAPE[2], dtype=np.float32), (*SHAPE[:2], 1))
    exact = percentile_range(values)
    monkeypatch.setattr("ex4d.depth.units._SAMPLE_SIZE", values.size // 16)
    # Every sixteenth number would be of five columns alone.
    np.testing.assert_allclose(percentile_range(values), exact, atol=0.02)


def test_one_range_for_the_clip() -> None:
    """A range a frame would make a wall move when something comes nearer."""
    values = np.full(SHAPE, 1.0, np.float32)
    values[:, 10:20] = 2.0
    values[2:, 30:40] = 4.0
    found = depth_from(values, "affine_disparity", "min_max").values
    assert (found[0, 10:20] == found[3, 10:20]).all()


def test_depth_up_to_scale_keeps_its_proportions() -> None:
    values = np.linspace(5, 50, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    found = depth_from(values, "depth")
    np.testing.assert_allclose(found.values / values, found.values[0, 0, 0] / 5, rtol=1e-5)
    assert np.percentile(found.values, 0.1) == pytest.approx(NEAREST_DEPTH, rel=1e-3)
    assert found.info.spread == "proportional"
    assert found.info.unit == "scene"


def test_metric_depth_stays_metres() -> None:
    values = np.linspace(0.5, 80, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    values[0, 0, 0] = 0.0
    values[1, 0, 0] = 1e30
    found = depth_from(values, "metric_depth")
    assert found.info.unit == "metres"
    np.testing.assert_array_equal(found.values[2:], values[2:])
    assert 0 < found.values[0, 0, 0] < 0.1
    assert found.values[1, 0, 0] <= SKY_FACTOR


def room() -> np.ndarray:
    """Metres: a floor towards a wall 6 m away, and something 2 m away that moves before it."""
    depth = np.broadcast_to(np.linspace(6, 2.5, SHAPE[1])[:, None], SHAPE).astype(np.float32)
    depth[:, :30] = 6
    for index in range(len(depth)):
        depth[index, 20:40, 10 * index : 10 * index + 20] = 2
    return depth


def test_calibrated_wall_stays_where_it_is() -> None:
    depth = room()
    seen = Estimate((7 / depth + 3).astype(np.float32), "affine_disparity")
    keys = key_frames(len(depth))
    rough = depth[keys].copy()
    # A tenth of what the metric estimate says is far off.
    random = np.random.default_rng(2)
    rough[random.random(rough.shape) < 0.1] = 30
    found = depth_of(seen, ORACLE, "calibrated", Estimate(rough, "metric_depth"))
    np.testing.assert_allclose(found.values, depth, rtol=0.01)
    assert found.info.unit == "metres"
    assert found.info.spread == "calibrated"
    spread = depth_from((7 / depth + 3).astype(np.float32), "affine_disparity").values
    assert spread[0, 0, 0] / spread.min() > 100 * depth[0, 0, 0] / depth.min()


def test_calibration_that_makes_no_sense_is_refused() -> None:
    depth = room()
    metric = Estimate(depth[key_frames(len(depth))], "metric_depth")
    with pytest.raises(InputError) as caught:
        depth_of(Estimate(depth.copy(), "affine_disparity"), ORACLE, "calibrated", metric)
    assert caught.value.code == "depth_calibration"
    nothing = Estimate(np.zeros_like(metric.values), "metric_depth")
    with pytest.raises(InputError) as caught:
        depth_of(Estimate(1 / depth, "affine_disparity"), ORACLE, "calibrated", nothing)
    assert caught.value.code == "depth_calibration"


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (3, [0, 1, 2]), (9, [0, 2, 4, 6, 8])])
def test_key_frames_are_spread_over_the_clip(count: int, expected: list[int]) -> None:
    assert key_frames(count).tolist() == expected


@pytest.mark.parametrize("kind", ["affine_disparity", "depth", "metric_depth"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(kind: EstimateKind, value: float) -> None:
    values = disparity()
    values[2, 3, 4] = value
    with pytest.raises(InputError, match=r"frame 2") as caught:
        depth_from(values, kind)
    assert caught.value.code == "depth_values"


@pytest.mark.parametrize("spread", ["percentile", "min_max"])
def test_constant_disparity_is_refused(spread: DepthRange) -> None:
    with pytest.raises(InputError, match="that varies") as caught:
        depth_from(np.full(SHAPE, 0.3, np.float32), "affine_disparity", spread)
    assert caught.value.code == "depth_values"


@pytest.mark.parametrize("kind", ["depth", "metric_depth"])
def test_no_depth_at_all_is_refused(kind: EstimateKind) -> None:
    with pytest.raises(InputError, match="above 0"):
        depth_from(np.zeros(SHAPE, np.float32), kind)


# --- which estimator -----------------------------------------------------------------------------


def test_unknown_estimator_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        create_estimator("crystal-ball")
    assert caught.value.code == "estimator_unknown"
    assert all(model.name in caught.value.message for model in DEPTH_MODELS)


@pytest.mark.parametrize("model", DEPTH_MODELS, ids=lambda model: model.name)
def test_missing_weights_name_command_size_and_licence(
    model: PublishedModel, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        create_estimator(model.name, folder=tmp_path, accepts_research_licence=True)
    assert caught.value.code == "model_missing"
    sizes = {"depthcrafter": "5 GB", "depth-anything": "100 MB"}
    size = sizes.get(model.name, "120 MB")
    for words in (model.download_command, size, model.licence):
        assert words in caught.value.message


def test_research_licence_must_be_accepted(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        create_estimator("depthcrafter", folder=tmp_path)
    assert caught.value.code == "licence_not_accepted"
    assert "academic use only" in caught.value.message
    assert "--accept-research-licence" in caught.value.message
