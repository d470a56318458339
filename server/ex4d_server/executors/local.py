"""An executor with one worker process per device, on the server's own machine."""

import asyncio
import multiprocessing
import threading
from collections import deque
from collections.abc import Callable

import msgspec
import structlog

from ex4d.errors import CancelledError, InputError
from ex4d.protocol.messages import EngineInfo, EstimatorInfo, JobRequest, ReconstructJob
from ex4d.task import Progress
from ex4d_server.config import ServerConfig
from ex4d_server.executors import Preview, Work, WorkerLostError
from ex4d_server.worker import (
    MAX_FROM_WORKER_BYTES,
    CancelWork,
    FromWorker,
    RunJob,
    StartWork,
    ToWorker,
    WorkCancelled,
    WorkDone,
    WorkFailed,
    WorkPreview,
    WorkProgress,
    serve_pipe,
)

_log = structlog.get_logger(__name__)

#: How long a job may take to notice that it was cancelled before its worker is killed.
CANCEL_GRACE_S = 10.0
#: How often a worker is tried to be started, and the pause in between: connections of strangers may
#: hold all descriptors until their handshakes end, and no job is to blame for that.
_START_TRIES, _START_PERIOD_S = 60, 1.0


class LocalExecutor:
    """Runs as many jobs at once as there are devices.

    Args:
        run_job: Does one job, in the worker; something that can be sent there.
        devices: For each worker the value of CUDA_VISIBLE_DEVICES; empty: leave it alone.
        cancel_grace_s: How long a cancelled job may go on.
        silence_s: How long a job may tell no progress before its worker counts as hung.
    """

    name = "local"

    def __init__(
        self,
        run_job: RunJob,
        devices: tuple[str, ...] = ("",),
        cancel_grace_s: float = CANCEL_GRACE_S,
        silence_s: float = ServerConfig.silence_s,
    ) -> None:
        self.slots = len(devices)
        self._devices = devices
        self._run_job = run_job
        self._cancel_grace_s = cancel_grace_s
        self._silence_s = silence_s
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()

    @property
    def engines(self) -> tuple[EngineInfo, ...]:
        """What jobs may ask for, now: models may have been fetched since the start."""
        from ex4d.diffusion import why_unavailable

        reason = why_unavailable()
        return (
            EngineInfo(name="preview", available=True, reason="", licence="Apache-2.0"),
            EngineInfo(name="ex4d", available=not reason, reason=reason, licence="Apache-2.0"),
        )

    @property
    def estimators(self) -> tuple[EstimatorInfo, ...]:
        """What estimates depth, now: models may have been fetched since the start."""
        from ex4d.depth import why_unavailable
        from ex4d.depth.models import DEPTH_MODELS

        infos: list[EstimatorInfo] = []
        for model in DEPTH_MODELS:
            reason = why_unavailable(model)
            infos.append(
                EstimatorInfo(
                    name=model.name,
                    available=not reason,
                    reason=reason,
                    licence=model.licence,
                    for_research_only=model.for_research_only,
                )
            )
        return tuple(infos)

    def weights_state(self, request: JobRequest) -> str:
        """Of all estimators together, for a reconstruction that asks one. See `Executor`."""
        from ex4d.depth.models import DEPTH_MODELS
        from ex4d.weights.files import models_folder

        if not isinstance(request, ReconstructJob) or request.depth is not None:
            return ""
        folder = models_folder()
        return repr([model.state(folder) for model in DEPTH_MODELS])

    def start(self) -> None:
        """Start the workers, so that the first job does not wait for them."""
        self._idle = [_Worker(device, self._run_job) for device in self._devices]

    async def run(
        self,
        work: Work,
        report: Callable[[Progress], None],
        cancel: asyncio.Event,
        *,
        show: Callable[[Preview], None],
    ) -> None:
        """Do a job in a worker. See `Executor.run`."""
        worker = self._idle.pop(0)
        if not worker.is_alive():
            try:
                worker = await self._replaced(worker, cancel)
            except BaseException:
                self._idle.append(worker)
                raise
        self._busy.add(worker)
        canceller = asyncio.create_task(self._cancel_when_told(worker, cancel))
        try:
            await worker.do(work, report, show, self._silence_s)
        except WorkerLostError:
            if cancel.is_set():
                # It did not listen and was killed.
                raise CancelledError from None
            raise
        except asyncio.CancelledError:
            worker.kill()
            raise
        finally:
            canceller.cancel()
            self._busy.discard(worker)
            self._idle.append(worker)

    async def close(self) -> None:
        """End all workers."""
        for worker in [*self._idle, *self._busy]:
            worker.kill()

    async def _replaced(self, worker: "_Worker", cancel: asyncio.Event) -> "_Worker":
        """A new worker in the place of one that has ended; waits while the system refuses it.

        Raises:
            CancelledError: If the job is cancelled meanwhile.
            WorkerLostError: If the system goes on refusing.
        """
        # What is left of it must not hold the device.
        worker.kill()
        problem: str | None = None
        for _ in range(_START_TRIES):
            if cancel.is_set():
                raise CancelledError
            try:
                return _Worker(worker.device, self._run_job)
            except OSError as error:
                problem = error.strerror
                _log.warning("worker_not_started", problem=problem)
            await asyncio.sleep(_START_PERIOD_S)
        msg = f"no worker could be started ({problem})"
        raise WorkerLostError(msg)

    async def _cancel_when_told(self, worker: "_Worker", cancel: asyncio.Event) -> None:
        await cancel.wait()
        worker.send(CancelWork())
        await asyncio.sleep(self._cancel_grace_s)
        worker.kill()


