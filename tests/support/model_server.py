"""A server in memory, with a network that can fail and a clock that tests set: for the client.

with ModelServer() as server:
    client = server.client()
    client.connect()
    server.settle(client)

It takes the place of the client's transport, so that no socket is opened and nothing waits.
"""

import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest import mock

from message_examples import ID
from raw_client import file_ref

from ex4d.client import Client, Endpoint, KeyPair
from ex4d.client.transport import Fate, Received
from ex4d.errors import Ex4dError
from ex4d.protocol import codec
from ex4d.protocol.documents import FileRef
from ex4d.protocol.messages import (
    BlobAbort,
    BlobChunk,
    BlobCredit,
    BlobDone,
    BlobFetch,
    BlobNeed,
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
    Ping,
    Pong,
    ServerMessage,
    Welcome,
)

KEYS = KeyPair.generate()
ENDPOINT = Endpoint("server.example", 5474, KeyPair.generate().public_key)
LIMITS = Limits(max_chunk_bytes=4096, window_bytes=16384)
JOB_ID = ID


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class ModelTransport:
    """What the client holds for its connection."""

    def __init__(self, server: "ModelServer") -> None:
        self.server = server
        self.fates = deque(server.fates)
        #: On the way to the client; an error stands for what cannot be read.
        self.incoming: deque[Received | Ex4dError] = deque()
        #: On the way to the server.
        self.outgoing: deque[tuple[ClientMessage, bytes]] = deque()
        self.is_closed = False
        self.window_bytes = 0
        self.owed_bytes = 0
        self.download_credit_bytes = 0
        #: Blobs being sent to the client: hash and offset.
        self.fetches: deque[list[Any]] = deque()

    def close(self) -> None:
        self.is_closed = True
        self.outgoing.clear()
        self.incoming.clear()

    def fate(self) -> Fate | None:
        return self.fates.popleft() if self.fates else None

    def send(self, message: ClientMessage, payload: memoryview | None = None) -> bool:
        assert not self.is_closed
        if self.server.is_full:
            return False
        # As it would arrive.
        header = codec.encode(message)
        self.outgoing.append((codec.decode_client(header), bytes(payload or b"")))
        return True

    def receive(self) -> Received | None:
        if not self.incoming:
            return None
        item = self.incoming.popleft()
        if isinstance(item, Ex4dError):
            raise item
        if isinstance(item.message, BlobChunk):
            self.server.chunks_arrived.append((item.message.offset_bytes, len(item.payload)))
        return item

    def wait(self, timeout_s: float, *, for_room: bool) -> None:
        self.server.clock.sleep(timeout_s)


