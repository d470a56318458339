# pyright: reportMissingImports=false
"""The denoising loop: flow matching from noise to latents, told by prompt and condition.

Latents, time steps, the time embedding and the head are in float32, whatever the rest is in: a
time step that is rounded to bfloat16 alone moves the result by 15 %.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ex4d.errors import InputError

from .adapter import LATENT_CHANNELS
from .blocks import Residual
from .conditioning import PIXELS_PER_LATENT, ModelInputs, latent_frame_count
from .loading import WanModels
from .precision import full_precision, mixed_precision
from .text import with_padding

#: Of the schedule; see `noise_levels`.
SHIFT = 5.0
_TIME_STEPS = 1000.0


@dataclass(frozen=True)
class Guidance:
    """What the transformer is told in words.

    Attributes:
        prompt: See `embed_context`.
        negative: The same of the negative prompt; None: no classifier-free guidance.
        scale: How far to go from the negative prompt's prediction beyond the prompt's.
    """

    prompt: Any
    negative: Any | None
    scale: float


class Step(NamedTuple):
    """Where denoising stands after a step."""

    #: How many steps are done.
    done: int
    #: As the next step gets them, float32.
    latents: torch.Tensor
    #: What the step moved them along, guidance included.
    velocity: torch.Tensor
    #: The share of noise that is left in them.
    noise_level: float

    def denoised(self) -> torch.Tensor:
        """The latents as they would end if the velocity were right to the end."""
        return self.latents - self.noise_level * self.velocity


def noise_levels(steps: int) -> torch.Tensor:
    """(steps + 1,) float32: the share of noise before each step, and 0 after the last.

    Equal steps from 1 towards 0, the zero being one step more than are done, then shifted towards
    more noise: s -> 5 s / (1 + 4 s) (Esser et al., "Scaling Rectified Flow Transformers", 2024).
    """
    even = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float32)[:-1]
    shifted = SHIFT * even / (1 + (SHIFT - 1) * even)
    return torch.cat([shifted, torch.zeros(1)])


def make_noise(seed: int, frame_count: int, height_px: int, width_px: int) -> torch.Tensor:
    """(1, 16, latent frames, height/8, width/8) float32, made on the CPU: alike on every card."""
    shape = (
        1,
        LATENT_CHANNELS,
        latent_frame_count(frame_count),
        height_px // PIXELS_PER_LATENT,
        width_px // PIXELS_PER_LATENT,
    )
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def embed_guidance(
    models: WanModels,
    embeddings: Sequence[torch.Tensor],
    image_tokens: torch.Tensor,
    scale: float,
) -> Guidance:
    """What the transformer is told in words, on the cards that shall hear it.

    Args:
        models: Their transformers embed it.
        embeddings: Of the prompt and, for guidance, of the negative prompt: (tokens, text_dim).
        image_tokens: (1, 257, clip_dim).
        scale: Of guidance.
    """
    prompt, *negative = embeddings
    return Guidance(
        embed_context(models, prompt, image_tokens),
        embed_context(models.second or models, negative[0], image_tokens) if negative else None,
        scale,
    )


def embed_context(
    models: WanModels, text_embedding: torch.Tensor, image_tokens: torch.Tensor
) -> Any:
    """What the blocks need of image tokens and prompt: the same for every step.

    Args:
        models: Their `dit` embeds it.
        text_embedding: (tokens, text_dim).
        image_tokens: (1, 257, clip_dim).
    """
    dit = models.dit
    with mixed_precision(models.device, models.dtype):
        image = dit.img_emb(image_tokens.to(models.device))
        text, last_count = with_padding(text_embedding.to(models.device))
        context = torch.cat([image, dit.text_embedding(text[None])], dim=1)
        return models.blocks.project_context(context, last_count)


def rotary_table(dit: Any, frames: int, rows: int, columns: int) -> torch.Tensor:
    """(frames * rows * columns, 1, head_dim / 2) complex: the turn of each token in attention."""
    by_frame, by_row, by_column = dit.freqs
    grid = (frames, rows, columns, -1)
    table = torch.cat(
        [
            by_frame[:frames].view(frames, 1, 1, -1).expand(*grid),
            by_row[:rows].view(1, rows, 1, -1).expand(*grid),
            by_column[:columns].view(1, 1, columns, -1).expand(*grid),
        ],
        dim=-1,
    )
    return table.reshape(frames * rows * columns, 1, -1)


class Share(NamedTuple):
    """What one card has of each step.

    Attributes:
        models: Its transformer.
        inputs: What it is told about the condition.
        contexts: One for each branch of guidance that it takes; see `embed_context`.
        table: From `rotary_table`, on the card.
    """

    models: WanModels
    inputs: ModelInputs
    contexts: list[Any]
    table: torch.Tensor

    @classmethod
    def of(cls, models: WanModels, inputs: ModelInputs, contexts: list[Any]) -> "Share":
        """The share of the card that the models are on; the inputs may be on another one."""
        grid = inputs.camera.shape[2:]
        table = rotary_table(models.dit, *grid).to(models.device)
        return cls(models, inputs.to(models.device), contexts, table)


def predict(
    shares: Sequence[Share],
    latents: torch.Tensor,
    time_step: torch.Tensor,
    *,
    before_block: Callable[[], None] = lambda: None,
) -> list[torch.Tensor]:
    """One forward of the transformer for each context.

    Args:
        shares: Of one card or two.
        latents: (1, 16, frames, rows, columns) float32.
        time_step: (1,) float32 in 0..1000.
        before_block: Called before each block; may raise to stop.

    Returns:
        For each context of each share the velocity, as large as the latents, float32 and on their
        device.
    """
    passes = [_Pass(share, latents, time_step) for share in shares]
    # In turns, block by block: no card waits until all of another's pass is queued.
    *_, residuals = zip(*(one.run_blocks(before_block) for one in passes), strict=True)
    return [
        velocity.to(latents.device)
        for one, own in zip(passes, residuals, strict=True)
        for velocity in one.velocities(own)
    ]


class _Pass:
    """One card's pass through its transformer."""

    def __init__(self, share: Share, latents: torch.Tensor, time_step: torch.Tensor) -> None:
        from diffsynth.models.wan_video_dit import sinusoidal_embedding_1d

        models = share.models
        self._share, self._dit = share, models.dit
        latents, time_step = latents.to(models.device), time_step.to(models.device)
        with full_precision(models.device):
            angles = sinusoidal_embedding_1d(self._dit.freq_dim, time_step)
            self._time = self._dit.time_embedding(angles)
        with mixed_precision(models.device, models.dtype):
            told = torch.cat([latents, share.inputs.first_frame], dim=1)
            patches = self._dit.patch_embedding(told)
            self._patches = patches + share.inputs.camera.to(patches.dtype)
        self._grid = patches.shape[2:]

    def run_blocks(self, before_block: Callable[[], None]) -> Iterator[list[Residual]]:
        models, contexts = self._share.models, self._share.contexts
        with full_precision(models.device):
            modulation = self._dit.time_projection(self._time).unflatten(1, (6, self._dit.dim))
        tokens = self._patches.flatten(2).transpose(1, 2)
        return models.blocks.run_blocks(
            [tokens] * len(contexts),
            contexts,
            modulation,
            self._share.table,
            before_block=before_block,
        )

    def velocities(self, residuals: list[Residual]) -> list[torch.Tensor]:
        dit = self._dit
        with full_precision(self._share.models.device):
            heads = (dit.head(residual.tokens(), self._time) for residual in residuals)
            return [dit.unpatchify(head, self._grid) for head in heads]


