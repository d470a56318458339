# pyright: reportMissingImports=false, reportIndexIssue=false, reportPossiblyUnboundVariable=false
# ruff: noqa: PLR0913 - kernels take their pointers one by one
"""The functions of `fused` as Triton kernels.

Those of rows hold a row at a time in registers, and a few programs a multiprocessor go through all
of them, so that what is the same for every row is read once by each. Attention holds some queries
of one head and goes through the keys.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .fused import FP8, FP8_LARGEST, FP8_SMALLEST_AMPLITUDE, ContextHeads

_LARGEST = tl.constexpr(FP8_LARGEST)
_SMALLEST = tl.constexpr(FP8_SMALLEST_AMPLITUDE)


class _Shape(NamedTuple):
    """How a kernel is spread over the card; found by measuring on an H200."""

    numbers_per_thread: int
    programs_per_multiprocessor: int
    #: Rows on their way from memory at a time.
    stages: int


_QUANTISE = _Shape(32, 8, 3)
_ADD_NORM = _Shape(16, 2, 3)
_NORM = _Shape(32, 8, 3)
_NORM_ROTATE = _Shape(16, 4, 1)
#: Queries and keys that one program of attention looks at together, its warps and its stages.
_QUERIES, _KEYS, _WARPS, _STAGES = 64, 32, 4, 3
_LOG2_E = 1.4426950408889634


@triton.jit
def _store_row(row, values, mask, offsets, out_ptr, scale_ptr, quantised: tl.constexpr):
    if quantised:
        # What lies outside the row is 0.
        amplitude = tl.maximum(tl.max(tl.abs(values), axis=0), _SMALLEST)
        values = values * (_LARGEST / amplitude)
        values = tl.minimum(tl.maximum(values, -_LARGEST), _LARGEST)
        tl.store(scale_ptr + row, amplitude / _LARGEST)
    tl.store(out_ptr + offsets, values.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _quantise_kernel(
    values_ptr, out_ptr, scale_ptr, rows, columns, activated: tl.constexpr,
    block: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, block)
    mask = column < columns
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=stages):
        offsets = row * columns + column
        values = tl.load(values_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        if activated:
            # x / 2 (1 + tanh z) = x sigmoid(2 z)
            z = 0.7978845608028654 * (values + 0.044715 * values * values * values)
            values = values * tl.sigmoid(2.0 * z)
        _store_row(row, values, mask, offsets, out_ptr, scale_ptr, True)


@triton.jit
def _add_norm_kernel(
    tokens_ptr, update_ptr, gate_ptr, weight_ptr, bias_ptr, out_ptr, scale_ptr, rows, columns,
    epsilon,
    has_update: tl.constexpr, has_gate: tl.constexpr, quantised: tl.constexpr,
    block: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, block)
    mask = column < columns
    weight = tl.load(weight_ptr + column, mask=mask, other=0.0)
    bias = tl.load(bias_ptr + column, mask=mask, other=0.0)
    if has_gate:
        gate = tl.load(gate_ptr + column, mask=mask, other=0.0)
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=stages):
        offsets = row * columns + column
        tokens = tl.load(tokens_ptr + offsets, mask=mask, other=0.0)
        if has_update:
            update = tl.load(update_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
            if has_gate:
                update *= gate
            tokens += update
            tl.store(tokens_ptr + offsets, tokens, mask=mask)
        mean = tl.sum(tokens, axis=0) / columns
        centred = tl.where(mask, tokens - mean, 0.0)
        variance = tl.sum(centred * centred, axis=0) / columns
        values = centred * tl.rsqrt(variance + epsilon) * weight + bias
        _store_row(row, values, mask, offsets, out_ptr, scale_ptr, quantised)


@triton.jit
def _norm_rotate_kernel(
    values_ptr, weight_ptr, table_ptr, out_ptr, rows, columns, epsilon,
    has_table: tl.constexpr, head_size: tl.constexpr,
    block: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, block)
    mask = column < columns
    weight = tl.load(weight_ptr + column, mask=mask, other=0.0).to(tl.float32)
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=stages):
        offsets = row * columns + column
        values = tl.load(values_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        factor = tl.rsqrt(tl.sum(values * values, axis=0) / columns + epsilon)
        values = values * factor * weight
        if has_table:
            # The table is small enough for the cache, and every head reads the same row of it.
            place = row * head_size + column % head_size
            cos = tl.load(table_ptr + place, mask=mask, other=0.0)
            sin = tl.load(table_ptr + rows * head_size + place, mask=mask, other=0.0)
            first, second = tl.split(tl.reshape(values, (block // 2, 2)))
            swapped = tl.reshape(tl.join(second, first), (block,))
            values = values * cos + swapped * sin
        tl.store(out_ptr + offsets, values.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _attend_to_tile(
    query, key_ptr, value_ptr, start, count, scale_log2, columns, column, largest, total, result,
    keys: tl.constexpr, is_masked: tl.constexpr,
):  # fmt: skip
    """A step of the running softmax (Milakov and Gimelshein, 2018)."""
    row = start + tl.arange(0, keys)
    offsets = row[:, None] * columns + column[None, :]
    if is_masked:
        mask = row < count
        tile = tl.load(key_ptr + offsets, mask=mask[:, None], other=0.0)
    else:
        tile = tl.load(key_ptr + offsets)
    scores = tl.dot(query, tl.trans(tile)) * scale_log2
    if is_masked:
        scores = tl.where(mask[None, :], scores, float("-inf"))
    higher = tl.maximum(largest, tl.max(scores, axis=1))
    shares = tl.exp2(scores - higher[:, None])
    shrink = tl.exp2(largest - higher)
    total = total * shrink + tl.sum(shares, axis=1)
    if is_masked:
        tile = tl.load(value_ptr + offsets, mask=mask[:, None], other=0.0)
    else:
        tile = tl.load(value_ptr + offsets)
    result = tl.dot(shares.to(tile.dtype), tile, result * shrink[:, None])
    return higher, total, result


@triton.jit
def _attend(
    query, key_ptr, value_ptr, count, last_log2, scale_log2, columns, column, keys: tl.constexpr
):  # fmt: skip
    """Attention of a tile of queries to keys, of which the last counts 2 ** last_log2 times."""
    # The last one begins the running softmax, so that the others fill whole tiles more often.
    place = (count - 1) * columns + column
    key = tl.load(key_ptr + place).to(tl.float32)
    largest = tl.sum(query.to(tl.float32) * key[None, :], axis=1) * scale_log2 + last_log2
    total = largest * 0.0 + 1.0
    value = tl.load(value_ptr + place).to(tl.float32)
    result = total[:, None] * value[None, :]
    whole = (count - 1) // keys * keys
    for start in tl.range(0, whole, keys):
        largest, total, result = _attend_to_tile(
            query, key_ptr, value_ptr, start, count - 1, scale_log2, columns, column, largest,
            total, result, keys, False,
        )  # fmt: skip
    if whole < count - 1:
        largest, total, result = _attend_to_tile(
            query, key_ptr, value_ptr, whole, count - 1, scale_log2, columns, column, largest,
            total, result, keys, True,
        )  # fmt: skip
    return result / total[:, None]


@triton.jit
def _attend_to_context_kernel(
    query_ptr, text_key_ptr, text_value_ptr, image_key_ptr, image_value_ptr, out_ptr,
    rows, columns, text_count, image_count, text_last_log2, scale_log2,
    queries: tl.constexpr, keys: tl.constexpr, head_size: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * queries + tl.arange(0, queries)
    column = tl.program_id(1) * head_size + tl.arange(0, head_size)
    offsets = row[:, None] * columns + column[None, :]
    mask = (row < rows)[:, None]
    query = tl.load(query_ptr + offsets, mask=mask, other=0.0)
    text = _attend(
        query, text_key_ptr, text_value_ptr, text_count, text_last_log2, scale_log2, columns,
        column, keys,
    )  # fmt: skip
    # Rounded as in the reference, it takes half the registers while the image is attended to.
    text = text.to(query.dtype)
    image = _attend(
        query, image_key_ptr, image_value_ptr, image_count, 0.0, scale_log2, columns, column, keys
    )
    tl.store(out_ptr + offsets, (text + image).to(out_ptr.dtype.element_ty), mask=mask)


def _launch(
    shape: _Shape, rows: int, columns: int, device: torch.device
) -> tuple[tuple[int], dict[str, int]]:
    """Grid and options of a kernel over rows."""
    block = triton.next_power_of_2(columns)
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    options = {
        "block": block,
        "stages": shape.stages,
        "num_warps": min(32, max(1, block // (32 * shape.numbers_per_thread))),
    }
    return (min(rows, processors * shape.programs_per_multiprocessor),), options


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def quantise(values: Tensor, *, activated: bool) -> tuple[Tensor, Tensor]:
    """`fused.quantise_rows`."""
    rows, columns = values.shape
    values = values.contiguous()
    out = torch.empty((rows, columns), dtype=FP8, device=values.device)
    scale = torch.empty((rows, 1), dtype=torch.float32, device=values.device)
    grid, options = _launch(_QUANTISE, rows, columns, values.device)
    _quantise_kernel[grid](values, out, scale, rows, columns, activated, **options)
    return out, scale


def add_norm(
    tokens: Tensor,
    update: Tensor | None,
    gate: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    epsilon: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor | None]:
    """`fused.add_and_normalise`."""
    rows, columns = tokens.shape
    update, gate, weight, bias = _contiguous(update, gate, weight, bias)
    quantised = dtype is FP8
    out = torch.empty((rows, columns), dtype=dtype, device=tokens.device)
    scale = torch.empty((rows, 1), dtype=torch.float32, device=tokens.device) if quantised else None
    grid, options = _launch(_ADD_NORM, rows, columns, tokens.device)
    _add_norm_kernel[grid](
        tokens, update, gate, weight, bias, out, scale, rows, columns, epsilon,
        update is not None, gate is not None, quantised, **options,
    )  # fmt: skip
    return out, scale


def norm_rotate(values: Tensor, weight: Tensor, epsilon: float, table: Tensor | None) -> Tensor:
    """`fused.normalise_heads`."""
    rows, columns = values.shape
    values, weight, table = _contiguous(values, weight, table)
    out = torch.empty((rows, columns), dtype=values.dtype, device=values.device)
    head_size = 1 if table is None else table.shape[-1]
    shape = _NORM if table is None else _NORM_ROTATE
    grid, options = _launch(shape, rows, columns, values.device)
    _norm_rotate_kernel[grid](
        values, weight, table, out, rows, columns, epsilon, table is not None, head_size, **options
    )
    return out


def attend_to_context(query: Tensor, context: ContextHeads) -> Tensor:
    """`fused.attend_to_context`."""
    rows, heads, head_size = query.shape
    parts = (context.text_key, context.text_value, context.image_key, context.image_value)
    query, *parts = _contiguous(query, *parts)
    out = torch.empty_like(query)
    _attend_to_context_kernel[(triton.cdiv(rows, _QUERIES), heads)](
        query, *parts, out, rows, heads * head_size, len(context.text_key), len(context.image_key),
        math.log2(context.last_text_count), head_size**-0.5 * _LOG2_E,
        queries=_QUERIES, keys=_KEYS, head_size=head_size, num_warps=_WARPS, num_stages=_STAGES,
    )  # fmt: skip
    return out
