"""The client: one session with one server, brought on by calls to `poll` that never block.

    client = Client(endpoint, keys, app_version="0.1.0", client_name="anna on laptop")
    client.connect()
    job = client.submit(build_request, {"clip.mp4": path}, folder)
    while not job.has_ended:
        client.wait(0.1)
        client.poll()

The connection may come and go: jobs go on at the server, and whatever was on its way continues
where it stopped, so that no byte crosses the wire twice.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from ..errors import CancelledError, Ex4dError, InputError, ProtocolError, TransferError
from ..protocol.documents import FileRef
from ..protocol.link import Endpoint
from ..protocol.messages import (
    FINAL_STATES,
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    BlobAbort,
    BlobChunk,
    BlobCredit,
    BlobDone,
    BlobFetch,
    BlobOffer,
    BlobWant,
    ClientMessage,
    Error,
    Hello,
    JobAccepted,
    JobCancel,
    JobEvent,
    JobList,
    JobListRequest,
    JobSubmit,
    JobWatch,
    Limits,
    Pair,
    Paired,
    Pong,
    ServerMessage,
    Welcome,
)
from .downloads import Download
from .hashing import SLICE_BYTES, FileHasher
from .jobs import BuildRequest, JobPhase, RemoteJob
from .keys import KeyPair
from .uploads import LocalBlob, Uploads
from .wire import Wire, WireEvent

#: A slice of work may take this long: the last one of a tick begins this much before its end.
_SLICE_S = 0.002
#: Waiting longer than this for an answer to `hello`, the server is taken for another program.
_HELLO_TIMEOUT_S = 15.0
#: After so long without a connection people want to know why.
_PATIENCE_S = 5.0
#: Credit goes back in portions, not per chunk.
_CREDIT_PORTION_BYTES = 2 << 20
#: A blob may vanish between upload and submission, when a full server makes room; not for ever.
_MAX_OFFERS = 3


class ConnectionState(Enum):
    """Where the session stands."""

    #: Not asked to connect, or closed.
    OFFLINE = "offline"
    CONNECTING = "connecting"
    PAIRING = "pairing"
    READY = "ready"
    #: Was ready; trying again by itself.
    LOST = "lost"
    #: The server will not have us, and trying again would not help; see `problem`.
    REFUSED = "refused"


class Client:
    """A session with a server.

    Args:
        endpoint: Whom to connect to.
        keys: Who we are.
        app_version: Of the program that uses this.
        client_name: What the server's owner shall know this client by.
    """

    def __init__(
        self, endpoint: Endpoint, keys: KeyPair, *, app_version: str, client_name: str
    ) -> None:
        self.endpoint = endpoint
        self.state = ConnectionState.OFFLINE
        self.problem: Ex4dError | None = None
        self.welcome: Welcome | None = None
        self._keys = keys
        self._app_version = app_version
        self._client_name = client_name[:64]
        self._wire: Wire | None = None
        self._token: str | None = None
        self._since_s = 0.0
        self._hello_since_s: float | None = None
        self._jobs: list[RemoteJob] = []
        self._uploads = Uploads(self._upload_failed)
        self._download_credit_bytes = 0
        self._is_window_open = False
        #: What to do with the answer to a request, and with its refusal.
        self._answers: dict[str, Callable[[Any], None]] = {}
        self._refusals: dict[str, Callable[[Ex4dError], None]] = {}
        self._has_changed = False

    # --- session ---------------------------------------------------------------------------------

    def connect(self) -> None:
        """Begin to connect to a server that knows our key."""
        self._open(ConnectionState.CONNECTING)

    def pair(self, token: str) -> None:
        """Begin to connect to a server that shall learn our key.

        Args:
            token: From the pairing link; works once.
        """
        self._token = token
        self._open(ConnectionState.PAIRING)

    def close(self) -> None:
        """End the session; jobs go on at the server, files that came in part stay."""
        self._drop_session()
        for job in self._jobs:
            job.release()
        self._close_wire()
        self.state = ConnectionState.OFFLINE

    def poll(self, budget_s: float = 0.008) -> bool:
        """Do what is due, within a time; true if anything visible changed.

        Args:
            budget_s: Seconds that this call may take; work is cut into slices of a millisecond or
                two.
        """
        deadline_s = time.perf_counter() + max(0.0, budget_s - _SLICE_S)
        self._has_changed = False
        self._note_connection()
        while True:
            did_work = self._receive()
            did_work = self._work() or did_work
            if not did_work or time.perf_counter() >= deadline_s:
                break
        return self._has_changed

    def wait(self, timeout_s: float) -> None:
        """Sleep until there is something for `poll` to do, or the time is over."""
        has_local_work = any(
            job.phase is JobPhase.HASHING or (job.download is not None and job.download.has_work)
            for job in self._jobs
            if not job.has_ended
        )
        if self._wire is None:
            time.sleep(0.0 if has_local_work else timeout_s)
        elif not has_local_work and not self._uploads.has_work:
            self._wire.wait(timeout_s)

    # --- jobs ------------------------------------------------------------------------------------

    def submit(
        self,
        build_request: BuildRequest,
        sources: Mapping[str, Path],
        download_to: Path,
        request_id: str | None = None,
    ) -> RemoteJob:
        """Send files and a job, watch it, fetch its results.

        Args:
            build_request: Makes the request once the files are hashed.
            sources: Relative path in the job -> file here.
            download_to: Folder of the results; appears when it is whole.
            request_id: 32 hexadecimal digits; the same id again is the same job. New where absent.

        Returns:
            The job; a file that cannot be read ends it at once.
        """
        job = RemoteJob(request_id or uuid.uuid4().hex, download_to)
        job.build_request = build_request
        self._jobs.append(job)
        try:
            job.hasher = FileHasher(dict(sources))
            job.enter(JobPhase.HASHING, job.hasher.bytes_total)
        except TransferError as error:
            job.fail(error)
        return job

    def attach(self, job_id: str, download_to: Path) -> RemoteJob:
        """Watch a job that was submitted before, and fetch its results."""
        job = RemoteJob(uuid.uuid4().hex, download_to)
        job.job_id = job_id
        job.enter(JobPhase.QUEUED)
        self._jobs.append(job)
        if self.state is ConnectionState.READY:
            self._watch(job)
        return job

    def cancel(self, job: RemoteJob) -> None:
        """Ask for the end of a job; harmless when it has ended."""
        if job.has_ended:
            return
        job.wants_cancel = True
        if job.phase in (JobPhase.HASHING, JobPhase.UPLOADING):
            self._abort_upload(job)
            job.fail(CancelledError())
        elif job.phase is JobPhase.DOWNLOADING and job.download is not None:
            for file in job.files:
                if job.download.wants(file.sha256):
                    self._send(BlobAbort(sha256=file.sha256))
            job.download.discard()
            job.fail(CancelledError())
        else:
            job.phase = JobPhase.CANCELLING
            if job.job_id is not None:
                self._request_cancel(job)

    def list_jobs(self, callback: Callable[[tuple[JobEvent, ...]], None]) -> None:
        """Ask for all jobs of this user, newest first; the callback gets them during a `poll`."""
        request = JobListRequest(request_id=uuid.uuid4().hex)

        def answered(answer: JobList) -> None:
            callback(answer.jobs)

        self._ask(request, answered, self._note_problem)

    # --- connection ------------------------------------------------------------------------------

    def _open(self, state: ConnectionState) -> None:
        self._close_wire()
        self.problem = None
        self.state = state
        self._since_s = time.monotonic()
        self._wire = Wire(self.endpoint, self._keys)

    def _close_wire(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def _note_connection(self) -> None:
        """Follow what becomes of the connection, and of our patience."""
        if self._wire is None:
            return
        for event in self._wire.events():
            self._on_wire_event(event)
            if self.state is ConnectionState.REFUSED:
                return
        now_s = time.monotonic()
        if self._hello_since_s is not None and now_s - self._hello_since_s > _HELLO_TIMEOUT_S:
            msg = (
                f"expected an answer from {self._place} within {_HELLO_TIMEOUT_S:.0f} s, found "
                "none; is it an EX-4D server of this version?"
            )
            self._refuse(ProtocolError("no_answer", msg))
        elif (
            self.state in (ConnectionState.CONNECTING, ConnectionState.PAIRING)
            and self.problem is None
            and now_s - self._since_s > _PATIENCE_S
        ):
            self._note_problem(self._unreachable())

    def _on_wire_event(self, event: WireEvent) -> None:
        if event is WireEvent.CONNECTED:
            self._hello_since_s = time.monotonic()
            if self._token is None:
                self._say_hello()
            else:
                pair = Pair(
                    request_id=uuid.uuid4().hex, token=self._token, client_name=self._client_name
                )
                self._ask(pair, self._on_paired, self._refuse)
        elif event is WireEvent.DISCONNECTED:
            self._drop_session()
            if self.state is ConnectionState.READY:
                self._set_state(ConnectionState.LOST)
        elif event is WireEvent.KEY_REFUSED:
            msg = (
                f"expected {self._place} to know this computer's key, found that it does not; pair "
                f"with it, or have its owner authorise {self._keys.public_key}"
            )
            self._refuse(ProtocolError("key_unknown", msg))
        elif event is WireEvent.HANDSHAKE_FAILED:
            msg = (
                f"expected the server of the pairing link at {self._place}, found one that cannot "
                "prove to be it; ask for a new link"
            )
            self._note_problem(ProtocolError("handshake_failed", msg))
        elif self.state is not ConnectionState.READY:
            self._note_problem(self._unreachable())

    @property
    def _place(self) -> str:
        return f"{self.endpoint.host}:{self.endpoint.port}"

    def _unreachable(self) -> TransferError:
        msg = (
            f"expected a server at {self._place}, found none that answers; start it, or check the "
            "address and the firewall. Trying again"
        )
        return TransferError("unreachable", msg)

    def _say_hello(self) -> None:
        hello = Hello(
            request_id=uuid.uuid4().hex,
            protocol_major=PROTOCOL_MAJOR,
            protocol_minor=PROTOCOL_MINOR,
            app_version=self._app_version,
            limits=Limits(max_chunk_bytes=SLICE_BYTES),
        )
        self._ask(hello, self._on_welcome, self._refuse)

    def _on_paired(self, _answer: Paired) -> None:
        self._token = None
        self._say_hello()

    def _on_welcome(self, welcome: Welcome) -> None:
        self._hello_since_s = None
        self.welcome = welcome
        self.problem = None
        self._uploads.start_session(welcome.limits.max_chunk_bytes)
        self._set_state(ConnectionState.READY)
        for job in self._jobs:
            self._resume(job)

    def _resume(self, job: RemoteJob) -> None:
        """Take up a job in a new session, where the last one left it."""
        if job.phase is JobPhase.UPLOADING:
            self._offer(job)
        elif job.phase is JobPhase.DOWNLOADING and job.download is not None:
            job.download.start_session()
        elif job.has_ended or job.phase is JobPhase.HASHING:
            return
        elif job.job_id is None:
            self._send_request(job)
        else:
            self._watch(job)
            if job.wants_cancel:
                self._request_cancel(job)

    def _drop_session(self) -> None:
        """The connection is gone: nothing that was asked will be answered."""
        self._uploads.end_session()
        self._answers.clear()
        self._refusals.clear()
        self._hello_since_s = None
        self._download_credit_bytes = 0
        self._is_window_open = False

    def _refuse(self, error: Ex4dError) -> None:
        self._drop_session()
        self._close_wire()
        self.problem = error
        self._set_state(ConnectionState.REFUSED)

    def _note_problem(self, error: Ex4dError) -> None:
        if self.problem is None or self.problem.code != error.code:
            self.problem = error
            self._has_changed = True

    def _set_state(self, state: ConnectionState) -> None:
        self.state = state
        self._has_changed = True

    # --- messages --------------------------------------------------------------------------------

    def _send(self, message: ClientMessage) -> bool:
        return self._wire is not None and self._wire.send(message)

    def _ask(
        self,
        request: Any,
        answered: Callable[[Any], None],
        refused: Callable[[Ex4dError], None],
    ) -> None:
        # Where this cannot be sent there is no session, and the next one asks again.
        if self._send(request):
            self._answers[request.request_id] = answered
            self._refusals[request.request_id] = refused

    def _receive(self) -> bool:
        """Deal with one message; false where there is none."""
        if self._wire is None:
            return False
        try:
            received = self._wire.receive()
        except ProtocolError as error:
            self._refuse(error)
            return True
        if received is None:
            return False
        self._dispatch(*received)
        return True

    def _dispatch(self, message: ServerMessage, payload: bytes) -> None:
        match message:
            case BlobChunk():
                self._on_chunk(message, payload)
            case BlobCredit():
                self._uploads.credit(message.grant_bytes)
            case BlobDone():
                self._on_blob_done(message.sha256)
            case JobEvent():
                self._on_event(message)
            case Error():
                self._on_error(message)
            case Pong():
                pass
            case _:
                answered = self._answers.pop(message.in_reply_to, None)
                self._refusals.pop(message.in_reply_to, None)
                if answered is not None:
                    answered(message)

    def _on_error(self, message: Error) -> None:
        error = ProtocolError(message.code, message.message)
        self._answers.pop(message.in_reply_to, None)
        refused = self._refusals.pop(message.in_reply_to, None)
        if refused is not None:
            refused(error)
        elif message.code == "hello_required":
            self._say_hello()
        else:
            self._refuse(error)

    # --- work ------------------------------------------------------------------------------------

    def _work(self) -> bool:
        """Do one slice of each kind of work; false where there was none."""
        did_work = False
        for job in self._jobs:
            try:
                did_work = self._bring_on(job) or did_work
            except Ex4dError as error:
                job.fail(error)
                self._has_changed = True
        if self._wire is not None and self._uploads.has_work:
            did_work = self._uploads.step(self._wire) > 0 or did_work
        return did_work

    def _bring_on(self, job: RemoteJob) -> bool:
        if job.phase is JobPhase.HASHING and job.hasher is not None:
            if not job.hasher.is_done:
                job.hasher.step()
                self._note_moved(job, job.hasher.bytes_done)
            else:
                self._end_hashing(job, job.hasher)
            return True
        if job.phase is JobPhase.DOWNLOADING and job.download is not None:
            return self._bring_on_download(job, job.download)
        return False

    def _note_moved(self, job: RemoteJob, bytes_moved: int) -> None:
        before = int(job.fraction * 100)
        job.moved(bytes_moved)
        # A redraw for each chunk would be seen by nobody and felt by everybody.
        self._has_changed = self._has_changed or int(job.fraction * 100) != before

    # --- uploads ---------------------------------------------------------------------------------

    def _end_hashing(self, job: RemoteJob, hasher: FileHasher) -> None:
        if job.build_request is None:
            raise InputError("request_missing", "expected a job to be made of the files")
        job.request = job.build_request(tuple(hasher.files))
        for file, (path, stamp) in zip(hasher.files, hasher.hashed, strict=True):
            job.blobs[file.sha256] = LocalBlob(path, file.sha256, file.size_bytes, stamp)
        job.hasher = None
        job.enter(JobPhase.UPLOADING, sum(blob.size_bytes for blob in job.blobs.values()))
        self._has_changed = True
        if self.state is ConnectionState.READY:
            self._offer(job)

    def _offer(self, job: RemoteJob) -> None:
        self._uploads.add(job.blobs)
        job.missing = set(job.blobs)
        offer = BlobOffer(
            request_id=uuid.uuid4().hex,
            blobs=tuple(
                FileRef(path="blob", sha256=blob.sha256, size_bytes=blob.size_bytes)
                for blob in job.blobs.values()
            ),
        )

        def wanted(want: BlobWant) -> None:
            if job.phase is not JobPhase.UPLOADING:
                return
            job.missing = {need.sha256 for need in want.needs}
            self._uploads.want(want)
            self._note_uploaded(job)

        def refused(error: Ex4dError) -> None:
            self._abort_upload(job)
            self._fail(job, error)

        self._ask(offer, wanted, refused)

    def _on_blob_done(self, sha256: str) -> None:
        self._uploads.forget(sha256)
        for job in self._jobs:
            if job.phase is JobPhase.UPLOADING and sha256 in job.missing:
                job.missing.discard(sha256)
                self._note_uploaded(job)

    def _note_uploaded(self, job: RemoteJob) -> None:
        missing_bytes = sum(job.blobs[sha256].size_bytes for sha256 in job.missing)
        self._note_moved(job, job.bytes_total - missing_bytes)
        if not job.missing:
            job.enter(JobPhase.SUBMITTING)
            self._has_changed = True
            self._send_request(job)

    def _upload_failed(self, sha256: str, error: TransferError) -> None:
        for job in self._jobs:
            if job.phase is JobPhase.UPLOADING and sha256 in job.missing:
                self._abort_upload(job)
                self._fail(job, error)

    def _abort_upload(self, job: RemoteJob) -> None:
        """Stop sending what no other job of ours needs."""
        needed: set[str] = set()
        for other in self._jobs:
            if other is not job and other.phase is JobPhase.UPLOADING:
                needed |= other.missing
        for sha256 in job.missing - needed:
            self._uploads.forget(sha256)
            self._send(BlobAbort(sha256=sha256))

    # --- requests --------------------------------------------------------------------------------

    def _send_request(self, job: RemoteJob) -> None:
        if job.request is None:
            return

        def accepted(answer: JobAccepted) -> None:
            job.job_id = answer.job_id
            if job.wants_cancel:
                self._request_cancel(job)
            elif job.phase is JobPhase.SUBMITTING:
                job.enter(JobPhase.QUEUED)
            self._has_changed = True

        def refused(error: Ex4dError) -> None:
            job.times_offered += 1
            if error.code == "blob_missing" and job.times_offered < _MAX_OFFERS:
                job.enter(JobPhase.UPLOADING, sum(blob.size_bytes for blob in job.blobs.values()))
                self._offer(job)
            else:
                self._fail(job, error)

        self._ask(JobSubmit(request_id=job.request_id, job=job.request), accepted, refused)

    def _watch(self, job: RemoteJob) -> None:
        if job.job_id is None:
            return
        watch = JobWatch(request_id=uuid.uuid4().hex, job_id=job.job_id, after_seq=job.last_seq)
        self._expect_events(watch, job)

    def _request_cancel(self, job: RemoteJob) -> None:
        if job.job_id is None:
            return
        self._expect_events(JobCancel(request_id=uuid.uuid4().hex, job_id=job.job_id), job)

    def _expect_events(self, request: JobWatch | JobCancel, job: RemoteJob) -> None:
        """Send a request that is answered by events, or refused."""
        if self._send(request):
            self._refusals[request.request_id] = lambda error: self._fail(job, error)

    def _on_event(self, event: JobEvent) -> None:
        for job in self._jobs:
            if job.job_id != event.job_id or job.has_ended or job.phase is JobPhase.DOWNLOADING:
                continue
            if not job.take(event):
                continue
            self._has_changed = True
            if event.state in FINAL_STATES:
                self._on_end(job, event)

    def _on_end(self, job: RemoteJob, event: JobEvent) -> None:
        if event.state == "failed":
            job.fail(Ex4dError(event.error_code, event.error_message))
        elif event.state == "cancelled" or job.wants_cancel:
            job.fail(CancelledError())
        else:
            self._start_download(job, event)

    def _fail(self, job: RemoteJob, error: Ex4dError) -> None:
        if not job.has_ended:
            job.fail(error)
            self._has_changed = True

    # --- downloads -------------------------------------------------------------------------------

    def _start_download(self, job: RemoteJob, event: JobEvent) -> None:
        job.files = event.files
        try:
            job.download = Download(event.files, job.folder, event.job_id)
        except TransferError as error:
            job.fail(error)
            return
        job.stage = ""
        job.enter(JobPhase.DOWNLOADING, job.download.bytes_total)

    def _bring_on_download(self, job: RemoteJob, download: Download) -> bool:
        did_work = False
        if download.has_work:
            did_work = True
            if download.step():
                job.enter(JobPhase.DONE)
                self._has_changed = True
                return True
        if self.state is ConnectionState.READY:
            self._fetch(job, download.next_fetches())
        return did_work

    def _fetch(self, job: RemoteJob, fetches: Iterable[tuple[str, int]]) -> None:
        for sha256, offset_bytes in fetches:
            fetch = BlobFetch(request_id=uuid.uuid4().hex, sha256=sha256, offset_bytes=offset_bytes)
            if self._send(fetch):
                self._refusals[fetch.request_id] = lambda error: self._fail(job, error)
            if not self._is_window_open and self.welcome is not None:
                self._is_window_open = True
                self._send(BlobCredit(grant_bytes=self.welcome.limits.window_bytes))

    def _on_chunk(self, chunk: BlobChunk, payload: bytes) -> None:
        for job in self._jobs:
            download = job.download
            if job.phase is JobPhase.DOWNLOADING and download and download.wants(chunk.sha256):
                try:
                    download.chunk(chunk.sha256, chunk.offset_bytes, payload)
                except TransferError as error:
                    self._fail(job, error)
                else:
                    self._note_moved(job, download.bytes_done)
                break
        self._download_credit_bytes += len(payload)
        if self._download_credit_bytes >= min(_CREDIT_PORTION_BYTES, self._window_bytes // 4):
            self._send(BlobCredit(grant_bytes=self._download_credit_bytes))
            self._download_credit_bytes = 0

    @property
    def _window_bytes(self) -> int:
        return Limits().window_bytes if self.welcome is None else self.welcome.limits.window_bytes
