# pyright: reportMissingImports=false
"""The modes that a user can name, and what each does to the DiT.

| mode | linear layers of the blocks | meant for |
|---|---|---|
| exact | bfloat16 | final takes: the reference's numbers within rounding |
| fast | e4m3 (`fp8`) | most takes |
| draft | e4m3, bfloat16 on older cards | a step-distilled LoRA: few steps, no guidance |

Any of them can be held under a limit of memory: then weights are streamed (`streaming`).
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ex4d.errors import InputError

from .attention import Attention, choose_attention
from .blocks import (
    IMAGE_TOKENS,
    Residual,
    attend_to_context,
    attend_to_itself,
    context_tensors,
    project_context,
    step_tensors,
)
from .fp8 import check_card, has_products, has_quantised
from .fused import ContextHeads
from .memory import BYTES_PER_TOKEN
from .precision import full_precision
from .rotary import real_table
from .streaming import ResidentBlocks, StreamedBlocks, all_tensors
from .text import MAX_TOKENS

Mode = Literal["exact", "fast", "draft"]
MODES: tuple[Mode, ...] = get_args(Mode)
#: CUDA itself, its libraries' workspaces and what the allocator cannot use.
_CUDA_BYTES = 1 << 30
#: CLIP's of the first frame and the prompt's, which is always padded.
_CONTEXT_TOKENS = IMAGE_TOKENS + MAX_TOKENS

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedDit:
    """A DiT made ready to denoise.

    Attributes:
        mode: What was asked for.
        attention: What the blocks attend by.
        device: Where they compute.
    """

    mode: Mode
    attention: Attention
    device: torch.device
    _steps: ResidentBlocks | StreamedBlocks
    _contexts: ResidentBlocks | StreamedBlocks

    def project_context(self, context: Tensor, last_count: int = 1) -> list[ContextHeads]:
        """Keys and values of every block's cross-attention: once a take and CFG branch.

        Args:
            context: (1, 257 + prompt tokens, channels): first frame, then prompt, embedded.
            last_count: How many times the last token stands there (`text.with_padding`).
        """
        with full_precision(self.device):
            heads = [project_context(block, context, last_count) for block in self._contexts]
        self._contexts.park()
        return heads

    def run_blocks(
        self,
        branches: list[Tensor],
        contexts: list[list[ContextHeads]],
        modulation: Tensor,
        table: Tensor,
        *,
        before_block: Callable[[], None] = lambda: None,
    ) -> Iterator[list[Residual]]:
        """All blocks over one or both CFG branches; a streamed block is fetched once for both.

        A step for each block, so that two cards can be given work in turns.

        Args:
            branches: (1, tokens, channels) each; the same tensor twice saves a little.
            contexts: From `project_context`, one list a branch.
            modulation: (1, 6, channels) float32 from the time embedding.
            table: From `denoise.rotary_table`, on the device.
            before_block: Called before each block for each branch; may raise, to cancel.

        Yields:
            The branches after each block.
        """
        turns = real_table(table)
        residuals = [Residual(branch) for branch in branches]
        # Branches differ in their context alone: what comes before it is done once.
        alike = all(branch is branches[0] for branch in branches)
        for index, block in enumerate(self._steps):
            # The blocks say themselves what is in which type.
            with full_precision(self.device):
                for branch, residual in enumerate(residuals):
                    before_block()
                    if index == 0 and branch > 0 and alike:
                        residuals[branch] = residuals[0].copy()
                    else:
                        attend_to_itself(block, residual, modulation, turns, self.attention)
                for residual, context in zip(residuals, contexts, strict=True):
                    attend_to_context(block, residual, context[index], modulation, self.attention)
            yield residuals

    @property
    def is_resident(self) -> bool:
        """Whether all blocks stay on the card."""
        return isinstance(self._steps, ResidentBlocks)

    def on_card(self, blocks: nn.ModuleList, device: torch.device) -> "PreparedDit":
        """The same for a copy of the blocks, all of which fit on another card."""
        resident = ResidentBlocks(blocks, device)
        return replace(self, device=device, _steps=resident, _contexts=resident)

    def park(self) -> None:
        """Where memory is limited, free what the DiT holds for another stage."""
        self._steps.park()

    def close(self) -> None:
        """Free pinned main memory."""
        self._steps.close()
        self._contexts.close()


def prepare(
    dit: nn.Module,
    mode: Mode,
    device: torch.device,
    *,
    tokens: int,
    memory_cap_bytes: int | None = None,
    attention: str | None = None,
) -> PreparedDit:
    """Make a DiT ready, in place.

    Args:
        dit: diffsynth's `WanModel`, on any device, its adapter fused; its blocks in bfloat16 (or
            float32, for tests), its large layers in 8 bits if the mode has them so (`quantises`).
        mode: One of `MODES`.
        device: Where to compute.
        tokens: Of the longest video, which decides what must be left free under a cap.
        memory_cap_bytes: For everything on the card, where given.
        attention: See `choose_attention`.

    Raises:
        InputError: `mode_unknown`, `fp8_unsupported`, `attention_unavailable`, `memory_cap`.
    """
    if mode not in MODES:
        raise InputError("mode_unknown", f"expected a mode of {', '.join(MODES)}, found {mode!r}")
    if quantises(mode, device) != has_quantised(dit.state_dict()):
        raise ValueError(f"expected layers of a DiT in the type of the mode {mode}, found others")
    # Of a layer that is never quantised.
    dtype = dit.blocks[0].cross_attn.k.weight.dtype
    chosen = choose_attention(device, dtype, attention)
    dit.requires_grad_(requires_grad=False)
    for name, child in dit.named_children():
        if name != "blocks":
            child.to(device)
    steps, contexts = _place(dit.blocks, device, tokens, memory_cap_bytes)
    return PreparedDit(mode, chosen, device, steps, contexts)


def quantises(mode: Mode, device: torch.device) -> bool:
    """Whether a mode's linear layers are in e4m3 on a device.

    Raises:
        InputError: `fp8_unsupported` if `fast` is asked of a device that has none.
    """
    if mode == "fast":
        check_card(device)
    return mode != "exact" and has_products(device)


def _place(
    blocks: nn.ModuleList, device: torch.device, tokens: int, memory_cap_bytes: int | None
) -> tuple[ResidentBlocks | StreamedBlocks, ResidentBlocks | StreamedBlocks]:
    """The blocks for the steps, and the same for the context, where their weights shall be."""
    if memory_cap_bytes is None:
        resident = ResidentBlocks(blocks, device)
        return resident, resident
    limit_bytes = memory_cap_bytes - _needed_beside_blocks(blocks, device, tokens)
    steps = StreamedBlocks(blocks, device, limit_bytes, tensors_of=step_tensors)
    if limit_bytes < steps.smallest_bytes:
        steps.close()
        missing = (steps.smallest_bytes - limit_bytes) / 2**30
        msg = (
            f"expected at least {memory_cap_bytes / 2**30 + missing:.1f} GiB for this mode and "
            f"size, found {memory_cap_bytes / 2**30:.1f}; choose fast, or a smaller video"
        )
        raise InputError("memory_cap", msg)
    contexts = StreamedBlocks(blocks, device, 0, tensors_of=context_tensors)
    _log.info("streaming %d of %d blocks", len(steps.streamed), len(blocks))
    return steps, contexts


def _needed_beside_blocks(blocks: nn.ModuleList, device: torch.device, tokens: int) -> int:
    """Bytes on the card beside the blocks' weights while two branches denoise."""
    key = blocks[0].cross_attn.k
    # Key and value of each block and branch.
    heads_bytes = 4 * len(blocks) * _CONTEXT_TOKENS * key.out_features * key.weight.element_size()
    other_bytes = 0
    if device.type == "cuda":
        own_bytes = sum(tensor.nbytes for tensor in all_tensors(blocks) if tensor.is_cuda)
        other_bytes = torch.cuda.memory_allocated(device) - own_bytes
    return other_bytes + _CUDA_BYTES + heads_bytes + tokens * BYTES_PER_TOKEN
