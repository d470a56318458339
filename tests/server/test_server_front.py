"""What the server lets in, and what it makes of rubbish."""

import socket
import threading
import time
from collections.abc import Callable

import msgpack
import msgspec
import psutil
import pytest
import zmq
from ex4d_server.keys import FolderKeys
from raw_client import RawClient, file_ref, new_id, random_bytes, render_job
from server_process import ServerProcess
from server_users import add_user

from ex4d.protocol import codec
from ex4d.protocol.messages import (
    ESTIMATORS_MINOR,
    BlobFetch,
    BlobOffer,
    BlobWant,
    Error,
    Hello,
    JobCancel,
    JobList,
    JobListRequest,
    JobSubmit,
    JobWatch,
    Ping,
    Pong,
)

Connect = Callable[..., RawClient]


def header(message: object) -> bytes:
    return msgpack.packb(msgspec.to_builtins(message))


def test_welcome_says_versions_and_limits(server: ServerProcess, connect: Connect) -> None:
    user, keys = add_user(server)
    welcome = connect(server, keys).hello(max_chunk_bytes=8192, window_bytes=1 << 28)
    assert welcome.user == user
    assert welcome.protocol_major == 1
    assert welcome.limits.max_chunk_bytes == 8192, "the client's was smaller"
    assert welcome.limits.window_bytes == 16 << 20, "the server's was smaller"
    assert [engine.name for engine in welcome.engines] == ["preview"]


def test_clients_that_know_of_estimators_hear_of_them(
    server: ServerProcess, connect: Connect
) -> None:
    client = connect(server, add_user(server)[1])
    assert client.hello(protocol_minor=ESTIMATORS_MINOR - 1).estimators == ()
    (estimator,) = client.hello(protocol_minor=ESTIMATORS_MINOR).estimators
    assert not estimator.available
    assert "pretends" in estimator.reason


def test_other_major_version_is_told_so(server: ServerProcess, connect: Connect) -> None:
    client = connect(server, add_user(server)[1])
    hello = Hello(request_id=new_id(), protocol_major=2, protocol_minor=0, app_version="9.0")
    assert client.ask_error(hello) == "protocol_mismatch"


def test_other_magic_version_is_told_so(server: ServerProcess, connect: Connect) -> None:
    client = connect(server, add_user(server)[1])
    client.socket.send_multipart([b"EX4D\x02", b"whatever the future holds"])
    assert client.wait_for(Error).code == "protocol_mismatch"


@pytest.mark.parametrize(
    "message",
    [
        Ping(request_id="0" * 32),
        BlobOffer(request_id="0" * 32, blobs=()),
        JobListRequest(request_id="0" * 32),
    ],
    ids=lambda message: type(message).__name__,
)
def test_hello_comes_first(server: ServerProcess, connect: Connect, message: object) -> None:
    assert connect(server, add_user(server)[1]).ask_error(message) == "hello_required"


def nan_job() -> bytes:
    job = JobSubmit(request_id=new_id(), job=render_job([], focal_px=50.0))
    plain = msgspec.to_builtins(job)
    plain["job"]["trajectory"]["poses"][0]["cx_px"] = float("nan")
    return msgpack.packb(plain)


NESTED = b"\x91" * 100_000 + b"\xc0"
RUBBISH = {
    "nothing": [b""],
    "one_frame": [codec.MAGIC],
    "wrong_magic": [b"HTTP/1.1", b""],
    "long_magic": [b"EX4D\x01" * 1000, b""],
    "no_header": [codec.MAGIC, b""],
    "not_messagepack": [codec.MAGIC, b"\xc1\xff\x00"],
    "nesting_bomb": [codec.MAGIC, NESTED],
    "array_bomb": [codec.MAGIC, b"\xdd\xff\xff\xff\xff"],
    "unknown_type": [codec.MAGIC, msgpack.packb({"type": "exec", "request_id": "0" * 32})],
    "unknown_field": [
        codec.MAGIC,
        msgpack.packb({"type": "ping", "request_id": "0" * 32, "more": 1}),
    ],
    "server_message": [codec.MAGIC, header(Pong(in_reply_to="0" * 32))],
    "not_a_number": [codec.MAGIC, nan_job()],
    "trailing_bytes": [codec.MAGIC, header(Ping(request_id="0" * 32)) + b"\x00"],
    "oversized_header": [codec.MAGIC, b"\x00" * (4 * 2**20 + 1)],
    "payload_without_chunk": [codec.MAGIC, header(Ping(request_id="0" * 32)), b"x"],
    "four_frames": [codec.MAGIC, header(Ping(request_id="0" * 32)), b"x", b"y"],
    "fifty_frames": [codec.MAGIC, *[b"x" * 1000] * 49],
}


