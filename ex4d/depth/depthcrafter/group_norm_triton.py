# pyright: reportMissingImports=false, reportIndexIssue=false
# ruff: noqa: PLR0913 - kernels take their pointers one by one
"""The functions of `group_norm` as Triton kernels.

Every program works on pixels of one channel of one frame, which lie side by side. Moments are of
differences from a pixel of the program's own, so that a mean far from zero costs no digits; they
are joined as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
sample variances" (1979), in one order: the same numbers every time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

#: Pixels that a program looks at together and its warps: of large pictures, and of small ones. Each
#: combination is compiled when it is first met.
_LARGE, _SMALL = (4096, 8), (256, 2)
#: Programs to a channel of a frame, at most.
_PARTS = 16
#: Moments that are joined at a time.
_MOMENTS = 256


@triton.jit
def _moments_kernel(values_ptr, moments_ptr, size, block: tl.constexpr):
    channel, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    values_ptr += channel.to(tl.int64) * size
    first = tl.load(values_ptr + part * block).to(tl.float32)
    pixel = tl.arange(0, block)
    counts = tl.zeros([block], tl.float32)
    sums = tl.zeros([block], tl.float32)
    squares = tl.zeros([block], tl.float32)
    for start in range(part * block, size, parts * block):
        mask = start + pixel < size
        values = tl.load(values_ptr + start + pixel, mask=mask, other=0.0).to(tl.float32)
        centred = tl.where(mask, values - first, 0.0)
        counts += mask.to(tl.float32)
        sums += centred
        squares += centred * centred
    count = tl.sum(counts, axis=0)
    mean = tl.sum(sums, axis=0) / count
    moments_ptr += (channel * parts + part) * 3
    tl.store(moments_ptr, count)
    tl.store(moments_ptr + 1, first + mean)
    tl.store(moments_ptr + 2, tl.sum(squares, axis=0) - mean * mean * count)


@triton.jit(do_not_specialize=["frames", "groups", "group_size", "parts", "shift_stride"])
def _join_kernel(
    moments_ptr, shift_ptr, joined_ptr, frames, groups, group_size, parts, shift_stride, epsilon,
    has_shift: tl.constexpr, over_frames: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    group = row % groups
    first = row // groups
    last = first + 1
    if over_frames:
        first = 0
        last = frames
    entries = group_size * parts
    counts = tl.zeros([block], tl.float32)
    sums = tl.zeros([block], tl.float32)
    # Twice: the mean must be known before differences from it are.
    for frame in range(first, last):
        for start in range(0, entries, block):
            entry = start + tl.arange(0, block)
            mask = entry < entries
            place = (frame * groups + group) * entries + entry
            count = tl.load(moments_ptr + place * 3, mask=mask, other=0.0)
            mean = tl.load(moments_ptr + place * 3 + 1, mask=mask, other=0.0)
            if has_shift:
                channel = frame * shift_stride + group * group_size + entry // parts
                mean += tl.load(shift_ptr + channel, mask=mask, other=0.0).to(tl.float32)
            counts += count
            sums += count * mean
    all_count = tl.sum(counts, axis=0)
    all_mean = tl.sum(sums, axis=0) / all_count
    squares = tl.zeros([block], tl.float32)
    for frame in range(first, last):
        for start in range(0, entries, block):
            entry = start + tl.arange(0, block)
            mask = entry < entries
            place = (frame * groups + group) * entries + entry
            count = tl.load(moments_ptr + place * 3, mask=mask, other=0.0)
            mean = tl.load(moments_ptr + place * 3 + 1, mask=mask, other=0.0)
            if has_shift:
                channel = frame * shift_stride + group * group_size + entry // parts
                mean += tl.load(shift_ptr + channel, mask=mask, other=0.0).to(tl.float32)
            squares += tl.load(moments_ptr + place * 3 + 2, mask=mask, other=0.0)
            squares += count * (mean - all_mean) * (mean - all_mean)
    variance = tl.sum(squares, axis=0) / all_count
    tl.store(joined_ptr + row * 2, all_mean)
    tl.store(joined_ptr + row * 2 + 1, tl.rsqrt(variance + epsilon))


@triton.jit(do_not_specialize=["channels", "groups", "row_stride", "shift_stride"])
def _apply_kernel(
    values_ptr, out_ptr, joined_ptr, weight_ptr, bias_ptr, shift_ptr,
    channels, groups, size, row_stride, shift_stride,
    has_shift: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    place, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    frame = place // channels
    channel = place % channels
    row = channel // (channels // groups) + frame * row_stride
    gain = tl.load(joined_ptr + row * 2 + 1) * tl.load(weight_ptr + channel).to(tl.float32)
    offset = -tl.load(joined_ptr + row * 2)
    if has_shift:
        offset += tl.load(shift_ptr + frame * shift_stride + channel).to(tl.float32)
    bias = tl.load(bias_ptr + channel).to(tl.float32)
    start = place.to(tl.int64) * size
    values_ptr += start
    out_ptr += start
    pixel = tl.arange(0, block)
    for begin in range(part * block, size, parts * block):
        mask = begin + pixel < size
        values = tl.load(values_ptr + begin + pixel, mask=mask, other=0.0).to(tl.float32)
        values = (values + offset) * gain + bias
        values = values * tl.sigmoid(values)
        tl.store(out_ptr + begin + pixel, values.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["channels"])
def _add_kernel(
    update_ptr, frames_ptr, bias_ptr, share_ptr, channels, size,
    has_share: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    place, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    bias = tl.load(bias_ptr + place % channels).to(tl.float32)
    start = place.to(tl.int64) * size
    update_ptr += start
    frames_ptr += start
    pixel = tl.arange(0, block)
    for begin in range(part * block, size, parts * block):
        mask = begin + pixel < size
        values = tl.load(update_ptr + begin + pixel, mask=mask, other=0.0).to(tl.float32) + bias
        if has_share:
            values *= tl.load(share_ptr)
        values += tl.load(frames_ptr + begin + pixel, mask=mask, other=0.0).to(tl.float32)
        tl.store(update_ptr + begin + pixel, values.to(update_ptr.dtype.element_ty), mask=mask)


def normalise_into(
    result: Tensor, frames: Tensor, norm: nn.GroupNorm, shift: Tensor | None, *, over_frames: bool
) -> None:
    """See `group_norm.normalise`; writes to `result`, as large as `frames`."""
    count, channels, height, width = frames.shape
    size = height * width
    (block, warps), parts = _spread(size)
    groups = norm.num_groups
    rows = groups if over_frames else count * groups
    options = {"device": frames.device, "dtype": torch.float32}
    moments = torch.empty((count * channels * parts, 3), **options)
    joined = torch.empty((rows, 2), **options)
    shift_stride = 0 if shift is None or len(shift) == 1 else channels
    # Kernels want a pointer, also where they do not read it.
    shift_or_any = frames if shift is None else shift.contiguous()
    has_shift = shift is not None
    grid = (count * channels, parts)
    _moments_kernel[grid](frames, moments, size, block=block, num_warps=warps)
    _join_kernel[(rows,)](
        moments, shift_or_any, joined, count, groups, channels // groups, parts, shift_stride,
        norm.eps, has_shift=has_shift, over_frames=over_frames, block=_MOMENTS,
    )  # fmt: skip
    _apply_kernel[grid](
        frames, result, joined, norm.weight, norm.bias, shift_or_any,
        channels, groups, size, 0 if over_frames else groups, shift_stride,
        has_shift=has_shift, block=block, num_warps=warps,
    )  # fmt: skip


def add_into(update: Tensor, frames: Tensor, bias: Tensor, share: Tensor | None) -> None:
    """See `group_norm.add_update`; the sum is where the update was."""
    count, channels, height, width = frames.shape
    size = height * width
    (block, warps), parts = _spread(size)
    _add_kernel[(count * channels, parts)](
        update, frames, bias, frames if share is None else share, channels, size,
        has_share=share is not None, block=block, num_warps=warps,
    )  # fmt: skip


def _spread(size: int) -> tuple[tuple[int, int], int]:
    """Pixels that a program looks at together, its warps, and programs for so many pixels."""
    shape = _LARGE if size >= _LARGE[0] else _SMALL
    return shape, min(_PARTS, triton.cdiv(size, shape[0]))