class _Worker:
    """The server's end of a worker process."""

    def __init__(self, device: str, run_job: RunJob) -> None:
        self.device = device
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve_pipe, args=(theirs, device, run_job), name="ex4d-worker", daemon=True
        )
        self._process.start()
        # Only the worker shall hold its end, so that each side notices when the other dies.
        theirs.close()
        #: What the worker said, without its previews; None: it is gone.
        self._inbox: asyncio.Queue[FromWorker | None] = asyncio.Queue()
        #: The newest preview, until it is shown.
        self._preview: deque[Preview] = deque(maxlen=1)
        #: To whom previews of the running job are shown; None between jobs.
        self._show: Callable[[Preview], None] | None = None
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, daemon=True).start()

    def is_alive(self) -> bool:
        """Whether it can take a job; an idle worker has nothing to say but that it is gone."""
        return self._inbox.empty() and self._process.is_alive()

    def send(self, message: ToWorker) -> None:
        """Tell the worker something; one that is gone is noticed when listening."""
        try:
            self._connection.send_bytes(msgspec.json.encode(message))
        except OSError:
            _log.info("worker_gone", pid=self._process.pid)

    def kill(self) -> None:
        """End the process now."""
        self._process.kill()
        self._process.join()

    async def do(
        self,
        work: Work,
        report: Callable[[Progress], None],
        show: Callable[[Preview], None],
        silence_s: float,
    ) -> None:
        """Do one job. See `Executor.run`."""
        self._show = show
        try:
            kept = "" if work.kept_folder is None else str(work.kept_folder)
            self.send(StartWork(work.request, str(work.inputs), str(work.output), kept))
            await self._follow(report, silence_s)
        finally:
            self._show = None

    async def _follow(self, report: Callable[[Progress], None], silence_s: float) -> None:
        """Hear the worker out until the job has ended. See `Executor.run`."""
        while True:
            try:
                message = await asyncio.wait_for(self._inbox.get(), silence_s)
            except TimeoutError:
                self.kill()
                msg = f"the worker told nothing for {silence_s:g} seconds"
                raise WorkerLostError(msg) from None
            match message:
                case WorkProgress(stage, done, total):
                    report(Progress(stage, done, total))
                case WorkPreview():
                    # Never in the inbox; see `_listen`.
                    pass
                case WorkDone():
                    return
                case WorkCancelled():
                    raise CancelledError
                case WorkFailed(code, message):
                    raise InputError(code, message)
                case None:
                    self.kill()
                    raise WorkerLostError(_reason(self._process.exitcode))

    def _show_newest(self) -> None:
        """Show the newest preview, unless that was done or its job has ended."""
        if self._preview:
            preview = self._preview.pop()
            if self._show is not None:
                self._show(preview)

    def _listen(self) -> None:
        """Pass on what the worker says; runs in a thread until it is gone."""
        message: FromWorker | None = None
        while True:
            try:
                content = self._connection.recv_bytes(MAX_FROM_WORKER_BYTES)
                message = msgspec.json.decode(content, type=FromWorker)
            # Bytes that are no text are a ValueError of their own.
            except (EOFError, OSError, ValueError):
                message = None
            try:
                if isinstance(message, WorkPreview):
                    # However many come while the loop is busy, only the newest is kept.
                    self._preview.append(message.preview)
                    self._loop.call_soon_threadsafe(self._show_newest)
                else:
                    self._loop.call_soon_threadsafe(self._inbox.put_nowait, message)
            except RuntimeError:
                # The loop has ended, and the server with it.
                return
            if message is None:
                self._connection.close()
                return


def _reason(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"the worker was killed by signal {-exit_code}"
    return f"the worker ended with code {exit_code}"
