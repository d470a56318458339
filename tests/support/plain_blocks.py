"""The transformer's blocks as diffsynth made them: what the engine's own way is held against."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from ex4d.diffusion.wan.blocks import Residual


class PlainBlocks:
    """The blocks as diffsynth made them.

    Args:
        dit: diffsynth's `WanModel`.
    """

    def __init__(self, dit: Any) -> None:
        self._blocks = dit.blocks

    def project_context(self, context: torch.Tensor, last_count: int) -> torch.Tensor:
        """The context itself, with every token of the padding; see `PreparedDit`."""
        return torch.cat([context, context[:, -1:].expand(-1, last_count - 1, -1)], dim=1)

    def run_blocks(
        self,
        branches: list[torch.Tensor],
        contexts: list[torch.Tensor],
        modulation: torch.Tensor,
        table: torch.Tensor,
        *,
        before_block: Callable[[], None],
    ) -> Iterator[list[Residual]]:
        """All blocks, branch after branch; see `PreparedDit`."""
        branches = list(branches)
        for block in self._blocks:
            for branch, context in enumerate(contexts):
                before_block()
                branches[branch] = block(branches[branch], context, modulation, table)
        yield [Residual(branch) for branch in branches]
