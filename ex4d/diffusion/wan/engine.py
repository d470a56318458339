# pyright: reportMissingImports=false
"""The `ex4d` engine: a take from a condition, with EX-4D's adapter on Wan2.1-I2V-14B."""

import logging
import math
import traceback
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ex4d import trained
from ex4d.condition import Condition
from ex4d.diffusion import View
from ex4d.diffusion.warm import WarmModels
from ex4d.errors import InputError
from ex4d.protocol.documents import Ex4dSettings, UsedPart
from ex4d.raster import ConditionFrame
from ex4d.task import Task
from ex4d.weights.checkpoints import tensor_shapes
from ex4d.weights.files import models_folder, weights_identity

from . import conditioning, denoise, memory, two_cards
from .adapter import block_count
from .files import (
    ADAPTER_FOLDER,
    BASE_FOLDER,
    EX4D_MODEL,
    ModelFiles,
    find_models,
    lora_path,
)
from .latent_preview import LatentPreview
from .loading import WanModels, load_models
from .modes import quantises
from .text import PromptEncoder

#: Steps of a step-distilled LoRA.
DRAFT_STEPS = (1, 8)
#: After a take for which the card was too full, the next try has so much of it.
_SECOND_TRY_SHARE = 0.75

_log = logging.getLogger(__name__)


