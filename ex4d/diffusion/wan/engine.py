# pyright: reportMissingImports=false
"""The `ex4d` engine: a take from a condition, with EX-4D's adapter on Wan2.1-I2V-14B."""

import math
import os
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ex4d.camera import Trajectory
from ex4d.condition import Condition
from ex4d.diffusion.warm import WarmModels
from ex4d.errors import InputError
from ex4d.protocol.documents import Ex4dSettings, UsedPart
from ex4d.scene import Scene
from ex4d.task import Task
from ex4d.weights.files import models_folder, weights_identity

from . import conditioning, denoise
from .files import (
    ADAPTER_FOLDER,
    BASE_FOLDER,
    EX4D_MODEL,
    ModelFiles,
    find_models,
    lora_path,
)
from .loading import WanModels, load_models
from .text import PromptEncoder

TRAINED_SIDE_PX = 512
TRAINED_FRAMES = 49
MAX_FRAMES = 81
#: Of a picture: what 720p has. The model was trained at less than half of it.
MAX_PIXELS = 1280 * 720
#: Sides are multiples of this: the autoencoder's 8 times the transformer's patches of 2.
SIDE_STEP_PX = 16
#: Steps of a step-distilled LoRA.
DRAFT_STEPS = (1, 8)
#: What a forward takes beside the weights: for each token, and in all.
_BYTES_PER_TOKEN = 200_000
_OVERHEAD_BYTES = 2 << 30
#: The share of a processor's memory that the model may take.
_MEMORY_SHARE = 0.8


class WanEngine:
    """Imagines what the source never saw.

    Args:
        settings: What it is told.
        warm: Keeps the models between jobs.
        cache: Folder of prompt embeddings; the user's own where absent.

    Raises:
        InputError: `model_missing`, `lora_missing`, `draft_settings` or `mode_unavailable`.
    """

    name = "ex4d"
    version = "1"
    licence = EX4D_MODEL.licence

    def __init__(self, settings: Ex4dSettings, warm: WarmModels, cache: Path | None = None) -> None:
        from platformdirs import user_cache_path

        _check_mode(settings)
        self.settings = settings
        self._warm = warm
        self._cache = cache or user_cache_path("ex4d", appauthor=False) / "prompts"
        self._files = find_models(models_folder())
        for name in settings.loras:
            lora_path(self._files, name)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32

    @property
    def weights(self) -> tuple[UsedPart, ...]:
        """The files that make the take, told apart by what is in them."""
        files = self._files
        base = (*files.dit, files.text_encoder, files.image_encoder, files.vae)
        adapter = files.adapter or files.camera_encoder
        assert adapter is not None  # noqa: S101 - one of the two is always there
        parts = [
            UsedPart(
                role="weights",
                name=BASE_FOLDER,
                version=weights_identity(*base),
                licence=EX4D_MODEL.licence,
            ),
            UsedPart(
                role="weights",
                name=ADAPTER_FOLDER,
                version=weights_identity(adapter),
                licence=EX4D_MODEL.licence,
            ),
        ]
        parts += [
            UsedPart(
                role="lora",
                name=name,
                version=weights_identity(lora_path(files, name)),
                licence="not stated",
            )
            for name in self.settings.loras
        ]
        return tuple(parts)

    def check(self, trajectory: Trajectory) -> tuple[str, ...]:
        """Refuse what cannot be made, before anything is rendered; see `Engine`.

        Raises:
            InputError: `take_size`, `take_frames` or `memory_too_small`.
        """
        width_px, height_px = trajectory.width_px, trajectory.height_px
        if width_px % SIDE_STEP_PX or height_px % SIDE_STEP_PX:
            nearest = " x ".join(
                str(max(1, round(side / SIDE_STEP_PX)) * SIDE_STEP_PX)
                for side in (width_px, height_px)
            )
            msg = (
                f"expected a picture whose sides are multiples of {SIDE_STEP_PX} px, found "
                f"{width_px} x {height_px}; {nearest} is the nearest"
            )
            raise InputError("take_size", msg)
        if width_px * height_px > MAX_PIXELS:
            msg = (
                f"expected a picture of at most {MAX_PIXELS} pixels, found {width_px} x "
                f"{height_px}; the model was trained at 512 x 512: choose a smaller size"
            )
            raise InputError("take_size", msg)
        count = len(trajectory)
        if count > MAX_FRAMES or count % conditioning.FRAMES_PER_LATENT != 1:
            nearest = min(MAX_FRAMES, max(1, round((count - 1) / 4) * 4 + 1))
            msg = (
                f"expected 4k + 1 frames, at most {MAX_FRAMES}, found {count}; {nearest} is the "
                "nearest"
            )
            raise InputError("take_frames", msg)
        _check_memory(self._files, self._device, self._dtype, trajectory)
        if (width_px, height_px, count) == (TRAINED_SIDE_PX, TRAINED_SIDE_PX, TRAINED_FRAMES):
            return ()
        note = (
            f"made at {width_px} x {height_px}, {count} frames; the model was trained at "
            f"{TRAINED_SIDE_PX} x {TRAINED_SIDE_PX}, {TRAINED_FRAMES} frames"
        )
        return (note,)

    def generate(
        self, scene: Scene, trajectory: Trajectory, condition: Condition, *, task: Task
    ) -> Iterator[NDArray[np.uint8]]:
        """The frames; see `Engine`. The scene itself is not looked at again.

        Raises:
            InputError: Of `check_condition`, of loading, `prompt_too_long`, `latents_invalid` or
                `out_of_memory`.
        """
        conditioning.check_condition(condition)
        yield from self._make(condition, task)

    def _make(self, condition: Condition, task: Task) -> NDArray[np.uint8]:
        try:
            with torch.no_grad():
                embeddings = self._embed_prompts(task)
                with self._warm.borrow(self._key(), lambda: self._load(task)) as models:
                    return self._denoise(models, condition, embeddings, task)
        except torch.OutOfMemoryError as error:
            self._warm.free()
            msg = (
                "expected enough memory on the card for this take, found it full; choose a "
                f"smaller size or fewer frames ({str(error).splitlines()[0][:200]})"
            )
            raise InputError("out_of_memory", msg) from error

    def _key(self) -> Hashable:
        """Tells the models of one job from those of another: mode, files, and when they changed."""
        loras = [lora_path(self._files, name) for name in self.settings.loras]
        changed = [path.stat().st_mtime_ns for path in (*self._files.all_paths(), *loras)]
        return (self.settings.mode, self._files, self.settings.loras, *changed)

    def _embed_prompts(self, task: Task) -> list[torch.Tensor]:
        """Of the prompt and, where there is guidance, of the negative prompt."""
        prompts = [self.settings.prompt]
        if self.settings.guidance > 1:
            prompts.append(self.settings.negative_prompt)
        encoder = PromptEncoder(self._files, self._cache, device=self._device, dtype=self._dtype)

        def before_loading() -> None:
            if not self._has_room_for(self._files.text_encoder):
                self._warm.free()
            task.step("reading the prompt", 0, 1)

        return encoder.embed(prompts, before_loading=before_loading, on_tensor=task.check)

    def _has_room_for(self, path: Path) -> bool:
        """Whether a model's file fits beside what is on the card already."""
        if self._device.type != "cuda":
            return True
        free_bytes, _ = torch.cuda.mem_get_info(self._device)
        return free_bytes > path.stat().st_size + _OVERHEAD_BYTES

    def _load(self, task: Task) -> WanModels:
        return load_models(
            self._files,
            device=self._device,
            dtype=self._dtype,
            loras=self.settings.loras,
            on_tensor=lambda done, total: task.step("loading", done, total),
        )

    def _denoise(
        self, models: WanModels, condition: Condition, embeddings: list[torch.Tensor], task: Task
    ) -> NDArray[np.uint8]:
        settings = self.settings

        def reporter(stage: str) -> Callable[[int, int], None]:
            return lambda done, total: task.step(stage, done, total)

        inputs = conditioning.prepare_inputs(
            models, condition, seed=settings.seed, on_frame=reporter("encoding")
        )
        contexts = [
            denoise.embed_context(models, embedding, inputs.image_tokens)
            for embedding in embeddings
        ]
        guidance = denoise.Guidance(
            contexts[0], contexts[1] if len(contexts) > 1 else None, settings.guidance
        )
        task.step("denoising", 0, settings.steps)
        latents = denoise.denoise(
            models,
            denoise.make_noise(settings.seed, *condition.mask.shape),
            inputs,
            guidance,
            steps=settings.steps,
            on_step=lambda done, latents: task.step("denoising", done, settings.steps),
            before_block=task.check,
        )
        total = latents.shape[2]
        report = reporter("decoding")
        with conditioning.watched(models.vae.model.decoder, lambda done: report(done, total)):
            return conditioning.frames_of(conditioning.decode_latents(models, latents))


