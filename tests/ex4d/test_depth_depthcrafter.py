"""DepthCrafter beside its numbers: folders, windows, odd clips, stopping, its licence."""

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_tests import needs_estimators

needs_estimators()

import tiny_depth
import torch

from ex4d.depth import DepthEstimator, check_estimator, create_estimator
from ex4d.depth.depthcrafter import stages
from ex4d.depth.depthcrafter.estimator import DepthCrafter
from ex4d.depth.depthcrafter.loading import build_networks, load_models
from ex4d.depth.models import DEPTHCRAFTER
from ex4d.depth.units import depth_of
from ex4d.diffusion.warm import WarmModels
from ex4d.errors import CancelledError, InputError
from ex4d.kept import KeptParts
from ex4d.task import Progress, Task
from ex4d.weights.checkpoints import tensors, write_safetensors

NAME = DEPTHCRAFTER.name
CPU = torch.device("cpu")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    tiny_depth.write_depthcrafter(tmp_path)
    return tmp_path


def estimator_of(models: Path) -> DepthEstimator:
    return create_estimator(NAME, folder=models, accepts_research_licence=True)


def clip(frame_count: int, height_px: int = 64, width_px: int = 64) -> np.ndarray:
    random = np.random.default_rng(3)
    return random.integers(0, 256, (frame_count, height_px, width_px, 3), np.uint8)


def path_of(models: Path, ending: str) -> Path:
    (path,) = [path for path in models.rglob("*") if path.as_posix().endswith(ending)]
    return path


@pytest.mark.parametrize(
    ("clip_size", "expected"),
    [
        ((512, 512), (512, 512)),
        ((1080, 1920), (576, 1024)),
        ((1920, 1080), (1024, 576)),
        ((480, 854), (512, 832)),
        # Halves go to the even neighbour, as the published code's do.
        ((160, 224), (128, 256)),
        ((20, 30), (64, 64)),
    ],
)
def test_network_size(clip_size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert stages.network_size(*clip_size) == expected


def test_windows() -> None:
    settings = stages.Settings(window=8, overlap=3)
    assert settings.windows_of(8) == [range(8)]
    assert settings.windows_of(20) == [range(8), range(5, 13), range(10, 18), range(15, 20)]
    assert [len(window) for window in settings.windows_of(9)] == [8, 4]


@pytest.mark.parametrize(("steps", "window", "overlap"), [(0, 8, 3), (5, 8, 0), (5, 8, 8)])
def test_windows_that_never_end_are_refused(steps: int, window: int, overlap: int) -> None:
    with pytest.raises(InputError) as caught:
        stages.Settings(steps=steps, window=window, overlap=overlap)
    assert caught.value.code == "settings_invalid"


@pytest.mark.parametrize(
    ("frame_count", "height_px", "width_px"), [(1, 128, 64), (3, 70, 90), (9, 40, 64)]
)
def test_clip_of_any_length_and_size(
    models: Path, frame_count: int, height_px: int, width_px: int
) -> None:
    frames = clip(frame_count, height_px, width_px)
    found = estimator_of(models).estimate(frames, task=Task())
    assert found.kind == "affine_disparity"
    assert found.values.shape == frames.shape[:3]
    assert found.values.dtype == np.float32
    assert 0 <= found.values.min() < found.values.max() <= 1


@pytest.mark.parametrize(("value", "words"), [(0.5, "that varies"), (float("nan"), "finite")])
def test_network_that_sees_nothing(models: Path, value: float, words: str) -> None:
    path = path_of(models, "vae/diffusion_pytorch_model.fp16.safetensors")
    values = dict(tensors(path))
    values["decoder.time_conv_out.weight"] *= 0
    values["decoder.time_conv_out.bias"][:] = value
    layout = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in values.items()}
    write_safetensors(path, layout, values.items(), {})
    estimator = estimator_of(models)
    with pytest.raises(InputError, match=words) as caught:
        depth_of(estimator.estimate(clip(2), task=Task()), estimator)
    assert caught.value.code == "depth_values"


def test_same_seed_same_numbers(models: Path) -> None:
    """Whatever others draw meanwhile."""
    first = estimator_of(models).estimate(clip(2), task=Task()).values
    torch.manual_seed(1)
    torch.randn(10)
    assert (estimator_of(models).estimate(clip(2), task=Task()).values == first).all()


