"""Strangers who use up all descriptors stop nothing for longer than they stay."""

import asyncio
import errno
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
import worker_jobs
from ex4d_server import server as server_module
from ex4d_server.executors import Work, WorkerLostError
from ex4d_server.executors import local as local_executor
from ex4d_server.executors.local import LocalExecutor
from ex4d_server.keys import FolderKeys
from raw_client import RawClient, file_ref, random_bytes, render_job
from server_process import ServerProcess, make_key_pair
from server_users import add_user
from worker_jobs import run_test_job

from ex4d.errors import CancelledError


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process")
def test_flood_of_connections_ends_nothing(
    own_server: Callable[..., ServerProcess], connect: Callable[..., RawClient]
) -> None:
    import resource

    server = own_server("--fake-frame-s", "0")
    # Somebody may pair, so that unknown keys are looked up as well.
    server.pairing_link("ben")
    _, keys = add_user(server)
    client = connect(server, keys)
    client.hello()
    process = psutil.Process(server.pid)
    assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE)[0] > 1024 or (
        resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= 1024
    ), "it takes all that the system grants"
    few = process.num_fds() + 40
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (few, few))
    with ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(socket.create_connection((server.host, server.port)))
        deadline_s = time.monotonic() + 10
        while process.num_fds() < few and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert process.num_fds() == few
        # Keys are looked at four times a second.
        time.sleep(1.0)
        assert process.is_running()
    deadline_s = time.monotonic() + 10
    while process.num_fds() > few - 40 and time.monotonic() < deadline_s:
        time.sleep(0.05)
    content = random_bytes(1000)
    later = connect(server, keys)
    later.hello()
    later.upload([content])
    job = render_job([file_ref("scene.json", content)])
    assert later.wait_for_end(later.submit(job)).state == "done"


def test_key_file_that_goes_while_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = FolderKeys(tmp_path)
    pair = make_key_pair()
    keys.authorise("ada", pair.public_key)
    keys.authorise("bob", make_key_pair().public_key)
    glob = Path.glob

    def revoked_meanwhile(folder: Path, pattern: str) -> list[Path]:
        found = list(glob(folder, pattern))
        (folder / "bob.keys").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "glob", revoked_meanwhile)
    keys.refresh()
    assert keys.users() == {"ada", "bob"}
    keys.refresh()
    assert keys.users() == {"ada"}
    assert keys.user_of(pair.public_key) == "ada"


def test_key_file_that_cannot_be_read_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = FolderKeys(tmp_path)
    for user in ("ada", "bob"):
        keys.authorise(user, make_key_pair().public_key)
    read_text, folder = Path.read_text, tmp_path / "keys" / "authorised"

    def refused(path: Path, *, encoding: str) -> str:
        if path.name == "ada.keys":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return read_text(path, encoding=encoding)

    more = make_key_pair().public_key
    with (folder / "ada.keys").open("a") as file:
        file.write(f"{more}\n")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refused)
        keys.refresh()
        assert keys.users() == {"ada", "bob"}
        (folder / "bob.keys").unlink()
        keys.refresh()
        assert keys.users() == {"ada"}
        assert keys.user_of(more) is None
    # Nothing has changed since, but that it can be read.
    keys.refresh()
    assert keys.user_of(more) == "ada"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sets no such limit")
@pytest.mark.parametrize(
    ("limits", "raised"),
    [((1024, 4096), (4096, 4096)), ((1024, -1), (65_536, -1)), ((100_000, 200_000), None)],
    ids=["as far as granted", "without end", "never lowered"],
)
def test_descriptors_are_raised(
    limits: tuple[int, int], raised: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    found: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: found.append(wanted))
    server_module._allow_descriptors()
    assert found == ([] if raised is None else [raised])


@pytest.mark.parametrize(
    ("refusals", "is_cancelled", "expected"),
    [(2, False, None), (100, False, WorkerLostError), (2, True, CancelledError)],
    ids=["for a while", "for long", "cancelled meanwhile"],
)
def test_worker_that_cannot_be_started_is_started_later(
    refusals: int,
    is_cancelled: bool,
    expected: type[Exception] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = 0
    start = local_executor._Worker
    cancel = asyncio.Event()

    def worker(*arguments: Any) -> Any:
        nonlocal tries
        tries += 1
        if is_cancelled:
            cancel.set()
        if tries <= refusals:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return start(*arguments)

    async def scenario() -> None:
        executor = LocalExecutor(run_job=run_test_job)
        executor.start()
        try:
            executor._idle[0].kill()
            monkeypatch.setattr(local_executor, "_START_PERIOD_S", 0.0)
            monkeypatch.setattr(local_executor, "_Worker", worker)
            (tmp_path / "inputs").mkdir()
            job = render_job([], focal_px=worker_jobs.FINISH)
            work = Work("0" * 32, job, tmp_path / "inputs", tmp_path / "output")
            refused = nullcontext() if expected is None else pytest.raises(expected)
            with refused:
                await executor.run(work, lambda _: None, cancel, show=lambda _: None)
            assert len(executor._idle) == executor.slots
            assert (tmp_path / "output").exists() == (expected is None)
        finally:
            await executor.close()

    asyncio.run(scenario())
