# pyright: reportMissingImports=false
"""Group norm with SiLU, and the sum that ends a residual block, each in few passes over memory.

Both are written twice: in PyTorch, which says what they mean and runs anywhere, and as Triton
kernels (`group_norm_triton`) for CUDA cards. PyTorch gives each group to one multiprocessor: with
32 groups over all frames of a clip three quarters of a card have nothing to do.
"""

from functools import cache
from importlib.util import find_spec

from torch import Tensor, nn
from torch.nn.functional import group_norm, silu


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _runs_triton(tensor: Tensor) -> bool:
    return tensor.is_cuda and _has_triton()


def normalise(
    frames: Tensor,
    norm: nn.GroupNorm,
    *,
    shift: Tensor | None = None,
    over_frames: bool = False,
    margin: int = 0,
) -> Tensor:
    """SiLU of the group norm of frames plus a shift.

    Args:
        frames: (frames, channels, height, width), contiguous.
        norm: Its groups, weights and epsilon.
        shift: (1 or frames, channels), added first.
        over_frames: A group's mean and variance are of all frames together.
        margin: Empty frames to put before and after the result.

    Returns:
        (frames + 2 margin, channels, height, width), contiguous.
    """
    count = len(frames)
    result = frames.new_empty((count + 2 * margin, *frames.shape[1:]))
    result[:margin] = 0
    result[count + margin :] = 0
    inner = result[margin : count + margin]
    if _runs_triton(frames):
        from .group_norm_triton import normalise_into

        normalise_into(inner, frames, norm, shift, over_frames=over_frames)
        return result
    values = frames if shift is None else frames + shift[:, :, None, None]
    if over_frames:
        # One clip of so many channels, then frames.
        values = values.transpose(0, 1).unsqueeze(0)
    values = group_norm(values, norm.num_groups, norm.weight, norm.bias, norm.eps)
    inner.copy_(silu(values[0].transpose(0, 1) if over_frames else values))
    return result


def add_update(frames: Tensor, update: Tensor, bias: Tensor, share: Tensor | None = None) -> Tensor:
    """Frames plus a share of the biased update.

    Args:
        frames: (frames, channels, height, width), contiguous.
        update: The same; may be overwritten.
        bias: (channels,), of the update.
        share: (1,) float32; 1 where absent.
    """
    if _runs_triton(frames):
        from .group_norm_triton import add_into

        add_into(update, frames, bias, share)
        return update
    biased = update + bias[:, None, None]
    return frames + (biased if share is None else biased * share.to(biased.dtype))
