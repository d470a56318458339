"""A file to a server and back, against what the same machine does with the same bytes otherwise.

A real server process on the loopback, with the `fake` executor in a temporary folder, and the real
client: driven as the command line drives it, and within the time that Blender's pump gives it. The
bytes are encrypted, hashed at both ends and written to files; like the bound of file writing, the
transfer does not wait until they are forced out to the disk.

The bounds: copying memory, SHA-256 on one core, writing a file, a plain TCP socket and a ZeroMQ
socket that encrypts (CURVE) and does nothing else, the last two from process to process.
"""

import hashlib
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import zmq

from ex4d import __version__
from ex4d.allocator import keep_freed_memory
from ex4d.client import Client, Endpoint, JobPhase, KeyPair, RemoteJob, run_until
from ex4d.protocol.documents import FileRef
from ex4d.protocol.messages import ReconstructJob

from .timing import REPEATS, best_s

MB = 1_000_000
FILE_BYTES = 512 * MB
#: What bounds are measured with: enough to last longer than any start-up.
_BOUND_BYTES = 256 * MB
#: As large as the client's chunks.
_BLOCK_BYTES = 256 << 10

#: The time of Blender's pump and its pauses: while bytes move and otherwise. They are
#: `blender_addon/pump.py`'s, which nothing here may import.
TICK_BUDGET_S = 0.008
BUSY_PAUSE_S = 1 / 125
WAITING_PAUSE_S = 0.1
_TRANSFERRING = (JobPhase.HASHING, JobPhase.UPLOADING, JobPhase.DOWNLOADING)


class Tick(NamedTuple):
    """How long a poll took, in seconds."""

    #: By the clock: on a busy machine other programs' turns count as well.
    passed_s: float
    #: Of the processor's time.
    used_s: float

    def or_longer(self, other: "Tick") -> "Tick":
        """The longer one of two, in either way."""
        return Tick(max(self.passed_s, other.passed_s), max(self.used_s, other.used_s))


class Figures(NamedTuple):
    """Of one file's way to the server and back, in bytes a second."""

    hashing: float
    upload: float
    download: float
    longest_tick: "Tick"


class _Begin(NamedTuple):
    """When a phase began: after the one moment and before the other."""

    after_s: float
    before_s: float


class _Watch:
    """Notes when a job's phases begin.

    Args:
        job: The job, submitted just now.
    """

    def __init__(self, job: RemoteJob) -> None:
        self.job = job
        self.begins: dict[JobPhase, _Begin] = {}
        self._last_s = time.perf_counter()

    def is_over(self) -> bool:
        """Whether the job is over; to be asked before each poll."""
        now_s = time.perf_counter()
        self.begins.setdefault(self.job.phase, _Begin(self._last_s, now_s))
        self._last_s = now_s
        return self.job.is_over

    def end_of(self, phase: JobPhase) -> float:
        """Moment at which a phase was over for certain."""
        phases = list(self.begins)
        return self.begins[phases[phases.index(phase) + 1]].before_s


def poll_freely(client: Client, watch: _Watch) -> Tick:
    """As the command line does, which waits for nothing else: its polls are not timed."""
    run_until(client, watch.is_over)
    return Tick(0.0, 0.0)


def poll_as_blender(client: Client, watch: _Watch) -> Tick:
    """As Blender's pump does, which leaves the rest of the time to Blender; the longest poll."""
    longest = Tick(0.0, 0.0)
    while not watch.is_over():
        start = Tick(time.perf_counter(), time.thread_time())
        client.poll(TICK_BUDGET_S)
        tick = Tick(time.perf_counter() - start.passed_s, time.thread_time() - start.used_s)
        longest = longest.or_longer(tick)
        is_busy = watch.job.phase in _TRANSFERRING
        time.sleep(BUSY_PAUSE_S if is_busy else WAITING_PAUSE_S)
    return longest


