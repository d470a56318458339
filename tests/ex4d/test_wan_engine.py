"""The ex4d engine on the small golden model: what it refuses, cancelling, and repeating."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from engine_tests import GOLDEN_MODELS, needs_engine

needs_engine()

import torch
from safetensors.torch import save_file

from ex4d.condition import Condition
from ex4d.diffusion import create_engine
from ex4d.diffusion.wan import engine as engine_module
from ex4d.diffusion.wan import memory, modes, text
from ex4d.diffusion.wan.conditioning import erosion_sides_px
from ex4d.diffusion.wan.engine import WanEngine
from ex4d.diffusion.wan.loading import WanModels
from ex4d.diffusion.wan.streaming import StreamedBlocks
from ex4d.diffusion.warm import WarmModels
from ex4d.errors import CancelledError, InputError
from ex4d.protocol.documents import Ex4dSettings
from ex4d.task import Progress, Task

WIDTH_PX, HEIGHT_PX, FRAMES, STEPS = 64, 48, 9, 3
SETTINGS = Ex4dSettings(steps=STEPS, seed=7)


def make_condition(seed: int = 0) -> Condition:
    random = np.random.default_rng(seed)
    shape = (FRAMES, HEIGHT_PX, WIDTH_PX)
    color = random.integers(0, 256, (*shape, 3), np.uint8)
    mask = np.ones(shape, np.bool_)
    for index in range(FRAMES):
        mask[index, :, WIDTH_PX - 3 * index :] = False
    color[~mask] = 0
    depth = np.where(mask, np.float32(3), np.float32(np.inf))
    return Condition(color, mask, depth, mask.mean(axis=(1, 2)))


@pytest.fixture(scope="module", autouse=True)
def _models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EX4D_MODELS", str(GOLDEN_MODELS))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmModels]:
    models = WarmModels()
    yield models
    models.free()


def run(
    warm: WarmModels,
    settings: Ex4dSettings = SETTINGS,
    condition: Condition | None = None,
    task: Task | None = None,
) -> np.ndarray:
    engine = WanEngine(settings, warm)
    frames = engine.generate(condition or make_condition(), None, task=task or Task())
    return np.stack(list(frames))


def refusal(action: Callable[[], object]) -> InputError:
    with pytest.raises(InputError) as caught:
        action()
    return caught.value


# --- what comes out ------------------------------------------------------------------------------


def test_same_settings_same_bytes_and_others_not(warm: WarmModels) -> None:
    frames = run(warm)
    assert (frames.shape, frames.dtype) == ((FRAMES, HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    np.testing.assert_array_equal(frames, run(warm))
    np.testing.assert_array_equal(frames, run(WarmModels(idle_s=0)))
    for change in (
        {"seed": 8},
        {"steps": STEPS + 1},
        {"guidance": 2.0},
        {"prompt": "a garden"},
        {"negative_prompt": "a garden"},
    ):
        other = run(warm, Ex4dSettings(**{"steps": STEPS, "seed": 7} | change))
        assert (other != frames).any(), change


def test_condition_is_looked_at(warm: WarmModels) -> None:
    condition = make_condition()
    wider = condition.mask.copy()
    wider[-1] = True
    changed = replace(condition, mask=wider)
    assert (run(warm) != run(warm, condition=changed)).any()


def test_progress_is_told_stage_by_stage() -> None:
    told: list[Progress] = []
    run(WarmModels(idle_s=0), task=Task(told.append))
    stages = list(dict.fromkeys(progress.stage for progress in told))
    assert stages[-4:] == ["loading", "encoding", "denoising", "decoding"]
    steps = [progress.done for progress in told if progress.stage == "denoising"]
    assert steps == list(range(STEPS + 1))
    assert all(progress.done <= progress.total for progress in told)


def test_previews_are_shown_at_each_step_and_change_nothing(warm: WarmModels) -> None:
    shown: list[np.ndarray] = []
    frames = run(warm, task=Task(show=shown.append))
    assert [(picture.shape, picture.dtype) for picture in shown] == [
        ((3, HEIGHT_PX // 8, WIDTH_PX // 8, 3), np.uint8)
    ] * STEPS
    assert (shown[0] != shown[-1]).any()
    np.testing.assert_array_equal(frames, run(warm))


def test_previews_are_not_made_where_nobody_looks(
    warm: WarmModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(engine_module.LatentPreview, "fit")
    run(warm)
    with pytest.raises(AttributeError, match="fit"):
        run(warm, task=Task(show=lambda frames: None))


def test_erosion_is_drawn_from_the_seed() -> None:
    sides_px = erosion_sides_px(3, 1000)
    assert sides_px == erosion_sides_px(3, 1000) != erosion_sides_px(4, 1000)
    assert set(sides_px) == set(range(2, 9))


def test_weights_are_named(warm: WarmModels) -> None:
    parts = WanEngine(SETTINGS, warm).weights
    assert [part.name for part in parts] == ["Wan2.1-I2V-14B-480P", "EX-4D"]
    assert all(part.licence == "Apache-2.0" and len(part.version) == 16 for part in parts)


def test_known_prompts_need_no_text_encoder(
    warm: WarmModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    shutil.copytree(GOLDEN_MODELS, models)
    monkeypatch.setenv("EX4D_MODELS", str(models))
    first = run(warm)
    tokenizer = models / "Wan2.1-I2V-14B-480P" / "google" / "umt5-xxl" / "tokenizer.json"
    tokenizer.write_text("damaged")
    np.testing.assert_array_equal(first, run(warm))
    error = refusal(lambda: run(warm, Ex4dSettings(steps=1, prompt="never seen before")))
    assert (error.code, "umt5-xxl" in error.message) == ("checkpoint_damaged", True)


def test_damaged_embedding_is_made_again(tmp_path: Path) -> None:
    files = engine_module.find_models(GOLDEN_MODELS)
    encoder = text.PromptEncoder(files, tmp_path, device=torch.device("cpu"), dtype=torch.float32)
    (first,) = encoder.embed(["a garden"])
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-10])
    (again,) = encoder.embed(["a garden"])
    assert torch.equal(first, again)


def test_cache_that_cannot_be_written(
    warm: WarmModels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    engine = WanEngine(SETTINGS, warm, cache=tmp_path / "cache")
    frames = engine.generate(make_condition(), None, task=Task())
    np.testing.assert_array_equal(np.stack(list(frames)), run(warm))
    assert "prompt not kept" in caplog.text


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width_px", "height_px", "frame_count", "code", "words"),
    [
        (60, 48, 9, "take_size", "64 x 48 is the nearest"),
        (64, 40, 9, "take_size", "multiples of 16"),
        (2048, 2048, 9, "take_size", "921600 pixels"),
        (64, 48, 10, "take_frames", "found 10; 9 are the most"),
        (64, 48, 12, "take_frames", "found 12; 9 are the most"),
        (64, 48, 85, "take_frames", "found 85; 81 are the most"),
    ],
)
def test_sizes_are_refused(
    warm: WarmModels, width_px: int, height_px: int, frame_count: int, code: str, words: str
) -> None:
    error = refusal(lambda: WanEngine(SETTINGS, warm).check(frame_count, width_px, height_px))
    assert error.code == code
    assert words in error.message


@pytest.mark.parametrize(
    ("width_px", "height_px", "frame_count"), [(832, 480, 81), (480, 832, 49), (512, 512, 1)]
)
def test_other_sizes_are_noted(
    warm: WarmModels, width_px: int, height_px: int, frame_count: int
) -> None:
    (note,) = WanEngine(SETTINGS, warm).check(frame_count, width_px, height_px)
    assert f"{width_px} x {height_px}, {frame_count} frames" in note
    assert "512 x 512, 49 frames" in note


def test_trained_size_needs_no_note(warm: WarmModels) -> None:
    assert WanEngine(SETTINGS, warm).check(49, 512, 512) == ()


def test_too_little_memory(warm: WarmModels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "main_memory_bytes", lambda: 2.0**30)
    error = refusal(lambda: WanEngine(SETTINGS, warm).check(FRAMES, WIDTH_PX, HEIGHT_PX))
    assert error.code == "memory_too_small"
    assert "found 1 " in error.message


def test_missing_models(warm: WarmModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path))
    error = refusal(lambda: create_engine(SETTINGS, cast("Any", None), warm))
    assert error.code == "model_missing"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"color": np.zeros((FRAMES, HEIGHT_PX, WIDTH_PX), np.uint8)}, "condition_invalid"),
        (
            {"color": np.full((FRAMES, HEIGHT_PX, WIDTH_PX, 3), np.nan, np.float32)},
            "condition_invalid",
        ),
        (
            {"depth": np.full((FRAMES, HEIGHT_PX, WIDTH_PX), np.nan, np.float32)},
            "condition_invalid",
        ),
        ({"coverage": np.full(FRAMES, np.nan)}, "condition_invalid"),
        ({"mask": np.zeros((FRAMES, HEIGHT_PX, WIDTH_PX), np.bool_)}, "condition_empty"),
    ],
    ids=["shape", "NaN colour", "NaN depth", "NaN coverage", "empty"],
)
def test_bad_conditions(warm: WarmModels, changes: dict[str, Any], code: str) -> None:
    condition = replace(make_condition(), **changes)
    assert refusal(lambda: run(warm, condition=condition)).code == code


def test_first_frame_must_be_seen(warm: WarmModels) -> None:
    condition = make_condition()
    condition.mask[0, 0, 0] = False
    assert refusal(lambda: run(warm, condition=condition)).code == "condition_first_frame"


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_long_prompt(warm: WarmModels, field: str) -> None:
    settings = Ex4dSettings(steps=1, **{field: "a b " * 400})
    error = refusal(lambda: run(warm, settings))
    assert error.code == "prompt_too_long"
    assert "at most 512 tokens" in error.message


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        (Ex4dSettings(mode="draft", steps=4, guidance=1.0), "draft_settings"),
        (Ex4dSettings(mode="draft", steps=4, loras=("a",)), "draft_settings"),
        (Ex4dSettings(mode="draft", guidance=1.0, loras=("a",)), "draft_settings"),
        (Ex4dSettings(loras=("unheard-of",)), "lora_missing"),
        # Refused before the work where no card has it, and before its files are looked for.
        (Ex4dSettings(mode="fast"), "fp8_unsupported"),
    ],
)
def test_settings_that_cannot_be(warm: WarmModels, settings: Ex4dSettings, code: str) -> None:
    assert refusal(lambda: WanEngine(settings, warm)).code == code


def test_draft_with_a_lora(
    warm: WarmModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    shutil.copytree(GOLDEN_MODELS, models)
    (models / "loras").mkdir()
    values = {
        "diffusion_model.blocks.0.ffn.2.lora_down.weight": torch.ones(1, 192),
        "diffusion_model.blocks.0.ffn.2.lora_up.weight": torch.ones(96, 1),
    }
    save_file(values, models / "loras" / "four-steps.safetensors")
    monkeypatch.setenv("EX4D_MODELS", str(models))
    draft = Ex4dSettings(mode="draft", steps=2, guidance=1.0, loras=("four-steps",))
    with_lora = run(warm, draft)
    assert (with_lora != run(warm, Ex4dSettings(steps=2, guidance=1.0))).any()
    (part,) = [part for part in WanEngine(draft, warm).weights if part.role == "lora"]
    assert part.name == "four-steps"


# --- cancelling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["loading", "encoding", "denoising", "decoding"])
def test_run_after_a_cancel_is_the_same(stage: str) -> None:
    warm = WarmModels()
    frames = run(warm)
    if stage == "loading":
        warm.free()
    told: list[Progress] = []

    def is_cancelled() -> bool:
        return bool(told) and told[-1].stage == stage and told[-1].done >= 1

    with pytest.raises(CancelledError):
        run(warm, task=Task(told.append, is_cancelled))
    assert told[-1].stage == stage
    np.testing.assert_array_equal(frames, run(warm))
    warm.free()


def test_cancel_comes_through_before_the_next_block(
    warm: WarmModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(warm)
    calls = 0
    cancelled = False
    attend = modes.attend_to_itself

    def counted(*arguments: Any) -> None:
        nonlocal calls, cancelled
        attend(*arguments)
        calls += 1
        cancelled = calls == 4

    monkeypatch.setattr(modes, "attend_to_itself", counted)
    with pytest.raises(CancelledError):
        run(warm, task=Task(is_cancelled=lambda: cancelled))
    assert calls == 4


def test_full_card_gets_a_second_try_with_streamed_weights(
    warm: WarmModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(warm)
    seen: list[bool] = []
    denoise = engine_module.denoise.denoise

    def full_at_first(models: WanModels, *arguments: Any, **options: Any) -> torch.Tensor:
        seen.append(isinstance(models.blocks._steps, StreamedBlocks))
        if len(seen) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB.")
        return denoise(models, *arguments, **options)

    monkeypatch.setattr(engine_module.denoise, "denoise", full_at_first)
    np.testing.assert_array_equal(run(warm), expected)
    assert seen == [False, True]


CARD = torch.device("cuda")


@pytest.mark.parametrize(
    ("card_gib", "main_gib", "cap_gib"),
    [(80, 64, None), (48, 64, None), (24, 64, 22.8), (16, 64, 15.2)],
    ids=["80", "48", "24", "16"],
)
def test_weights_stream_where_the_card_is_too_small(
    warm: WarmModels,
    monkeypatch: pytest.MonkeyPatch,
    card_gib: float,
    main_gib: float,
    cap_gib: float | None,
) -> None:
    engine = planning_engine(warm, monkeypatch, card_gib, main_gib)
    cap_bytes = engine._memory_cap(13_312)
    assert cap_bytes == (cap_gib if cap_gib is None else pytest.approx(cap_gib * 2**30))


@pytest.mark.parametrize(
    ("card_gib", "main_gib", "words"),
    [(6, 64, "on the card"), (24, 32, "of main memory")],
    ids=["card", "main memory"],
)
def test_machine_that_is_too_small_for_any_way_is_refused(
    warm: WarmModels,
    monkeypatch: pytest.MonkeyPatch,
    card_gib: float,
    main_gib: float,
    words: str,
) -> None:
    engine = planning_engine(warm, monkeypatch, card_gib, main_gib)
    error = refusal(lambda: engine._memory_cap(13_312))
    assert error.code == "memory_too_small"
    assert words in error.message


def planning_engine(
    warm: WarmModels, monkeypatch: pytest.MonkeyPatch, card_gib: float, main_gib: float
) -> WanEngine:
    """An engine that believes in a card, a machine and the published model."""
    engine = WanEngine(SETTINGS, warm)
    monkeypatch.setattr(engine, "_device", CARD)
    monkeypatch.setattr(engine, "_memory_bytes", lambda: card_gib * 2**30)
    monkeypatch.setattr(memory, "main_memory_bytes", lambda: main_gib * 2**30)
    monkeypatch.setattr(engine_module, "_transformer", lambda *_: memory.WAN_14B)
    return engine


def test_full_card_is_a_clear_error(warm: WarmModels, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB.")

    monkeypatch.setattr(engine_module.denoise, "denoise", fail)
    error = refusal(lambda: run(warm))
    assert error.code == "out_of_memory"
    assert not warm.is_loaded


def test_latents_that_are_no_numbers(warm: WarmModels, monkeypatch: pytest.MonkeyPatch) -> None:
    make_noise = engine_module.denoise.make_noise
    monkeypatch.setattr(
        engine_module.denoise, "make_noise", lambda *size: make_noise(*size) * float("nan")
    )
    assert refusal(lambda: run(warm)).code == "latents_invalid"
