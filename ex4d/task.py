"""What every long function takes: progress, previews, cancellation, and where to go on from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .errors import CancelledError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


class Progress(NamedTuple):
    """How far a stage has come."""

    stage: str
    """Lower-case words for people, for example `rendering`."""
    done: int
    total: int


def _ignore(progress: Progress) -> None:
    """Report to nobody."""


def _never() -> bool:
    return False


class Task:
    """What long work calls once per unit, a frame as a rule.

    Args:
        report: Called with each `Progress`; must be quick.
        is_cancelled: Asked at each step; true ends the work with `CancelledError`.
        show: Given each moving preview; must be quick. None: nobody looks at previews.
        kept_folder: Where parts that are finished may lie until the result is whole, for another
            attempt at the same work (`kept.KeptParts`). None: nothing is kept.
    """

    def __init__(
        self,
        report: Callable[[Progress], None] = _ignore,
        is_cancelled: Callable[[], bool] = _never,
        show: Callable[[NDArray[np.uint8]], None] | None = None,
        kept_folder: Path | None = None,
    ) -> None:
        self._report = report
        self._is_cancelled = is_cancelled
        self._show = show
        self.kept_folder = kept_folder

    def keeping_nothing(self) -> Task:
        """This task for a short part of the work, which shall not take a long one's place."""
        return Task(self._report, self._is_cancelled, self._show)

    @property
    def wants_previews(self) -> bool:
        """Whether anybody looks at previews, which need not be made otherwise."""
        return self._show is not None

    def check(self) -> None:
        """End the work here if that was asked for, between two steps.

        Raises:
            CancelledError: If cancellation was asked for.
        """
        if self._is_cancelled():
            raise CancelledError

    def step(self, stage: str, done: int, total: int) -> None:
        """Report that `done` of `total` units of `stage` are finished.

        Raises:
            CancelledError: If cancellation was asked for.
        """
        self.check()
        self._report(Progress(stage, done, total))

    def show(self, frames: NDArray[np.uint8]) -> None:
        """Show what the shot looks like so far; each preview takes the place of the one before.

        Args:
            frames: (frames, height, width, 3) uint8 sRGB, far smaller than the shot.
        """
        if self._show is not None:
            self._show(frames)
