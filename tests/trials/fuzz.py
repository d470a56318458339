"""Damaged messages at full speed from a known key, and plain rubbish from nobody.

Each connection sends as many as it may before it would be shut out, so that the server reads every
single one. Beside it another client asks for signs of life all the time.
"""

import random
import socket
import threading
import time
from pathlib import Path

import psutil
import zmq
from ex4d_server.keys import FolderKeys
from ex4d_server.sessions import MAX_STRIKES
from message_examples import CLIENT_EXAMPLES
from raw_client import RawClient, new_id
from server_process import KeyPair, ServerProcess, make_key_pair

from ex4d.protocol import codec
from ex4d.protocol.messages import Error, Hello, Ping, Pong

FULL = 1_000_000
SHORT = 4_000
MEMORY_GROWTH_BYTES = 128 << 20
_THREADS = 2
_BATCH = MAX_STRIKES - 1
_PATIENCE_S = 10.0
#: How long the neighbour may wait for its answer.
_ANSWER_S = 5.0


def run(folder: Path, count: int) -> dict[str, float]:
    """Send so many messages.

    Args:
        folder: An empty one.
        count: How many.
    """
    with ServerProcess(folder / "data") as server:
        mallory, anna = make_key_pair(), make_key_pair()
        FolderKeys(server.data).authorise("mallory", mallory.public_key)
        FolderKeys(server.data).authorise("anna", anna.public_key)
        process = psutil.Process(server.pid)
        neighbour = RawClient(server, anna)
        neighbour.hello()
        before_bytes = peak_bytes = process.memory_info().rss
        senders = [_Sender(server, mallory, count // _THREADS, seed) for seed in range(_THREADS)]
        started_s = time.monotonic()
        for sender in senders:
            sender.start()
        slowest_s = 0.0
        while any(sender.is_alive() for sender in senders):
            asked_s = time.monotonic()
            neighbour.ask(Ping(request_id=new_id()), Pong)
            slowest_s = max(slowest_s, time.monotonic() - asked_s)
            peak_bytes = max(peak_bytes, process.memory_info().rss)
            _shout(server)
            time.sleep(0.02)
        seconds = time.monotonic() - started_s
        neighbour.close()
        for sender in senders:
            assert sender.failure is None, sender.failure
        assert "internal_error" not in server.log_text()
    assert slowest_s < _ANSWER_S
    assert peak_bytes - before_bytes < MEMORY_GROWTH_BYTES
    sent = sum(sender.sent for sender in senders)
    return {
        "messages": sent,
        "messages/s": sent / seconds,
        "connections": sum(sender.connections for sender in senders),
        "neighbour's slowest answer, s": slowest_s,
        "memory at rest, MiB": before_bytes / 2**20,
        "peak memory, MiB": peak_bytes / 2**20,
    }


class _Sender(threading.Thread):
    """Connects again and again, and makes sure each time that all was read."""

    def __init__(self, server: ServerProcess, keys: KeyPair, count: int, seed: int) -> None:
        super().__init__()
        self._server = server
        self._keys = keys
        self._count = count
        self._chance = random.Random(seed)
        self.sent = 0
        self.connections = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with zmq.Context() as context:
                while self.sent < self._count:
                    self._connect(context)
        except BaseException as error:
            self.failure = error

    def _connect(self, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        with context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.curve_serverkey = self._server.public_key.encode()
            dealer.curve_publickey = self._keys.public_key.encode()
            dealer.curve_secretkey = self._keys.secret_key.encode()
            dealer.connect(f"tcp://{self._server.host}:{self._server.port}")
            hello = Hello(
                request_id=new_id(), protocol_major=1, protocol_minor=1, app_version="fuzz"
            )
            dealer.send_multipart([codec.MAGIC, codec.encode(hello)])
            for _ in range(_BATCH):
                dealer.send_multipart(damaged(self._chance))
            ping = Ping(request_id=new_id())
            dealer.send_multipart([codec.MAGIC, codec.encode(ping)])
            self._hear_out(dealer, ping.request_id)
        self.sent += _BATCH
        self.connections += 1

    def _hear_out(self, dealer: "zmq.Socket[bytes]", request_id: str) -> None:
        """Wait for the last answer, or for the word that the session is over."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline_s:
            if not dealer.poll(1000):
                continue
            answer = codec.decode_server(dealer.recv_multipart()[1])
            if isinstance(answer, Pong) and answer.in_reply_to == request_id:
                return
            if isinstance(answer, Error) and answer.code in ("chunk_size", "credit_exceeded"):
                return
            if isinstance(answer, Error) and answer.code == "protocol_mismatch":
                return
        raise TimeoutError("the server no longer answers")


def damaged(chance: random.Random) -> list[bytes]:
    """Frames of a real message with some bytes changed, left out, doubled or made up."""
    header = bytearray(codec.encode(chance.choice(_EXAMPLES)))
    for _ in range(chance.choice((0, 1, 1, 2, 8))):
        place = chance.randrange(len(header))
        match chance.randrange(5):
            case 0:
                header[place] = chance.randrange(256)
            case 1:
                del header[place : place + chance.randrange(1, 9)]
            case 2:
                header[place:place] = header[place : place + chance.randrange(1, 65)]
            case 3:
                header[place:place] = chance.randbytes(chance.randrange(1, 9))
            case _:
                header[place : place + 9] = chance.choice(_NUMBERS)
        header = header or bytearray(b"\xc0")
    frames = [codec.MAGIC, bytes(header)]
    if chance.random() < 0.15:
        frames.append(chance.randbytes(chance.choice((0, 1, 100, 5000))))
    if chance.random() < 0.02:
        frames[0] = chance.choice((b"", b"EX4D", b"HTTP/1.1", b"EX4D\x01\x01"))
    return frames


_EXAMPLES = list(CLIENT_EXAMPLES.values())
#: NaN, infinity, the largest and the smallest integers, arrays and maps that claim too much.
_NUMBERS = (
    b"\xcb\x7f\xf8" + bytes(6),
    b"\xcb\x7f\xf0" + bytes(6),
    b"\xcf" + b"\xff" * 8,
    b"\xd3\x80" + bytes(7),
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x91" * 3000,
)


def _shout(server: ServerProcess) -> None:
    """Bytes that are not even ZeroMQ's, from nobody."""
    with socket.create_connection((server.host, server.port), 5) as plain:
        plain.sendall(random.randbytes(300))
