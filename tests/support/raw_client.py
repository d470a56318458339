"""The protocol spoken by hand: a blocking DEALER for tests, that can also break every rule."""

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, TypeVar

import zmq
from server_process import KeyPair, ServerProcess, make_key_pair

from ex4d.protocol import codec
from ex4d.protocol.documents import CameraPose, FileRef, TrajectoryDocument
from ex4d.protocol.messages import (
    FINAL_STATES,
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
    JobEvent,
    JobSubmit,
    JobWatch,
    Limits,
    RenderJob,
    ServerMessage,
    Welcome,
)

TIMEOUT_S = 20.0

Message = TypeVar("Message")


def new_id() -> str:
    return uuid.uuid4().hex


def file_ref(path: str, content: bytes) -> FileRef:
    return FileRef(path=path, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def render_job(files: Iterable[FileRef], frame_count: int = 3, focal_px: float = 50.0) -> RenderJob:
    pose = CameraPose(
        cam_to_world=(1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        fx_px=focal_px,
        fy_px=focal_px,
        cx_px=16.0,
        cy_px=16.0,
        source_time=0,
    )
    trajectory = TrajectoryDocument(width_px=32, height_px=32, poses=(pose,) * frame_count)
    return RenderJob(scene=tuple(files), trajectory=trajectory)


class RawClient:
    """One connection.

    Args:
        server: Whom to talk to.
        keys: Own pair; a new one that nobody knows where absent.
        port: Where, if not at the server itself.
    """

    def __init__(
        self, server: ServerProcess, keys: KeyPair | None = None, port: int | None = None
    ) -> None:
        self.keys = keys or make_key_pair()
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self.socket.curve_serverkey = server.public_key.encode()
        self.socket.curve_publickey = self.keys.public_key.encode()
        self.socket.curve_secretkey = self.keys.secret_key.encode()
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        self.socket.connect(f"tcp://{server.host}:{port or server.port}")
        self.credit_bytes = 0
        self.last_payload = b""
        #: What came while waiting for something else.
        self.unread: list[tuple[ServerMessage, bytes]] = []

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close_socket(self) -> None:
        """Be gone; harmless when it is."""
        if not self.socket.closed:
            self.socket.disable_monitor()
            self.monitor.close(linger=0)
            self.socket.close(linger=0)

    def close(self) -> None:
        self.close_socket()
        self._context.term()

    def send(self, message: ClientMessage, payload: bytes | None = None) -> None:
        frames = [codec.MAGIC, codec.encode(message)]
        self.socket.send_multipart(frames if payload is None else [*frames, payload])

    def receive(self, timeout_s: float = TIMEOUT_S) -> tuple[ServerMessage, bytes]:
        """The next message; credit is counted on the way."""
        if not self.socket.poll(timeout_s * 1000):
            raise TimeoutError("the server said nothing")
        magic, header, *payload = self.socket.recv_multipart()
        assert magic == codec.MAGIC
        message = codec.decode_server(header)
        if isinstance(message, BlobCredit):
            self.credit_bytes += message.grant_bytes
        self.last_payload = payload[0] if payload else b""
        return message, self.last_payload

    def receive_all(self, quiet_s: float) -> list[ServerMessage]:
        """All messages until nothing comes for a while."""
        messages: list[ServerMessage] = []
        while self.socket.poll(quiet_s * 1000):
            messages.append(self.receive()[0])
        return messages

    def wait_for(
        self,
        kind: type[Message],
        accept: Callable[[Message], bool] = lambda _: True,
        timeout_s: float = TIMEOUT_S,
    ) -> Message:
        """The next message of a kind; the others stay in `unread`, but an error is an error."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            message, payload = self.receive(max(0.0, deadline_s - time.monotonic()))
            if isinstance(message, kind) and accept(message):
                return message
            assert not isinstance(message, Error), message
            self.unread.append((message, payload))

    def ask(self, message: Any, kind: type[Message]) -> Message:
        """Send a request and wait for its answer."""
        self.send(message)
        return self.wait_for(
            kind, lambda answer: getattr(answer, "in_reply_to", None) == message.request_id
        )

    def ask_error(self, message: Any) -> str:
        """Send a request that is to be refused; the code of the refusal."""
        return self.ask(message, Error).code

    def hello(self, protocol_minor: int = 0, **limits: int) -> Welcome:
        hello = Hello(
            request_id=new_id(),
            protocol_major=1,
            protocol_minor=protocol_minor,
            app_version="test",
            limits=Limits(**limits),
        )
        return self.ask(hello, Welcome)

    def upload(self, contents: Iterable[bytes], chunk_bytes: int = 1 << 18) -> None:
        """Offer and send whatever the server lacks."""
        by_hash = {hashlib.sha256(content).hexdigest(): content for content in contents}
        blobs = tuple(
            FileRef(path="x", sha256=sha256, size_bytes=len(content))
            for sha256, content in by_hash.items()
        )
        want = self.ask(BlobOffer(request_id=new_id(), blobs=blobs), BlobWant)
        for need in want.needs:
            self.send_blob(by_hash[need.sha256], need.have_bytes, chunk_bytes=chunk_bytes)
            self.wait_for(BlobDone, lambda done, need=need: done.sha256 == need.sha256)

    def send_blob(
        self,
        content: bytes,
        start: int = 0,
        end: int | None = None,
        chunk_bytes: int = 1 << 18,
        sha256: str | None = None,
    ) -> None:
        """Send a part of a blob under credit."""
        sha256 = sha256 or hashlib.sha256(content).hexdigest()
        end = len(content) if end is None else end
        for offset in range(start, end, chunk_bytes):
            chunk = content[offset : min(offset + chunk_bytes, end)]
            while self.credit_bytes < len(chunk):
                self.wait_for(BlobCredit)
            self.credit_bytes -= len(chunk)
            self.send(BlobChunk(sha256=sha256, offset_bytes=offset), chunk)

    def fetch(self, file: FileRef, offset_bytes: int = 0) -> bytes:
        """Download a blob, granting credit as it comes."""
        request_id = new_id()
        self.send(BlobFetch(request_id=request_id, sha256=file.sha256, offset_bytes=offset_bytes))
        self.send(BlobCredit(grant_bytes=1 << 20))
        received = b""
        while len(received) < file.size_bytes - offset_bytes:
            message, payload = self.receive()
            if isinstance(message, BlobChunk):
                assert message.offset_bytes == offset_bytes + len(received)
                received += payload
                self.send(BlobCredit(grant_bytes=len(payload)))
            else:
                assert not isinstance(message, Error), message
        return received

    def submit(self, job: RenderJob, request_id: str | None = None) -> str:
        accepted = self.ask(JobSubmit(request_id=request_id or new_id(), job=job), JobAccepted)
        return accepted.job_id

    def watch(self, job_id: str) -> None:
        self.send(JobWatch(request_id=new_id(), job_id=job_id))

    def wait_for_end(self, job_id: str, timeout_s: float = TIMEOUT_S) -> JobEvent:
        return self.wait_for_state(job_id, *FINAL_STATES, timeout_s=timeout_s)

    def wait_for_state(self, job_id: str, *states: str, timeout_s: float = TIMEOUT_S) -> JobEvent:
        return self.wait_for(
            JobEvent,
            lambda event: event.job_id == job_id and event.state in states,
            timeout_s=timeout_s,
        )


def random_bytes(count: int) -> bytes:
    return os.urandom(count)