class ModelServer:
    """Keeps every rule of the protocol, unless a test makes it break one.

    Attributes:
        clock: The client's clock.
        fates: What becomes of each new connection.
        blobs: What it has stored, by hash.
        parts: What of other blobs.
        results: Files that each job makes, by path.
        is_answering: Whether it says anything.
        is_full: Whether the client's socket takes nothing.
        answers: Instead of its own answer to a message of this type.
        seen: Every message that arrived.
        chunks_stored: Offset and length of each chunk that arrived here.
        chunks_arrived: The same of each that the client read.
        attempts_s: When each connection was tried.
    """

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.clock = Clock()
        self.limits = limits
        self.fates: tuple[Fate, ...] = (Fate.UP,)
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[str, bytearray] = {}
        self.results: dict[str, bytes] = {}
        self.is_answering = True
        self.is_full = False
        self.answers: dict[type, Callable[[Any], ServerMessage | None]] = {}
        self.seen: list[ClientMessage] = []
        self.chunks_stored: list[tuple[int, int]] = []
        self.chunks_arrived: list[tuple[int, int]] = []
        self.attempts_s: list[float] = []
        self.events: dict[str, JobEvent] = {}
        #: Job by request.
        self.requests: dict[str, JobSubmit] = {}
        self._offered: dict[str, FileRef] = {}
        self._link: ModelTransport | None = None
        self._patches: list[Any] = []

    def __enter__(self) -> "ModelServer":
        self._patches = [
            mock.patch("ex4d.client.session.Transport", self._open),
            mock.patch("ex4d.client.session.time", self.clock),
            mock.patch("ex4d.client.client.time", self.clock),
        ]
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for patch in self._patches:
            patch.stop()

    def _open(self, _context: object, endpoint: Endpoint, _keys: KeyPair) -> ModelTransport:
        assert endpoint == ENDPOINT
        self.attempts_s.append(self.clock.now_s)
        self._link = ModelTransport(self)
        return self._link

    @property
    def link(self) -> ModelTransport:
        """The client's newest connection."""
        assert self._link is not None
        return self._link

    @staticmethod
    def client() -> Client:
        return Client(ENDPOINT, KEYS, app_version="test", client_name="laptop")

    def seen_of(self, kind: type) -> list[Any]:
        return [message for message in self.seen if isinstance(message, kind)]

    # --- time passes -----------------------------------------------------------------------------

    def serve(self) -> bool:
        """Answer what has arrived; whether there was anything."""
        link = self.link
        did = False
        while link.outgoing:
            did = True
            message, payload = link.outgoing.popleft()
            self.seen.append(message)
            if self.is_answering:
                self._answer(message, payload)
        # Not sooner: whoever sends a burst must have had credit for all of it.
        if link.owed_bytes:
            link.window_bytes += link.owed_bytes
            self.say(BlobCredit(grant_bytes=link.owed_bytes))
            link.owed_bytes = 0
        return did

    def step(self, client: Client) -> bool:
        """One poll and one answer; whether anything happened."""
        changed = client.poll(math.inf)
        return self.serve() or changed or bool(self.link.incoming)

    def settle(self, client: Client) -> None:
        """Until nothing happens any more without time passing."""
        quiet = 0
        for _ in range(10_000):
            quiet = 0 if self.step(client) else quiet + 1
            # A new connection shows in the poll after the one that makes it.
            if quiet == 3:
                return
        raise AssertionError("this does not end")

    def pass_time(self, client: Client, seconds: float) -> None:
        """Let time pass second by second."""
        for _ in range(math.ceil(seconds)):
            self.clock.now_s += 1.0
            self.settle(client)

    def run(self, client: Client, is_over: Callable[[], bool], timeout_s: float = 600.0) -> None:
        """Let things happen until something holds."""
        deadline_s = self.clock.now_s + timeout_s
        while not is_over():
            assert self.clock.now_s < deadline_s, (client.state, client.problem)
            self.settle(client)
            self.clock.now_s += 1.0

    def cut(self) -> None:
        """Lose the connection and everything on its way."""
        self.link.incoming.clear()
        self.link.outgoing.clear()
        self.link.fates.append(Fate.DOWN)

    def say(self, message: ServerMessage, payload: bytes = b"") -> None:
        """Send a message, whatever it is; it is lost where nobody is connected."""
        if self.link.is_closed:
            return
        message = codec.decode_server(codec.encode(message))
        self.link.incoming.append(Received(message, memoryview(payload)))

    def tell(self, job_id: str, /, **changes: Any) -> None:
        """Send a job's next event."""
        event = self.events[job_id]
        values = {name: getattr(event, name) for name in event.__struct_fields__}
        self.events[job_id] = JobEvent(**{**values, "seq": event.seq + 1, **changes})
        self.say(self.events[job_id])

    def finish(self, job_id: str) -> None:
        """End a job with `results`."""
        files = tuple(file_ref(path, content) for path, content in self.results.items())
        self.blobs.update(zip((file.sha256 for file in files), self.results.values(), strict=True))
        self.tell(job_id, state="done", files=files)

    # --- answers ---------------------------------------------------------------------------------

    def _answer(self, message: ClientMessage, payload: bytes) -> None:
        if type(message) in self.answers:
            answer = self.answers[type(message)](message)
            if answer is not None:
                self.say(answer)
            return
        if isinstance(message, JobSubmit | JobWatch | JobCancel | JobListRequest):
            self._answer_about_jobs(message)
        elif isinstance(message, Hello | Pair | Ping):
            self._answer_about_sessions(message)
        else:
            self._answer_about_blobs(message, payload)

    def _answer_about_sessions(self, message: Hello | Pair | Ping) -> None:
        match message:
            case Hello(request_id=request_id):
                self.say(self.welcome(request_id))
            case Pair(request_id=request_id):
                self.say(Paired(in_reply_to=request_id, user="anna"))
            case Ping(request_id=request_id):
                self.say(Pong(in_reply_to=request_id))

    def _answer_about_blobs(self, message: ClientMessage, payload: bytes) -> None:
        match message:
            case BlobOffer():
                self._offer(message)
            case BlobChunk():
                self._chunk(message, payload)
            case BlobCredit(grant_bytes=grant_bytes):
                self.link.download_credit_bytes += grant_bytes
                self._send_chunks()
            case BlobFetch():
                self._fetch(message)
            case BlobAbort(sha256=sha256):
                self.link.fetches = deque(item for item in self.link.fetches if item[0] != sha256)

    def _answer_about_jobs(
        self, message: JobSubmit | JobWatch | JobCancel | JobListRequest
    ) -> None:
        match message:
            case JobSubmit():
                self._submit(message)
            case JobWatch(request_id=request_id, job_id=job_id, after_seq=after_seq):
                self._event(request_id, job_id, after_seq)
            case JobCancel(request_id=request_id, job_id=job_id):
                if self.events.get(job_id) and self.events[job_id].state in ("queued", "running"):
                    self.tell(job_id, state="cancelled")
                else:
                    self._event(request_id, job_id, -1)
            case JobListRequest(request_id=request_id):
                self.say(JobList(in_reply_to=request_id, jobs=tuple(self.events.values())))

    def welcome(self, request_id: str, protocol_major: int = 1) -> Welcome:
        return Welcome(
            in_reply_to=request_id,
            protocol_major=protocol_major,
            protocol_minor=0,
            app_version="9",
            user="anna",
            limits=self.limits,
            engines=(),
            quota_left_bytes=1 << 30,
        )

    def _offer(self, offer: BlobOffer) -> None:
        needs = []
        for blob in offer.blobs:
            self._offered[blob.sha256] = blob
            if blob.sha256 not in self.blobs and blob.size_bytes:
                part = self.parts.setdefault(blob.sha256, bytearray())
                needs.append(BlobNeed(sha256=blob.sha256, have_bytes=len(part)))
        self.say(BlobWant(in_reply_to=offer.request_id, needs=tuple(needs)))
        if needs and not self.link.window_bytes:
            self.link.window_bytes = self.limits.window_bytes
            self.say(BlobCredit(grant_bytes=self.limits.window_bytes))

    def _chunk(self, chunk: BlobChunk, payload: bytes) -> None:
        assert 0 < len(payload) <= self.limits.max_chunk_bytes
        self.link.window_bytes -= len(payload)
        assert self.link.window_bytes >= 0, "more was sent than was granted"
        part = self.parts[chunk.sha256]
        assert chunk.offset_bytes == len(part), "sent out of order, or twice"
        self.chunks_stored.append((chunk.offset_bytes, len(payload)))
        part += payload
        self.link.owed_bytes += len(payload)
        if len(part) == self._offered[chunk.sha256].size_bytes:
            self.blobs[chunk.sha256] = bytes(self.parts.pop(chunk.sha256))
            self.say(BlobDone(sha256=chunk.sha256))

    def _fetch(self, fetch: BlobFetch) -> None:
        if fetch.sha256 not in self.blobs:
            text = "expected a blob of yours, found none"
            self.say(Error(in_reply_to=fetch.request_id, code="not_found", message=text))
            return
        self.link.fetches.append([fetch.sha256, fetch.offset_bytes])
        self._send_chunks()

    def _send_chunks(self) -> None:
        link = self.link
        while link.fetches and link.download_credit_bytes:
            sha256, offset = link.fetches[0]
            most = min(self.limits.max_chunk_bytes, link.download_credit_bytes)
            payload = self.blobs[sha256][offset : offset + most]
            if not payload:
                link.fetches.popleft()
                continue
            link.fetches[0][1] += len(payload)
            link.download_credit_bytes -= len(payload)
            self.say(BlobChunk(sha256=sha256, offset_bytes=offset), payload)

    def _submit(self, submit: JobSubmit) -> None:
        known = self.requests.setdefault(submit.request_id, submit)
        assert known == submit, "another job under the same name"
        job_id = JOB_ID if len(self.requests) == 1 else submit.request_id
        if job_id not in self.events:
            self.events[job_id] = JobEvent(
                job_id=job_id,
                seq=0,
                state="queued",
                attempt=0,
                stage="",
                done=0,
                total=0,
                eta_s=None,
                error_code="",
                error_message="",
                files=(),
            )
        self.say(JobAccepted(in_reply_to=submit.request_id, job_id=job_id))
        self.say(self.events[job_id])

    def _event(self, request_id: str, job_id: str, after_seq: int) -> None:
        event = self.events.get(job_id)
        if event is None:
            text = "expected a job of yours, found none"
            self.say(Error(in_reply_to=request_id, code="not_found", message=text))
        elif event.seq > after_seq:
            self.say(event)


def written(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
