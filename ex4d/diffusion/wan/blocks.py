# pyright: reportMissingImports=false
"""The forward pass of a DiT block, over diffsynth's own layers.

It differs from diffsynth's in what takes time, not in what it computes:

- between matrix products everything is fused (`fused`), the last update of a block with the first
  norm of the next one;
- attention is the chosen one (`attention`), positions are a real table (`rotary`);
- keys and values of the prompt and of the first frame stay the same for a whole take, so they are
  made once (`project_context`), and the padding of the prompt is looked at once (`ContextHeads`).

Precision is the reference's: the residual stream, norms and modulation in float32, matrix products
and attention in the type of the weights.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from . import fused
from .attention import Attention
from .fp8 import Fp8Linear
from .fused import (
    FP8,
    ContextHeads,
    QuantisedRows,
    add_and_normalise,
    normalise_heads,
    quantise_rows,
)
from .streaming import all_tensors

#: Tokens of the first frame, from CLIP, that stand before those of the prompt.
IMAGE_TOKENS = 257
#: Layers of a block's cross-attention that only `project_context` needs.
_CONTEXT_LAYERS = ("k", "v", "norm_k", "k_img", "v_img", "norm_k_img")


class Residual:
    """The residual stream of one CFG branch.

    Args:
        tokens: (1, tokens, channels); copied.
    """

    def __init__(self, tokens: Tensor) -> None:
        # Tokens come as a view of the patches, whose channels lie far apart.
        self._tokens = torch.empty(tokens[0].shape, dtype=torch.float32, device=tokens.device)
        self._tokens.copy_(tokens[0])
        #: To be added by whoever reads the tokens next, which saves a pass over them.
        self._update: Tensor | None = None
        self._gate: Tensor | None = None

    def copy(self) -> "Residual":
        """The same stream once more, to go another way from here."""
        other = Residual(self._tokens.unsqueeze(0))
        other.add(self._update, self._gate)
        return other

    def add(self, update: Tensor | None, gate: Tensor | None = None) -> None:
        """Add (tokens, channels), times a gate (channels,)."""
        self._update, self._gate = update, gate

    def normalised(
        self, weight: Tensor, bias: Tensor, epsilon: float, dtype: torch.dtype
    ) -> Tensor | QuantisedRows:
        """Layer norm of the rows times weight plus bias, both (channels,), in a type."""
        update, gate = self._update, self._gate
        self._update = self._gate = None
        return add_and_normalise(
            self._tokens, update, gate, weight.float(), bias.float(), epsilon=epsilon, dtype=dtype
        )

    def tokens(self) -> Tensor:
        """(1, tokens, channels) float32."""
        if self._update is not None:
            update = self._update.float()
            self._tokens += update if self._gate is None else update * self._gate
            self._update = self._gate = None
        return self._tokens.unsqueeze(0)


def attend_to_itself(
    block: nn.Module, residual: Residual, modulation: Tensor, table: Tensor, attention: Attention
) -> None:
    """The first part of a block over one branch: self-attention.

    Args:
        block: diffsynth's `DiTBlock`, its large layers as they are or as `Fp8Linear`.
        residual: Read and added to.
        modulation: (1, 6, channels) float32, from the time embedding.
        table: From `real_table`, on the device.
        attention: By what to attend.
    """
    shift, scale, gate = _modulation(block, modulation)[:3]
    rows = residual.normalised(1.0 + scale, shift, block.norm1.eps, _input_type(block))
    residual.add(_self_attention(block.self_attn, rows, table, attention), gate)


def attend_to_context(
    block: nn.Module,
    residual: Residual,
    context: ContextHeads,
    modulation: Tensor,
    attention: Attention,
) -> None:
    """The rest of a block: cross-attention, then the feed-forward layers.

    Args:
        block: As `attend_to_itself` takes it.
        residual: Read and added to.
        context: From `project_context`.
        modulation: (1, 6, channels) float32, from the time embedding.
        attention: By what to attend.
    """
    norm, dtype = block.norm3, _input_type(block)
    rows = residual.normalised(norm.weight, norm.bias, norm.eps, dtype)
    residual.add(_cross_attention(block.cross_attn, rows, context, attention))
    shift, scale, gate = _modulation(block, modulation)[3:]
    rows = residual.normalised(1.0 + scale, shift, block.norm2.eps, dtype)
    residual.add(_feed_forward(block.ffn, rows), gate)


def _modulation(block: nn.Module, modulation: Tensor) -> Tensor:
    """(6, channels) float32: shift, scale and gate of self-attention and of feed-forward."""
    return (block.modulation.float() + modulation)[0]


def _input_type(block: nn.Module) -> torch.dtype:
    """What the large layers take."""
    layer = block.self_attn.q
    return FP8 if isinstance(layer, Fp8Linear) else layer.weight.dtype


def _self_attention(
    layers: nn.Module, rows: Tensor | QuantisedRows, table: Tensor, attention: Attention
) -> Tensor:
    shape = (-1, layers.head_dim)
    query = normalise_heads(layers.q(rows), layers.norm_q.weight, layers.norm_q.eps, table)
    key = normalise_heads(layers.k(rows), layers.norm_k.weight, layers.norm_k.eps, table)
    heads = (tensor.unflatten(-1, shape).unsqueeze(0) for tensor in (query, key, layers.v(rows)))
    return layers.o(attention(*heads)[0].flatten(1))


def _cross_attention(
    layers: nn.Module, rows: Tensor | QuantisedRows, context: ContextHeads, attention: Attention
) -> Tensor:
    query = normalise_heads(layers.q(rows), layers.norm_q.weight, layers.norm_q.eps)
    query = query.unflatten(-1, (-1, layers.head_dim))
    return layers.o(fused.attend_to_context(query, context, attention).flatten(1))


def _feed_forward(layers: nn.Module, rows: Tensor | QuantisedRows) -> Tensor:
    first, _, second = layers
    if isinstance(rows, QuantisedRows):
        return second(quantise_rows(first(rows), activated=True))
    if rows.is_cuda and rows.dtype != torch.float32:
        # cuBLAS applies GELU, in its tanh form, on the way out: a pass over memory less.
        hidden = torch._addmm_activation(first.bias, rows, first.weight.t(), use_gelu=True)  # noqa: SLF001
        return second(hidden)
    return second(gelu(first(rows), approximate="tanh"))


def project_context(block: nn.Module, context: Tensor, last_count: int = 1) -> ContextHeads:
    """Keys and values of a block's cross-attention.

    Args:
        block: diffsynth's `DiTBlock`.
        context: (1, 257 + prompt tokens, channels), embedded: first frame, then prompt.
        last_count: How many times the last token of the prompt stands there.
    """
    layers = block.cross_attn
    rows = context[0].to(layers.k.weight.dtype)
    image, text = rows[:IMAGE_TOKENS], rows[IMAGE_TOKENS:]
    heads = (
        normalise_heads(layers.k(text), layers.norm_k.weight, layers.norm_k.eps),
        layers.v(text),
        normalise_heads(layers.k_img(image), layers.norm_k_img.weight, layers.norm_k_img.eps),
        layers.v_img(image),
    )
    shape = (-1, layers.head_dim)
    keys_and_values = [tensor.unflatten(-1, shape) for tensor in heads]
    return ContextHeads(*keys_and_values, last_text_count=last_count)


def context_tensors(block: nn.Module) -> list[Tensor]:
    """Weights of a block that only `project_context` needs."""
    layers = (getattr(block.cross_attn, name) for name in _CONTEXT_LAYERS)
    return [parameter for layer in layers for parameter in layer.parameters()]


def step_tensors(block: nn.Module) -> list[Tensor]:
    """Weights of a block that every step needs."""
    others = {id(tensor) for tensor in context_tensors(block)}
    return [tensor for tensor in all_tensors(block) if id(tensor) not in others]