def test_progress_and_cancel(models: Path) -> None:
    reports: list[Progress] = []
    estimator_of(models).estimate(clip(9), task=Task(reports.append))
    last_of = {report.stage: (report.done, report.total) for report in reports}
    assert last_of == {
        "describing frames": (9, 9),
        "encoding frames": (9, 9),
        "estimating depth": (5, 5),
        "decoding depth": (9, 9),
    }
    reports.clear()

    def is_cancelled() -> bool:
        return bool(reports) and reports[-1].stage == "estimating depth"

    with pytest.raises(CancelledError):
        estimator_of(models).estimate(clip(9), task=Task(reports.append, is_cancelled))
    assert reports[-1].done == 1


def test_half_precision_keeps_what_is_tiny(models: Path) -> None:
    """The autoencoder encodes in float32, and is as it was afterwards."""
    loaded = load_models(models, CPU, torch.float16)
    with torch.inference_mode():
        latents = stages.encode(loaded, clip(1), torch.Generator().manual_seed(1), Task())
        exact = stages.encode(
            load_models(models, CPU, torch.float32),
            clip(1),
            torch.Generator().manual_seed(1),
            Task(),
        )
    assert latents.dtype == torch.float32
    assert next(loaded.vae.parameters()).dtype == torch.float16
    assert (latents - exact).abs().max() < 5e-3


# --- going on after an end -----------------------------------------------------------------------

WINDOWS = stages.Settings(window=8, overlap=3, steps=2)
#: Of a clip of 18 frames: chunks of 8 and windows from frames 0, 5 and 10.
WHOLE_WORK = {"describing": 3, "encoding": 3, "denoising": 3, "decoding": 3}


class StoppedError(Exception):
    """Ends an attempt as a crash would."""


