"""Where jobs run: the seam between the scheduler and whatever does the work."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ex4d.protocol.messages import EngineInfo, JobRequest
from ex4d.task import Progress


class WorkerLostError(Exception):
    """Whoever did the work is gone without a word: the job may be tried again."""


@dataclass(frozen=True)
class Work:
    """One attempt at a job."""

    job_id: str
    request: JobRequest
    #: Folder that holds the job's files under their relative paths.
    inputs: Path
    #: Folder that holds the results when the work has ended well; absent before.
    output: Path


class Executor(Protocol):
    """Runs jobs, a fixed number at a time."""

    name: str
    #: How many jobs may run at once.
    slots: int

    @property
    def engines(self) -> tuple[EngineInfo, ...]:
        """What jobs may ask for, now."""
        ...

    def start(self) -> None:
        """Make ready for work; called once, in the running event loop."""
        ...

    async def run(
        self, work: Work, report: Callable[[Progress], None], cancel: asyncio.Event
    ) -> None:
        """Do a job; returns when the results are in `work.output`.

        Args:
            work: What to do.
            report: Told of progress, in the event loop.
            cancel: Set when the job shall end early.

        Raises:
            CancelledError: If `cancel` was followed.
            Ex4dError: If the job cannot be done; trying again would not help.
            WorkerLostError: If it might.
        """
        ...

    async def close(self) -> None:
        """End whatever still runs."""
        ...
