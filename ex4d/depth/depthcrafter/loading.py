# pyright: reportMissingImports=false
"""Builds the networks from the folders that they are published in.

Each is built from its `config.json` without memory and compared with its file name by name and
shape by shape before a value is read.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ex4d.depth.models import DEPTHCRAFTER
from ex4d.errors import InputError
from ex4d.weights.checkpoints import Shape, check_names_and_shapes, tensor_shapes, tensors

from .residual import use_own_blocks

#: A table of 0, 1, 2, ... that older libraries stored.
_STORED_TABLE = ".position_ids"


class FrameTokens:
    """Lets a stock network attend, in each frame, to that frame's own token.

    As it comes, the network repeats one token over all frames; DepthCrafter was trained with one a
    frame. Attention over time sees the first frame's token in either case.

    Args:
        unet: Its blocks get what is passed to `predict` instead of what the network passes on.
    """

    def __init__(self, unet: Any) -> None:
        self._unet = unet
        self._tokens: torch.Tensor | None = None
        for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
            if getattr(block, "has_cross_attention", False):
                block.register_forward_pre_hook(self._exchange, with_kwargs=True)

    def predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        tokens: torch.Tensor,
        time_ids: torch.Tensor,
    ) -> torch.Tensor:
        """One pass of the network.

        Args:
            latents: (1, frames, 8, height / 8, width / 8): noisy ones, then the clip's.
            timestep: Of the scheduler.
            tokens: (frames, width), one a frame.
            time_ids: (1, 3): rate, motion and noise that the clip is said to have.

        Returns:
            (1, frames, 4, height / 8, width / 8).
        """
        self._tokens = tokens[:, None]
        (velocity,) = self._unet(
            latents, timestep, tokens[None, :1], added_time_ids=time_ids, return_dict=False
        )
        return velocity

    def _exchange(
        self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return arguments, {**named, "encoder_hidden_states": self._tokens}


@dataclass
class CrafterModels:
    """What makes disparity from frames.

    Attributes:
        unet: Predicts, with a token a frame.
        vae: diffusers' `AutoencoderKLTemporalDecoder`.
        image_encoder: transformers' `CLIPVisionModelWithProjection`.
        scheduler: Configuration of diffusers' `EulerDiscreteScheduler`.
        device: Where all of it lies and computes.
        dtype: float16 or float32.
    """

    unet: FrameTokens
    vae: Any
    image_encoder: Any
    scheduler: dict[str, Any]
    device: torch.device
    dtype: torch.dtype


def load_models(folder: Path, device: torch.device, dtype: torch.dtype) -> CrafterModels:
    """Build all parts; every file is checked before the first value is read.

    Args:
        folder: The models folder.
        device: Where they shall be.
        dtype: What they compute in.

    Raises:
        InputError: `checkpoint_keys` or `checkpoint_damaged`.
    """
    parts = build_networks(folder)
    for network, path in parts:
        _fill(network, path, device, dtype)
    (unet, _), (vae, _), (image_encoder, _) = parts
    use_own_blocks(unet)
    use_own_blocks(vae)
    return CrafterModels(
        unet=FrameTokens(unet),
        vae=vae,
        image_encoder=image_encoder,
        scheduler=_read_config(_path(folder, "scheduler_config.json")),
        device=device,
        dtype=dtype,
    )


def build_networks(folder: Path) -> list[tuple[Any, Path]]:
    """The networks without their values, each with its file: UNet, autoencoder, image encoder.

    Raises:
        InputError: `checkpoint_keys` or `checkpoint_damaged`.
    """
    unet, vae, clip = (
        _path(folder, name)
        for name in (
            "DepthCrafter/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.fp16.safetensors",
            "image_encoder/model.fp16.safetensors",
        )
    )
    return [
        (_built(unet, UNetSpatioTemporalConditionModel.from_config), unet),
        (_built(vae, AutoencoderKLTemporalDecoder.from_config), vae),
        (_built(clip, _image_encoder), clip),
    ]


def _image_encoder(config: dict[str, Any]) -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**config))


def _path(folder: Path, ending: str) -> Path:
    """The published file whose path ends so."""
    paths = [folder / file.relative_path for file in DEPTHCRAFTER.files]
    (path,) = [path for path in paths if path.as_posix().endswith(f"/{ending}")]
    return path


def _built(path: Path, build: Any) -> Any:
    """A network as the configuration beside its file says, if the file fits."""
    config = _read_config(path.with_name("config.json"))
    try:
        with torch.device("meta"):
            network = build(config)
    # Whatever the libraries raise over numbers that make no network.
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise _damaged(path.with_name("config.json"), error) from error
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found: dict[str, Shape] = {
        name: shape
        for name, shape in tensor_shapes(path).items()
        if not name.endswith(_STORED_TABLE)
    }
    check_names_and_shapes(f"{path.parent.name}/{path.name}", expected, found)
    return network.eval().requires_grad_(False)


def _fill(network: nn.Module, path: Path, device: torch.device, dtype: torch.dtype) -> None:
    values = {
        name: value.to(device, dtype)
        for name, value in tensors(path)
        if not name.endswith(_STORED_TABLE)
    }
    network.load_state_dict(values, assign=True)
    network.requires_grad_(False)
    for module in network.modules():
        for name, buffer in _tables(module):
            setattr(module, name, torch.arange(buffer.numel(), device=device)[None])


def _tables(module: nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    """The tables that no file has."""
    return [
        (name, buffer)
        for name, buffer in module.named_buffers(recurse=False)
        if f".{name}" == _STORED_TABLE
    ]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is no list of names")  # noqa: TRY004, TRY301 - of the file
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    return config


def _damaged(path: Path, error: Exception) -> InputError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    msg = (
        f"expected the configuration of a network in {path.parent.name}/{path.name}, found none "
        f"that makes one ({reason}); fetch the file again"
    )
    return InputError("checkpoint_damaged", msg)
