# pyright: reportMissingImports=false
"""The two branches of guidance side by side, on two cards: nearly twice as fast.

The transformer is copied; everything else is done by the first card alone. The branches meet after
each step, where the second card sends a velocity of a few megabytes. The numbers stay the same.
"""

import copy
import logging
from dataclasses import replace

import torch
from torch import nn

from .loading import WanModels
from .memory import BYTES_PER_TOKEN, OVERHEAD_BYTES
from .streaming import all_tensors

_log = logging.getLogger(__name__)


def use_second_card(models: WanModels, tokens: int) -> None:
    """Give the models a second card, where there is one and all weights lie on the first.

    It must be of the same kind and have room. `CUDA_VISIBLE_DEVICES` decides which cards there are
    at all.

    Args:
        models: Get a `second`.
        tokens: Of the longest video.
    """
    if models.second is None and models.device.type == "cuda" and models.blocks.is_resident:
        weights_bytes = sum(tensor.nbytes for tensor in all_tensors(models.dit))
        needed_bytes = weights_bytes + tokens * BYTES_PER_TOKEN + OVERHEAD_BYTES
        device = _second_card(models.device, needed_bytes)
        if device is not None:
            models.second = copy_transformer(models, device)


def _second_card(first: torch.device, needed_bytes: int) -> torch.device | None:
    own = first.index or 0
    name = torch.cuda.get_device_name(own)
    for index in range(torch.cuda.device_count()):
        if index == own or torch.cuda.get_device_name(index) != name:
            continue
        free_bytes, _ = torch.cuda.mem_get_info(index)
        if free_bytes > needed_bytes:
            _log.info("guidance on two cards: %s and cuda:%d", first, index)
            return torch.device("cuda", index)
        _log.info("cuda:%d is left out: %.1f GiB free", index, free_bytes / 2**30)
    return None


def copy_transformer(models: WanModels, device: torch.device) -> WanModels:
    """The models with a copy of the transformer on another card, ready in the same mode.

    Args:
        models: Whose transformer lies whole on its card.
        device: The other card.
    """
    dit = _copied(models.dit, device)
    blocks = models.blocks.on_card(dit.blocks, device)
    return replace(models, dit=dit, blocks=blocks, device=device, second=None)


def _copied(module: nn.Module, device: torch.device) -> nn.Module:
    """A copy whose parameters and buffers are made on the device at once."""
    on_device: dict[int, object] = {}
    for tensor in all_tensors(module):
        on_card = tensor.detach().to(device, copy=True)
        is_parameter = isinstance(tensor, nn.Parameter)
        on_device[id(tensor)] = nn.Parameter(on_card, False) if is_parameter else on_card
    return copy.deepcopy(module, on_device)
