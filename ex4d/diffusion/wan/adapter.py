# pyright: reportMissingImports=false
"""EX-4D's adapter `ex4d.ckpt`, and additional LoRAs: read strictly, fused into the weights.

The adapter holds a LoRA of rank 16 for ten linear layers of each block, whose scale is 1
(alpha = rank), and the camera encoder, which turns the condition into what is added to the
patches of the latents.

A LoRA adds B @ A to a weight, A of (rank, in) and B of (out, rank): Hu et al., "LoRA: Low-Rank
Adaptation of Large Language Models", 2021. The sum is made in float32, before the weight is
rounded to the type that it is kept in.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ex4d.errors import InputError
from ex4d.weights.checkpoints import Shape, check_names_and_shapes, tensor_shapes, tensors

RANK = 16
#: The layers of a block that the adapter changes.
TARGETS = (
    *(f"{kind}.{layer}" for kind in ("self_attn", "cross_attn") for layer in "qkvo"),
    "ffn.0",
    "ffn.2",
)
#: Channels of a video latent; the camera encoder sees those of the colour and of the mask.
LATENT_CHANNELS = 16

_CAMERA_PREFIXES = ("latent_encoder.", "latent_patch_embedding.")
_LORA_SUFFIX = ".lora_{}.default.weight"
#: Names of the two factors, as trainers write them.
_LORA_NAME = re.compile(
    r"(?P<layer>.+)\.(?:lora_(?P<factor>A|B|down|up)(?:\.default)?\.weight|(?P<alpha>alpha))"
)
_LORA_PREFIXES = ("diffusion_model.", "model.", "transformer.")
_NAMES_SHOWN = 5


class CameraEncoder(nn.Module):
    """Turns the latents of colour and mask into what is added to the patch embedding.

    Args:
        hidden_dim: Channels between its layers.
        out_dim: Channels of a token of the transformer.
    """

    def __init__(self, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.latent_encoder = nn.Sequential(
            nn.Conv3d(2 * LATENT_CHANNELS, hidden_dim, 1),
            nn.SiLU(),
            nn.Conv3d(hidden_dim, hidden_dim, 1),
            nn.SiLU(),
            nn.Conv3d(hidden_dim, hidden_dim, 1),
        )
        self.latent_patch_embedding = nn.Conv3d(hidden_dim, out_dim, (1, 2, 2), (1, 2, 2))

    def forward(self, color_latent: torch.Tensor, mask_latent: torch.Tensor) -> torch.Tensor:
        """(1, 16, frames, height, width) each, to (1, out_dim, frames, height/2, width/2)."""
        both = torch.cat([color_latent, mask_latent], dim=1)
        return self.latent_patch_embedding(self.latent_encoder(both))


@dataclass(frozen=True)
class LowRank:
    """What a LoRA adds to one weight: `scale * up @ down`.

    Attributes:
        down: (rank, in).
        up: (out, rank).
        scale: alpha / rank.
    """

    down: torch.Tensor
    up: torch.Tensor
    scale: float

    def add_to(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight plus this, float32, on the weight's device."""
        up, down = (factor.to(weight.device, torch.float32) for factor in (self.up, self.down))
        return weight.float().addmm(up, down, alpha=self.scale)


#: By name of the weight, for example `blocks.0.self_attn.q.weight`.
Lora = dict[str, LowRank]


@dataclass(frozen=True)
class Adapter:
    """What `ex4d.ckpt` holds."""

    lora: Lora
    camera_encoder: CameraEncoder


def check_adapter(path: Path, dit_shapes: Mapping[str, Shape]) -> None:
    """Refuse an adapter that does not fit the transformer; only shapes are read.

    Args:
        path: `ex4d.ckpt`.
        dit_shapes: Shape of each weight of the transformer.

    Raises:
        InputError: `checkpoint_keys` or `checkpoint_damaged`.
    """
    found = tensor_shapes(path)
    expected: dict[str, Shape] = {}
    for block in range(block_count(dit_shapes)):
        for target in TARGETS:
            layer = f"blocks.{block}.{target}"
            out_dim, in_dim = dit_shapes[f"{layer}.weight"]
            expected[layer + _LORA_SUFFIX.format("A")] = (RANK, in_dim)
            expected[layer + _LORA_SUFFIX.format("B")] = (out_dim, RANK)
    expected.update(_camera_shapes(found, dit_shapes))
    check_names_and_shapes(path.name, expected, found)


def read_adapter(path: Path, dit_shapes: Mapping[str, Shape]) -> Adapter:
    """Read `ex4d.ckpt`; see `check_adapter`."""
    check_adapter(path, dit_shapes)
    values = dict(tensors(path))
    camera = {name: value for name, value in values.items() if name.startswith(_CAMERA_PREFIXES)}
    lora = {
        f"{layer}.weight": LowRank(
            down=values[layer + _LORA_SUFFIX.format("A")],
            up=values[layer + _LORA_SUFFIX.format("B")],
            scale=1.0,
        )
        for block in range(block_count(dit_shapes))
        for layer in (f"blocks.{block}.{target}" for target in TARGETS)
    }
    return Adapter(lora, camera_encoder_of(camera))


