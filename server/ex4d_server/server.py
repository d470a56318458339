"""Puts the parts together and runs them until told to stop."""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import structlog
import zmq

from ex4d.allocator import keep_freed_memory
from ex4d.errors import InputError
from ex4d.protocol.messages import FINAL_STATES

from .auth import start_authenticator
from .blobs import BlobStore
from .config import ServerConfig, private_folder, write_private
from .executors import Executor
from .executors.fake import FakeExecutor
from .executors.local import LocalExecutor
from .front import Front
from .journal import Journal
from .keys import FolderKeys, KeyRing, ServerKeys, load_server_keys
from .limits import LimitsFile
from .metrics import Health, Metric, MetricsServer, resident_bytes
from .pairing import Pairing, PairingTokens
from .scheduler import Scheduler
from .sessions import Session, Sessions
from .transfers import Downloads, Uploads
from .wire import Wire, open_socket
from .worker import PipelineJobs

_log = structlog.get_logger(__name__)

#: How often held-back events are tried again and keys are checked.
_TICK_S = 0.25
#: How often old blobs and jobs are removed.
_CLEAN_S = 3600.0
_THREADS = 4
#: Descriptors to ask for: room for all that strangers open in the ten seconds of a handshake.
_DESCRIPTORS = 65_536
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True)
class Identity:
    """Who the server is and whom it lets in."""

    server: ServerKeys
    keys: KeyRing
    limits: LimitsFile
    #: None where nobody can pair.
    pairing: Pairing | None


def identity_on_disk(data: Path) -> Identity:
    """Keys and limits from the data folder.

    Raises:
        InputError: `server_key` if the server's own are damaged, `limits_unreadable`.
    """
    keys = FolderKeys(data)
    pairing = Pairing(keys, PairingTokens(data))
    return Identity(load_server_keys(data), keys, LimitsFile(data), pairing)


def run_server(
    config: ServerConfig,
    identity: Identity,
    on_ready: Callable[[int], None],
    *,
    ends_with_stdin: bool = False,
) -> None:
    """Serve until SIGTERM, SIGINT or, where asked for, the end of standard input.

    Args:
        config: What the server is told.
        identity: Its keys, and who may have how much.
        on_ready: Called with the port once clients can connect.
        ends_with_stdin: Whether the end of standard input ends the server.

    Raises:
        InputError: If it cannot start: `data_in_use`, `journal_version`, `address_in_use`,
            `no_curve` or `nobody_authorised`.
    """
    keep_freed_memory()
    _allow_descriptors()
    # libzmq's descriptors do not work with the proactor loop, the default on Windows.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(_serve(config, identity, on_ready, ends_with_stdin=ends_with_stdin))


async def _serve(
    config: ServerConfig,
    identity: Identity,
    on_ready: Callable[[int], None],
    *,
    ends_with_stdin: bool,
) -> None:
    _check_reachable(config, identity)
    private_folder(config.data)
    async with AsyncExitStack() as stack:
        journal = Journal(config.data / "journal.sqlite3")
        stack.callback(journal.close)
        stop = _stop_event(ends_with_stdin=ends_with_stdin)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        stack.callback(context.term)
        authenticator = start_authenticator(context, identity.keys, identity.pairing)
        stack.callback(authenticator.stop)
        socket, port = open_socket(context, identity.server, config.bind, config.port)
        stack.callback(socket.close)
        wire = Wire(socket)

        threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="ex4d-disk")
        stack.callback(threads.shutdown)

        blobs = BlobStore(config.data / "blobs", config.quotas, identity.limits)
        uploads = Uploads(blobs, threads)
        stack.push_async_callback(uploads.close)
        downloads = Downloads(blobs, threads)
        stack.push_async_callback(downloads.close)

        def on_close(session: Session) -> None:
            uploads.forget(session)
            downloads.forget(session)

        sessions = Sessions(on_close)
        executor = _make_executor(config)
        scheduler = Scheduler(
            journal=journal,
            blobs=blobs,
            limits=identity.limits,
            executor=executor,
            data=config.data,
            threads=threads,
            sessions=sessions,
        )
        stack.push_async_callback(scheduler.close)

        front = Front(
            wire=wire,
            sessions=sessions,
            keys=identity.keys,
            pairing=identity.pairing,
            blobs=blobs,
            uploads=uploads,
            downloads=downloads,
            scheduler=scheduler,
        )
        if config.metrics_port is not None:
            metrics = MetricsServer(
                lambda: _measure(sessions, scheduler, blobs, journal),
                lambda: Health(
                    scheduler.is_journal_whole and blobs.disk_left_bytes() > 0,
                    journal.count_set_aside(),
                ),
            )
            await metrics.start(config.metrics_port)
            stack.callback(metrics.close)
        scheduler.start()
        front.start()
        stack.callback(wire.stop)
        tending = asyncio.create_task(_tend(front, identity.limits))
        cleaning = asyncio.create_task(_clean(journal, blobs, scheduler, config.quotas.keep_s))
        stopping = asyncio.create_task(stop.wait())
        tasks = (tending, cleaning, stopping)
        try:
            on_ready(port)
            _log.info("ready", bind=config.bind, port=port, executor=executor.name)
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                # A loop that ended by itself has failed: say why.
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            _log.info("stopping")


