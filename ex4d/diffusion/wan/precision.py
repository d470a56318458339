# pyright: reportMissingImports=false
"""Mixed precision as the reference's: bfloat16 by autocast, with islands of float32."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


@contextmanager
def mixed_precision(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Matrix products and convolutions in bfloat16 where `dtype` is; nothing where it is float32.

    Weights are frozen and kept in bfloat16, so there are no casts worth keeping.

    Args:
        device: Where everything within computes: kernels go to the card that is current.
        dtype: Of the weights.
    """
    is_mixed = dtype == torch.bfloat16
    with (
        _current(device),
        torch.autocast(device.type, torch.bfloat16, enabled=is_mixed, cache_enabled=False),
    ):
        yield


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """An island: everything in the type it comes in, on the device."""
    with _current(device), torch.autocast(device.type, enabled=False):
        yield


def _current(device: torch.device) -> AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
