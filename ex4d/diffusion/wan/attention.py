# pyright: reportMissingImports=false
"""Scaled dot-product attention by the best means that the machine has.

The choice is made by a fixed order, never by timing, so that the same machine always makes the same
bytes; it is logged, and `EX4D_ATTENTION` or an argument overrides it. Implementations that quantise
their inputs are never chosen unless they are named.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from ex4d.errors import InputError

ENVIRONMENT_VARIABLE = "EX4D_ATTENTION"
_HALF_TYPES = (torch.float16, torch.bfloat16)
_AMPERE, _HOPPER = (8, 0), (9, 0)
#: On these it was written for them: elsewhere the next in line is as fast or faster.
_HOPPER_ONLY = ((9, 0), (9, 1))

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attention:
    """One implementation.

    Attributes:
        name: What `EX4D_ATTENTION` calls it.
        call: From query, key and value, each (batch, tokens, heads, head size), to the same shape
            as the query.
        is_exact: Its only error is rounding in the type of its inputs.
    """

    name: str
    call: Callable[[Tensor, Tensor, Tensor], Tensor]
    is_exact: bool = True

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend; see `call`."""
        return self.call(query, key, value)


def _through_torch(*backends: SDPBackend) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # Permuted views: each of these kernels takes any strides.
        heads_first = [tensor.transpose(1, 2) for tensor in (query, key, value)]
        if not backends:
            return scaled_dot_product_attention(*heads_first).transpose(1, 2)
        with sdpa_kernel(list(backends)):
            return scaled_dot_product_attention(*heads_first).transpose(1, 2)

    return attend


# The packages below are optional: each is imported where it was chosen.


def _flash_3() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    from flash_attn_interface import (
        flash_attn_func,
    )

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = flash_attn_func(query, key, value)
        # Older releases return the log-sum-exp as well.
        return result[0] if isinstance(result, tuple) else result

    return attend


def _flash_2() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    from flash_attn import flash_attn_func

    return flash_attn_func


def _sage() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    from sageattention import sageattn

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return sageattn(query, key, value, tensor_layout="NHD")

    return attend


def available_attention(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Names of the implementations that work here, the one that `auto` takes first.

    `sage` comes last, since it quantises its inputs: it has to be named.
    """
    names = []
    if device.type == "cuda" and dtype in _HALF_TYPES:
        capability = torch.cuda.get_device_capability(device)
        if capability in _HOPPER_ONLY and find_spec("flash_attn_interface"):
            names.append("flash3")
        has_cudnn = torch.backends.cudnn.is_available()
        if capability >= _HOPPER and has_cudnn:
            names.append("cudnn")
        if capability >= _AMPERE and find_spec("flash_attn"):
            names.append("flash2")
        if capability >= _AMPERE and torch.backends.cuda.is_flash_attention_available():
            names.append("flash")
        if _AMPERE <= capability < _HOPPER and has_cudnn:
            names.append("cudnn")
    names.append("torch")
    if device.type == "cuda" and dtype in _HALF_TYPES and find_spec("sageattention"):
        names.append("sage")
    return names


_MAKERS: dict[str, Callable[[], Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "flash3": _flash_3,
    "cudnn": lambda: _through_torch(SDPBackend.CUDNN_ATTENTION),
    "flash2": _flash_2,
    "flash": lambda: _through_torch(SDPBackend.FLASH_ATTENTION),
    "torch": _through_torch,
    "sage": _sage,
}
NAMES = ("auto", *_MAKERS)


def choose_attention(
    device: torch.device, dtype: torch.dtype, name: str | None = None
) -> Attention:
    """The implementation to use.

    Args:
        device: Where the model is.
        dtype: Of query, key and value.
        name: One of `NAMES`; where absent, what `EX4D_ATTENTION` says, or `auto`.

    Raises:
        InputError: `attention_unavailable` if the named one does not exist or does not work here.
    """
    wanted = name or os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    available = available_attention(device, dtype)
    chosen = available[0] if wanted == "auto" else wanted
    if chosen not in available:
        msg = (
            f"expected attention by {', '.join(available)} or auto, which work here for {dtype} on "
            f"{device.type}, found {wanted!r}; install what it needs, or change "
            f"{ENVIRONMENT_VARIABLE}"
        )
        raise InputError("attention_unavailable", msg)
    _log.info("attention: %s (%s; here: %s)", chosen, wanted, ", ".join(available))
    return Attention(chosen, _MAKERS[chosen](), is_exact=chosen != "sage")
