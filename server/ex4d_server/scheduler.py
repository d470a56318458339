"""Which job runs when, what became of it, and who hears about it.

The journal is the truth; this keeps the unfinished jobs of it in memory. Users take turns: one who
submits a hundred jobs does not keep the others waiting.
"""

import asyncio
import os
import shutil
import time
import uuid
from collections import Counter, OrderedDict, deque
from concurrent.futures import Executor as Threads
from pathlib import Path, PurePosixPath

import msgspec
import structlog

from ex4d.errors import CancelledError, Ex4dError, InputError
from ex4d.protocol.documents import FileRef, is_portable
from ex4d.protocol.messages import (
    MAX_FILES_PER_MESSAGE,
    EngineInfo,
    EstimatorInfo,
    JobEvent,
    JobPreview,
    JobRequest,
    ReconstructJob,
    TakeTimes,
)
from ex4d.task import Progress

from .blobs import FULL_ERRORS, BlobStore
from .config import private_folder
from .executors import Executor, Preview, Work, WorkerLostError
from .journal import SEQ_STEP, JobRecord, Journal
from .kept import KeptWork
from .limits import LimitsFile
from .results import KnownResults
from .sessions import Sessions
from .take_times import MeasuredTakes
from .transfers import TaskSet

_log = structlog.get_logger(__name__)

#: Attempts that may be lost before a job is given up.
MAX_LOST = 3
#: Unfinished jobs that a user may have who has no limit of their own.
USUAL_UNFINISHED = 100
#: What the requests of a user's unfinished jobs may be in all, as JSON; in memory they are four
#: times that. The longest job there can be takes 3 MiB.
MAX_UNFINISHED_BYTES = 32 << 20
#: Progress is told no more often than this.
PROGRESS_PERIOD_S = 0.2


class _Job:
    """An unfinished job."""

    def __init__(self, record: JobRecord) -> None:
        self.record = record
        self.request_bytes = len(msgspec.json.encode(record.request))
        self.cancel = asyncio.Event()
        #: When the current stage began; for the time left.
        self.stage_started_s = 0.0
        self.told_s = 0.0
        #: Progress that came too soon after the last to be told yet.
        self.untold: asyncio.TimerHandle | None = None
        #: Newest preview and its pixels; None while the job does not run.
        self.preview: tuple[JobPreview, memoryview] | None = None