@contextmanager
def running_server(folder: Path, keys: KeyPair) -> Iterator[Endpoint]:
    """A server process that knows these keys and ends with the block."""
    command = [sys.executable, "-m", "ex4d", "serve", "--local", "--data", str(folder)]
    command += ["--executor", "fake", "--fake-frame-s", "0"]
    handover = json.dumps({"user": "bench", "client_public_key": keys.public_key})
    with (
        (folder.with_name("log.txt")).open("wb") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        ) as server,
    ):
        assert server.stdin and server.stdout  # noqa: S101, PT018 - both are pipes
        server.stdin.write(handover.encode() + b"\n")
        server.stdin.flush()
        greeting = json.loads(server.stdout.readline())
        host, _, port = greeting["endpoint"].rpartition(":")
        try:
            yield Endpoint(host, int(port), greeting["server_public_key"])
        finally:
            # Its parent's end of the pipe is what it lives by.
            server.stdin.close()
            server.wait(30)


def move_file(path: Path, folder: Path, poll: Callable[[Client, _Watch], Tick]) -> Figures:
    """Send a file to a new server, have it handed back, and fetch it.

    Args:
        path: The file.
        folder: Empty; everything is made in it.
        poll: Drives the client to the end of a job.
    """
    keys = KeyPair.generate()
    hashed_s: list[float] = []

    def build(files: tuple[FileRef, ...]) -> ReconstructJob:
        hashed_s.append(time.perf_counter())
        # The fake executor makes results of the job's files themselves.
        return ReconstructJob(files=files, clip="file", depth="file", name="bench")

    with running_server(folder / "data", keys) as endpoint:
        client = Client(endpoint, keys, app_version=__version__, client_name="bench")
        try:
            client.connect()
            run_until(client, lambda: client.welcome is not None, timeout_s=30.0)
            start_s = time.perf_counter()
            watch = _Watch(client.submit(build, {"file": path}, folder / "result"))
            longest_tick = poll(client, watch)
            if watch.job.error is not None:
                raise watch.job.error
        finally:
            client.close()
    size_bytes = path.stat().st_size
    return Figures(
        size_bytes / (hashed_s[0] - start_s),
        size_bytes / (watch.end_of(JobPhase.UPLOADING) - hashed_s[0]),
        size_bytes
        / (watch.end_of(JobPhase.DOWNLOADING) - watch.begins[JobPhase.DOWNLOADING].after_s),
        longest_tick,
    )


def move_best(folder: Path, poll: Callable[[Client, _Watch], Tick]) -> Figures:
    """The best of five of each figure but the longest tick, which is the longest of all."""
    runs: list[Figures] = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory(dir=folder) as run_folder:
            path = Path(run_folder) / "file"
            path.write_bytes(os.urandom(FILE_BYTES))
            runs.append(move_file(path, Path(run_folder), poll))
    hashing, upload, download, ticks = zip(*runs, strict=True)
    return Figures(max(hashing), max(upload), max(download), reduce(Tick.or_longer, ticks))


# --- bounds --------------------------------------------------------------------------------------


def copy_rate() -> float:
    """Bytes a second that memory can be copied at, on one thread."""
    source = memoryview(bytearray(os.urandom(_BOUND_BYTES)))
    target = memoryview(bytearray(_BOUND_BYTES))

    def copy() -> None:
        target[:] = source

    return _BOUND_BYTES / best_s(copy)


