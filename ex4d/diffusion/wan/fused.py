# pyright: reportMissingImports=false
"""What a DiT block does between its matrix products, each in one pass over memory.

Every function here is written twice: in PyTorch, which says what it means and runs anywhere, and as
a Triton kernel (`fused_triton`), which runs on CUDA cards where Triton is installed. PyTorch alone
reads and writes the same tokens several times over; `torch.compile` does better, but makes three
passes over rows as wide as these and compiles again for every size of video.
"""

from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from .attention import Attention

FP8 = torch.float8_e4m3fn
FP8_LARGEST = torch.finfo(FP8).max
_HALF_TYPES = (torch.float16, torch.bfloat16)
#: Of attention, that the kernel takes.
_HEAD_SIZES = (64, 128)
#: Rows of nothing but zeros must not divide by zero.
FP8_SMALLEST_AMPLITUDE = 1e-12


class QuantisedRows(NamedTuple):
    """Rows in e4m3, each with a scale of its own, so that an outlier costs its own row alone.

    Attributes:
        values: (rows, columns) e4m3.
        scale: (rows, 1) float32; `values * scale` is close to what was quantised.
    """

    values: Tensor
    scale: Tensor


class ContextHeads(NamedTuple):
    """What a block's cross-attention looks at, each (tokens, heads, head size) and contiguous.

    Attributes:
        text_key: Of the prompt, then of the padding.
        text_value: The same.
        image_key: Of the first frame.
        image_value: The same.
        last_text_count: How many times the last token of the text stands there: padding is the
            same token over and over.
    """

    text_key: Tensor
    text_value: Tensor
    image_key: Tensor
    image_value: Tensor
    last_text_count: int


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _runs_triton(tensor: Tensor) -> bool:
    return tensor.is_cuda and _has_triton()


def attend_to_context(query: Tensor, context: ContextHeads, attention: Attention) -> Tensor:
    """What the text tells each query, plus what the first frame tells it.

    Args:
        query: (tokens, heads, head size).
        context: In the type of the query.
        attention: By what to attend, where there is no kernel for both at once.

    Returns:
        As large as the query, in its type.
    """
    if _runs_triton(query) and query.dtype in _HALF_TYPES and query.shape[-1] in _HEAD_SIZES:
        from . import fused_triton

        return fused_triton.attend_to_context(query, context)

    def attend(key: Tensor, value: Tensor) -> Tensor:
        return attention(query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0))[0]

    text_key, text_value = (
        torch.cat([tokens, tokens[-1:].expand(context.last_text_count - 1, -1, -1)])
        for tokens in (context.text_key, context.text_value)
    )
    return attend(text_key, text_value) + attend(context.image_key, context.image_value)


def quantise_rows(values: Tensor, *, activated: bool = False) -> QuantisedRows:
    """Rows in e4m3 with a scale per row.

    Args:
        values: (rows, columns), any floating type.
        activated: Apply GELU (its tanh form) first.
    """
    if _runs_triton(values):
        from .fused_triton import quantise

        return QuantisedRows(*quantise(values, activated=activated))
    values = values.float()
    if activated:
        values = gelu(values, approximate="tanh")
    amplitude = values.abs().amax(dim=-1, keepdim=True).clamp_min(FP8_SMALLEST_AMPLITUDE)
    quantised = (values * (FP8_LARGEST / amplitude)).clamp(-FP8_LARGEST, FP8_LARGEST).to(FP8)
    return QuantisedRows(quantised, amplitude / FP8_LARGEST)


def add_and_normalise(
    tokens: Tensor,
    update: Tensor | None,
    gate: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    *,
    epsilon: float,
    dtype: torch.dtype,
) -> Tensor | QuantisedRows:
    """Add an update to the residual stream, then normalise its rows (layer norm).

    Args:
        tokens: (rows, columns) float32, contiguous; changed in place.
        update: (rows, columns), where there is one to add.
        gate: (columns,) float32 that the update is multiplied by; 1 where absent.
        weight: (columns,) float32 that the normalised rows are multiplied by.
        bias: (columns,) float32, added last.
        epsilon: Of the layer norm.
        dtype: Of the result; `FP8` for `QuantisedRows`.
    """
    if not tokens.is_contiguous():
        raise ValueError("expected contiguous tokens, found others")
    if _runs_triton(tokens):
        from .fused_triton import add_norm

        values, scale = add_norm(tokens, update, gate, weight, bias, epsilon, dtype)
        return values if scale is None else QuantisedRows(values, scale)
    if update is not None:
        tokens += update.float() if gate is None else update.float() * gate
    rows = layer_norm(tokens, tokens.shape[-1:], eps=epsilon) * weight + bias
    return quantise_rows(rows) if dtype is FP8 else rows.to(dtype)


def normalise_heads(
    values: Tensor, weight: Tensor, epsilon: float, table: Tensor | None = None
) -> Tensor:
    """Normalise queries or keys over all heads together (RMS norm), then turn them (`rotary`).

    Args:
        values: (rows, columns).
        weight: (columns,).
        epsilon: Of the norm.
        table: (2, rows, head size) from `rotary.real_table`; not turned where absent.

    Returns:
        (rows, columns) in the type of `values`.
    """
    if _runs_triton(values):
        from .fused_triton import norm_rotate

        return norm_rotate(values, weight, epsilon, table)
    rows = values.float()
    rows = rows * torch.rsqrt(rows.square().mean(dim=-1, keepdim=True) + epsilon) * weight.float()
    if table is not None:
        heads = rows.unflatten(-1, (-1, table.shape[-1]))
        swapped = heads.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        cos, sin = table.unsqueeze(2).unbind()
        rows = (heads * cos + swapped * sin).flatten(-2)
    return rows.to(values.dtype)
