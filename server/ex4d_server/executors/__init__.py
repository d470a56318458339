"""Where jobs run: the seam between the scheduler and whatever does the work."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

from msgspec import Meta, Struct

from ex4d.protocol.documents import MAX_SIDE_PX, FrameCount
from ex4d.protocol.messages import MAX_CHUNK_BYTES, EngineInfo, EstimatorInfo, JobRequest
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
    #: See `ex4d.task.Task`.
    kept_folder: Path | None = None


class Preview(Struct, frozen=True, forbid_unknown_fields=True):
    """What the shot of a job looks like so far, small and moving."""

    width_px: Annotated[int, Meta(ge=1, le=MAX_SIDE_PX)]
    height_px: Annotated[int, Meta(ge=1, le=MAX_SIDE_PX)]
    frame_count: FrameCount
    #: uint8 sRGB, frame by frame, each from the top row down; at most `MAX_CHUNK_BYTES`.
    pixels: Annotated[bytes, Meta(max_length=MAX_CHUNK_BYTES)]

    def __post_init__(self) -> None:
        """Refuse pixels that are not as many as the size says.

        Raises:
            ValueError: msgspec turns it into a `ValidationError` when decoding.
        """
        expected = self.frame_count * self.height_px * self.width_px * 3
        if len(self.pixels) != expected:
            msg = f"expected {expected} bytes of pixels, found {len(self.pixels)}"
            raise ValueError(msg)


class Executor(Protocol):
    """Runs jobs, a fixed number at a time."""

    name: str
    #: How many jobs may run at once.
    slots: int

    @property
    def engines(self) -> tuple[EngineInfo, ...]:
        """What jobs may ask for, now."""
        ...

    @property
    def estimators(self) -> tuple[EstimatorInfo, ...]:
        """What estimates depth for jobs without a depth file, now."""
        ...

    def weights_state(self, request: JobRequest) -> str:
        """Differs once weights were replaced that the result of a job may depend on.

        Empty where it depends on none. Asked in the event loop: must be quick.
        """
        ...

    def start(self) -> None:
        """Make ready for work; called once, in the running event loop."""
        ...

    async def run(
        self,
        work: Work,
        report: Callable[[Progress], None],
        cancel: asyncio.Event,
        *,
        show: Callable[[Preview], None],
    ) -> None:
        """Do a job; returns when the results are in `work.output`.

        Args:
            work: What to do.
            report: Told of progress, in the event loop.
            cancel: Set when the job shall end early.
            show: Given previews, in the event loop.

        Raises:
            CancelledError: If `cancel` was followed.
            Ex4dError: If the job cannot be done; trying again would not help.
            WorkerLostError: If it might.
        """
        ...

    async def close(self) -> None:
        """End whatever still runs."""
        ...
