# pyright: reportMissingImports=false
"""A cheap look at latents: a linear map from a latent's 16 channels to a colour.

The map is fitted on the autoencoder itself, by least squares between the latents of made-up frames
and those frames' colours. It is as coarse as the latents, an eighth of the picture's size with a
frame for every four, and knows nothing of detail; it is meant to be watched while denoising.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from ex4d.trained import FRAME_STEP

from .conditioning import PIXELS_PER_LATENT

#: Of the made-up clips: plenty for 17 numbers a colour, and encoded in a fraction of a second.
_SIDE_PX, _FRAME_COUNT, _CLIP_COUNT = 128, 5, 4
#: Keeps the map tame where the frames say too little; in shares of the latents' own variance.
_RIDGE = 1e-3


@dataclass(frozen=True)
class LatentPreview:
    """The map.

    Attributes:
        weight: (16, 3) float32.
        bias: (3,) float32; colours are in -1..1.
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def fit(cls, encode: Callable[[Tensor], Tensor], device: torch.device) -> "LatentPreview":
        """Fit the map on an autoencoder; takes a fraction of a second on a card.

        Args:
            encode: From (1, 3, frames, height, width) in -1..1 to latents (1, 16, latent frames,
                height / 8, width / 8).
            device: Where to compute.
        """
        generator = torch.Generator().manual_seed(0)
        latents, colors = [], []
        for _ in range(_CLIP_COUNT):
            clip = _made_up_clip(generator).to(device)
            latents.append(encode(clip).float()[0].flatten(1).T)
            colors.append(_colors(clip).flatten(1).T)
        known = torch.cat(latents).double()
        wanted = torch.cat(colors).double()
        mean, wanted_mean = known.mean(0), wanted.mean(0)
        centred = known - mean
        squares = centred.T @ centred
        squares += _RIDGE * squares.diagonal().mean() * torch.eye(len(squares), device=device)
        weight = torch.linalg.solve(squares, centred.T @ (wanted - wanted_mean))
        return cls(weight.float(), (wanted_mean - mean @ weight).float())

    def frames(self, latents: Tensor) -> NDArray[np.uint8]:
        """The picture of each latent frame.

        Args:
            latents: (1, 16, latent frames, rows, columns), noise taken off as far as is known.

        Returns:
            (latent frames, rows, columns, 3) uint8 sRGB.
        """
        colors = torch.einsum("cfyx,ck->fyxk", latents[0].float(), self.weight.to(latents.device))
        levels = (colors + self.bias.to(latents.device) + 1) * 127.5
        return levels.clamp(0, 255).to(torch.uint8).cpu().numpy()


def _made_up_clip(generator: torch.Generator) -> Tensor:
    """(1, 3, frames, side, side) in -1..1: drifting colour fields with hard edges across them."""

    def field(cells: int) -> Tensor:
        coarse = torch.rand((1, 3, 3, cells, cells), generator=generator) * 2 - 1
        size = (_FRAME_COUNT, _SIDE_PX, _SIDE_PX)
        return interpolate(coarse, size, mode="trilinear", align_corners=True)

    soft, other = field(6), field(3)
    inside = field(4)[:, :1] > 0
    return torch.where(inside, soft, other).mul(1.4).clamp(-1, 1)


def _colors(clip: Tensor) -> Tensor:
    """(3, latent frames, rows, columns): the mean colour of what each latent stands for."""
    small = torch.nn.functional.avg_pool3d(clip[0], (1, PIXELS_PER_LATENT, PIXELS_PER_LATENT))
    # The first latent frame stands for one frame, each later one for four.
    first, rest = small[:, :1], small[:, 1:]
    return torch.cat([first, rest.unflatten(1, (-1, FRAME_STEP)).mean(2)], dim=1)
