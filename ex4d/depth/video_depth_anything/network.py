# pyright: reportMissingImports=false
"""The network: DINOv2's vision transformer and a DPT head with attention over time.

Attributes are named as the published checkpoints name their weights, so that these load strictly.
The encoder and everything after the last attention over time work frame by frame; that is used to
encode each frame once and to decode only frames that are wanted.

Sources: arXiv 2501.12375 (the video head), 2103.13413 (DPT), 2304.07193 (DINOv2), and the shapes of
the published files.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ex4d.weights.checkpoints import Shape

PATCH_PX = 14
#: Frames that the attention over time was trained on.
WINDOW_FRAMES = 32
#: Of the grid that the position embedding was trained on: 518 px.
_TRAINED_GRID = 37
#: DINOv2 enlarges its position embedding by this much more than the grid, against rounding.
_GRID_OFFSET = 0.1
_TAPS = 4
_TIME_HEADS = 8
_NORM_GROUPS = 32
_HEAD_DIM = 64
#: Heads leave no trace in the shapes. A width that is no multiple of DINOv2's heads belongs to a
#: small network for tests, whose heads are so wide.
_SMALL_HEAD_DIM = 16
_OUTPUT_CHANNELS = 32
#: The largest maps are made for so many frames at a time.
_DECODED_AT_ONCE = 4


@dataclass(frozen=True)
class Dimensions:
    """Sizes of a network.

    Attributes:
        width: Of the transformer's tokens.
        depth: Its blocks.
        features: Channels of the head.
        channels: Of the four maps that the head is given, from fine to coarse.
    """

    width: int
    depth: int
    features: int
    channels: tuple[int, int, int, int]

    @classmethod
    def of_shapes(cls, shapes: Mapping[str, Shape]) -> "Dimensions":
        """The sizes that belong to the weights of a file; raises KeyError where it is another's."""
        width = shapes["pretrained.cls_token"][-1]
        depth = sum(name.endswith(".attn.qkv.weight") for name in shapes)
        features = shapes["head.scratch.layer1_rn.weight"][0]
        first, second, third, fourth = (
            shapes[f"head.projects.{index}.weight"][0] for index in range(_TAPS)
        )
        return cls(width, depth, features, (first, second, third, fourth))


#: Video-Depth-Anything Small, of 28.4 million weights.
SMALL = Dimensions(384, 12, 64, (48, 96, 192, 384))


class Network(nn.Module):
    """All of it; see the module.

    Args:
        size: Its sizes.
    """

    def __init__(self, size: Dimensions) -> None:
        super().__init__()
        self.pretrained = VisionTransformer(size.width, size.depth)
        self.head = Head(size)

    def encode(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Four maps of features of each image.

        Args:
            images: (frames, 3, height, width), ImageNet-normalised, sides multiples of `PATCH_PX`.

        Returns:
            (frames, width, height / 14, width / 14) each, from the first blocks to the last.
        """
        return self.pretrained(images)

    def decode(self, features: Sequence[torch.Tensor], wanted: Sequence[int]) -> torch.Tensor:
        """What the network says of a window.

        Args:
            features: From `encode`, of all frames of the window.
            wanted: Frames of the window to decode.

        Returns:
            (wanted, height, width) float32, 0 or more.
        """
        return self.head(features, wanted)


class Parts(nn.Module):
    """Modules under names, where a checkpoint has a level that computes nothing itself."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int
) -> torch.Tensor:
    """Attention of all tokens to all, (batch, tokens, width) each."""
    split = (tensor.unflatten(-1, (heads, -1)).transpose(1, 2) for tensor in (query, key, value))
    mixed = functional.scaled_dot_product_attention(*split)
    return mixed.transpose(1, 2).flatten(2)


# --- the encoder ---------------------------------------------------------------------------------


class LayerScale(nn.Module):
    """A learnt factor a channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scale (..., width)."""
        return tokens * self.gamma


