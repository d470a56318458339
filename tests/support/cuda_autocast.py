"""CUDA's rules of mixed precision on a CPU, as far as this model tells them apart.

Under autocast, CUDA computes layer norms and vector norms in float32; the CPU leaves them in the
type they come in. Everything else that this model does is treated alike.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional


@contextmanager
def cuda_rules() -> Iterator[None]:
    """Inside, autocast regions of the CPU follow CUDA's rules."""
    layer_norm, normalize = functional.layer_norm, functional.normalize

    def layer_norm_in_float32(
        value: torch.Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
    ) -> torch.Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return layer_norm(value, shape, weight, bias, eps)
        weight, bias = (part if part is None else part.float() for part in (weight, bias))
        with torch.autocast("cpu", enabled=False):
            return layer_norm(value.float(), shape, weight, bias, eps)

    def normalize_in_float32(
        value: torch.Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12
    ) -> torch.Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return normalize(value, p, dim, eps)
        return value / value.float().norm(p, dim, keepdim=True).clamp_min(eps)

    functional.layer_norm, functional.normalize = layer_norm_in_float32, normalize_in_float32
    try:
        yield
    finally:
        functional.layer_norm, functional.normalize = layer_norm, normalize
