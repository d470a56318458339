# pyright: reportMissingImports=false
"""Linear layers in 8-bit floating point (e4m3), by the tensor cores of newer cards.

Each row of a weight (an output channel) and each row of an input (a token) has its own scale, so
that one outlier costs its own row alone. Weights are quantised once, inputs on the fly.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from ex4d.errors import InputError

from .fused import FP8, QuantisedRows, quantise_rows

#: Ada and Hopper brought fp8 products.
_CAPABILITY = (8, 9)
#: Of a block: what every step multiplies by. Keys and values of the context are made once a take.
_LAYERS = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q",
           "cross_attn.o", "ffn.0", "ffn.2")  # fmt: skip
_SCALE_SUFFIX = "_scale"


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


def quantised_type(name: str) -> torch.dtype | None:
    """The type of one of the DiT's tensors whose value or type quantising changes; None of others.

    Args:
        name: Of the tensor, for example `blocks.0.ffn.2.weight` or `blocks.0.ffn.2.weight_scale`.
    """
    parts = name.split(".")
    if parts[0] != "blocks" or ".".join(parts[2:-1]) not in _LAYERS:
        return None
    return {"weight": FP8, f"weight{_SCALE_SUFFIX}": torch.float32}.get(parts[-1])


def quantised_shapes(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes of the DiT's tensors after quantising: a scale beside each large weight."""
    found = {}
    for name, shape in shapes.items():
        found[name] = shape
        if quantised_type(name) is not None:
            found[name + _SCALE_SUFFIX] = (shape[0], 1)
    return found


def quantised_tensors(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The DiT's tensors after quantising: what `quantise_block` makes of them in bfloat16."""
    for name, value in tensors:
        if quantised_type(name) is None:
            yield name, value
            continue
        rows = quantise_rows(value.bfloat16())
        yield name, rows.values
        yield name + _SCALE_SUFFIX, rows.scale


def has_quantised(names: Iterable[str]) -> bool:
    """Whether a DiT with tensors of these names has been quantised."""
    return any(name.endswith(_SCALE_SUFFIX) and quantised_type(name) for name in names)


def quantise_block(block: nn.Module) -> None:
    """Replace the large linear layers of a DiT's block by `Fp8Linear`, in place.

    All that is float32 in the model, time and head, lies outside the blocks.
    """
    for path in _LAYERS:
        parent, _, name = path.rpartition(".")
        module = block.get_submodule(parent)
        setattr(module, name, Fp8Linear(getattr(module, name)))
