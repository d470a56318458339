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

#: Pixels that a program looks at together, at most, and programs to a channel of a frame.
_PIXELS, _PARTS = 4096, 16
_WARPS = 8


@triton.jit
def _moments_kernel(values_ptr, moments_ptr, size, block: tl.constexpr):
    channel, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    values_ptr += channel.to(tl.int64) * size
    first = tl.load(values_ptr + part * block).to(tl.float32)
    pixel = tl.arange(0, block)
    sums = tl.zeros([block], tl.float32)
    squares = tl.zeros([block], tl.float32)
    counts = tl.zeros([block], tl.float32)
    for start in range(part * block, size, parts * block):
        mask = start + pixel < size
        values = tl.load(values_ptr + start + pixel, mask=mask, other=0.0).to(tl.float32)
        centred = tl.where(mask, values - first, 0.0)
        sums += centred
        squares += centred * centred
        counts += mask.to(tl.float32)
    count = tl.sum(counts, axis=0)
    mean = tl.sum(sums, axis=0) / count
    moments_ptr += (channel * parts + part) * 3
    tl.store(moments_ptr, count)
    tl.store(moments_ptr + 1, first + mean)
    tl.store(moments_ptr + 2, tl.sum(squares, axis=0) - mean * mean * count)


@triton.jit
def _join_kernel(
    moments_ptr, shift_ptr, joined_ptr, frames, groups, group_size, parts, shift_stride, epsilon,
    has_shift: tl.constexpr, over_frames: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    group = row % groups
    first = 0 if over_frames else row // groups
    last = frames if over_frames else first + 1
    entry = tl.arange(0, block)
    mask = entry < group_size * parts
    channel = group * group_size + entry // parts
    stride = groups * group_size * parts
    inner_ptr = moments_ptr + (group * group_size * parts + entry) * 3
    count = tl.zeros([block], tl.float32)
    total = tl.zeros([block], tl.float32)
    for frame in range(first, last):
        counts = tl.load(inner_ptr + frame * stride * 3, mask=mask, other=0.0)
        means = tl.load(inner_ptr + frame * stride * 3 + 1, mask=mask, other=0.0)
        if has_shift:
            means += tl.load(shift_ptr + frame * shift_stride + channel, mask=mask, other=0.0).to(
                tl.float32
            )
        count += counts
        total += counts * means
    all_count = tl.sum(count, axis=0)
    mean = tl.sum(total, axis=0) / all_count
    squares = tl.zeros([block], tl.float32)
    for frame in range(first, last):
        counts = tl.load(inner_ptr + frame * stride * 3, mask=mask, other=0.0)
        means = tl.load(inner_ptr + frame * stride * 3 + 1, mask=mask, other=0.0)
        if has_shift:
            means += tl.load(shift_ptr + frame * shift_stride + channel, mask=mask, other=0.0).to(
                tl.float32
            )
        squares += tl.load(inner_ptr + frame * stride * 3 + 2, mask=mask, other=0.0)
        squares += tl.where(mask, counts * (means - mean) * (means - mean), 0.0)
    variance = tl.sum(squares, axis=0) / all_count
    tl.store(joined_ptr + row * 2, mean)
    tl.store(joined_ptr + row * 2 + 1, tl.rsqrt(variance + epsilon))


@triton.jit
def _apply_kernel(
    values_ptr, out_ptr, joined_ptr, weight_ptr, bias_ptr, shift_ptr,
    channels, groups, size, shift_stride,
    has_shift: tl.constexpr, over_frames: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    place, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    frame = place // channels
    channel = place % channels
    row = channel // (channels // groups)
    if not over_frames:
        row += frame * groups
    mean = tl.load(joined_ptr + row * 2)
    gain = tl.load(joined_ptr + row * 2 + 1) * tl.load(weight_ptr + channel).to(tl.float32)
    offset = -mean
    if has_shift:
        offset += tl.load(shift_ptr + frame * shift_stride + channel).to(tl.float32)
    offset = offset * gain + tl.load(bias_ptr + channel).to(tl.float32)
    start = place.to(tl.int64) * size
    pixel = tl.arange(0, block)
    for begin in range(part * block, size, parts * block):
        mask = begin + pixel < size
        values = tl.load(values_ptr + start + begin + pixel, mask=mask, other=0.0).to(tl.float32)
        values = values * gain + offset
        values = values * tl.sigmoid(values)
        tl.store(out_ptr + start + begin + pixel, values.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _add_kernel(
    update_ptr, frames_ptr, bias_ptr, share_ptr, channels, size,
    has_share: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    place, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    bias = tl.load(bias_ptr + place % channels).to(tl.float32)
    start = place.to(tl.int64) * size
    pixel = tl.arange(0, block)
    for begin in range(part * block, size, parts * block):
        mask = begin + pixel < size
        offsets = start + begin + pixel
        values = tl.load(update_ptr + offsets, mask=mask, other=0.0).to(tl.float32) + bias
        if has_share:
            values *= tl.load(share_ptr)
        values += tl.load(frames_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        tl.store(update_ptr + offsets, values.to(update_ptr.dtype.element_ty), mask=mask)


def normalise_into(
    result: Tensor, frames: Tensor, norm: nn.GroupNorm, shift: Tensor | None, *, over_frames: bool
) -> None:
    """See `group_norm.normalise`; writes to `result`, as large as `frames`."""
    count, channels, height, width = frames.shape
    size = height * width
    block, parts = _spread(size)
    groups = norm.num_groups
    group_size = channels // groups
    rows = groups if over_frames else count * groups
    options = {"device": frames.device, "dtype": torch.float32}
    moments = torch.empty((count * channels * parts, 3), **options)
    joined = torch.empty((rows, 2), **options)
    shift_stride = 0 if shift is None or len(shift) == 1 else channels
    # Kernels want a pointer, also where they do not read it.
    shift_or_any = frames if shift is None else shift.contiguous()
    kind = {"has_shift": shift is not None, "over_frames": over_frames}
    grid = (count * channels, parts)
    _moments_kernel[grid](frames, moments, size, block=block, num_warps=_WARPS)
    _join_kernel[(rows,)](
        moments, shift_or_any, joined, count, groups, group_size, parts, shift_stride, norm.eps,
        **kind, block=triton.next_power_of_2(group_size * parts),
    )  # fmt: skip
    _apply_kernel[grid](
        frames, result, joined, norm.weight, norm.bias, shift_or_any,
        channels, groups, size, shift_stride, **kind, block=block, num_warps=_WARPS,
    )  # fmt: skip


def add_into(update: Tensor, frames: Tensor, bias: Tensor, share: Tensor | None) -> None:
    """See `group_norm.add_update`; the sum is where the update was."""
    count, channels, height, width = frames.shape
    block, parts = _spread(height * width)
    _add_kernel[(count * channels, parts)](
        update, frames, bias, frames if share is None else share, channels, height * width,
        has_share=share is not None, block=block, num_warps=_WARPS,
    )  # fmt: skip


def _spread(size: int) -> tuple[int, int]:
    """Pixels that a program looks at together, and programs for so many pixels."""
    block = min(_PIXELS, max(128, triton.next_power_of_2(size)))
    return block, min(_PARTS, triton.cdiv(size, block))
