"""The client of a server: jobs sent, followed and fetched, without ever waiting.

Everything happens in `poll`, in slices of well under a millisecond, so that a program with one
thread, Blender for example, stays responsive. What the server is asked for is kept as state, never
as a pending call: after a lost connection the new session asks again for whatever is unfinished.
"""

import logging
import math
import re
import shutil
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ..errors import Ex4dError, InputError, ProtocolError, TransferError
from ..protocol.documents import FileRef
from ..protocol.link import Endpoint
from ..protocol.messages import (
    MAX_CHUNK_BYTES,
    BlobChunk,
    BlobCredit,
    BlobDone,
    BlobOffer,
    BlobWant,
    Error,
    JobAccepted,
    JobCancel,
    JobEvent,
    JobList,
    JobListRequest,
    JobPreview,
    JobPreviewTaken,
    JobRequest,
    JobSubmit,
    JobWatch,
    Paired,
    Pong,
    TakeTime,
    TakeTimes,
    Welcome,
)
from .downloads import Download, Downloads
from .jobs import JobPhase, Preview, RemoteJob
from .keys import KeyPair
from .session import ConnectionState, Session
from .slices import Budget, Pace, Source, hash_source
from .transport import Received
from .uploads import Uploads

_log = logging.getLogger(__name__)

#: A transfer that stood still for so long is taken up anew.
STALL_S = 30.0
#: Pauses between polls beyond which nothing counts as standing still: the program was busy.
_AWAY_S = 5.0
#: Times that a job's files are offered before its refusal for missing files is believed.
_MAX_OFFERS = 3

_ID = re.compile(r"[0-9a-f]{32}")
_PHASE_OF_STATE = {
    "queued": JobPhase.QUEUED,
    "running": JobPhase.RUNNING,
    "cancelling": JobPhase.CANCELLING,
}


@dataclass(eq=False)
class _Job:
    """What the client knows of a job beyond what callers see."""

    remote: RemoteJob
    hashing: Generator[None, None, None] | None = None
    #: Its files by content.
    sources: dict[str, Source] = field(default_factory=dict[str, Source])
    files: tuple[FileRef, ...] = ()
    request: JobRequest | None = None
    #: Content that the server still lacks.
    missing: set[str] = field(default_factory=set[str])
    pace: Pace | None = None
    #: The unanswered request about this job, if there is one, and what answers an offer.
    asked_id: str = ""
    offers: int = 0
    #: Newest event.
    seq: int = -1
    #: Of the newest preview.
    preview_seq: int = -1
    is_cancel_wanted: bool = False
    download: Download | None = None


