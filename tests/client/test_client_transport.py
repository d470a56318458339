"""The client's socket against servers that are not what they should be, over the loopback."""

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq
from message_examples import SERVER_EXAMPLES

from ex4d.client import Client, ConnectionState, Endpoint, KeyPair
from ex4d.protocol import codec
from ex4d.protocol.messages import (
    MAX_HEADER_BYTES,
    MESSAGES_WITH_BYTES,
    BlobChunk,
    Hello,
    JobPreview,
    Limits,
    Pong,
    Welcome,
)

SERVER_KEYS = KeyPair.generate()
CHUNK = codec.encode(BlobChunk(sha256="0" * 64, offset_bytes=0))
PREVIEW = codec.encode(JobPreview(job_id="0" * 32, seq=0, width_px=2, height_px=2, frame_count=1))
PONG = codec.encode(Pong(in_reply_to="0" * 32))


class Impostor:
    """A ROUTER with CURVE that takes any key and says whatever it is told to."""

    def __init__(self, keys: KeyPair = SERVER_KEYS) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.curve_server = True
        self.socket.curve_publickey = keys.public_key.encode()
        self.socket.curve_secretkey = keys.secret_key.encode()
        self.port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.peer = b""

    def close(self) -> None:
        self.socket.close()
        self._context.term()

    def serve(self) -> None:
        """Answer `hello`, and nothing else."""
        while self.socket.poll(0):
            self.peer, magic, header, *_ = self.socket.recv_multipart()
            assert magic == codec.MAGIC
            message = codec.decode_client(header)
            if isinstance(message, Hello):
                welcome = Welcome(
                    in_reply_to=message.request_id,
                    protocol_major=1,
                    protocol_minor=0,
                    app_version="9",
                    user="anna",
                    limits=Limits(),
                    engines=(),
                    quota_left_bytes=0,
                )
                self.say(codec.MAGIC, codec.encode(welcome))

    def say(self, *frames: bytes) -> None:
        self.socket.send_multipart([self.peer, *frames])


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    impostor = Impostor()
    yield impostor
    impostor.close()


@pytest.fixture
def make_client() -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def make(port: int, server_key: str = SERVER_KEYS.public_key) -> Client:
        endpoint = Endpoint("127.0.0.1", port, server_key)
        clients.append(
            Client(endpoint, KeyPair.generate(), app_version="test", client_name="laptop")
        )
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(impostor: Impostor, make_client: Callable[..., Client]) -> Client:
    """A client that is ready."""
    client = make_client(impostor.port)
    client.connect()
    run(impostor, client, lambda: client.state is ConnectionState.READY)
    return client


def run(impostor: Impostor, client: Client, is_over: Callable[[], Any]) -> None:
    deadline_s = time.monotonic() + 20.0
    while not is_over():
        assert time.monotonic() < deadline_s, (client.state, client.problem)
        impostor.serve()
        client.poll()
        client.wait(0.01)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"GET / HTTP/1.1"], "message_invalid"),
        ([b"", PONG], "message_invalid"),
        ([codec.MAGIC], "message_invalid"),
        ([codec.MAGIC, b""], "message_invalid"),
        ([codec.MAGIC, b"\xff" * 1000], "message_invalid"),
        ([codec.MAGIC, b"\x91" * 10_000 + b"\x90"], "message_invalid"),
        ([codec.MAGIC, PONG[:-1]], "message_invalid"),
        ([codec.MAGIC, PONG + b"\x00"], "message_invalid"),
        ([codec.MAGIC, b"\xdd\x7f\xff\xff\xff"], "message_invalid"),
        ([codec.MAGIC, b"\x81\xa4type\xa5hello"], "message_invalid"),
        ([codec.MAGIC, b"\x81\xa4type\xc0"], "message_invalid"),
        ([codec.MAGIC, CHUNK], "message_invalid"),
        ([codec.MAGIC, PREVIEW], "message_invalid"),
        ([codec.MAGIC, PREVIEW, b"eleven byte"], "message_invalid"),
        ([codec.MAGIC, PONG, b"bytes"], "message_invalid"),
        ([codec.MAGIC, CHUNK, b"bytes", b"more"], "message_invalid"),
        ([codec.MAGIC, b"x" * (MAX_HEADER_BYTES + 1)], "message_invalid"),
    ],
    ids=[
        "http",
        "no_magic",
        "magic_alone",
        "empty",
        "noise",
        "nested",
        "truncated",
        "trailing",
        "huge_array",
        "clients_message",
        "no_type",
        "chunk_without_bytes",
        "preview_without_bytes",
        "preview_of_another_size",
        "bytes_without_chunk",
        "four_frames",
        "long_header",
    ],
)
def test_nonsense_ends_the_connection_and_is_named(
    impostor: Impostor, client: Client, frames: list[bytes], code: str
) -> None:
    impostor.say(*frames)
    run(impostor, client, lambda: client.problem)
    assert client.problem is not None
    assert (client.state, client.problem.code) == (ConnectionState.LOST, code)