def denoise(
    models: WanModels,
    noise: torch.Tensor,
    inputs: ModelInputs,
    guidance: Guidance,
    *,
    steps: int,
    on_step: Callable[[Step], None] = lambda step: None,
    before_block: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """From noise to latents.

    Args:
        models: The transformer and how it computes.
        noise: See `make_noise`.
        inputs: What it is told about the condition.
        guidance: What it is told in words.
        steps: How many.
        on_step: Told after each step.
        before_block: Called before each block; may raise to stop.

    Returns:
        Latents like the noise, float32.

    Raises:
        InputError: `latents_invalid` if they are no longer numbers.
    """
    levels = noise_levels(steps)
    latents = noise.to(models.device)
    shares = _shares(models, inputs, guidance)
    for step in range(steps):
        time_step = levels[step : step + 1] * _TIME_STEPS
        found = predict(shares, latents, time_step, before_block=before_block)
        velocity, *negative = found
        for away in negative:
            velocity = away + guidance.scale * (velocity - away)
        latents = latents + velocity * float(levels[step + 1] - levels[step])
        # This also waits for the card, so that progress is never ahead of it.
        if not torch.isfinite(latents).all():
            msg = (
                f"expected numbers after step {step + 1}, found NaN or infinity; check the LoRAs "
                "and the model's files with `ex4d models check`"
            )
            raise InputError("latents_invalid", msg)
        on_step(Step(step + 1, latents, velocity, float(levels[step + 1])))
    return latents


def _shares(models: WanModels, inputs: ModelInputs, guidance: Guidance) -> list[Share]:
    if guidance.negative is None:
        return [Share.of(models, inputs, [guidance.prompt])]
    if models.second is None:
        return [Share.of(models, inputs, [guidance.prompt, guidance.negative])]
    return [
        Share.of(models, inputs, [guidance.prompt]),
        Share.of(models.second, inputs, [guidance.negative]),
    ]
