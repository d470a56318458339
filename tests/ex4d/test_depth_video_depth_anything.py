"""Video-Depth-Anything beside its numbers: files, windows, odd clips, stopping."""

import contextlib
import itertools
from pathlib import Path

import numpy as np
import pytest
from engine_tests import needs_estimators

needs_estimators()

import tiny_depth
import torch

from ex4d import framestore
from ex4d.depth import check_estimator, create_estimator
from ex4d.depth.video_depth_anything import estimator
from ex4d.depth.video_depth_anything.network import SMALL, Dimensions, Network
from ex4d.errors import CancelledError, InputError
from ex4d.task import Progress, Task
from ex4d.weights.checkpoints import tensor_shapes

NAME = "video-depth-anything"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder with the small network, whose input is small too."""
    monkeypatch.setattr(estimator, "INPUT_SIDE_PX", 28)
    tiny_depth.write_video_depth_anything(tmp_path)
    tiny_depth.write_video_depth_anything(tmp_path, metric=True)
    return tmp_path


def clip(frame_count: int, height_px: int = 30, width_px: int = 40) -> np.ndarray:
    """A bright square that moves before a gradient."""
    frames = np.empty((frame_count, height_px, width_px, 3), np.uint8)
    frames[:] = np.linspace(0, 120, width_px)[:, None]
    for index in range(frame_count):
        left = index % (width_px - 10)
        frames[index, 10:20, left : left + 10] = (220, 180, 90)
    return frames


def test_published_size() -> None:
    """29.1 million numbers under 351 names, as the published file has them."""
    with torch.device("meta"):
        values = Network(SMALL).state_dict()
    assert len(values) == 351
    assert round(sum(value.numel() for value in values.values()) / 1e5) == 291


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        ((512, 512), (518, 518)),
        ((576, 1024), (518, 924)),
        ((1920, 1080), (924, 518)),
        ((294, 518), (518, 910)),
        ((1080, 2560), (392, 924)),
        ((2, 8192), (14, 57344)),
    ],
)
def test_input_size(picture: tuple[int, int], expected: tuple[int, int]) -> None:
    assert estimator.input_size(*picture, estimator.INPUT_SIDE_PX) == expected


@pytest.mark.parametrize("frame_count", [1, 2, 22, 23, 32, 33, 54, 200])
def test_every_frame_is_in_a_window(frame_count: int) -> None:
    windows = estimator.windows_of(frame_count)
    found = {window.start + place for window in windows for place in window.used}
    assert found >= set(range(frame_count))
    for before, window in itertools.pairwise(windows):
        assert window.frames[:2] == (0, before.frames[12])
        assert window.frames[2:10] == before.frames[24:]
    assert all(0 <= frame < frame_count for window in windows for frame in window.frames)


@pytest.mark.parametrize("frame_count", [1, 2, 31, 33, 60])
def test_clip_of_any_length(models: Path, frame_count: int) -> None:
    frames = clip(frame_count)
    found = create_estimator(NAME, folder=models).estimate(frames, task=Task())
    assert found.kind == "affine_disparity"
    assert found.values.shape == frames.shape[:3]
    assert found.values.dtype == np.float32
    assert np.isfinite(found.values).all()
    assert found.values.min() >= 0
    assert found.values.std() > 0.01


def test_metric_windows_are_not_fitted(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(found: np.ndarray, target: np.ndarray) -> tuple[float, float]:
        raise AssertionError("metres must not be scaled")

    monkeypatch.setattr(estimator, "fitted_scale_and_shift", refuse)
    metric = create_estimator(f"{NAME}-metric", folder=models)
    found = metric.estimate(clip(40), task=Task())
    assert found.kind == metric.kind == "metric_depth"
    with pytest.raises(AssertionError):
        create_estimator(NAME, folder=models).estimate(clip(40), task=Task())


def test_fit_finds_scale_and_shift() -> None:
    disparity = np.random.default_rng(1).random((2, 8, 8), np.float32)
    scale, shift = estimator.fitted_scale_and_shift(disparity, 3 * disparity - 0.5)
    assert scale == pytest.approx(3, rel=1e-5)
    assert shift == pytest.approx(-0.5, rel=1e-5)
    constant = np.full((2, 8, 8), 0.7, np.float32)
    assert estimator.fitted_scale_and_shift(constant, disparity) == (1.0, 0.0)


def test_progress_and_cancel(models: Path) -> None:
    reports: list[Progress] = []
    network = create_estimator(NAME, folder=models)
    network.estimate(clip(50), task=Task(reports.append))
    assert [(report.done, report.total) for report in reports] == [
        (0, 3),
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    for count in (1, 2):
        reports.clear()
        with pytest.raises(CancelledError):
            network.estimate(
                clip(50), task=Task(reports.append, lambda count=count: len(reports) == count)
            )
        assert len(reports) == count


def test_same_clip_same_numbers(models: Path) -> None:
    network = create_estimator(NAME, folder=models)
    first, second = (network.estimate(clip(3), task=Task()).values for _ in range(2))
    assert (first == second).all()


# --- files ---------------------------------------------------------------------------------------


def test_file_is_checked(models: Path) -> None:
    assert "tensors of" in check_estimator(NAME, models)
    path = tiny_depth.write_video_depth_anything(models)
    path.write_bytes(path.read_bytes()[:-5000])
    for call in (
        lambda: check_estimator(NAME, models),
        lambda: create_estimator(NAME, folder=models).estimate(clip(1), task=Task()),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert caught.value.code == "checkpoint_damaged"
        assert path.name in caught.value.message


def rewritten(path: Path, change: str) -> None:
    values = torch.load(path, weights_only=True)
    if change == "missing":
        del values["head.scratch.output_conv1.bias"]
    elif change == "unknown":
        values["head.scratch.output_conv3.bias"] = torch.zeros(3)
    elif change == "misshaped":
        values["head.scratch.output_conv1.bias"] = torch.zeros(3)
    elif change == "another model":
        values = {"encoder.weight": torch.zeros(3, 3)}
    torch.save(values, path)


@pytest.mark.parametrize("change", ["missing", "unknown", "misshaped", "another model"])
def test_wrong_file_is_refused(models: Path, change: str) -> None:
    rewritten(tiny_depth.write_video_depth_anything(models), change)
    with pytest.raises(InputError) as caught:
        create_estimator(NAME, folder=models).estimate(clip(1), task=Task())
    assert caught.value.code == "checkpoint_keys"


def test_larger_variant_is_refused(models: Path) -> None:
    """Base and Large may not be used in production."""
    path = tiny_depth.write_video_depth_anything(models)
    with torch.device("meta"):
        base = Network(Dimensions(768, 12, 128, (96, 192, 384, 768)))
    values = {name: torch.zeros(1).expand(value.shape) for name, value in base.state_dict().items()}
    torch.save(values, path)
    assert tensor_shapes(path)["pretrained.cls_token"] == (1, 1, 768)
    with pytest.raises(InputError) as caught:
        check_estimator(NAME, models)
    assert caught.value.code == "checkpoint_size"


def test_weights_are_named_by_their_content(models: Path) -> None:
    relative, metric = (
        create_estimator(name, folder=models).weights for name in (NAME, f"{NAME}-metric")
    )
    assert relative.name == "video_depth_anything_vits.pth"
    assert relative.licence == "Apache-2.0"
    assert len(relative.version) == 16
    assert metric.name != relative.name


def test_clip_on_disk_gives_the_same_numbers(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = clip(40)
    expected = create_estimator(NAME, folder=models).estimate(frames, task=Task()).values
    monkeypatch.setattr(framestore, "IN_MEMORY_BYTES", 0)
    on_disk = framestore.new_frames(frames.shape, np.uint8)
    on_disk[:] = frames
    found = create_estimator(NAME, folder=models).estimate(on_disk, task=Task()).values
    np.testing.assert_array_equal(found, expected)


# --- going on after an end -----------------------------------------------------------------------


class StoppedError(Exception):
    """Ends an attempt as a crash would."""


def attempt(
    models: Path, frames: np.ndarray, kept: Path, monkeypatch: pytest.MonkeyPatch, stops_after: int
) -> tuple[np.ndarray | None, int]:
    """Estimate until some windows are done; the values, if it got that far, and frames encoded."""
    encoded = 0
    encode = Network.encode

    def counted(network: Network, images: torch.Tensor) -> list[torch.Tensor]:
        nonlocal encoded
        encoded += len(images)
        return encode(network, images)

    def report(progress: Progress) -> None:
        if progress.done == stops_after:
            raise StoppedError

    monkeypatch.setattr(Network, "encode", counted)
    values = None
    with contextlib.suppress(StoppedError):
        task = Task(report, kept_folder=kept)
        values = create_estimator(NAME, folder=models).estimate(frames, task=task).values
    monkeypatch.setattr(Network, "encode", encode)
    return values, encoded


def test_finished_windows_are_not_estimated_again(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, kept = clip(80), tmp_path / "kept"
    expected = create_estimator(NAME, folder=models).estimate(frames, task=Task()).values
    ended, encoded = attempt(models, frames, kept, monkeypatch, 3)
    assert ended is None
    assert encoded == 76, "three windows of four"
    values, encoded = attempt(models, frames, kept, monkeypatch, -1)
    # Ten that the last window begins with, and those that are new.
    assert encoded == 10 + 4
    np.testing.assert_allclose(values, expected, atol=1e-5)
    _, encoded = attempt(models, frames, kept, monkeypatch, -1)
    assert encoded == 0
    assert len(list(kept.rglob("*"))) == 1 + 4


def test_windows_of_other_work_are_not_taken(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, kept = clip(30), tmp_path / "kept"
    attempt(models, frames, kept, monkeypatch, -1)
    changed = frames.copy()
    changed[29, 0, 0, 0] ^= 1
    assert attempt(models, changed, kept, monkeypatch, -1)[1] == 30
    rewritten_weights = tiny_depth.write_video_depth_anything(models)
    values = torch.load(rewritten_weights, weights_only=True)
    values[tiny_depth.LAST_BIAS] += 1
    torch.save(values, rewritten_weights)
    assert attempt(models, frames, kept, monkeypatch, -1)[1] == 30


def test_damaged_window_is_estimated_again(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, kept = clip(30), tmp_path / "kept"
    expected, _ = attempt(models, frames, kept, monkeypatch, -1)
    first, second = sorted(kept.rglob("*.npy"))
    first.write_bytes(first.read_bytes()[:-8])
    np.save(second, np.zeros((2, 2), np.float32))
    values, encoded = attempt(models, frames, kept, monkeypatch, -1)
    assert encoded == 30
    np.testing.assert_array_equal(values, expected)