def _check_mode(settings: Ex4dSettings) -> None:
    if settings.mode == "fast":
        msg = "expected the mode exact or draft, found fast, which is not there yet"
        raise InputError("mode_unavailable", msg)
    if settings.mode == "draft":
        least, most = DRAFT_STEPS
        if not settings.loras or settings.guidance != 1 or not least <= settings.steps <= most:
            msg = (
                f"expected for a draft a step-distilled LoRA, {least} to {most} steps and guidance "
                f"1, found {len(settings.loras)} LoRAs, {settings.steps} steps and guidance "
                f"{settings.guidance:g}; name a registered LoRA, or choose another mode"
            )
            raise InputError("draft_settings", msg)


def _check_memory(
    files: ModelFiles, device: torch.device, dtype: torch.dtype, trajectory: Trajectory
) -> None:
    """Refuse a take that cannot fit, by the sizes of the files.

    Raises:
        InputError: `memory_too_small`.
    """
    stored_bytes = sum(path.stat().st_size for path in files.dit)
    # Published files are in float32, converted ones in bfloat16.
    stored_type = torch.float32 if files.adapter is not None else torch.bfloat16
    weights_bytes = stored_bytes * dtype.itemsize // stored_type.itemsize
    tokens = (
        conditioning.latent_frame_count(len(trajectory))
        * (trajectory.width_px // SIDE_STEP_PX)
        * (trajectory.height_px // SIDE_STEP_PX)
    )
    needed_bytes = weights_bytes + tokens * _BYTES_PER_TOKEN + _OVERHEAD_BYTES
    if device.type == "cuda":
        where = "on the card"
        found_bytes = torch.cuda.get_device_properties(device).total_memory
    else:
        where = "in this machine, which has no CUDA card"
        found_bytes = _MEMORY_SHARE * _main_memory_bytes()
    if needed_bytes > found_bytes:
        msg = (
            f"expected about {needed_bytes / 2**30:.0f} GiB {where} for this take, found "
            f"{found_bytes / 2**30:.0f}; use a server with a larger card, or a smaller size"
        )
        raise InputError("memory_too_small", msg)


def _main_memory_bytes() -> float:
    """Of this machine; infinite where the system does not say."""
    if not hasattr(os, "sysconf"):
        return math.inf
    return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