class TransformerBlock(nn.Module):
    """Attention and a perceptron, each normalised before and scaled after."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._heads = width // (_SMALL_HEAD_DIM if width % _HEAD_DIM else _HEAD_DIM)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn: Any = Parts(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width))
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp: Any = Parts(fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(4 * width, width))
        self.ls2 = LayerScale(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(frames, tokens, width) to the same."""
        query, key, value = self.attn.qkv(self.norm1(tokens)).chunk(3, dim=-1)
        mixed = attention(query, key, value, self._heads)
        tokens = tokens + self.ls1(self.attn.proj(mixed))
        hidden = functional.gelu(self.mlp.fc1(self.norm2(tokens)))
        return tokens + self.ls2(self.mlp.fc2(hidden))


class VisionTransformer(nn.Module):
    """DINOv2, of which four blocks' tokens are kept."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self._taps = range(depth // _TAPS - 1, depth, depth // _TAPS)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + _TRAINED_GRID**2, width))
        # For training alone, but the files have it.
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed: Any = Parts(proj=nn.Conv2d(3, width, PATCH_PX, stride=PATCH_PX))
        self.blocks = nn.ModuleList(TransformerBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """See `Network.encode`."""
        patches = self.patch_embed.proj(images)
        rows, columns = patches.shape[-2:]
        first = self.cls_token.expand(len(patches), -1, -1)
        tokens = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + self._positions(rows, columns)
        maps = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index in self._taps:
                picture = self.norm(tokens)[:, 1:].transpose(1, 2)
                maps.append(picture.unflatten(2, (rows, columns)))
        return maps

    def _positions(self, rows: int, columns: int) -> torch.Tensor:
        """The position embedding for a grid of this size: (1, 1 + rows * columns, width)."""
        if rows == columns == _TRAINED_GRID:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].unflatten(1, (_TRAINED_GRID, _TRAINED_GRID))
        scales = [(side + _GRID_OFFSET) / _TRAINED_GRID for side in (rows, columns)]
        # The factor itself must be given: with a size, other places would be sampled.
        resized = functional.interpolate(
            grid.permute(0, 3, 1, 2), scale_factor=scales, mode="bicubic"
        )
        return torch.cat([self.pos_embed[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


# --- attention over time -------------------------------------------------------------------------


class Places(nn.Module):
    """Sines and cosines that tell the frames of a window apart (arXiv 1706.03762)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
        angles = torch.arange(WINDOW_FRAMES)[:, None] * rates
        self.register_buffer("pe", torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[None])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add to (pixels, frames, width)."""
        return tokens + self.pe[:, : tokens.shape[1]].to(tokens.dtype)


class TimeAttention(nn.Module):
    """Attention of a pixel to itself in the other frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.pos_encoder = Places(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(pixels, frames, width) to the same."""
        placed = self.pos_encoder(tokens)
        mixed = attention(self.to_q(placed), self.to_k(placed), self.to_v(placed), _TIME_HEADS)
        return self.to_out[0](mixed)


class TimeBlock(nn.Module):
    """Two attentions over time and a gated perceptron (GEGLU, arXiv 2002.05202)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(TimeAttention(width) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        gate: Any = Parts(proj=nn.Linear(width, 8 * width))
        layers: list[nn.Module] = [gate, nn.Identity(), nn.Linear(4 * width, width)]
        self.ff: Any = Parts(net=nn.ModuleList(layers))
        self.ff_norm = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(pixels, frames, width) to the same."""
        for mix, norm in zip(self.attention_blocks, self.norms, strict=True):
            tokens = tokens + mix(norm(tokens))
        widen, _, narrow = self.ff.net
        value, gate = widen.proj(self.ff_norm(tokens)).chunk(2, dim=-1)
        return tokens + narrow(value * functional.gelu(gate))


class MotionModule(nn.Module):
    """Lets the frames of a window see each other, pixel by pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.temporal_transformer: Any = Parts(
            norm=nn.GroupNorm(_NORM_GROUPS, width, eps=1e-6),
            proj_in=nn.Linear(width, width),
            transformer_blocks=nn.ModuleList([TimeBlock(width)]),
            proj_out=nn.Linear(width, width),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(frames, width, rows, columns) of one window, to the same."""
        parts = self.temporal_transformer
        pixels = parts.norm(maps).flatten(2).permute(2, 0, 1)
        tokens = parts.transformer_blocks[0](parts.proj_in(pixels))
        change = parts.proj_out(tokens).permute(1, 2, 0)
        return maps + change.unflatten(2, maps.shape[-2:])


# --- the head ------------------------------------------------------------------------------------


def _enlarged(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return functional.interpolate(maps, tuple(size), mode="bilinear", align_corners=True)


class ResidualUnit(nn.Module):
    """Two convolutions, added to what goes in."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(frames, features, rows, columns) to the same."""
        hidden = self.conv1(functional.relu(maps))
        return maps + self.conv2(functional.relu(hidden))


class FusionBlock(nn.Module):
    """Joins a coarse map with the next finer one and enlarges it."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        self.resConfUnit1 = ResidualUnit(features)
        self.resConfUnit2 = ResidualUnit(features)

    def forward(
        self, maps: torch.Tensor, finer: torch.Tensor | None, size: Sequence[int]
    ) -> torch.Tensor:
        """(frames, features, rows, columns) to (frames, features, *size).

        The coarsest map has no other to be joined with.
        """
        if finer is not None:
            maps = maps + self.resConfUnit1(finer)
        return self.out_conv(_enlarged(self.resConfUnit2(maps), size))


class Head(nn.Module):
    """DPT's head: from four maps of features to one number a pixel."""

    def __init__(self, size: Dimensions) -> None:
        super().__init__()
        features, channels = size.features, size.channels
        self.projects = nn.ModuleList(nn.Conv2d(size.width, count, 1) for count in channels)
        # To 4, 2, 1 and 1/2 times the patches' grid.
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
            ]
        )
        parts: dict[str, nn.Module] = {}
        for level, count in enumerate(channels, start=1):
            parts[f"layer{level}_rn"] = nn.Conv2d(count, features, 3, padding=1, bias=False)
            parts[f"refinenet{level}"] = FusionBlock(features)
        parts["output_conv1"] = nn.Conv2d(features, features // 2, 3, padding=1)
        parts["output_conv2"] = nn.Sequential(
            nn.Conv2d(features // 2, _OUTPUT_CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(_OUTPUT_CHANNELS, 1, 1),
            nn.ReLU(),
        )
        self.scratch: Any = Parts(**parts)
        self.motion_modules = nn.ModuleList(
            MotionModule(width) for width in (channels[2], channels[3], features, features)
        )

    def forward(self, features: Sequence[torch.Tensor], wanted: Sequence[int]) -> torch.Tensor:
        """See `Network.decode`."""
        parts = self.scratch
        size = [PATCH_PX * side for side in features[0].shape[-2:]]
        # The two finest maps never see another frame.
        wanted_features = [features[level][list(wanted)] for level in range(2)]
        finest, fine, coarse, coarsest = (
            resize(project(maps))
            for maps, project, resize in zip(
                [*wanted_features, *features[2:]], self.projects, self.resize_layers, strict=True
            )
        )
        coarse = self.motion_modules[0](coarse)
        coarsest = self.motion_modules[1](coarsest)
        finest, fine = parts.layer1_rn(finest), parts.layer2_rn(fine)
        coarse, coarsest = parts.layer3_rn(coarse), parts.layer4_rn(coarsest)
        path = self.motion_modules[2](parts.refinenet4(coarsest, None, coarse.shape[-2:]))
        path = self.motion_modules[3](parts.refinenet3(path, coarse, fine.shape[-2:]))
        path = path[list(wanted)]
        return torch.cat(
            [
                self._finish(path[part], fine[part], finest[part], size)
                for start in range(0, len(path), _DECODED_AT_ONCE)
                for part in [slice(start, start + _DECODED_AT_ONCE)]
            ]
        )

    def _finish(
        self, path: torch.Tensor, fine: torch.Tensor, finest: torch.Tensor, size: Sequence[int]
    ) -> torch.Tensor:
        """From the last map that was mixed over time to the result: (frames, *size) float32."""
        parts = self.scratch
        path = parts.refinenet2(path, fine, finest.shape[-2:])
        path = parts.refinenet1(path, finest, [2 * side for side in finest.shape[-2:]])
        path = _enlarged(parts.output_conv1(path), size)
        with torch.autocast(path.device.type, enabled=False):
            return parts.output_conv2(path.float())[:, 0]