async def _tend(front: Front, limits: LimitsFile) -> None:
    while True:
        await asyncio.sleep(_TICK_S)
        limits.refresh()
        front.tend()


async def _clean(journal: Journal, blobs: BlobStore, scheduler: Scheduler, keep_s: float) -> None:
    while True:
        try:
            blobs.remove_old()
            scheduler.remove_old()
            journal.remove_old(keep_s)
        except (InputError, OSError) as error:
            # Tried again at the next cleaning; the blobs that went may have made room.
            _log.warning("not_cleaned", problem=str(error))
        await asyncio.sleep(_CLEAN_S)


def _measure(
    sessions: Sessions, scheduler: Scheduler, blobs: BlobStore, journal: Journal
) -> list[Metric]:
    running, queued = scheduler.count()
    ended = [
        Metric(
            f"jobs_{state}_total", "counter", f"Jobs that ended {state}.", scheduler.ended[state]
        )
        for state in sorted(FINAL_STATES)
    ]
    return [
        Metric(
            "sessions",
            "gauge",
            "Clients that said hello, until they are known to be gone.",
            len(sessions.everyone()),
        ),
        Metric("jobs_running", "gauge", "Jobs at work.", running),
        Metric("jobs_queued", "gauge", "Jobs that wait.", queued),
        *ended,
        Metric(
            "jobs_set_aside",
            "gauge",
            "Jobs whose row in the journal cannot be read.",
            journal.count_set_aside(),
        ),
        Metric("stored_bytes", "gauge", "Stored or reserved for users.", blobs.stored_bytes()),
        Metric("disk_left_bytes", "gauge", "What may still be stored.", blobs.disk_left_bytes()),
        Metric("resident_bytes", "gauge", "Main memory of the server.", resident_bytes()),
    ]


def _make_executor(config: ServerConfig) -> Executor:
    if config.executor == "fake":
        return FakeExecutor(config.fake)
    return LocalExecutor(PipelineJobs(config.idle_s), config.devices, silence_s=config.silence_s)


def _check_reachable(config: ServerConfig, identity: Identity) -> None:
    """Refuse to be on the network before anybody may come in."""
    if identity.keys.users() or (identity.pairing and identity.pairing.is_expected()):
        return
    if config.bind not in _LOOPBACK:
        msg = (
            f"expected somebody to be authorised before listening on {config.bind}, found nobody; "
            "add --pair NAME, or use `ex4d keys authorise`"
        )
        raise InputError("nobody_authorised", msg)
    _log.warning("nobody_authorised", hint="ex4d keys pair NAME")


def _allow_descriptors() -> None:
    """Ask for more descriptors: each connection takes one, a stranger's too."""
    try:
        import resource
    except ImportError:
        # Windows sets no such limit.
        return
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if most == resource.RLIM_INFINITY else min(_DESCRIPTORS, most)
    if now == resource.RLIM_INFINITY or now >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    except (OSError, ValueError) as error:
        _log.warning("descriptors_not_raised", problem=str(error))


def _stop_event(*, ends_with_stdin: bool) -> asyncio.Event:
    """An event that is set when the server shall stop."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop.set)

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    if ends_with_stdin:

        def watch() -> None:
            # Not through sys.stdin: its lock would be held for ever and trip the interpreter's end.
            while os.read(sys.stdin.fileno(), 4096):
                pass
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=watch, daemon=True).start()
    return stop


def announce(data: Path, bind: str, port: int, public_key: str) -> None:
    """Leave word in the data folder of where the server listens, for `ex4d keys pair`."""
    where = {"bind": bind, "port": port, "public_key": public_key}
    write_private(data / "server.json", json.dumps(where))