def hash_rate() -> float:
    """Bytes a second that SHA-256 handles on one core, from memory."""
    block = os.urandom(_BLOCK_BYTES)

    def digest() -> None:
        state = hashlib.sha256()
        for _ in range(_BOUND_BYTES // _BLOCK_BYTES):
            state.update(block)

    return _BOUND_BYTES / best_s(digest)


def write_rate(folder: Path) -> float:
    """Bytes a second that a new file takes, without waiting for the disk."""
    block = os.urandom(_BLOCK_BYTES)

    def write() -> None:
        with (folder / "written").open("wb", buffering=0) as file:
            for _ in range(_BOUND_BYTES // _BLOCK_BYTES):
                file.write(block)
        (folder / "written").unlink()

    return _BOUND_BYTES / best_s(write)


@contextmanager
def _receiver(main: Callable[..., None], *arguments: Any) -> Iterator[int]:
    """A process that receives `REPEATS` times; the port that it listens at."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=main, args=(theirs, *arguments), daemon=True)
    process.start()
    try:
        yield ours.recv()
        process.join(30)
    finally:
        process.kill()


def _receive_tcp(pipe: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pipe.send(listener.getsockname()[1])
        buffer = bytearray(_BLOCK_BYTES)
        for _ in range(REPEATS):
            connection, _ = listener.accept()
            with connection:
                while connection.recv_into(buffer):
                    pass


def tcp_rate() -> float:
    """Bytes a second from one process to another, through a plain socket."""
    block = os.urandom(_BLOCK_BYTES)

    def send(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            for _ in range(_BOUND_BYTES // _BLOCK_BYTES):
                connection.sendall(block)
            connection.shutdown(socket.SHUT_WR)
            # The other end closes when it has read all.
            connection.recv(1)

    with _receiver(_receive_tcp) as port:
        return _BOUND_BYTES / best_s(lambda: send(port))


def _encrypted_socket(context: "zmq.Context[Any]", keys: KeyPair, server_key: str = "") -> Any:
    """One end of a pair that lets about as much wait as the client's window does."""
    end = context.socket(zmq.DEALER)
    end.curve_publickey = keys.public_key.encode()
    end.curve_secretkey = keys.secret_key.encode()
    if server_key:
        end.curve_serverkey = server_key.encode()
    else:
        end.curve_server = True
    end.set_hwm(32)
    return end


def _receive_curve(pipe: Connection, keys: KeyPair) -> None:
    with zmq.Context() as context, _encrypted_socket(context, keys) as end:
        pipe.send(end.bind_to_random_port("tcp://127.0.0.1"))
        for _ in range(REPEATS):
            while end.recv(copy=False).bytes:
                pass
            end.send(b"all here")


def curve_rate() -> float:
    """Bytes a second from one process to another through ZeroMQ with CURVE, and nothing else."""
    block = os.urandom(_BLOCK_BYTES)
    keys, server_keys = KeyPair.generate(), KeyPair.generate()
    with (
        _receiver(_receive_curve, server_keys) as port,
        zmq.Context() as context,
        _encrypted_socket(context, keys, server_keys.public_key) as end,
    ):
        end.connect(f"tcp://127.0.0.1:{port}")

        def send() -> None:
            for _ in range(_BOUND_BYTES // _BLOCK_BYTES):
                end.send(block)
            end.send(b"")
            end.recv()

        return _BOUND_BYTES / best_s(send)


def report(name: str, rate: float, bound: float | None = None) -> None:
    """Print a line: megabytes a second, and the share of the bound."""
    share = "" if bound is None else f"   bound {bound / MB:6.0f} MB/s {rate / bound:7.0%}"
    print(f"{name:36}{rate / MB:9.0f} MB/s{share}")


def run() -> None:
    """Print the table."""
    load = f", load {os.getloadavg()[0]:.1f} before the start" if sys.platform != "win32" else ""
    print(f"{os.cpu_count()} cores{load}, best of {REPEATS}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copying, hashing, writing = copy_rate(), hash_rate(), write_rate(folder)
        curve = curve_rate()
        report("memory copy", copying)
        report("SHA-256, one core", hashing)
        report("file write", writing)
        report("plain TCP socket", tcp_rate())
        report("ZeroMQ with CURVE", curve)
        print(f"{FILE_BYTES // MB} MB")
        # Blender first: only the command line changes how its process keeps memory.
        in_blender = move_best(folder, poll_as_blender)
        keep_freed_memory()
        freely = move_best(folder, poll_freely)
        for name, figures in (("Blender", in_blender), ("command line", freely)):
            report(f"{name}, file hashed", figures.hashing, hashing)
            report(f"{name}, up", figures.upload, curve)
            report(f"{name}, down", figures.download, curve)
    passed_ms, used_ms = (1e3 * seconds for seconds in in_blender.longest_tick)
    print(
        f"Blender, longest tick               {passed_ms:9.2f} ms   "
        f"{used_ms:.2f} ms of the processor, budget {TICK_BUDGET_S * 1e3:.0f} ms"
    )