@pytest.mark.parametrize("frames", RUBBISH.values(), ids=RUBBISH.keys())
def test_rubbish_is_refused_and_hurts_nobody(
    server: ServerProcess, client: RawClient, connect: Connect, frames: list[bytes]
) -> None:
    other = connect(server, add_user(server)[1])
    other.hello()
    client.socket.send_multipart(frames)
    assert client.wait_for(Error).code == "message_invalid"
    assert client.ask(Ping(request_id=new_id()), Pong)
    assert other.ask(Ping(request_id=new_id()), Pong)


def test_frame_beyond_the_socket_limit_ends_the_connection_only(
    server: ServerProcess, client: RawClient, connect: Connect
) -> None:
    other = connect(server, add_user(server)[1])
    other.hello()
    client.socket.send_multipart([codec.MAGIC, bytes(5 * 2**20)])
    # libzmq reconnects by itself; for the server that is a new connection.
    with pytest.raises(TimeoutError):
        client.receive(timeout_s=0.5)
    assert client.ask_error(Ping(request_id=new_id())) == "hello_required"
    assert other.ask(Ping(request_id=new_id()), Pong)


def test_persistent_rubbish_is_answered_seldom_then_never(
    server: ServerProcess, client: RawClient, connect: Connect
) -> None:
    for _ in range(200):
        client.socket.send_multipart([codec.MAGIC, b"\xc1"])
    answers = client.receive_all(quiet_s=0.5)
    assert 1 <= len(answers) <= 15
    assert all(isinstance(answer, Error) for answer in answers)
    client.send(Ping(request_id=new_id()))
    with pytest.raises(TimeoutError):
        client.receive(timeout_s=0.3)
    again = connect(server, client.keys)
    again.hello()


def test_unknown_key_does_not_get_in(server: ServerProcess, connect: Connect) -> None:
    stranger = connect(server)
    stranger.send(Ping(request_id=new_id()))
    assert stranger.monitor.poll(5000), "the handshake was not refused"
    with pytest.raises(TimeoutError):
        stranger.receive(timeout_s=0.3)


def test_plain_zeromq_does_not_get_in(server: ServerProcess) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as plain:
        plain.linger = 0
        plain.connect(f"tcp://127.0.0.1:{server.port}")
        plain.send_multipart([codec.MAGIC, header(Ping(request_id=new_id()))])
        assert not plain.poll(500)


def test_revoked_user_is_out_at_once(server: ServerProcess, connect: Connect) -> None:
    user, keys = add_user(server)
    client = connect(server, keys)
    client.hello()
    FolderKeys(server.data).revoke(user)
    # Without a word from the client: the server looks by itself.
    assert client.wait_for(Error, timeout_s=3).code == "key_revoked"
    client.send(Ping(request_id=new_id()))
    with pytest.raises(TimeoutError):
        client.receive(timeout_s=0.3)
    again = connect(server, keys)
    assert again.monitor.poll(5000), "the handshake was not refused"