class Client:
    """Talks to one server. Nothing here waits but `wait`, and nothing happens outside `poll`.

    Args:
        endpoint: The server.
        keys: This computer's identity.
        app_version: Told to the server.
        client_name: Told to the server's owner when pairing, 1..64 characters.
    """

    def __init__(
        self, endpoint: Endpoint, keys: KeyPair, *, app_version: str, client_name: str
    ) -> None:
        self._session = Session(endpoint, keys, app_version, client_name)
        self._uploads = Uploads(self._session, self._note_sent, self._fail_upload)
        self._downloads = Downloads(self._session)
        self._jobs: list[_Job] = []
        self._listings: dict[str, Callable[[tuple[JobEvent, ...]], None]] = {}
        self._generation = 0
        self._is_idle = False
        self._moved_s = 0.0
        self._polled_s = 0.0

    @property
    def endpoint(self) -> Endpoint:
        """The server."""
        return self._session.endpoint

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""
        return self._session.state

    @property
    def problem(self) -> Ex4dError | None:
        """What is wrong with the connection; None while all is well."""
        return self._session.problem

    @property
    def welcome(self) -> Welcome | None:
        """What the server said of itself; None before the first session."""
        return self._session.welcome

    @property
    def take_times(self) -> tuple[TakeTime, ...]:
        """How long takes took on the server, the newest first; empty while it has not told."""
        return self._session.take_times

    def connect(self) -> None:
        """Begin to connect to a server that knows this client's key."""
        self._session.open()

    def pair(self, token: str) -> None:
        """Begin to connect to a server that shall learn this client's key.

        Args:
            token: From the pairing link.
        """
        self._session.open(token)

    def close(self) -> None:
        """End the connection. Jobs go on at the server; `attach` finds them again."""
        for job in self._jobs:
            if job.hashing is not None:
                job.hashing.close()
        self._jobs.clear()
        self._uploads.forget()
        self._downloads.close()
        self._listings.clear()
        self._session.close()

    def submit(
        self,
        build_request: Callable[[tuple[FileRef, ...]], JobRequest],
        sources: Mapping[str, Path],
        download_to: Path,
        request_id: str | None = None,
    ) -> RemoteJob:
        """Run a job at the server: hash and upload its files, submit it, fetch its results.

        Nothing is raised: what is wrong is the job's `error`.

        Args:
            build_request: Makes the request of the files, named by content, in the order of
                `sources`.
            sources: File here by its path in the job.
            download_to: Folder of the results, which appears when they are complete. If it exists
                and holds just these results, nothing is fetched.
            request_id: 32 lower-case hexadecimal digits. The same id with the same request is the
                same job, also after a restart; a new one where absent. While it is followed
                already, that is what is returned.
        """
        followed = self._followed(download_to)
        if followed is not None and followed.request_id == request_id:
            return followed
        remote = RemoteJob(request_id or uuid.uuid4().hex, download_to)
        job = _Job(remote)
        job.hashing = self._hash_sources(job, dict(sources), build_request)
        self._jobs.append(job)
        if not _ID.fullmatch(remote.request_id):
            text = f"expected 32 hexadecimal digits as request id, found {remote.request_id!r}"
            self._fail(job, InputError("request_id", text))
        return remote

    def attach(self, job_id: str, download_to: Path) -> RemoteJob:
        """Follow a job that was submitted before, and fetch its results.

        Nothing is raised: what is wrong is the job's `error`, `not_found` if the server knows no
        such job.

        Args:
            job_id: Given by the server then.
            download_to: As for `submit`. While the job is followed into it already, that is what is
                returned.
        """
        followed = self._followed(download_to)
        if followed is not None and followed.job_id == job_id:
            return followed
        job = _Job(RemoteJob("", download_to, JobPhase.QUEUED, job_id))
        self._jobs.append(job)
        if not _ID.fullmatch(job_id):
            text = f"expected 32 hexadecimal digits as job id, found {job_id[:64]!r}"
            self._fail(job, InputError("job_id", text))
        elif self._is_current():
            self._resume(job)
        return job.remote

    def _followed(self, download_to: Path) -> RemoteJob | None:
        """The unfinished job of a folder, if there is one: two downloads would mix there."""
        remotes = (job.remote for job in self._jobs)
        return next(
            (item for item in remotes if item.folder == download_to and not item.is_over), None
        )

    def cancel(self, remote: RemoteJob) -> None:
        """End a job early, whatever its phase; harmless if it is over."""
        job = next((job for job in self._jobs if job.remote is remote), None)
        if job is None or job.is_cancel_wanted:
            return
        if job.remote.phase is JobPhase.DOWNLOADING and job.download is not None:
            self._downloads.stop(job.download)
            shutil.rmtree(job.download.partial, ignore_errors=True)
            self._end(job, JobPhase.CANCELLED)
        elif job.remote.phase in (JobPhase.HASHING, JobPhase.UPLOADING):
            self._end(job, JobPhase.CANCELLED)
        else:
            job.is_cancel_wanted = True
            self._enter(job, JobPhase.CANCELLING)
            if job.remote.job_id and self._is_current():
                self._ask_to_cancel(job)

    def list_jobs(self, callback: Callable[[tuple[JobEvent, ...]], None]) -> None:
        """Ask for the newest event of each of the user's jobs, newest job first.

        Args:
            callback: Called in some later `poll`.
        """
        request_id = uuid.uuid4().hex
        self._listings[request_id] = callback
        if self._is_current():
            self._session.post(JobListRequest(request_id=request_id))

    def poll(self, budget_s: float = 0.008) -> bool:
        """Do what is due: read, write, hash, check, in slices.

        Args:
            budget_s: Time that may be spent; `math.inf` for as long as there is something to do.

        Returns:
            Whether anything changed that a user could see.
        """
        budget = Budget(budget_s)
        now_s = time.monotonic()
        if now_s - self._polled_s > _AWAY_S:
            self._moved_s = now_s
        before = (self.state, self.problem)
        changed = False
        self._is_idle = False
        while not self._is_idle:
            if self._step():
                changed = True
            else:
                self._is_idle = True
                self._check_stall()
            if not budget.allows_another():
                break
        self._show_transfers()
        self._polled_s = time.monotonic()
        return changed or before != (self.state, self.problem)

    def wait(self, timeout_s: float) -> None:
        """Sleep until there may be something to do; for programs with nothing else to do.

        Args:
            timeout_s: At most so long.
        """
        if self._is_idle:
            for_room = self._is_current() and self._uploads.is_sendable
            self._session.wait(timeout_s, for_room=for_room)

    # --- the slices ------------------------------------------------------------------------------

    def _step(self) -> bool:
        """One slice of everything; false if there was nothing to do."""
        received = self._session.receive()
        if received is None:
            self._session.tend()
        if self._session.is_ready and self._generation != self._session.generation:
            self._begin_session()
        did = received is not None
        if received is not None and self._is_current():
            self._handle(received)
        if self._is_current():
            if self._uploads.step():
                self._moved_s = time.monotonic()
                did = True
            did = self._downloads.step() or did
        return self._hash_slice() or did

    def _is_current(self) -> bool:
        """Whether there is a session that was told of everything unfinished."""
        return self._session.is_ready and self._generation == self._session.generation

    def _hash_slice(self) -> bool:
        job = next((job for job in self._jobs if job.hashing is not None), None)
        if job is None or job.hashing is None:
            return False
        try:
            next(job.hashing)
        except StopIteration:
            job.hashing = None
            self._enter(job, JobPhase.UPLOADING)
            if self._is_current():
                self._resume(job)
        except OSError as error:
            text = (
                f"expected to read {error.filename}, found: {error.strerror}; check the file and "
                "submit again"
            )
            self._fail(job, InputError("file_unreadable", text))
        except Ex4dError as error:
            self._fail(job, error)
        return True

    def _hash_sources(
        self,
        job: _Job,
        sources: dict[str, Path],
        build_request: Callable[[tuple[FileRef, ...]], JobRequest],
    ) -> Generator[None, None, None]:
        """Name a job's files by their content and make its request.

        Raises:
            InputError: `file_name`, or what `build_request` raises.
            TransferError: `file_changed`.
            OSError: If a file cannot be read.
        """
        total_bytes = 0
        for file in sources.values():
            total_bytes += file.stat().st_size
            yield
        job.pace = Pace(total_bytes)
        files: list[FileRef] = []
        for path, file in sources.items():
            hashing = hash_source(file)
            while True:
                try:
                    job.pace.add(next(hashing))
                except StopIteration as end:
                    source: Source = end.value
                    break
                yield
            files.append(_file_ref(path, source))
            job.sources[source.sha256] = source
            yield
        job.files = tuple(files)
        job.request = build_request(job.files)

    def _show_transfers(self) -> None:
        """Copy what the transfers have reached to where callers see it."""
        for job in self._jobs:
            pace = job.download.pace if job.download is not None else job.pace
            if pace is not None:
                job.remote.bytes_moved = pace.moved_bytes
                job.remote.bytes_total = pace.total_bytes
                job.remote.fraction = pace.fraction
                job.remote.eta_s = pace.eta_s

    def _check_stall(self) -> None:
        """Take transfers up anew if nothing came for long although something should."""
        if not self._is_current():
            return
        is_waiting = self._downloads.is_waiting or any(
            job.asked_id or (job.remote.phase is JobPhase.UPLOADING and job.missing)
            for job in self._jobs
        )
        if not is_waiting:
            self._moved_s = time.monotonic()
        elif time.monotonic() - self._moved_s > STALL_S:
            text = (
                f"expected the server to go on with a transfer, found it silent for {STALL_S:.0f} "
                "s; it is taken up anew"
            )
            self._session.restart(TransferError("stalled", text))

    # --- sessions --------------------------------------------------------------------------------

    def _begin_session(self) -> None:
        """Ask a new session for everything that is unfinished."""
        self._generation = self._session.generation
        self._moved_s = time.monotonic()
        self._uploads.forget()
        self._downloads.begin()
        for job in list(self._jobs):
            self._resume(job)
        for request_id in self._listings:
            self._session.post(JobListRequest(request_id=request_id))

    def _resume(self, job: _Job) -> None:
        """Ask for what a job needs next."""
        job.asked_id = ""
        if job.hashing is not None or job.download is not None:
            return
        if job.remote.job_id:
            job.asked_id = uuid.uuid4().hex
            self._session.post(
                JobWatch(request_id=job.asked_id, job_id=job.remote.job_id, after_seq=job.seq)
            )
            if job.is_cancel_wanted:
                self._ask_to_cancel(job)
        elif job.remote.phase is JobPhase.UPLOADING:
            self._offer(job)
        else:
            self._submit(job)

    def _offer(self, job: _Job) -> None:
        job.asked_id = uuid.uuid4().hex
        job.offers += 1
        job.missing.clear()
        self._post_for(job, BlobOffer(request_id=job.asked_id, blobs=job.files))

    def _submit(self, job: _Job) -> None:
        if not job.is_cancel_wanted:
            self._enter(job, JobPhase.SUBMITTING)
        if job.request is not None:
            # The server knows the request by its id, so asking twice is asking once.
            job.asked_id = job.remote.request_id
            self._post_for(job, JobSubmit(request_id=job.asked_id, job=job.request))

    def _post_for(self, job: _Job, message: BlobOffer | JobSubmit) -> None:
        try:
            self._session.post(message)
        except ProtocolError as error:
            self._fail(job, error)

    def _ask_to_cancel(self, job: _Job) -> None:
        job.asked_id = uuid.uuid4().hex
        self._session.post(JobCancel(request_id=job.asked_id, job_id=job.remote.job_id or ""))

    # --- messages --------------------------------------------------------------------------------

    def _handle(self, received: Received) -> None:
        message = received.message
        if isinstance(message, Welcome | TakeTimes | Paired | Pong):
            # The session has dealt with it; a sign of life is no progress.
            return
        self._moved_s = time.monotonic()
        match message:
            case BlobChunk():
                self._downloads.take(message, received.payload)
            case BlobCredit():
                self._uploads.allow(message.grant_bytes)
            case BlobDone():
                self._note_done(message.sha256)
            case BlobWant():
                self._note_want(message)
            case JobAccepted():
                self._note_accepted(message)
            case JobEvent():
                self._note_event(message)
            case JobPreview():
                self._note_preview(message, received.payload)
            case JobList():
                callback = self._listings.pop(message.in_reply_to, None)
                if callback is not None:
                    callback(message.jobs)
            case Error():
                self._note_error(message)

    def _asking(self, request_id: str) -> _Job | None:
        return next((job for job in self._jobs if job.asked_id == request_id), None)

    def _called(self, job_id: str) -> list[_Job]:
        """A job may be followed more than once."""
        return [job for job in self._jobs if job.remote.job_id == job_id]

    def _note_want(self, want: BlobWant) -> None:
        job = self._asking(want.in_reply_to)
        if job is None or job.remote.phase is not JobPhase.UPLOADING:
            return
        job.asked_id = ""
        left_bytes = 0
        for need in want.needs:
            source = job.sources.get(need.sha256)
            if source is None or need.have_bytes >= source.size_bytes:
                text = (
                    "expected the server to want bytes that were offered, found it wanting others; "
                    "update client and server"
                )
                self._session.restart(ProtocolError("message_invalid", text))
                return
            job.missing.add(need.sha256)
            left_bytes += source.size_bytes - need.have_bytes
            self._uploads.add(source, need.have_bytes)
        total_bytes = sum(source.size_bytes for source in job.sources.values())
        job.pace = Pace(total_bytes, total_bytes - left_bytes)
        if not job.missing:
            self._submit(job)

    def _note_sent(self, sha256: str, count: int) -> None:
        for job in self._jobs:
            if sha256 in job.missing and job.pace is not None:
                job.pace.add(count)

    def _note_done(self, sha256: str) -> None:
        self._uploads.remove(sha256)
        for job in list(self._jobs):
            if sha256 in job.missing:
                job.missing.discard(sha256)
                if not job.missing:
                    self._submit(job)

    def _note_accepted(self, accepted: JobAccepted) -> None:
        job = self._asking(accepted.in_reply_to)
        if job is None or job.remote.job_id:
            return
        job.asked_id = ""
        job.remote.job_id = accepted.job_id
        if job.is_cancel_wanted:
            self._ask_to_cancel(job)
        else:
            self._enter(job, JobPhase.QUEUED)

    def _note_event(self, event: JobEvent) -> None:
        for job in self._called(event.job_id):
            self._advance(job, event)

    def _advance(self, job: _Job, event: JobEvent) -> None:
        remote = job.remote
        if event.seq <= job.seq or event.attempt < remote.attempt or job.download is not None:
            return
        job.seq = event.seq
        job.asked_id = ""
        if event.attempt != remote.attempt:
            remote.preview = None
        remote.attempt = event.attempt
        if event.state == "failed":
            self._fail(job, Ex4dError(event.error_code, event.error_message))
        elif event.state == "cancelled" or (event.state == "done" and job.is_cancel_wanted):
            self._end(job, JobPhase.CANCELLED)
        elif event.state == "done":
            self._download(job, event)
        else:
            phase = JobPhase.CANCELLING if job.is_cancel_wanted else _PHASE_OF_STATE[event.state]
            self._enter(job, phase)
            remote.stage = event.stage
            remote.fraction = min(1.0, event.done / event.total) if event.total else 0.0
            remote.eta_s = event.eta_s

    def _note_preview(self, message: JobPreview, pixels: memoryview) -> None:
        if len(pixels) != message.size_bytes or len(pixels) > MAX_CHUNK_BYTES:
            text = (
                f"expected {message.size_bytes} bytes of a preview, at most {MAX_CHUNK_BYTES}, "
                f"found {len(pixels)}; update client and server"
            )
            self._session.restart(ProtocolError("message_invalid", text))
            return
        self._session.post(JobPreviewTaken(job_id=message.job_id))
        for job in self._called(message.job_id):
            if job.remote.phase is JobPhase.RUNNING and message.seq > job.preview_seq:
                job.preview_seq = message.seq
                job.remote.preview = Preview(
                    message.width_px, message.height_px, message.frame_count, bytes(pixels)
                )

    def _note_error(self, error: Error) -> None:
        if self._downloads.refuse(error):
            return
        self._listings.pop(error.in_reply_to, None)
        job = self._asking(error.in_reply_to) if error.in_reply_to else None
        if job is None:
            _log.warning("the server refused something: %s (%s)", error.message, error.code)
            return
        job.asked_id = ""
        phase = job.remote.phase
        if error.code == "blob_missing" and job.offers < _MAX_OFFERS and job.sources:
            self._enter(job, JobPhase.UPLOADING)
            self._offer(job)
        elif error.code == "not_found" and phase is JobPhase.CANCELLING:
            # What the server does not know cannot run.
            self._end(job, JobPhase.CANCELLED)
        else:
            self._fail(job, InputError(error.code, error.message))

    # --- the end of a job ------------------------------------------------------------------------

    def _download(self, job: _Job, event: JobEvent) -> None:
        def end(error: Ex4dError | None) -> None:
            self._show_transfers()
            if error is None:
                self._end(job, JobPhase.DONE)
            else:
                self._fail(job, error)

        self._enter(job, JobPhase.DOWNLOADING)
        try:
            job.download = Download(job.remote.folder, event.job_id, event.files, end)
        except ProtocolError as error:
            self._fail(job, error)
            return
        self._downloads.start(job.download)

    def _fail_upload(self, sha256: str, error: Ex4dError) -> None:
        for job in [job for job in self._jobs if sha256 in job.missing]:
            self._fail(job, error)

    def _fail(self, job: _Job, error: Ex4dError) -> None:
        job.remote.error = error
        self._end(job, JobPhase.FAILED)

    def _end(self, job: _Job, phase: JobPhase) -> None:
        """Enter a final phase and let go of what the job held."""
        if job.hashing is not None:
            job.hashing.close()
        self._jobs.remove(job)
        still_needed = {sha256 for other in self._jobs for sha256 in other.missing}
        for sha256 in job.missing - still_needed:
            self._uploads.abort(sha256)
        self._enter(job, phase)
        if phase is JobPhase.DONE:
            job.remote.fraction = 1.0

    def _enter(self, job: _Job, phase: JobPhase) -> None:
        """Begin a phase; what was shown of the last one does not hold any more."""
        remote = job.remote
        if remote.phase is not phase:
            remote.phase = phase
            remote.stage = ""
            remote.fraction = 0.0
            remote.eta_s = None
            remote.preview = None
            job.pace = None


