"""What a caller sees of a job."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ..errors import Ex4dError


class JobPhase(Enum):
    """What is being done about a job, here or at the server."""

    #: Its files are read, to name them by their content.
    HASHING = "hashing"
    UPLOADING = "uploading"
    #: The request is on its way.
    SUBMITTING = "submitting"
    QUEUED = "queued"
    RUNNING = "running"
    #: The end was asked for and is not confirmed yet.
    CANCELLING = "cancelling"
    #: Its results are fetched.
    DOWNLOADING = "downloading"
    #: The results are complete in `folder`.
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_PHASES = frozenset({JobPhase.DONE, JobPhase.FAILED, JobPhase.CANCELLED})


@dataclass(frozen=True, eq=False)
class Preview:
    """What the shot of a running job looks like so far, small and moving."""

    width_px: int
    height_px: int
    frame_count: int
    #: uint8 sRGB, frame by frame, each from the top row down.
    pixels: bytes


@dataclass(eq=False)
class RemoteJob:
    """A job and how far it has come. The client writes it; others only read it."""

    #: Name of the request; empty for a job that was attached to.
    request_id: str
    #: Where the results go. It appears when all of them are there.
    folder: Path
    phase: JobPhase = JobPhase.HASHING
    #: Given by the server; None before.
    job_id: str | None = None
    #: What the server is doing, for people: `rendering`; empty otherwise.
    stage: str = ""
    #: How far the present phase has come, 0..1.
    fraction: float = 0.0
    #: Seconds that the phase should still take; None while unknown.
    eta_s: float | None = None
    #: Bytes hashed, sent or fetched in the present phase, and all of them.
    bytes_moved: int = 0
    bytes_total: int = 0
    #: How many times the server has started the job.
    attempt: int = 0
    #: The newest one; None while there is none, and whenever the job does not run.
    preview: Preview | None = None
    #: Why it failed.
    error: Ex4dError | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.phase in FINAL_PHASES