def test_what_is_anothers_does_not_exist(
    server: ServerProcess, client: RawClient, connect: Connect
) -> None:
    """Every answer is the one for something that never was."""
    content = random_bytes(5000)
    client.upload([content])
    job = render_job([file_ref("scene.json", content)])
    job_id = client.submit(job)
    result = client.wait_for_end(job_id).files[0]

    other = connect(server, add_user(server)[1])
    other.hello()
    for sha256 in (job.scene[0].sha256, result.sha256, "0" * 64):
        fetch = BlobFetch(request_id=new_id(), sha256=sha256, offset_bytes=0)
        assert other.ask_error(fetch) == "not_found"
    for unknown in (job_id, "0" * 32):
        assert other.ask_error(JobWatch(request_id=new_id(), job_id=unknown)) == "not_found"
        assert other.ask_error(JobCancel(request_id=new_id(), job_id=unknown)) == "not_found"
    assert other.ask(JobListRequest(request_id=new_id()), JobList).jobs == ()
    assert other.ask_error(JobSubmit(request_id=new_id(), job=job)) == "blob_missing"
    want = other.ask(BlobOffer(request_id=new_id(), blobs=job.scene), BlobWant)
    assert [need.have_bytes for need in want.needs] == [0]
    assert [event.job_id for event in client.ask(JobListRequest(request_id=new_id()), JobList).jobs]


class Eavesdropper:
    """Passes bytes on between a client and the server, and keeps them."""

    def __init__(self, server_port: int) -> None:
        self.heard = bytearray()
        #: The client's part of it.
        self.sent = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._server_port = server_port
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._server_port))
        for source, target, kept in ((near, far, self.sent), (far, near, bytearray())):
            arguments = (source, target, kept)
            thread = threading.Thread(target=self._pass_on, args=arguments, daemon=True)
            thread.start()

    def _pass_on(self, source: socket.socket, target: socket.socket, kept: bytearray) -> None:
        with source, target:
            try:
                while data := source.recv(65536):
                    self.heard += data
                    kept += data
                    target.sendall(data)
            except OSError:
                return


def test_eavesdropper_learns_nothing(server: ServerProcess, connect: Connect) -> None:
    spy = Eavesdropper(server.port)
    _, keys = add_user(server)
    client = connect(server, keys, port=spy.port)
    client.hello()
    content = b"the director's secret cut " * 1000
    client.upload([content])
    job_id = client.submit(render_job([file_ref("scene.json", content)]))
    event = client.wait_for_end(job_id)
    assert client.fetch(event.files[0]).startswith(b"\x89PNG")
    spy.close()
    assert len(spy.heard) > len(content), "the proxy was not used"
    for word in (
        b"secret",
        b"scene.json",
        b"hello",
        b"PNG",
        job_id.encode(),
        keys.public_key.encode(),
    ):
        assert word not in spy.heard


def test_recorded_connection_cannot_be_played_again(
    server: ServerProcess, connect: Connect
) -> None:
    spy = Eavesdropper(server.port)
    client = connect(server, add_user(server)[1], port=spy.port)
    client.hello()
    content = random_bytes(1000)
    client.upload([content])
    client.wait_for_end(client.submit(render_job([file_ref("scene.json", content)])))
    sent = bytes(spy.sent)
    client.close_socket()
    spy.close()
    assert len(sent) > len(content), "the proxy was not used"
    with socket.create_connection(("127.0.0.1", server.port), 5) as thief:
        thief.sendall(sent)
        thief.settimeout(3)
        answer = b""
        try:
            while data := thief.recv(65536):
                answer += data
        except (TimeoutError, ConnectionResetError):
            pass
    # The greeting and the handshake's first answer, whose keys are new each time.
    assert len(answer) < 64 + 200 + 64
    assert b"READY" not in answer
    again = connect(server, client.keys)
    again.hello()
    jobs = again.ask(JobListRequest(request_id=new_id()), JobList).jobs
    assert len(jobs) == 1


def test_hostile_floods_leave_memory_bounded(server: ServerProcess, client: RawClient) -> None:
    """Rubbish at full speed from one who never reads the answers."""
    process = psutil.Process(server.pid)
    before_bytes = process.memory_info().rss
    rubbish = [codec.MAGIC, b"\xc1" * (1 << 20)]
    deadline_s = time.monotonic() + 1.5
    while time.monotonic() < deadline_s:
        client.socket.poll(100, zmq.POLLOUT)
        try:
            client.socket.send_multipart(rubbish, zmq.NOBLOCK)
        except zmq.Again:
            continue
    assert process.memory_info().rss - before_bytes < 200 << 20
