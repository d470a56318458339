"""Progress and cancellation of long work, in one object that every long function takes."""

from collections.abc import Callable
from typing import NamedTuple

from .errors import CancelledError


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
    """

    def __init__(
        self,
        report: Callable[[Progress], None] = _ignore,
        is_cancelled: Callable[[], bool] = _never,
    ) -> None:
        self._report = report
        self._is_cancelled = is_cancelled

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
