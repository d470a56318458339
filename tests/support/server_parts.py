"""Parts of the server without its socket, for tests of what needs the right moment."""

from concurrent.futures import Executor as Threads
from pathlib import Path

from ex4d_server.blobs import BlobStore
from ex4d_server.executors import Executor
from ex4d_server.journal import Journal
from ex4d_server.limits import LimitsFile
from ex4d_server.scheduler import Scheduler
from ex4d_server.sessions import Sessions


def make_scheduler(data: Path, blobs: BlobStore, executor: Executor, threads: Threads) -> Scheduler:
    """A scheduler to which no client listens; to be made in the running event loop."""
    return Scheduler(
        journal=Journal(data / "journal.sqlite3"),
        blobs=blobs,
        limits=LimitsFile(None),
        executor=executor,
        data=data,
        threads=threads,
        sessions=Sessions(lambda session: None),
    )
