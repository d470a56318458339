# pyright: reportMissingImports=false
"""Rotary position embedding (Su et al., "RoFormer", 2021) in real float32.

Each pair of neighbouring channels of a head is turned by an angle that grows with the token's
frame, row or column. diffsynth multiplies complex numbers in float64 for it, at every layer; the
angles need that precision, the turning does not, and real numbers can be fused with the norm before
it: channel c becomes cos * c + sin * partner of c (`fused.normalise_heads`).
"""

import torch
from torch import Tensor


def real_table(table: Tensor) -> Tensor:
    """The same turns as cosines and sines per channel.

    Args:
        table: (tokens, 1, head size / 2) complex, see `denoise.rotary_table`.

    Returns:
        (2, tokens, head size) float32: the cosine for each channel, and the sine, negative for the
        first channel of a pair.
    """
    cos, sin = torch.view_as_real(table[:, 0]).unbind(-1)
    pairs = torch.stack([torch.stack([cos, cos], -1), torch.stack([-sin, sin], -1)])
    return pairs.flatten(-2).float()
