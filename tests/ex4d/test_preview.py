"""The preview engine against the truth of the sample, reduced in size and number of frames."""

from pathlib import Path

import numpy as np
import pytest

from ex4d.bench.preview import Figures, compare, reduced, sample_scene
from ex4d.bench.sample import Sample, load_sample
from ex4d.condition import Condition, condition_frames
from ex4d.diffusion import View, create_engine
from ex4d.diffusion.preview import pull_push
from ex4d.errors import CancelledError
from ex4d.protocol.documents import PreviewSettings
from ex4d.raster import create_rasteriser
from ex4d.task import Progress, Task


@pytest.fixture(scope="module")
def sample() -> Sample:
    return reduced(load_sample(), frame_step=4, size_px=256)


@pytest.fixture(scope="module")
def figures(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Figures]:
    return compare(sample, tmp_path_factory.mktemp("preview"))[0]


def test_unseen_pixels_are_a_decibel_better_than_telea(figures: dict[str, Figures]) -> None:
    assert figures["preview"].psnr_db >= figures["telea"].psnr_db + 1.0


def test_flickers_no_more_than_half_again_the_truth(figures: dict[str, Figures]) -> None:
    assert figures["preview"].flicker <= 1.5 * figures["truth"].flicker


def test_seen_pixels_are_the_conditions_and_runs_repeat(sample: Sample, tmp_path: Path) -> None:
    scene = sample_scene(sample, tmp_path / "scene")
    rasteriser = create_rasteriser()
    condition = Condition.of(condition_frames(scene, sample.trajectory, rasteriser, task=Task()))

    def run(seed: int) -> list[np.ndarray]:
        engine = create_engine(PreviewSettings(seed=seed), rasteriser)
        return list(engine.generate(condition, View(scene, sample.trajectory), task=Task()))

    frames, again = run(0), run(0)
    assert len(frames) == len(sample.trajectory)
    for index, frame in enumerate(frames):
        assert frame.shape == condition.color[index].shape
        assert frame.dtype == np.uint8
        seen = condition.mask[index]
        np.testing.assert_array_equal(frame[seen], condition.color[index][seen])
        np.testing.assert_array_equal(frame, again[index])
        # What was unseen is filled, not left black; the first frame is the source's, all seen.
        assert seen.all() if index == 0 else frame[~seen].mean() > 20


def test_can_be_cancelled(sample: Sample, tmp_path: Path) -> None:
    scene = sample_scene(sample, tmp_path / "scene")
    rasteriser = create_rasteriser()
    condition = Condition.of(condition_frames(scene, sample.trajectory, rasteriser, task=Task()))
    told: list[Progress] = []
    frames: list[np.ndarray] = []
    task = Task(told.append, lambda: len(frames) == 2)
    engine = create_engine(PreviewSettings(), rasteriser)
    made = engine.generate(condition, View(scene, sample.trajectory), task=task)
    with pytest.raises(CancelledError):
        frames.extend(made)
    assert {progress.stage for progress in told} == {"backdrop"}
    assert len(frames) == 2


def test_pull_push_keeps_what_is_known_and_spreads_it() -> None:
    values = np.zeros((16, 24, 2), np.float32)
    known = np.zeros((16, 24), np.float32)
    values[4, 5], known[4, 5] = (100.0, 7.0), 1.0
    values[12, 20], known[12, 20] = (200.0, 7.0), 1.0
    filled = pull_push(values, known)
    np.testing.assert_array_equal(filled[4, 5], values[4, 5])
    np.testing.assert_array_equal(filled[12, 20], values[12, 20])
    assert filled[..., 0].min() >= 99.9
    assert filled[..., 0].max() <= 200.1
    np.testing.assert_allclose(filled[..., 1], 7.0, rtol=1e-5)
    assert filled[2, 3, 0] < filled[14, 22, 0]


def test_pull_push_of_nothing_is_zero() -> None:
    assert not pull_push(np.ones((5, 7, 3), np.float32), np.zeros((5, 7), np.float32)).any()
