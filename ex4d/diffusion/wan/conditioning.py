# pyright: reportMissingImports=false
"""From a condition to what the model is told: conditioning frame, video and mask as latents.

What differs from a plain image-to-video model, as the reference does it:

- The conditioning frame goes through 8 bits by truncation, which makes some levels one darker.
- The mask is scaled to {-1, 1} and then once more: the autoencoder sees {-3, 1}.
- The mask is eroded by a square of 2 to 8 pixels, another one each frame. The reference draws it
  at random; here it comes from the job's seed, so that the same take is the same bytes.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ex4d.condition import Condition
from ex4d.errors import InputError
from ex4d.trained import FRAME_STEP

from .loading import CLIP_SIDE_PX, WanModels
from .precision import mixed_precision

#: The autoencoder's pixels per latent.
PIXELS_PER_LATENT = 8
#: Sides of the squares that erode the mask, in pixels.
EROSION_PX = (2, 8)
#: CLIP's own normalisation.
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ModelInputs:
    """What the transformer is told about the condition, for every step the same.

    Attributes:
        first_frame: (1, 20, latent frames, height/8, width/8) float32: 4 channels of a mask that
            is 1 in the first frame, 16 of the conditioning frame's latent.
        image_tokens: (1, 257, clip_dim) float32: CLIP's tokens of the conditioning frame.
        camera: (1, dim, latent frames, height/16, width/16): added to the patch embedding.
    """

    first_frame: torch.Tensor
    image_tokens: torch.Tensor
    camera: torch.Tensor

    def to(self, device: torch.device) -> "ModelInputs":
        """The same on a device."""
        return ModelInputs(
            self.first_frame.to(device), self.image_tokens.to(device), self.camera.to(device)
        )


def check_condition(condition: Condition) -> None:
    """Refuse a condition that shows nothing, or nothing that can be used.

    Raises:
        InputError: `condition_invalid`, `condition_empty` or `condition_first_frame`.
    """
    color, mask = condition.color, condition.mask
    if color.dtype != np.uint8 or mask.dtype != np.bool_ or color.shape != (*mask.shape, 3):
        not_finite = color.dtype.kind == "f" and not np.isfinite(color).all()
        found = "NaN or infinity" if not_finite else f"{color.dtype} {color.shape}"
        msg = (
            "expected a condition of 8-bit colour and one mask a pixel, found "
            f"{found} with {mask.dtype} {mask.shape}; render it again"
        )
        raise InputError("condition_invalid", msg)
    if not np.isfinite(condition.coverage).all() or np.isnan(condition.depth).any():
        msg = "expected a condition of numbers, found NaN in its depth or coverage; render it again"
        raise InputError("condition_invalid", msg)
    if not mask.any():
        msg = (
            "expected a condition that shows something, found an empty mask in all "
            f"{len(mask)} frames; move the camera so that it sees the scene"
        )
        raise InputError("condition_empty", msg)
    if not mask[0].all():
        msg = (
            "expected a first frame that the source saw all of, since the model continues it, "
            f"found {condition.coverage[0]:.0%} of it; begin the camera path at the source camera"
        )
        raise InputError("condition_first_frame", msg)


def erosion_sides_px(seed: int, frame_count: int) -> list[int]:
    """The side of the square that erodes the mask of each frame, drawn from the seed."""
    draw = random.Random(seed)  # noqa: S311 - nobody must be unable to guess it
    return [draw.randint(*EROSION_PX) for _ in range(frame_count)]


def erode_mask(mask: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """Take `side_px - 1` pixels off the outlines of a mask, (height, width) of 0 and 255."""
    return cv2.erode(mask, np.ones((side_px, side_px), np.uint8), iterations=1).astype(np.uint8)


def condition_tensors(
    color: NDArray[np.uint8], mask: NDArray[np.bool_], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour and mask as the model's autoencoder takes them, but for the mask's second scaling.

    Args:
        color: (frames, height, width, 3) sRGB.
        mask: (frames, height, width), eroded already.
        device: Where they shall be: a card makes them a hundred times as fast.

    Returns:
        Both (1, 3, frames, height, width) float32 in -1..1; colour is -1 where the mask is off.
    """
    seen = torch.from_numpy(mask).to(device).float()[..., None]
    video = torch.from_numpy(color).to(device).float() / 255 * seen
    both = (video, seen.expand_as(video))
    video, seen = ((part * 2 - 1).permute(3, 0, 1, 2)[None].contiguous() for part in both)
    return video, seen


def conditioning_frame(video: torch.Tensor) -> NDArray[np.uint8]:
    """The first frame of (1, 3, frames, height, width) in -1..1 as (height, width, 3) 8 bit.

    By truncation, as the reference does it.
    """
    frame = video[0, :, 0].float().cpu().permute(1, 2, 0)
    return ((frame + 1) / 2 * 255).to(torch.uint8).numpy()


