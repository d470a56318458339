# pyright: reportMissingImports=false
"""The residual blocks of the stock networks with a third of the passes over memory.

Most of the time of these networks goes by between their products: norms whose few large groups
leave a card idle, sums, biases, and copies between the order of frames and that of channels. Here
frames stay outermost. A convolution over three frames is then one product of each three
neighbouring frames, which lie side by side in memory, with no copy; biases and the embedding of
time go into the norm that follows; the sums at the end are one pass.
"""

from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock
from torch import Tensor, nn
from torch.nn.functional import conv2d, silu

from .group_norm import add_update, normalise

#: Frames that a convolution over time looks at, before and after its own.
_REACH = 1


def use_own_blocks(network: nn.Module) -> None:
    """Let all residual blocks of a network run as this module says, in place; weights stay."""
    for name, child in network.named_children():
        if isinstance(child, SpatioTemporalResBlock):
            setattr(network, name, _SpatioTemporal(child))
        elif isinstance(child, ResnetBlock2D):
            setattr(network, name, _Spatial(child))
        else:
            use_own_blocks(child)


class _Spatial(nn.Module):
    def __init__(self, block: ResnetBlock2D) -> None:
        super().__init__()
        self.block = block

    def forward(self, frames: Tensor, embedding: Tensor | None = None, **named: Any) -> Tensor:
        """(frames, channels, height, width) to the same; `embedding` is (frames, width)."""
        return _within_frames(self.block, frames, named.get("temb", embedding))


class _SpatioTemporal(nn.Module):
    def __init__(self, block: SpatioTemporalResBlock) -> None:
        super().__init__()
        self.block = block

    def forward(
        self, frames: Tensor, embedding: Tensor | None = None, image_only_indicator: Any = None
    ) -> Tensor:
        """As `_Spatial`; the indicator says how many frames are one clip: all of them."""
        if image_only_indicator.shape != (1, len(frames)):
            expected = tuple(image_only_indicator.shape)
            raise ValueError(f"expected one clip of {expected} frames, found {len(frames)}")
        spatial = _within_frames(self.block.spatial_res_block, frames, embedding)
        mixer = self.block.time_mixer
        spatial_share = torch.sigmoid(mixer.mix_factor.float())
        if mixer.switch_spatial_to_temporal_mix:
            spatial_share = 1 - spatial_share
        # a x + (1 - a) (x + update) = x + (1 - a) update
        share = 1 - spatial_share
        return _over_frames(self.block.temporal_res_block, spatial, embedding, share)


def _within_frames(block: Any, frames: Tensor, embedding: Tensor | None) -> Tensor:
    frames = frames.contiguous()
    hidden = conv2d(normalise(frames, block.norm1), block.conv1.weight, padding=1)
    hidden = normalise(hidden, block.norm2, shift=_shift(block, embedding))
    update = conv2d(hidden, block.conv2.weight, padding=1)
    bias = block.conv2.bias
    if block.conv_shortcut is not None:
        frames = conv2d(frames, block.conv_shortcut.weight)
        bias = bias + block.conv_shortcut.bias
    return add_update(frames, update, bias)


def _over_frames(block: Any, frames: Tensor, embedding: Tensor | None, share: Tensor) -> Tensor:
    hidden = normalise(frames, block.norm1, over_frames=True, margin=_REACH)
    hidden = _convolved_over_frames(hidden, block.conv1.weight)
    shift = _shift(block, embedding)
    hidden = normalise(hidden, block.norm2, shift=shift, over_frames=True, margin=_REACH)
    update = _convolved_over_frames(hidden, block.conv2.weight)
    return add_update(frames, update, block.conv2.bias, share)


def _shift(block: Any, embedding: Tensor | None) -> Tensor:
    """(1 or frames, channels): what is added between a block's first convolution and its norm."""
    bias = block.conv1.bias[None]
    if block.time_emb_proj is None or embedding is None:
        return bias
    return bias + block.time_emb_proj(silu(embedding.flatten(0, -2)))


def _convolved_over_frames(frames: Tensor, weight: Tensor) -> Tensor:
    """A convolution of three frames each.

    Args:
        frames: (frames + 2, channels, height, width), contiguous, the first and last zero.
        weight: (outputs, channels, 3, 1, 1).

    Returns:
        (frames, outputs, height, width).
    """
    count, (channels, height, width) = len(frames) - 2 * _REACH, frames.shape[1:]
    taps = weight[..., 0, 0].transpose(1, 2).flatten(1)
    pixels = height * width
    # Each window of three frames is one matrix: channels of the first, the second, the third.
    windows = frames.as_strided(
        (count, taps.shape[1], pixels), (channels * pixels, pixels, 1), frames.storage_offset()
    )
    return torch.bmm(taps.expand(count, -1, -1), windows).unflatten(2, (height, width))
