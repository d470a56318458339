# pyright: reportMissingImports=false
"""From frames to disparity, stage by stage, in the numbers of the published code.

Stages: describe each frame to the network (CLIP), encode the frames with a little noise (VAE),
denoise windows of latents that share frames, decode. Random numbers are drawn on the processor in
float32, so that a card and a processor start from the same.

Each stage keeps what it finished, exactly as it is (`ex4d.kept`): chunks of frames, and windows
before they are joined. Another attempt gives the same numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import EulerDiscreteScheduler
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from ex4d.errors import InputError
from ex4d.kept import NOTHING_KEPT, KeptParts
from ex4d.task import Task

from .loading import CrafterModels

SIDE_STEP_PX = 64
MAX_SIDE_PX = 1024
#: Frames that are described, encoded and decoded at a time. The decoder looks over time, so that
#: another number would give other results.
CHUNK_FRAMES = 8
#: Standard deviation of the noise that is added to the frames before they are encoded.
AUGMENTATION = 0.02
#: Frames per second and motion that the network is told, as it was trained.
_RATE, _MOTION = 7, 127
_CLIP_SIDE_PX = 224
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_LATENT_CHANNELS = 4
_LATENT_SCALE = 8


@dataclass(frozen=True)
class Settings:
    """What the network is told; as the reference's where nothing is said.

    Attributes:
        steps: Of denoising.
        guidance: Of classifier-free guidance; 1 is none.
        window: Most frames that are denoised together.
        overlap: Frames that two windows share.
        seed: Of the random numbers.

    Raises:
        InputError: `settings_invalid`.
    """

    steps: int = 5
    guidance: float = 1.0
    window: int = 110
    overlap: int = 25
    seed: int = 42

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.overlap < self.window:
            msg = (
                "expected a step at least and an overlap between 0 and the window, found "
                f"{self.steps} steps, an overlap of {self.overlap} and a window of {self.window}"
            )
            raise InputError("settings_invalid", msg)

    def windows_of(self, frame_count: int) -> list[range]:
        """Frames of each window; a clip that fits into one is one."""
        if frame_count <= self.window:
            return [range(frame_count)]
        starts = range(0, frame_count - self.overlap, self.window - self.overlap)
        return [range(start, min(start + self.window, frame_count)) for start in starts]


def network_size(height_px: int, width_px: int) -> tuple[int, int]:
    """Height and width of the network's pictures for a clip: multiples of 64, at most 1024."""

    def rounded(scale: float) -> tuple[int, int]:
        height, width = (
            max(1, round(side * scale / SIDE_STEP_PX)) * SIDE_STEP_PX
            for side in (height_px, width_px)
        )
        return height, width

    size = rounded(1.0)
    return size if max(size) <= MAX_SIDE_PX else rounded(MAX_SIDE_PX / max(height_px, width_px))