def frame_tensor(frame: NDArray[np.uint8]) -> torch.Tensor:
    """(height, width, 3) 8 bit to (1, 3, height, width) float32 in -1..1."""
    return torch.from_numpy(frame).float().mul(2 / 255).sub(1).permute(2, 0, 1)[None]


def image_tokens(models: WanModels, frame: torch.Tensor) -> torch.Tensor:
    """CLIP's tokens of (1, 3, height, width) in -1..1: (1, 257, clip_dim) float32."""
    side = (CLIP_SIDE_PX, CLIP_SIDE_PX)
    frame = frame.to(models.device)
    small = functional.interpolate(frame, side, mode="bicubic", align_corners=False)
    mean, std = (
        torch.tensor(values, device=models.device).view(1, 3, 1, 1)
        for values in (_CLIP_MEAN, _CLIP_STD)
    )
    normalised = (small * 0.5 + 0.5 - mean) / std
    with mixed_precision(models.device, models.dtype):
        # The last layer is left out: its predecessor's tokens were trained on.
        return models.image_encoder(normalised, use_31_block=True).float()


def encode_video(models: WanModels, video: torch.Tensor) -> torch.Tensor:
    """The latents of (1, 3, frames, height, width): (1, 16, latent frames, height/8, width/8)."""
    with mixed_precision(models.device, models.dtype), _nothing_kept(models.vae.model):
        return models.vae.single_encode(video, models.device).float()


def decode_latents(models: WanModels, latents: torch.Tensor) -> torch.Tensor:
    """The frames of latents: (1, 3, frames, height, width) float32 in -1..1."""
    with mixed_precision(models.device, models.dtype), _nothing_kept(models.vae.model):
        return models.vae.single_decode(latents, models.device).float()


@contextmanager
def _nothing_kept(autoencoder: Any) -> Iterator[None]:
    """Free what the autoencoder remembers of the last frames: over a gigabyte at 512 x 512."""
    try:
        yield
    finally:
        autoencoder.clear_cache()


def frames_of(video: torch.Tensor) -> NDArray[np.uint8]:
    """(1, 3, frames, height, width) in -1..1 to (frames, height, width, 3) 8 bit, truncated."""
    levels = ((video[0].float() + 1) * 127.5).clamp(0, 255)
    return levels.to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu().numpy()


def first_frame_latents(models: WanModels, frame: torch.Tensor, frame_count: int) -> torch.Tensor:
    """`ModelInputs.first_frame` of (1, 3, height, width) in -1..1."""
    frame = frame.to(models.device)
    video = frame.new_zeros(1, 3, frame_count, *frame.shape[2:])
    video[:, :, 0] = frame
    latents = encode_video(models, video)
    known = torch.zeros_like(latents[:, :FRAME_STEP])
    known[:, :, 0] = 1
    return torch.cat([known, latents], dim=1)


def camera_tokens(models: WanModels, video: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`ModelInputs.camera` of colour and mask, both in -1..1."""
    video_latents = encode_video(models, video)
    mask_latents = encode_video(models, mask * 2 - 1)
    with mixed_precision(models.device, models.dtype):
        return models.camera_encoder(video_latents, mask_latents)


def prepare_inputs(
    models: WanModels,
    condition: Condition,
    *,
    seed: int,
    on_frame: Callable[[int, int], None] = lambda done, total: None,
) -> ModelInputs:
    """Everything that the transformer is told about a condition.

    Args:
        models: The encoders.
        condition: Checked by `check_condition`.
        seed: Of the mask's erosion.
        on_frame: Told before each of the three videos' latent frames is encoded; may raise to stop.
    """
    mask = np.stack(
        [
            erode_mask(frame.astype(np.uint8) * 255, side_px) > 127
            for frame, side_px in zip(
                condition.mask, erosion_sides_px(seed, len(condition)), strict=True
            )
        ]
    )
    video, mask_video = condition_tensors(condition.color, mask, models.device)
    frame = frame_tensor(conditioning_frame(video))
    total = 3 * latent_frame_count(len(condition))
    with watched(models.vae.model.encoder, lambda done: on_frame(done, total)):
        return ModelInputs(
            first_frame=first_frame_latents(models, frame, len(condition)),
            image_tokens=image_tokens(models, frame),
            camera=camera_tokens(models, video, mask_video),
        )


def latent_frame_count(frame_count: int) -> int:
    """Latent frames of so many frames, which are 4k + 1."""
    return (frame_count - 1) // FRAME_STEP + 1


@contextmanager
def watched(module: Any, before_call: Callable[[int], None]) -> Iterator[None]:
    """Call `before_call` with the number of earlier calls before each call of the module.

    The autoencoder's halves are called once a latent frame.
    """
    calls = 0

    def hook(*_: object) -> None:
        nonlocal calls
        before_call(calls)
        calls += 1

    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
