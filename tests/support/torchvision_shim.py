"""Lets torchvision be imported beside a torch without CUDA; for tests alone.

The package index has torchvision for Linux with CUDA only. Beside a torch without it, its compiled
part does not load, and its Python part then stops at two operators that were never declared.
Declaring them is enough for what is used here: the transforms.
"""

import sys
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any


class _DeclareOperators(MetaPathFinder):
    """Finds nothing; declares the operators just before torchvision is imported."""

    def __init__(self) -> None:
        self._library: Any = None

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        if name != "torchvision" or self._library is not None:
            return
        import torch

        if torch.version.cuda is not None:
            return
        # Declarations last as long as this object.
        self._library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            self._library.define(
                f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )


def install() -> None:
    """From now on torchvision can be imported; nothing happens before it is."""
    if not any(type(finder).__name__ == "_DeclareOperators" for finder in sys.meta_path):
        sys.meta_path.insert(0, _DeclareOperators())