class WanEngine:
    """Imagines what the source never saw.

    Args:
        settings: What it is told.
        warm: Keeps the models between jobs.
        cache: Folder of prompt embeddings; the user's own where absent.

    Raises:
        InputError: `model_missing`, `lora_missing`, `draft_settings` or `fp8_unsupported`.
    """

    name = "ex4d"
    version = "1"
    licence = EX4D_MODEL.licence
    looks_at_scene = False

    def __init__(self, settings: Ex4dSettings, warm: WarmModels, cache: Path | None = None) -> None:
        from platformdirs import user_cache_path

        _check_mode(settings)
        self.settings = settings
        self._warm = warm
        self._cache = cache or user_cache_path("ex4d", appauthor=False) / "prompts"
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Nothing is added to weights in 8 bits.
        may_be_quantised = quantises(settings.mode, self._device) and not settings.loras
        self._files = find_models(models_folder(), may_be_quantised=may_be_quantised)
        for name in settings.loras:
            lora_path(self._files, name)
        self._dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32

    @property
    def weights(self) -> tuple[UsedPart, ...]:
        """The files that make the take, told apart by what is in them."""
        files = self._files
        base = (*files.dit, files.text_encoder, files.image_encoder, files.vae)
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
                version=weights_identity(files.adapter_file),
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

    def check(self, frame_count: int, width_px: int, height_px: int) -> tuple[str, ...]:
        """Refuse what cannot be made, before anything is rendered; see `Engine`.

        Raises:
            InputError: `take_size`, `take_frames` or `memory_too_small`.
        """
        if width_px % trained.SIDE_STEP_PX or height_px % trained.SIDE_STEP_PX:
            nearest = " x ".join(map(str, trained.nearest_size_px(width_px, height_px)))
            msg = (
                f"expected a picture whose sides are multiples of {trained.SIDE_STEP_PX} px, found "
                f"{width_px} x {height_px}; {nearest} is the nearest"
            )
            raise InputError("take_size", msg)
        if width_px * height_px > trained.MAX_PIXELS:
            msg = (
                f"expected a picture of at most {trained.MAX_PIXELS} pixels, found {width_px} x "
                f"{height_px}; the model was trained at 512 x 512: choose a smaller size"
            )
            raise InputError("take_size", msg)
        fitting_count = trained.fitting_frame_count(frame_count)
        if frame_count != fitting_count:
            msg = (
                f"expected 4k + 1 frames, at most {trained.MAX_FRAMES}, found {frame_count}; "
                f"{fitting_count} are the most that fit"
            )
            raise InputError("take_frames", msg)
        self._memory_cap(trained.token_count(frame_count, height_px, width_px))
        if (width_px, height_px, frame_count) == (
            trained.SIDE_PX,
            trained.SIDE_PX,
            trained.FRAMES,
        ):
            return ()
        note = (
            f"made at {width_px} x {height_px}, {frame_count} frames; the model was trained at "
            f"{trained.SIDE_PX} x {trained.SIDE_PX}, {trained.FRAMES} frames"
        )
        return (note,)

    def generate(
        self, condition: Iterable[ConditionFrame], view: View | None, *, task: Task
    ) -> Iterator[NDArray[np.uint8]]:
        """The frames; see `Engine`. Scene and camera are not looked at.

        Raises:
            InputError: Of `check_condition`, of loading, `prompt_too_long`, `latents_invalid` or
                `out_of_memory`.
        """
        whole = Condition.of(condition)
        conditioning.check_condition(whole)
        yield from self._make(whole, task)

    def _make(self, condition: Condition, task: Task) -> NDArray[np.uint8]:
        """The frames; where the card turns out too full, once more with less of it."""
        tokens = trained.token_count(*condition.mask.shape)
        cap_bytes = self._memory_cap(tokens)
        try:
            return self._attempt(condition, tokens, cap_bytes, task)
        except torch.OutOfMemoryError as error:
            # Its frames hold what filled the card.
            traceback.clear_frames(error.__traceback__)
        self._warm.free()
        smaller_bytes = int(_SECOND_TRY_SHARE * self._memory_bytes())
        _log.warning("out of memory: once more with at most %.1f GiB", smaller_bytes / 2**30)
        try:
            return self._attempt(condition, tokens, smaller_bytes, task)
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)
            self._warm.free()
            msg = (
                "expected enough memory on the card for this take, found it full twice; choose a "
                f"smaller size or fewer frames ({str(error).splitlines()[0][:200]})"
            )
            raise InputError("out_of_memory", msg) from error

    def _attempt(
        self, condition: Condition, tokens: int, cap_bytes: int | None, task: Task
    ) -> NDArray[np.uint8]:
        # Without a cap the models are the same for every size.
        plan = (None, 0) if cap_bytes is None else (cap_bytes, tokens)
        with torch.no_grad():
            embeddings = self._embed_prompts(task)
            with self._warm.borrow(
                (*self._key(), *plan), lambda: self._load(*plan, task)
            ) as models:
                return self._denoise(models, condition, embeddings, task)

    def _memory_cap(self, tokens: int) -> int | None:
        """How much of the card a take may have; None where everything fits.

        Raises:
            InputError: `memory_too_small`.
        """
        is_quantised = quantises(self.settings.mode, self._device)
        return memory.plan(
            _transformer(self._files, self._dtype),
            tokens,
            is_quantised=is_quantised,
            card_bytes=self._memory_bytes() if self._device.type == "cuda" else None,
            main_bytes=memory.main_memory_bytes(),
        )

    def _memory_bytes(self) -> float:
        """Of the device."""
        if self._device.type == "cuda":
            return float(torch.cuda.get_device_properties(self._device).total_memory)
        return memory.main_memory_bytes()

    def _key(self) -> tuple[Hashable, ...]:
        """Tells the models of one job from those of another: mode, files, and when they changed."""
        loras = [lora_path(self._files, name) for name in self.settings.loras]
        changed = [path.stat().st_mtime_ns for path in (*self._files.all_paths(), *loras)]
        return (self.settings.mode, self._files, self.settings.loras, *changed)

    def _embed_prompts(self, task: Task) -> list[torch.Tensor]:
        """Of the prompt and, where there is guidance, of the negative prompt."""
        prompts = [self.settings.prompt]
        if self.settings.guidance > 1:
            prompts.append(self.settings.negative_prompt)
        path = self._files.text_encoder
        fits = path.stat().st_size + memory.OVERHEAD_BYTES < self._memory_bytes()
        device = self._device if fits else torch.device("cpu")
        encoder = PromptEncoder(self._files, self._cache, device=device, dtype=self._dtype)

        def before_loading() -> None:
            if not self._has_room_for(path):
                self._warm.free()
            task.step("reading the prompt", 0, 1)

        return encoder.embed(prompts, before_loading=before_loading, on_tensor=task.check)

    def _has_room_for(self, path: Path) -> bool:
        """Whether a model's file fits beside what is on the card already."""
        if self._device.type != "cuda":
            return True
        free_bytes, _ = torch.cuda.mem_get_info(self._device)
        return free_bytes > path.stat().st_size + memory.OVERHEAD_BYTES

    def _load(self, cap_bytes: int | None, tokens: int, task: Task) -> WanModels:
        return load_models(
            self._files,
            device=self._device,
            dtype=self._dtype,
            loras=self.settings.loras,
            mode=self.settings.mode,
            tokens=tokens,
            memory_cap_bytes=cap_bytes,
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
        if len(embeddings) > 1:
            two_cards.use_second_card(models, trained.token_count(*condition.mask.shape))
        guidance = denoise.embed_guidance(
            models, embeddings, inputs.image_tokens, settings.guidance
        )
        preview = None
        if task.wants_previews:
            preview = LatentPreview.fit(
                lambda clip: conditioning.encode_video(models, clip), models.device
            )

        def on_step(step: denoise.Step) -> None:
            task.step("denoising", step.done, settings.steps)
            if preview is not None:
                task.show(preview.frames(step.denoised()))

        task.step("denoising", 0, settings.steps)
        latents = denoise.denoise(
            models,
            denoise.make_noise(settings.seed, *condition.mask.shape),
            inputs,
            guidance,
            steps=settings.steps,
            on_step=on_step,
            before_block=task.check,
        )
        # Where memory is short, the autoencoder needs what the transformer held.
        models.blocks.park()
        total = latents.shape[2]
        report = reporter("decoding")
        with conditioning.watched(models.vae.model.decoder, lambda done: report(done, total)):
            return conditioning.frames_of(conditioning.decode_latents(models, latents))


def _check_mode(settings: Ex4dSettings) -> None:
    if settings.mode == "draft":
        least, most = DRAFT_STEPS
        if not settings.loras or settings.guidance != 1 or not least <= settings.steps <= most:
            msg = (
                f"expected for a draft a step-distilled LoRA, {least} to {most} steps and guidance "
                f"1, found {len(settings.loras)} LoRAs, {settings.steps} steps and guidance "
                f"{settings.guidance:g}; name a registered LoRA, or choose another mode"
            )
            raise InputError("draft_settings", msg)


def _transformer(files: ModelFiles, dtype: torch.dtype) -> memory.Transformer:
    """What counts of the transformer, not quantised, with its weights in a type."""
    shapes = {name: shape for path in files.dit for name, shape in tensor_shapes(path).items()}
    count = sum(math.prod(shape) for shape in shapes.values())
    return memory.Transformer(count * dtype.itemsize, block_count(shapes))