def _file_ref(path: str, source: Source) -> FileRef:
    """Name a file for the server.

    Raises:
        InputError: `file_name`.
    """
    plain = {"path": path, "sha256": source.sha256, "size_bytes": source.size_bytes}
    try:
        return msgspec.convert(plain, FileRef)
    except msgspec.ValidationError:
        text = (
            f"expected a name of plain letters, digits, ., - and _ in one folder at most, found "
            f"{path!r}; rename the file"
        )
        raise InputError("file_name", text) from None


def run_until(
    client: Client,
    is_over: Callable[[], bool],
    *,
    timeout_s: float = math.inf,
    on_change: Callable[[], None] = lambda: None,
) -> None:
    """Poll until something holds: the whole event loop of a program that does nothing else.

    Args:
        client: Whom to poll.
        is_over: What to wait for.
        timeout_s: At most so long.
        on_change: Called after each poll in which something changed.

    Raises:
        Ex4dError: Why the server refuses the connection.
        TransferError: `timeout`.
    """
    deadline_s = time.monotonic() + timeout_s
    while not is_over():
        if client.state is ConnectionState.REFUSED and client.problem is not None:
            raise client.problem
        left_s = deadline_s - time.monotonic()
        if left_s <= 0.0:
            why = f": {client.problem.message}" if client.problem else ""
            text = f"expected an end within {timeout_s:g} s, found none{why}; try again"
            raise TransferError("timeout", text)
        if client.poll(0.05):
            on_change()
        else:
            client.wait(min(left_s, 0.5))
