# pyright: reportMissingImports=false
"""Linear layers in 8-bit floating point (e4m3), by the tensor cores of newer cards.

Each row of a weight (an output channel) and each row of an input (a token) has its own scale, so
that one outlier costs its own row alone. Weights are quantised once, inputs on the fly.
"""

import torch
from torch import Tensor, nn

from ex4d.errors import InputError

from .fused import QuantisedRows, quantise_rows

#: Ada and Hopper brought fp8 products.
_CAPABILITY = (8, 9)
#: Of a block: what every step multiplies by. Keys and values of the context are made once a take.
_LAYERS = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q",
           "cross_attn.o", "ffn.0", "ffn.2")  # fmt: skip


def has_products(device: torch.device) -> bool:
    """Whether a device multiplies in fp8."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _CAPABILITY


def check_card(device: torch.device) -> None:
    """Refuse a device without fp8 products.

    Raises:
        InputError: `fp8_unsupported`.
    """
    if has_products(device):
        return
    found = f"a {device.type} device"
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        found = f"{torch.cuda.get_device_name(device)} with {capability[0]}.{capability[1]}"
    msg = (
        f"expected a CUDA card of compute capability {_CAPABILITY[0]}.{_CAPABILITY[1]} or newer "
        f"for 8-bit layers, found {found}; choose the mode exact"
    )
    raise InputError("fp8_unsupported", msg)


class Fp8Linear(nn.Module):
    """A linear layer whose weight is in e4m3; its output is bfloat16.

    Args:
        linear: What it stands for; its weight is read once.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = quantise_rows(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", scale)
        bias = linear.bias
        self.register_buffer("bias", None if bias is None else bias.detach().bfloat16())

    def forward(self, rows: Tensor | QuantisedRows) -> Tensor:
        """(rows, inputs) to (rows, outputs); quantises what is not."""
        if isinstance(rows, Tensor):
            rows = quantise_rows(rows)
        return torch._scaled_mm(  # noqa: SLF001 - PyTorch has no public name for it yet
            rows.values,
            self.weight.t(),
            scale_a=rows.scale,
            scale_b=self.weight_scale.t(),
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )


def quantise_block(block: nn.Module) -> None:
    """Replace the large linear layers of a DiT's block by `Fp8Linear`, in place.

    All that is float32 in the model, time and head, lies outside the blocks.
    """
    for path in _LAYERS:
        parent, _, name = path.rpartition(".")
        module = block.get_submodule(parent)
        setattr(module, name, Fp8Linear(getattr(module, name)))
