"""A job as its client sees it, from the first file hashed to the last result on disk."""

import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from ..errors import CancelledError, Ex4dError
from ..protocol.documents import FileRef
from ..protocol.messages import JobEvent, JobRequest
from .downloads import Download
from .hashing import FileHasher
from .uploads import LocalBlob

BuildRequest = Callable[[tuple[FileRef, ...]], JobRequest]

#: Seconds over which the speed of a transfer is averaged.
_SPEED_WINDOW_S = 3.0


class JobPhase(Enum):
    """Where a job stands, in the order in which it goes through them."""

    HASHING = "hashing"
    UPLOADING = "uploading"
    SUBMITTING = "submitting"
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    DOWNLOADING = "downloading"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({JobPhase.DONE, JobPhase.FAILED, JobPhase.CANCELLED})
_FROM_STATE = {
    "queued": JobPhase.QUEUED,
    "running": JobPhase.RUNNING,
    "cancelling": JobPhase.CANCELLING,
}


class RemoteJob:
    """A job of this client. Read it; the client alone changes it.

    Attributes:
        request_id: Made here; the same id with the same request is the same job.
        job_id: Made by the server; None until it accepted the job.
        phase: Where the job stands.
        stage: What the server is doing, for people; empty where it says nothing.
        fraction: How far the phase has come, 0..1.
        eta_s: Seconds until the phase ends; None while unknown.
        error: Why it failed; None unless `phase` is FAILED.
        bytes_moved: Bytes hashed, sent or fetched in this phase.
        bytes_total: Of how many.
        attempt: How many times the server started it.
        folder: Where the results go, or are.
        files: The results; empty before they are known.
    """

    def __init__(self, request_id: str, folder: Path) -> None:
        self.request_id = request_id
        self.job_id: str | None = None
        self.phase = JobPhase.HASHING
        self.stage = ""
        self.fraction = 0.0
        self.eta_s: float | None = None
        self.error: Ex4dError | None = None
        self.bytes_moved = 0
        self.bytes_total = 0
        self.attempt = 0
        self.folder = folder
        self.files: tuple[FileRef, ...] = ()
        # What the client needs to bring it on.
        self.build_request: BuildRequest | None = None
        self.request: JobRequest | None = None
        self.hasher: FileHasher | None = None
        self.blobs: dict[str, LocalBlob] = {}
        self.missing: set[str] = set()
        self.download: Download | None = None
        self.last_seq = -1
        self.wants_cancel = False
        self.times_offered = 0
        self._speed_start = (0.0, 0)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return self.phase in ENDED

    def enter(self, phase: JobPhase, bytes_total: int = 0) -> None:
        """Begin a phase."""
        self.phase = phase
        self.fraction = 1.0 if phase is JobPhase.DONE else 0.0
        self.eta_s = None
        self.bytes_moved = 0
        self.bytes_total = bytes_total
        self._speed_start = (time.monotonic(), 0)

    def moved(self, bytes_moved: int) -> None:
        """Note how many bytes of the phase are done."""
        self.bytes_moved = bytes_moved
        if self.bytes_total:
            self.fraction = min(1.0, bytes_moved / self.bytes_total)
        start_s, start_bytes = self._speed_start
        now_s = time.monotonic()
        if now_s - start_s > 0.5 and bytes_moved > start_bytes:
            speed = (bytes_moved - start_bytes) / (now_s - start_s)
            self.eta_s = (self.bytes_total - bytes_moved) / speed
            if now_s - start_s > _SPEED_WINDOW_S:
                self._speed_start = (now_s, bytes_moved)

    def fail(self, error: Ex4dError) -> None:
        """End the job; what was made at the server or fetched stays there."""
        self.release()
        self.error = None if isinstance(error, CancelledError) else error
        self.enter(JobPhase.CANCELLED if self.error is None else JobPhase.FAILED)

    def release(self) -> None:
        """Let go of open files."""
        if self.hasher is not None:
            self.hasher.close()
        if self.download is not None:
            self.download.close()

    def take(self, event: JobEvent) -> bool:
        """Note an event of a job that has not ended at the server; true if it was news."""
        if event.seq <= self.last_seq:
            return False
        self.last_seq = event.seq
        self.attempt = event.attempt
        self.stage = event.stage
        self.phase = _FROM_STATE.get(event.state, self.phase)
        if self.wants_cancel and self.phase is not JobPhase.DOWNLOADING:
            self.phase = JobPhase.CANCELLING
        self.fraction = event.done / event.total if event.total else 0.0
        self.eta_s = event.eta_s
        return True
