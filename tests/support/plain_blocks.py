"""The transformer's blocks as diffsynth made them: what the engine's own way is held against."""

from collections.abc import Callable
from typing import Any

import torch


class PlainBlocks:
    """The blocks as diffsynth made them.

    Args:
        dit: diffsynth's `WanModel`.
    """

    def __init__(self, dit: Any) -> None:
        self._blocks = dit.blocks

    def project_context(self, context: torch.Tensor) -> torch.Tensor:
        """The context itself; see `Blocks`."""
        return context

    def run_blocks(
        self,
        branches: list[torch.Tensor],
        contexts: list[torch.Tensor],
        modulation: torch.Tensor,
        table: torch.Tensor,
        *,
        before_block: Callable[[], None],
    ) -> list[torch.Tensor]:
        """All blocks, branch after branch; see `Blocks`."""
        branches = list(branches)
        for block in self._blocks:
            for branch, context in enumerate(contexts):
                before_block()
                branches[branch] = block(branches[branch], context, modulation, table)
        return branches