def check_camera_encoder(path: Path, dit_shapes: Mapping[str, Shape]) -> None:
    """Refuse a converted camera encoder that does not fit the transformer.

    Raises:
        InputError: `checkpoint_keys` or `checkpoint_damaged`.
    """
    found = tensor_shapes(path)
    check_names_and_shapes(path.name, _camera_shapes(found, dit_shapes), found)


def camera_encoder_of(values: Mapping[str, torch.Tensor]) -> CameraEncoder:
    """The camera encoder with these weights, which were checked before."""
    out_dim, hidden_dim = values["latent_patch_embedding.weight"].shape[:2]
    with torch.device("meta"):
        encoder = CameraEncoder(hidden_dim, out_dim)
    encoder.load_state_dict(dict(values), assign=True)
    return encoder


def read_lora(path: Path, dit_shapes: Mapping[str, Shape]) -> Lora:
    """Read an additional LoRA for this transformer.

    Names as diffsynth, peft and ComfyUI write them are understood:
    `blocks.0.self_attn.q.lora_A.weight` or `.lora_down.weight`, with or without a prefix, `.alpha`
    beside them.

    Args:
        path: A safetensors file.
        dit_shapes: Shape of each weight of the transformer.

    Raises:
        InputError: `lora_invalid` if it belongs to another model or is none, with the reasons.
    """
    factors: dict[str, dict[str, torch.Tensor]] = {}
    unknown: list[str] = []
    for name, value in tensors(path):
        match = _LORA_NAME.fullmatch(name)
        if match is None:
            unknown.append(f"{name} {list(value.shape)}")
            continue
        factor = match["factor"] or "alpha"
        kind = {"A": "down", "B": "up"}.get(factor, factor)
        factors.setdefault(_weight_name(match["layer"]), {})[kind] = value
    complaints = [f"unknown {name}" for name in unknown]
    for name, parts in factors.items():
        complaints += _complaints(name, parts, dit_shapes)
    if complaints or not factors:
        shown = "; ".join(complaints[:_NAMES_SHOWN]) or "no LoRA tensors"
        if len(complaints) > _NAMES_SHOWN:
            shown += f"; and {len(complaints) - _NAMES_SHOWN} more"
        msg = (
            f"expected in {path.name} a LoRA for Wan2.1-I2V-14B, found {shown}; use one that was "
            "trained for this model"
        )
        raise InputError("lora_invalid", msg)
    return {name: _low_rank(parts) for name, parts in factors.items()}


def block_count(dit_shapes: Mapping[str, Shape]) -> int:
    """Number of blocks of a transformer with these weights."""
    return len({name.split(".")[1] for name in dit_shapes if name.startswith("blocks.")})


def _camera_shapes(found: Mapping[str, Shape], dit_shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Shapes of a camera encoder for this transformer, as wide inside as the one found."""
    first = found.get("latent_encoder.0.weight") or (1,)
    with torch.device("meta"):
        encoder = CameraEncoder(max(1, first[0]), dit_shapes["patch_embedding.weight"][0])
    return {name: tuple(value.shape) for name, value in encoder.state_dict().items()}


def _weight_name(layer: str) -> str:
    for prefix in _LORA_PREFIXES:
        layer = layer.removeprefix(prefix)
    return f"{layer}.weight"


def _complaints(
    name: str, parts: Mapping[str, torch.Tensor], dit_shapes: Mapping[str, Shape]
) -> list[str]:
    """Why these factors cannot be added to the weight `name`."""
    shape = dit_shapes.get(name)
    if shape is None:
        return [f"{name.removesuffix('.weight')}, which this model does not have"]
    if len(shape) != 2:
        return [f"{name}, which is no linear layer"]
    if not {"down", "up"} <= parts.keys():
        return [f"only {' and '.join(sorted(parts))} of {name}"]
    down, up = tuple(parts["down"].shape), tuple(parts["up"].shape)
    if parts.get("alpha", torch.ones(1)).numel() != 1:
        return [f"{name} with an alpha of {list(parts['alpha'].shape)}"]
    if len(down) != 2 or 0 in down or up != (shape[0], down[0]) or down[1] != shape[1]:
        return [f"{name} with factors {list(up)} and {list(down)} for a layer of {list(shape)}"]
    return []


def _low_rank(parts: Mapping[str, torch.Tensor]) -> LowRank:
    rank = parts["down"].shape[0]
    alpha = float(parts["alpha"]) if "alpha" in parts else float(rank)
    return LowRank(parts["down"], parts["up"], alpha / rank)
