# pyright: reportMissingImports=false
"""Mixed precision as the reference's: bfloat16 by autocast, with islands of float32."""

from contextlib import AbstractContextManager

import torch


def mixed_precision(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Matrix products and convolutions in bfloat16 where `dtype` is; nothing where it is float32.

    Weights are frozen and kept in bfloat16, so there are no casts worth keeping.
    """
    return torch.autocast(
        device.type, torch.bfloat16, enabled=dtype == torch.bfloat16, cache_enabled=False
    )


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """An island: everything in the type it comes in."""
    return torch.autocast(device.type, enabled=False)