def test_another_protocol_is_told_apart(impostor: Impostor, client: Client) -> None:
    impostor.say(b"EX4D\x02", b"whatever version 2 says")
    run(impostor, client, lambda: client.problem)
    assert client.problem is not None
    assert (client.state, client.problem.code) == (ConnectionState.REFUSED, "protocol_mismatch")


def test_oversized_frame_is_never_taken_in(impostor: Impostor, client: Client) -> None:
    impostor.say(codec.MAGIC, CHUNK, b"x" * (MAX_HEADER_BYTES + (1 << 20)))
    run(impostor, client, lambda: client.problem)
    assert client.problem is not None
    assert (client.state, client.problem.code) == (ConnectionState.LOST, "connection_lost")


def test_it_comes_back_after_nonsense(impostor: Impostor, client: Client) -> None:
    impostor.say(b"nonsense")
    run(impostor, client, lambda: client.state is ConnectionState.LOST)
    run(impostor, client, lambda: client.state is ConnectionState.READY)
    assert client.problem is None


@pytest.mark.parametrize("name", SERVER_EXAMPLES)
def test_any_message_out_of_turn_is_survived(impostor: Impostor, client: Client, name: str) -> None:
    message = SERVER_EXAMPLES[name]
    payload = [b"bytes"] if isinstance(message, MESSAGES_WITH_BYTES) else []
    if isinstance(message, JobPreview):
        payload = [bytes(message.size_bytes)]
    impostor.say(codec.MAGIC, codec.encode(message), *payload)
    called: list[object] = []
    client.list_jobs(called.append)
    for _ in range(5):
        impostor.serve()
        client.poll()
        client.wait(0.01)
    assert client.state is ConnectionState.READY
    assert not called


def test_another_servers_key_is_noticed(
    impostor: Impostor, make_client: Callable[..., Client]
) -> None:
    client = make_client(impostor.port, KeyPair.generate().public_key)
    client.connect()
    run(impostor, client, lambda: client.problem)
    assert client.problem is not None
    assert client.problem.code in ("server_key", "unreachable")
    assert not impostor.peer, "nothing was said to it"


def test_nobody_there(make_client: Callable[..., Client], impostor: Impostor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = make_client(port)
    client.connect()
    run(impostor, client, lambda: client.problem)
    assert client.problem is not None
    assert (client.state, client.problem.code) == (ConnectionState.CONNECTING, "unreachable")


def test_server_without_encryption_hears_nothing(
    impostor: Impostor, make_client: Callable[..., Client]
) -> None:
    context = zmq.Context()
    plain = context.socket(zmq.ROUTER)
    plain.linger = 0
    port = plain.bind_to_random_port("tcp://127.0.0.1")
    client = make_client(port)
    client.connect()
    run(impostor, client, lambda: client.problem)
    assert client.state is ConnectionState.CONNECTING
    assert not plain.poll(100)
    plain.close()
    context.term()