class Scheduler:
    """Runs jobs.

    Args:
        journal: Where they are written down.
        blobs: Where their files come from and results go.
        limits: Users who may have another number of unfinished jobs.
        executor: What does the work.
        data: For the files of running jobs, what attempts leave to the next one and how long takes
            took; the folder of the blobs.
        threads: Where files are linked and hashed.
        sessions: Who hears of events, previews and times.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        blobs: BlobStore,
        limits: LimitsFile,
        executor: Executor,
        data: Path,
        threads: Threads,
        sessions: Sessions,
    ) -> None:
        self._journal = journal
        self._blobs = blobs
        self._limits = limits
        self._executor = executor
        self._work_folder = data / "work"
        self._kept_work = KeptWork(data / "kept", blobs)
        self._threads = threads
        self._sessions = sessions
        self._measured_takes = MeasuredTakes(data / "take_times.json", sessions.publish_take_times)
        self._jobs: dict[str, _Job] = {}
        #: Waiting jobs of each user; the user whose turn is next comes first.
        self._queues: OrderedDict[str, deque[_Job]] = OrderedDict()
        self._running = 0
        #: How many jobs ended in each final state since the start.
        self.ended: Counter[str] = Counter()
        #: Whose newest event the journal lacks, because its disk was full.
        self._unsaved: dict[str, JobRecord] = {}
        self._tasks = TaskSet()
        self._results = KnownResults(blobs, executor.weights_state)
        self._is_closing = False

    @property
    def engines(self) -> tuple[EngineInfo, ...]:
        """What jobs may ask for."""
        return self._executor.engines

    @property
    def estimators(self) -> tuple[EstimatorInfo, ...]:
        """What estimates depth for jobs without a depth file, now."""
        return self._executor.estimators

    @property
    def take_times(self) -> TakeTimes:
        """How long takes have taken here."""
        return self._measured_takes.times

    def start(self) -> None:
        """Start the executor and go on with what the last server left."""
        shutil.rmtree(self._work_folder, ignore_errors=True)
        private_folder(self._work_folder)
        self._executor.start()
        for record in self._journal.unfinished():
            job = self._remember(record)
            if record.event.state == "cancelling":
                self._end(job, state="cancelled")
                continue
            if record.event.state == "running":
                record.lost += 1
            self._retry(job, "the server ended in the middle of the job", first=False)
        self._fill_slots()

    @property
    def is_journal_whole(self) -> bool:
        """Whether everything is written down; false while the disk is full."""
        return not self._unsaved

    def tend(self) -> None:
        """Write down what could not be written before; to be called now and then."""
        for record in list(self._unsaved.values()):
            self._save(record)
            if record.id in self._unsaved:
                return

    def remove_old(self) -> None:
        """Remove what unfinished jobs left that nobody came back for; to be called now and then."""
        self._kept_work.remove_old()

    def count(self) -> tuple[int, int]:
        """How many jobs run, and how many wait."""
        return self._running, sum(len(queue) for queue in self._queues.values())

    async def close(self) -> None:
        """Stop; what is unfinished goes on with the next start."""
        self._is_closing = True
        await self._tasks.close()
        await self._executor.close()

    def submit(self, user: str, request_id: str, request: JobRequest) -> JobEvent:
        """Take a job on, unless the same request did so before.

        Args:
            user: Who asks.
            request_id: The request's name.
            request: What to do.

        Returns:
            The job's newest event.

        Raises:
            InputError: `job_files`, `blob_missing`, `queue_full`, `quota_exceeded` or `disk_full`.
            ProtocolError: `conflict`.
        """
        known = self._journal.find_request(user, request_id, request)
        if known:
            return self.event_of(user, known)
        self._check_files(user, request)
        allowed = self._limits.of(user).unfinished_jobs or USUAL_UNFINISHED
        unfinished = [job.request_bytes for job in self._jobs.values() if job.record.user == user]
        if len(unfinished) >= allowed:
            msg = f"expected at most {allowed} unfinished jobs; wait until some have ended"
            raise InputError("queue_full", msg)
        if sum(unfinished) + len(msgspec.json.encode(request)) > MAX_UNFINISHED_BYTES:
            msg = (
                f"expected at most {MAX_UNFINISHED_BYTES >> 20} MiB of unfinished jobs, with their "
                "lists of files and cameras, found more; wait until some have ended"
            )
            raise InputError("queue_full", msg)
        self._blobs.check_room_for_results(
            user, [(user, file.sha256) for file in _files_of(request)]
        )
        record = self._journal.add(user, request_id, request)
        job = self._remember(record)
        self._queue(job)
        _log.info("job_submitted", job=record.id, user=user, kind=type(request).__name__)
        # Not at once: the client shall hear the job's name before its events.
        asyncio.get_running_loop().call_soon(self._fill_slots)
        return record.event

    def event_of(self, user: str, job_id: str) -> JobEvent:
        """The newest event of a job.

        Raises:
            InputError: `not_found`, also for another user's job.
        """
        job = self._jobs.get(job_id)
        if job and job.record.user == user:
            return job.record.event
        record = self._unsaved.get(job_id)
        if record is not None and record.user == user:
            return record.event
        event = self._journal.find(user, job_id)
        if event is None:
            msg = f"expected a job of yours, found none called {job_id}; submit it again"
            raise InputError("not_found", msg)
        return event

    def preview_of(self, user: str, job_id: str) -> tuple[JobPreview, memoryview] | None:
        """The newest preview of a job of this user and its pixels; None if there is none now."""
        job = self._jobs.get(job_id)
        return job.preview if job and job.record.user == user else None

    def cancel(self, user: str, job_id: str) -> JobEvent:
        """End a job early; harmless if it has ended.

        Returns:
            The job's newest event.

        Raises:
            InputError: `not_found`, also for another user's job.
        """
        event = self.event_of(user, job_id)
        job = self._jobs.get(job_id)
        if job is None or job.cancel.is_set():
            return event
        job.cancel.set()
        if job in self._queues.get(user, ()):
            self._queues[user].remove(job)
            self._end(job, state="cancelled")
        else:
            self._change(job, state="cancelling")
        return job.record.event

    def newest(self, user: str, limit: int) -> list[JobEvent]:
        """The newest event of each of a user's jobs, newest job first, without the results."""
        events = [
            self._unsaved[event.job_id].event if event.job_id in self._unsaved else event
            for event in self._journal.newest(user, limit)
        ]
        # A thousand jobs with hundreds of files each would not fit into a message.
        return [
            self._jobs[event.job_id].record.event
            if event.job_id in self._jobs
            else msgspec.structs.replace(event, files=())
            for event in events
        ]

    def _check_files(self, user: str, request: JobRequest) -> None:
        files = _files_of(request)
        paths = {file.path for file in files}
        # Some systems do not tell upper case from lower.
        names = {path.casefold() for path in paths}
        if len(names) < len(files) or names & {name.rpartition("/")[0] for name in names}:
            msg = "expected each path once and none as another's folder, found one twice; rename it"
            raise InputError("job_files", msg)
        if unusable := [file.path for file in files if not is_portable(file.path)]:
            msg = f"expected names that every system has for files, found {unusable[0]}; rename it"
            raise InputError("job_files", msg)
        if isinstance(request, ReconstructJob):
            needed = [path for path in (request.clip, request.depth) if path is not None]
            if not set(needed) <= paths:
                msg = f"expected {' and '.join(needed)} among the job's files"
                raise InputError("job_files", msg)
        missing = [
            file.path
            for file in files
            if self._blobs.size_of((user, file.sha256)) != file.size_bytes
        ]
        if missing:
            names = ", ".join(missing[:10])
            more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
            msg = (
                f"expected all files of the job on the server, missing: {names}{more}; upload them"
            )
            raise InputError("blob_missing", msg)

    def _remember(self, record: JobRecord) -> _Job:
        job = self._jobs[record.id] = _Job(record)
        files = _files_of(record.request)
        self._blobs.pin(record.id, ((record.user, file.sha256) for file in files))
        return job

    def _queue(self, job: _Job, *, first: bool = False) -> None:
        queue = self._queues.setdefault(job.record.user, deque())
        if first:
            queue.appendleft(job)
        else:
            queue.append(job)

    def _fill_slots(self) -> None:
        while self._running < self._executor.slots and not self._is_closing:
            user = next((user for user, queue in self._queues.items() if queue), None)
            if user is None:
                return
            job = self._queues[user].popleft()
            self._queues.move_to_end(user)
            self._running += 1
            self._tasks.start(self._run(job))

    async def _run(self, job: _Job) -> None:
        """One attempt, from files to results; leaves the job ended or back in the queue."""
        record = job.record
        folder = self._work_folder / uuid.uuid4().hex
        # It may have been cancelled since its turn came.
        state = "cancelling" if job.cancel.is_set() else "running"
        self._change(job, state=state, attempt=record.event.attempt + 1, stage="starting")
        log = _log.bind(job=record.id, user=record.user, attempt=record.event.attempt)
        log.info("job_started")
        started_s = time.monotonic()
        try:
            files = await self._attempt(job, folder)
            self._end(job, state="done", files=files)
        except asyncio.CancelledError:
            # The server stops; nobody is to blame, so the attempt is not counted as lost.
            self._change(job, state="cancelled" if job.cancel.is_set() else "queued")
            raise
        except CancelledError:
            self._end(job, state="cancelled")
        except WorkerLostError as error:
            log.warning("worker_lost", reason=str(error))
            record.lost += 1
            self._retry(job, str(error))
        except Ex4dError as error:
            self._end(job, state="failed", error_code=error.code, error_message=error.message)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL_ERRORS:
                code = "disk_full"
                msg = (
                    "expected room for the job's files, found the server's disk full; ask the "
                    "server's owner to make room, then submit again"
                )
            else:
                log_id = uuid.uuid4().hex
                log.exception("internal_error", id=log_id)
                code = "internal_error"
                msg = f"The job met a fault in the server; its log has it under {log_id}."
            self._end(job, state="failed", error_code=code, error_message=msg)
        finally:
            loop = asyncio.get_running_loop()
            removal = loop.run_in_executor(self._threads, self._tidy, record, folder)
            # A server that stops ends this wait, but the removal is still done: the threads are
            # the last to end.
            await asyncio.shield(removal)
            self._running -= 1
            log.info(
                "job_stopped",
                state=record.event.state,
                code=record.event.error_code,
                seconds=round(time.monotonic() - started_s, 3),
            )
            self._fill_slots()

    def _tidy(self, record: JobRecord, folder: Path) -> None:
        """Remove what an attempt leaves behind that is of no use; runs in a thread."""
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(record.request, ReconstructJob):
            self._kept_work.tidy(record.user, is_done=record.event.state == "done")

    async def _attempt(self, job: _Job, folder: Path) -> tuple[FileRef, ...]:
        loop = asyncio.get_running_loop()
        record = job.record
        result_key = self._results.key_of(record.request)
        known = None if result_key is None else self._results.find(record.user, result_key)
        if known is not None:
            return known
        inputs = folder / "inputs"
        await loop.run_in_executor(self._threads, self._link_inputs, record, inputs)
        if job.cancel.is_set():
            raise CancelledError
        # Other jobs may have filled it since this one was submitted.
        self._check_room(record)
        kept_folder = self._kept_work.folder_of(record.user)
        work = Work(record.id, record.request, inputs, folder / "output", kept_folder)
        started_s = time.monotonic()
        await self._executor.run(
            work,
            lambda progress: self._progress(job, progress),
            job.cancel,
            show=lambda preview: self._preview(job, preview),
        )
        self._measured_takes.add(record.user, record.request, time.monotonic() - started_s)
        files: list[FileRef] = []
        for path, name in await loop.run_in_executor(self._threads, _results, work.output):
            key, size_bytes = await loop.run_in_executor(
                self._threads, self._blobs.take_file, record.user, path
            )
            self._blobs.adopt_part(key, size_bytes)
            files.append(FileRef(path=name, sha256=key[1], size_bytes=size_bytes))
        if result_key is not None and result_key == self._results.key_of(record.request):
            self._results.add(record.user, result_key, tuple(files))
        return tuple(files)

    def _check_room(self, record: JobRecord) -> None:
        files = [(record.user, file.sha256) for file in _files_of(record.request)]
        self._blobs.check_room_for_results(record.user, files)

    def _link_inputs(self, record: JobRecord, inputs: Path) -> None:
        """Lay the job's files out under their relative paths; runs in a thread."""
        inputs.mkdir(parents=True)
        for file in _files_of(record.request):
            source = self._blobs.path_of((record.user, file.sha256))
            target = inputs.joinpath(*PurePosixPath(file.path).parts)
            target.parent.mkdir(exist_ok=True)
            try:
                os.link(source, target)
            except OSError:
                # Not every file system has hard links, and ext4 ends at 65000 to one file.
                shutil.copyfile(source, target)

    def _retry(self, job: _Job, reason: str, *, first: bool = True) -> None:
        """Queue a job again, unless too many attempts were lost."""
        record = job.record
        if job.cancel.is_set():
            self._end(job, state="cancelled")
        elif record.lost >= MAX_LOST:
            msg = (
                f"expected the job to end by itself, found it lost {record.lost} times, the last "
                f"time because {reason}; try a shorter or smaller one"
            )
            self._end(job, state="failed", error_code="worker_lost", error_message=msg)
        else:
            self._change(job, state="queued", stage="waiting", done=0, total=0, eta_s=None)
            self._queue(job, first=first)

    def _progress(self, job: _Job, progress: Progress) -> None:
        event = job.record.event
        now_s = time.monotonic()
        if progress.stage != event.stage or progress.done < event.done:
            job.stage_started_s = now_s
        eta_s = None
        elapsed_s = now_s - job.stage_started_s
        if 0 < progress.done <= progress.total and elapsed_s > 0.0:
            eta_s = elapsed_s / progress.done * (progress.total - progress.done)
        # The numbers come from a worker that hostile media may have taken over.
        self._count(
            job,
            stage=progress.stage[:64],
            done=max(0, progress.done),
            total=max(0, progress.total),
            eta_s=eta_s,
        )
        if job.untold is None:
            wait_s = max(0.0, job.told_s + PROGRESS_PERIOD_S - now_s)
            job.untold = asyncio.get_running_loop().call_later(wait_s, self._tell, job)

    def _preview(self, job: _Job, preview: Preview) -> None:
        if job.record.event.state != "running":
            return
        self._count(job)
        message = JobPreview(
            job_id=job.record.id,
            seq=job.record.event.seq,
            width_px=preview.width_px,
            height_px=preview.height_px,
            frame_count=preview.frame_count,
        )
        pixels = memoryview(preview.pixels)
        job.preview = (message, pixels)
        self._sessions.publish_preview(job.record.user, message, pixels)

    def _count(self, job: _Job, **changes: object) -> None:
        """Take the next number of a job's series, as the journal allows."""
        job.record.advance(**changes)
        if job.record.event.seq % SEQ_STEP == 0:
            self._save(job.record)

    def _tell(self, job: _Job) -> None:
        if job.untold:
            job.untold.cancel()
            job.untold = None
        job.told_s = time.monotonic()
        self._sessions.publish(job.record.user, job.record.event)

    def _change(self, job: _Job, **changes: object) -> None:
        """Write a change of state down, then tell it."""
        job.preview = None
        job.record.advance(**changes)
        self._save(job.record)
        self._tell(job)

    def _save(self, record: JobRecord) -> None:
        """Write a job's newest event down, at once or when the disk has room again.

        A server that ends before that does the job again, which loses nothing.
        """
        try:
            self._journal.save(record)
        except InputError as error:
            if record.id not in self._unsaved:
                _log.error("journal_not_written", job=record.id, code=error.code)
            self._unsaved[record.id] = record
        else:
            self._unsaved.pop(record.id, None)

    def _end(self, job: _Job, **changes: object) -> None:
        """Bring a job to a final state."""
        self._change(job, eta_s=None, **changes)
        self.ended[job.record.event.state] += 1
        del self._jobs[job.record.id]
        self._blobs.unpin(job.record.id)
        queue = self._queues.get(job.record.user)
        if queue is not None and not queue:
            del self._queues[job.record.user]


def _files_of(request: JobRequest) -> tuple[FileRef, ...]:
    return request.files if isinstance(request, ReconstructJob) else request.scene


def _results(output: Path) -> list[tuple[Path, str]]:
    """The files that a job made, with their relative names.

    Raises:
        InputError: `job_results` if they are not what the protocol can name.
    """
    found: list[tuple[Path, str]] = []
    for path in sorted(output.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise InputError("job_results", f"expected plain files as results, found {path.name}")
        if path.is_file():
            name = path.relative_to(output).as_posix()
            try:
                msgspec.convert({"path": name, "sha256": "0" * 64, "size_bytes": 0}, FileRef)
            except msgspec.ValidationError:
                msg = f"expected results with plain names in one folder at most, found {name}"
                raise InputError("job_results", msg) from None
            found.append((path, name))
    if not 0 < len(found) <= MAX_FILES_PER_MESSAGE:
        msg = f"expected 1 to {MAX_FILES_PER_MESSAGE} results, found {len(found)}"
        raise InputError("job_results", msg)
    return found
