"""Parts of the server without its socket, for tests of what needs the right moment."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path

from ex4d_server.blobs import BlobStore
from ex4d_server.executors import Executor
from ex4d_server.journal import Journal
from ex4d_server.limits import LimitsFile
from ex4d_server.scheduler import Scheduler
from ex4d_server.sessions import Sessions


@asynccontextmanager
async def running_scheduler(
    data: Path, blobs: BlobStore, executor: Executor
) -> AsyncIterator[Scheduler]:
    """A scheduler to which no client listens."""
    with ThreadPoolExecutor() as threads, closing(Journal(data / "journal.sqlite3")) as journal:
        scheduler = Scheduler(
            journal=journal,
            blobs=blobs,
            limits=LimitsFile(None),
            executor=executor,
            data=data,
            threads=threads,
            sessions=Sessions(lambda session: None),
        )
        scheduler.start()
        yield scheduler
        await scheduler.close()