def attempt(
    models: Path,
    frames: np.ndarray,
    kept: Path | None,
    monkeypatch: pytest.MonkeyPatch,
    *,
    stops_at: tuple[str, int] = ("", 0),
    settings: stages.Settings = WINDOWS,
) -> tuple[np.ndarray | None, dict[str, int]]:
    """Estimate until a stage is so far; the values, if it got that far, and what was computed."""
    loaded = load_models(models, CPU, torch.float32)
    work = dict.fromkeys(WHOLE_WORK, 0)

    def counted(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            work[stage] += 1
            return function(*arguments, **options)

        return call

    def report(progress: Progress) -> None:
        if progress[:2] == stops_at:
            raise StoppedError

    values = None
    with monkeypatch.context() as patch, contextlib.suppress(StoppedError):
        patch.setattr(
            loaded.image_encoder, "forward", counted("describing", loaded.image_encoder.forward)
        )
        patch.setattr(loaded.vae, "encode", counted("encoding", loaded.vae.encode))
        patch.setattr(loaded.vae, "decode", counted("decoding", loaded.vae.decode))
        patch.setattr(stages, "_denoise_window", counted("denoising", stages._denoise_window))
        patch.setattr("ex4d.depth.depthcrafter.estimator.load_models", lambda *_: loaded)
        crafter = DepthCrafter(models, WarmModels(idle_s=0), settings)
        values = crafter.estimate(frames, task=Task(report, kept_folder=kept)).values
    return values, work


@pytest.mark.parametrize(
    ("stops_at", "left"),
    [
        (("describing frames", 8), {"describing": 2, "encoding": 3, "denoising": 3, "decoding": 3}),
        (("encoding frames", 16), {"encoding": 1, "denoising": 3, "decoding": 3}),
        (("estimating depth", 3), {"denoising": 2, "decoding": 3}),
        (("estimating depth", 5), {"denoising": 1, "decoding": 3}),
        (("decoding depth", 16), {"decoding": 1}),
    ],
    ids=["described", "encoded", "first window", "second window", "decoded"],
)
def test_what_is_finished_is_not_computed_again(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stops_at: tuple[str, int],
    left: dict[str, int],
) -> None:
    """Windows that follow start from the same noise, over the same frames: not a bit differs."""
    frames, kept = clip(18), tmp_path / "kept"
    expected, work = attempt(models, frames, None, monkeypatch)
    assert work == WHOLE_WORK
    assert attempt(models, frames, kept, monkeypatch, stops_at=stops_at)[0] is None
    values, work = attempt(models, frames, kept, monkeypatch)
    assert work == dict.fromkeys(WHOLE_WORK, 0) | left
    np.testing.assert_array_equal(values, expected)


def test_parts_of_other_work_are_not_taken(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, kept = clip(18), tmp_path / "kept"
    attempt(models, frames, kept, monkeypatch)
    assert not any(attempt(models, frames, kept, monkeypatch)[1].values())
    seeded = dataclasses.replace(WINDOWS, seed=1)
    assert attempt(models, frames, kept, monkeypatch, settings=seeded)[1] == WHOLE_WORK
    changed = frames.copy()
    changed[17, 0, 0, 0] ^= 1
    assert attempt(models, changed, kept, monkeypatch)[1] == WHOLE_WORK
    path = path_of(models, "DepthCrafter/diffusion_pytorch_model.safetensors")
    values = {name: value * 2 for name, value in tensors(path)}
    layout = {name: (tuple(value.shape), value.dtype) for name, value in values.items()}
    write_safetensors(path, layout, values.items(), {})
    assert attempt(models, frames, kept, monkeypatch)[1] == WHOLE_WORK


def test_damaged_parts_are_computed_again(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, kept = clip(18), tmp_path / "kept"
    expected, _ = attempt(models, frames, kept, monkeypatch)
    for stage in ("tokens", "encoded", "denoised", "decoded"):
        (first,) = kept.rglob(f"{stage}-00001.npy")
        first.write_bytes(first.read_bytes()[:-8])
    values, work = attempt(models, frames, kept, monkeypatch)
    assert work == dict.fromkeys(WHOLE_WORK, 1)
    np.testing.assert_array_equal(values, expected)


def test_half_precision_is_kept_as_it_is(models: Path, tmp_path: Path) -> None:
    loaded = load_models(models, CPU, torch.float16)
    parts = KeptParts(tmp_path / "kept", "work")
    frames = clip(2)
    described = stages.describe(loaded, frames, Task(), parts)
    again = stages.describe(loaded, frames, Task(), parts)
    assert described.dtype == again.dtype == torch.float16
    assert torch.equal(described, again)


# --- files ---------------------------------------------------------------------------------------


def test_files_are_checked(models: Path) -> None:
    assert "tensors of" in check_estimator(NAME, models)


def test_stored_tables_of_positions_are_no_weights(models: Path) -> None:
    path = path_of(models, "image_encoder/model.fp16.safetensors")
    values = dict(tensors(path))
    values["vision_model.embeddings.position_ids"] = torch.arange(65)[None]
    layout = {name: (tuple(value.shape), value.dtype) for name, value in values.items()}
    write_safetensors(path, layout, values.items(), {})
    assert "tensors of" in check_estimator(NAME, models)
    loaded = load_models(models, CPU, torch.float32)
    positions = loaded.image_encoder.vision_model.embeddings.position_ids
    assert positions.tolist() == [list(range(65))]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def without_one(path: Path) -> None:
    values = dict(tensors(path))
    values.pop(sorted(values)[0])
    layout = {name: (tuple(value.shape), value.dtype) for name, value in values.items()}
    write_safetensors(path, layout, values.items(), {})


def other_width(path: Path) -> None:
    config = json.loads(path.read_text())
    config["layers_per_block"] = 2
    path.write_text(json.dumps(config))


def no_json(path: Path) -> None:
    path.write_text("{")


@pytest.mark.parametrize(
    ("ending", "change", "code"),
    [
        ("DepthCrafter/diffusion_pytorch_model.safetensors", cut, "checkpoint_damaged"),
        ("DepthCrafter/diffusion_pytorch_model.safetensors", without_one, "checkpoint_keys"),
        ("vae/diffusion_pytorch_model.fp16.safetensors", cut, "checkpoint_damaged"),
        ("image_encoder/model.fp16.safetensors", without_one, "checkpoint_keys"),
        ("DepthCrafter/config.json", other_width, "checkpoint_keys"),
        ("vae/config.json", no_json, "checkpoint_damaged"),
    ],
)
def test_wrong_files_are_refused(
    models: Path, ending: str, change: Callable[[Path], None], code: str
) -> None:
    change(path_of(models, ending))
    for call in (
        lambda: build_networks(models),
        lambda: estimator_of(models).estimate(clip(1), task=Task()),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert caught.value.code == code
        assert any(part in caught.value.message for part in Path(ending).parts)


def test_missing_file_names_the_command(models: Path) -> None:
    path_of(models, "vae/config.json").unlink()
    with pytest.raises(InputError, match="--accept-research-licence") as caught:
        estimator_of(models)
    assert caught.value.code == "model_missing"


def test_licence_is_never_accepted_by_default(models: Path) -> None:
    with pytest.raises(InputError) as caught:
        create_estimator(NAME, folder=models)
    assert caught.value.code == "licence_not_accepted"
