"""The DW-mesh against the truth of the rendered sample, and against the reference's rules."""

import json

import pytest

from ex4d.bench import geometry
from ex4d.bench.geometry import ANGLES_DEG, BASELINE_PATH, Figures
from ex4d.bench.sample import load_sample


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[int, Figures]]:
    return geometry.measure_all(load_sample())


@pytest.mark.parametrize("angle", ANGLES_DEG)
def test_is_not_below_the_reference(figures: dict[str, dict[int, Figures]], angle: int) -> None:
    ours, reference = figures["ours"][angle], figures["reference"][angle]
    assert ours.precision >= reference.precision
    assert ours.recall >= reference.recall
    assert ours.psnr_db >= reference.psnr_db


def test_half_a_pixel_shows(figures: dict[str, dict[int, Figures]]) -> None:
    """Or the benchmark could not tell a right mesh from a shifted one."""
    for angle in ANGLES_DEG:
        shifted = figures["ours, half a pixel off"][angle]
        assert figures["ours"][angle].psnr_db >= shifted.psnr_db + 1.0


def test_keeps_its_baseline(figures: dict[str, dict[int, Figures]]) -> None:
    baseline = json.loads(BASELINE_PATH.read_text())
    assert baseline.keys() == {str(angle) for angle in ANGLES_DEG}
    for angle, numbers in baseline.items():
        then, now = Figures(*numbers), figures["ours"][int(angle)]
        assert now.precision >= then.precision - 0.0005
        assert now.recall >= then.recall - 0.0005
        assert now.psnr_db >= then.psnr_db - 0.02
