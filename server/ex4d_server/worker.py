"""The worker process: one job at a time, on one device, over one pipe.

It is spawned by the server and ends with it. What comes from it is decoded like any message: a
worker that some hostile video has taken over must not reach the server's process.
"""

import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ex4d.errors import CancelledError, Ex4dError
from ex4d.protocol.messages import (
    MAX_CHUNK_BYTES,
    GenerateJob,
    JobRequest,
    ReconstructJob,
    RenderJob,
)
from ex4d.task import Progress, Task

from .blobs import FULL_ERRORS
from .executors import Preview

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ex4d.diffusion.warm import WarmModels

_log = logging.getLogger(__name__)

#: Does a job: request, inputs, output, task.
RunJob = Callable[[JobRequest, Path, Path, Task], None]


class _PipeMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base of what passes through the pipe."""


class StartWork(_PipeMessage, frozen=True, tag="start"):
    """Do this job. Server to worker."""

    request: JobRequest
    inputs: str
    output: str
    #: Empty: nothing is kept.
    kept_folder: str


class CancelWork(_PipeMessage, frozen=True, tag="cancel"):
    """End the running job early. Server to worker."""


class WorkProgress(_PipeMessage, frozen=True, tag="progress"):
    """The running job came so far. Worker to server."""

    stage: str
    done: int
    total: int


class WorkPreview(_PipeMessage, frozen=True, tag="preview"):
    """What the shot of the running job looks like so far. Worker to server."""

    preview: Preview


class WorkDone(_PipeMessage, frozen=True, tag="done"):
    """The results are whole. Worker to server."""


class WorkCancelled(_PipeMessage, frozen=True, tag="cancelled"):
    """The job ended early, as told. Worker to server."""


class WorkFailed(_PipeMessage, frozen=True, tag="failed"):
    """The job cannot be done. Worker to server."""

    code: str
    message: str


ToWorker = StartWork | CancelWork
FromWorker = WorkProgress | WorkPreview | WorkDone | WorkCancelled | WorkFailed

#: Longest message of a worker: a preview, whose pixels JSON holds as base64, and some room.
MAX_FROM_WORKER_BYTES = MAX_CHUNK_BYTES * 4 // 3 + 65536


class PipelineJobs:
    """Does jobs with the real pipeline; models stay loaded from one to the next.

    It crosses to the worker process before its first job.

    Args:
        idle_s: How long models are kept without a job.
    """

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._warm: WarmModels | None = None

    def __call__(self, request: JobRequest, inputs: Path, output: Path, task: Task) -> None:
        """Do a job."""
        from ex4d import pipeline
        from ex4d.diffusion.warm import WarmModels

        self._warm = self._warm or WarmModels(self._idle_s)
        match request:
            case ReconstructJob():
                pipeline.reconstruct(request, inputs, output, task, self._warm)
            case RenderJob():
                pipeline.render(request, inputs, output, task)  # pyright: ignore[reportUnknownMemberType] - it returns an array
            case GenerateJob():
                pipeline.generate(request, inputs, output, task, self._warm)


def serve_pipe(connection: Connection, device: str, run_job: RunJob) -> None:
    """Main function of the process.

    Args:
        connection: The pipe to the server.
        device: Value of CUDA_VISIBLE_DEVICES; empty: leave it alone.
        run_job: Does one job.
    """
    # Ctrl-C in a terminal reaches this process too; the server decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The server's standard output may be a pipe that carries a protocol.
    with suppress(OSError):
        # Windows gives a worker none where the server's is no console.
        os.dup2(2, 1)
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    cancelled = threading.Event()
    started: list[StartWork] = []
    has_work = threading.Semaphore(0)

    def listen() -> None:
        while True:
            try:
                message = msgspec.json.decode(connection.recv_bytes(), type=ToWorker)
            except (EOFError, OSError):
                # The server is gone, and with it everybody who could want the result.
                os._exit(0)
            if isinstance(message, CancelWork):
                cancelled.set()
            else:
                cancelled.clear()
                started.append(message)
                has_work.release()

    threading.Thread(target=listen, daemon=True).start()
    while has_work.acquire():
        start = started.pop()
        connection.send_bytes(msgspec.json.encode(_do(start, connection, cancelled, run_job)))


def _do(
    start: StartWork, connection: Connection, cancelled: threading.Event, run_job: RunJob
) -> FromWorker:
    def report(progress: Progress) -> None:
        connection.send_bytes(msgspec.json.encode(WorkProgress(*progress)))

    def show(frames: "NDArray[np.uint8]") -> None:
        connection.send_bytes(msgspec.json.encode(WorkPreview(small_preview(frames))))

    kept_folder = Path(start.kept_folder) if start.kept_folder else None
    task = Task(report, cancelled.is_set, show, kept_folder)
    try:
        run_job(start.request, Path(start.inputs), Path(start.output), task)
    except CancelledError:
        return WorkCancelled()
    except Ex4dError as error:
        return WorkFailed(error.code, error.message)
    except MemoryError:
        # What is left of this process cannot be trusted; the server starts another.
        sys.exit(1)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL_ERRORS:
            msg = "expected room for the results, found the server's disk full; ask its owner"
            return WorkFailed("disk_full", msg)
        log_id = uuid.uuid4().hex
        _log.exception("internal error %s", log_id)
        msg = f"The job met a fault in the program; the server's log has it under {log_id}."
        return WorkFailed("internal_error", msg)
    return WorkDone()


def small_preview(frames: "NDArray[np.uint8]") -> Preview:
    """A preview that fits into a message.

    Args:
        frames: (frames, height, width, 3); what is too large loses every other row and column.
    """
    while frames.nbytes > MAX_CHUNK_BYTES:
        frames = frames[:, ::2, ::2]
    frame_count, height_px, width_px, _ = frames.shape
    return Preview(width_px, height_px, frame_count, frames.tobytes())