def resized_frames(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Frames of the network's size: (frames, *size, 3) uint8."""
    if frames.shape[1:3] == size:
        return frames
    resized = np.empty((len(frames), *size, 3), np.uint8)
    for target, frame in zip(resized, frames, strict=True):
        cv2.resize(frame, (size[1], size[0]), dst=target, interpolation=cv2.INTER_LINEAR)
    return resized


# --- describing ----------------------------------------------------------------------------------


def describe(
    models: CrafterModels,
    frames: NDArray[np.uint8],
    task: Task,
    kept: KeptParts = NOTHING_KEPT,
) -> torch.Tensor:
    """What the image encoder says of each frame, without noise: (frames, width)."""
    width = models.image_encoder.config.projection_dim
    mean, deviation = (
        torch.tensor(values, device=models.device).view(1, 3, 1, 1)
        for values in (_CLIP_MEAN, _CLIP_DEVIATION)
    )
    tokens = []
    for number, chunk in enumerate(_chunks(len(frames))):
        shape = (chunk.stop - chunk.start, width)
        part = _loaded(kept, "tokens", number, shape, models.device, models.dtype)
        if part is None:
            pictures = clip_pictures(_pictures(models, frames[chunk]).float())
            normalised = ((pictures + 1) / 2 - mean) / deviation
            part = models.image_encoder(normalised.to(models.dtype)).image_embeds
            _save(kept, "tokens", number, part)
        tokens.append(part)
        task.step("describing frames", chunk.stop, len(frames))
    return torch.cat(tokens)


def clip_pictures(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures for the image encoder: (frames, 3, 224, 224).

    What shrinks is blurred first, the width before the height, by a Gaussian whose deviation is
    half of what the factor exceeds 1. Values may go beyond the input's: bicubic overshoots.

    Args:
        pictures: (frames, 3, height, width) float32 in -1..1.
    """
    for axis in (3, 2):
        factor = pictures.shape[axis] / _CLIP_SIDE_PX
        deviation_px = max((factor - 1) / 2, 0.001)
        pictures = _blurred(pictures, axis, deviation_px, taps=int(max(4 * deviation_px, 3)) | 1)
    return functional.interpolate(
        pictures, (_CLIP_SIDE_PX, _CLIP_SIDE_PX), mode="bicubic", align_corners=True
    )


def _blurred(pictures: torch.Tensor, axis: int, deviation_px: float, taps: int) -> torch.Tensor:
    """Convolved along one axis with a Gaussian of an odd number of taps, mirrored at the edges."""
    offsets = torch.arange(taps, dtype=pictures.dtype, device=pictures.device) - taps // 2
    weights = torch.exp(-offsets.square() / (2 * deviation_px**2))
    weights = weights / weights.sum()
    margins = (taps // 2, taps // 2, 0, 0) if axis == 3 else (0, 0, taps // 2, taps // 2)
    kernel = weights.view((1, 1, 1, taps) if axis == 3 else (1, 1, taps, 1))
    channels = pictures.shape[1]
    mirrored = functional.pad(pictures, margins, mode="reflect")
    return functional.conv2d(mirrored, kernel.expand(channels, -1, -1, -1), groups=channels)


# --- encoding ------------------------------------------------------------------------------------


def encode(
    models: CrafterModels,
    frames: NDArray[np.uint8],
    random: torch.Generator,
    task: Task,
    kept: KeptParts = NOTHING_KEPT,
) -> torch.Tensor:
    """Latents of the frames with a little noise: (frames, 4, height / 8, width / 8), not scaled.

    Args:
        models: The autoencoder encodes in float32 where it says that it must.
        frames: (frames, height, width, 3) uint8.
        random: Drawn from first.
        task: Told about every chunk.
        kept: Chunks of an earlier attempt; their noise is drawn all the same.
    """
    vae = models.vae
    encodes_in = torch.float32 if vae.config.force_upcast else models.dtype
    # The library's own `to` would warn that nothing is to be kept in float32.
    nn.Module.to(vae, encodes_in)
    _, height_px, width_px, channels = frames.shape

    def draw_noise(chunk: slice) -> torch.Tensor:
        # In pieces, the generator gives the same numbers as in one.
        shape = (chunk.stop - chunk.start, channels, height_px, width_px)
        return torch.randn(shape, generator=random, pin_memory=models.device.type == "cuda")

    latents = []
    chunks = list(_chunks(len(frames)))
    noise = draw_noise(chunks[0])
    latent_size = (_LATENT_CHANNELS, height_px // _LATENT_SCALE, width_px // _LATENT_SCALE)
    for number, (chunk, following) in enumerate(zip_longest(chunks, chunks[1:])):
        shape = (chunk.stop - chunk.start, *latent_size)
        known = _loaded(kept, "encoded", number, shape, models.device, encodes_in)
        part = known
        if part is None:
            pictures = _pictures(models, frames[chunk])
            noisy = pictures + AUGMENTATION * noise.to(pictures, non_blocking=True)
            part = vae.encode(noisy.to(encodes_in)).latent_dist.mode()
        latents.append(part)
        if following is not None:
            # Drawing takes the processor as long as encoding takes a card.
            noise = draw_noise(following)
        if known is None:
            _save(kept, "encoded", number, part)
        task.step("encoding frames", chunk.stop, len(frames))
    nn.Module.to(vae, models.dtype)
    return torch.cat(latents)


def window_noise(
    settings: Settings, frame_count: int, size: Sequence[int], random: torch.Generator
) -> torch.Tensor:
    """Unit noise of one window: (1, frames, 4, *size), drawn after `encode`."""
    frames = min(settings.window, frame_count)
    return torch.randn((1, frames, _LATENT_CHANNELS, *size), generator=random)


# --- denoising -----------------------------------------------------------------------------------


def denoise(
    models: CrafterModels,
    tokens: torch.Tensor,
    clip_latents: torch.Tensor,
    noise: torch.Tensor,
    settings: Settings,
    task: Task,
    kept: KeptParts = NOTHING_KEPT,
    *,
    on_step: Callable[[torch.Tensor], None] = lambda latents: None,
) -> torch.Tensor:
    """Latents of the clip's disparity: (1, frames, 4, height / 8, width / 8).

    Frames that two windows share start from the same noise, over what the window before found, and
    are cross-faded.

    Args:
        models: The network.
        tokens: From `describe`.
        clip_latents: From `encode`.
        noise: From `window_noise`.
        settings: Steps, guidance, windows.
        task: Told about every step of every window.
        kept: Windows of an earlier attempt.
        on_step: Given the latents of the window after each step that is computed.
    """
    windows = settings.windows_of(len(clip_latents))
    overlap = settings.overlap
    noise = noise.to(models.device, models.dtype)
    found: torch.Tensor | None = None
    for index, window in enumerate(windows):
        frames = slice(window.start, window.stop)
        start = noise[:, : len(window)]
        known = None if found is None else found[:, -overlap:]

        def stepped(step: int, latents: torch.Tensor, index: int = index) -> None:
            on_step(latents)
            done = index * settings.steps + step + 1
            task.step("estimating depth", done, len(windows) * settings.steps)

        latents = _loaded(kept, "denoised", index, start.shape[1:], models.device, models.dtype)
        if latents is None:
            latents = _denoise_window(
                models, tokens[frames], clip_latents[None, frames], start, known, settings, stepped
            )
            _save(kept, "denoised", index, latents[0])
        else:
            latents = latents[None]
            task.step(
                "estimating depth", (index + 1) * settings.steps, len(windows) * settings.steps
            )
        found = latents if found is None else _joined(found, latents, overlap)
        # What the next window shares has the same noise again; the rest is used once more.
        noise = torch.cat([noise[:, -overlap:], noise[:, :-overlap]], dim=1)
    assert found is not None  # noqa: S101 - a clip has a window
    return found


def _denoise_window(
    models: CrafterModels,
    tokens: torch.Tensor,
    clip_latents: torch.Tensor,
    noise: torch.Tensor,
    known: torch.Tensor | None,
    settings: Settings,
    on_step: Callable[[int, torch.Tensor], None],
) -> torch.Tensor:
    scheduler: Any = EulerDiscreteScheduler.from_config(models.scheduler)
    scheduler.set_timesteps(settings.steps, device=models.device)
    latents = noise * scheduler.init_noise_sigma
    if known is not None:
        shared = known.shape[1]
        latents[:, :shared] = known + noise[:, :shared] * scheduler.sigmas[0]
    time_ids = torch.tensor(
        [[_RATE, _MOTION, AUGMENTATION]], dtype=models.dtype, device=models.device
    )
    for step, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)

        def predicted(
            clip: torch.Tensor,
            words: torch.Tensor,
            scaled: torch.Tensor = scaled,
            timestep: torch.Tensor = timestep,
        ) -> torch.Tensor:
            joined = torch.cat([scaled, clip], dim=2).to(models.dtype)
            return models.unet.predict(joined, timestep, words, time_ids)

        velocity = predicted(clip_latents, tokens)
        if settings.guidance > 1:
            blind = predicted(torch.zeros_like(clip_latents), torch.zeros_like(tokens))
            velocity = blind + settings.guidance * (velocity - blind)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        on_step(step, latents)
    return latents


def _joined(found: torch.Tensor, latents: torch.Tensor, overlap: int) -> torch.Tensor:
    """Latents so far and those of the next window, the shared frames cross-faded."""
    share = torch.linspace(0, 1, overlap, device=latents.device).view(1, -1, 1, 1, 1)
    mixed = latents[:, :overlap] * share + found[:, -overlap:] * (1 - share)
    return torch.cat([found[:, :-overlap], mixed.to(latents.dtype), latents[:, overlap:]], dim=1)


# --- decoding ------------------------------------------------------------------------------------


def decode(
    models: CrafterModels,
    latents: torch.Tensor,
    task: Task,
    kept: KeptParts = NOTHING_KEPT,
    *,
    on_chunk: Callable[[torch.Tensor], None] = lambda pictures: None,
) -> NDArray[np.float32]:
    """Disparity of the clip, up to scale and shift: (frames, height, width) float32 in 0..1.

    Args:
        models: The autoencoder.
        latents: From `denoise`.
        task: Told about every chunk.
        kept: Chunks of an earlier attempt.
        on_chunk: Given the decoded pictures of each chunk that is computed, (frames, 3, height,
            width) float32 in about -1..1.
    """
    scaled = latents[0] / models.vae.config.scaling_factor
    size = [_LATENT_SCALE * side for side in scaled.shape[-2:]]
    disparity = []
    for number, chunk in enumerate(_chunks(len(scaled))):
        part = scaled[chunk]
        found = kept.load("decoded", number, (len(part), *size))
        if found is None:
            pictures = models.vae.decode(part, num_frames=len(part)).sample.float()
            on_chunk(pictures)
            found = (pictures / 2 + 0.5).clamp(0, 1).mean(dim=1).cpu().numpy()
            kept.save("decoded", number, found)
        disparity.append(found)
        task.step("decoding depth", chunk.stop, len(scaled))
    return np.concatenate(disparity)


def _pictures(models: CrafterModels, frames: NDArray[np.uint8]) -> torch.Tensor:
    """Frames as the networks take them: (frames, 3, height, width) in -1..1."""
    unit = torch.from_numpy(frames).to(models.device).permute(0, 3, 1, 2).float() / 255
    return unit.to(models.dtype) * 2 - 1


def _chunks(count: int) -> Iterator[slice]:
    for start in range(0, count, CHUNK_FRAMES):
        yield slice(start, min(start + CHUNK_FRAMES, count))


# --- keeping -------------------------------------------------------------------------------------


def _loaded(
    kept: KeptParts,
    stage: str,
    number: int,
    shape: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor | None:
    """A part as it was saved: float32 holds all that float16 does."""
    known = kept.load(stage, number, shape)
    return None if known is None else torch.from_numpy(known).to(device, dtype)


def _save(kept: KeptParts, stage: str, number: int, part: torch.Tensor) -> None:
    # What would be copied for nothing has the processor wait for the card.
    if kept.is_kept:
        kept.save(stage, number, part.float().cpu().numpy())
