# SPDX-License-Identifier: GPL-3.0-or-later
"""Work that is done in slices between Blender's own, and what became of it."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Generic, TypeVar

from ._vendor.errors import Ex4dError, InputError
from .imports import UNFORESEEN

_Result = TypeVar("_Result")


@dataclass(eq=False)
class SlicedWork(Generic[_Result]):
    """Work under way."""

    #: Yields after each slice the share of the whole that is done, 0..1, or None for as before.
    slices: Generator[float | None, None, _Result]
    fraction: float = 0.0
    result: _Result | None = None
    error: Ex4dError | None = None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to do."""
        return self.result is not None or self.error is not None

    def step(self) -> None:
        """Do one slice."""
        # Failed until proven otherwise, as an import is.
        self.error = UNFORESEEN
        try:
            fraction = next(self.slices)
            self.error = None
            self.fraction = self.fraction if fraction is None else fraction
        except StopIteration as end:
            self.result, self.error = end.value, None
        except Ex4dError as error:
            self.error = error
        except OSError as error:
            self.error = InputError("file", str(error))
