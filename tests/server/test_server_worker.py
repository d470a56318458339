"""The worker process: what happens when it fails, dies, does not listen, or loses its server."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest
import worker_jobs
from ex4d_server.executors import Work, WorkerLostError
from ex4d_server.executors.local import LocalExecutor
from raw_client import render_job
from worker_jobs import run_test_job

from ex4d.errors import CancelledError, Ex4dError
from ex4d.task import Progress


def make_work(folder: Path, what: float, name: str = "1") -> Work:
    job_folder = folder / name
    (job_folder / "inputs").mkdir(parents=True)
    request = render_job([], focal_px=what)
    return Work("0" * 32, request, job_folder / "inputs", job_folder / "output")


def with_executor(scenario: Callable[[LocalExecutor], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario with one worker, and make sure that nothing outlives it."""

    async def main() -> None:
        executor = LocalExecutor(run_job=run_test_job, cancel_grace_s=0.3)
        executor.start()
        try:
            await asyncio.wait_for(scenario(executor), 30)
        finally:
            await executor.close()

    asyncio.run(main())
    children = psutil.Process().children(recursive=True)
    assert not [child for child in children if "spawn_main" in " ".join(child.cmdline())]


async def run(
    executor: LocalExecutor, work: Work, cancel_after_s: float | None = None
) -> list[Progress]:
    progress: list[Progress] = []
    cancel = asyncio.Event()
    if cancel_after_s is not None:
        asyncio.get_running_loop().call_later(cancel_after_s, cancel.set)
    await executor.run(work, progress.append, cancel)
    return progress


def test_engine_without_its_model_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path))
    preview, ex4d = LocalExecutor(run_job=run_test_job).engines
    assert (preview.name, preview.available, preview.reason) == ("preview", True, "")
    assert (ex4d.name, ex4d.available) == ("ex4d", False)
    assert "pip install" in ex4d.reason or "ex4d models download" in ex4d.reason
    assert str(tmp_path) not in ex4d.reason


def test_worker_stays_for_the_next_job(tmp_path: Path) -> None:
    async def scenario(executor: LocalExecutor) -> None:
        pids: list[str] = []
        for name in ("1", "2"):
            work = make_work(tmp_path, worker_jobs.FINISH, name)
            assert await run(executor, work) == [Progress("writing", 1, 1)]
            pids.append((work.output / "pid.txt").read_text())
        assert pids[0] == pids[1] != str(os.getpid())

    with_executor(scenario)


@pytest.mark.parametrize(
    ("what", "code"), [(worker_jobs.FAIL, "depth_size"), (worker_jobs.BUG, "internal_error")]
)
def test_failure_comes_through_and_the_worker_goes_on(
    tmp_path: Path, what: float, code: str
) -> None:
    async def scenario(executor: LocalExecutor) -> None:
        with pytest.raises(Ex4dError) as caught:
            await run(executor, make_work(tmp_path, what, "1"))
        assert caught.value.code == code
        await run(executor, make_work(tmp_path, worker_jobs.FINISH, "2"))

    with_executor(scenario)


def test_crash_is_a_lost_attempt_and_the_next_job_gets_a_new_worker(tmp_path: Path) -> None:
    async def scenario(executor: LocalExecutor) -> None:
        with pytest.raises(WorkerLostError, match="signal 9"):
            await run(executor, make_work(tmp_path, worker_jobs.CRASH, "1"))
        await run(executor, make_work(tmp_path, worker_jobs.FINISH, "2"))

    with_executor(scenario)


def test_cancel_is_followed(tmp_path: Path) -> None:
    async def scenario(executor: LocalExecutor) -> None:
        with pytest.raises(CancelledError):
            await run(executor, make_work(tmp_path, worker_jobs.SLEEP, "1"), cancel_after_s=1.0)
        await run(executor, make_work(tmp_path, worker_jobs.FINISH, "2"))

    with_executor(scenario)


def test_who_does_not_listen_is_killed(tmp_path: Path) -> None:
    async def scenario(executor: LocalExecutor) -> None:
        started_s = time.monotonic()
        with pytest.raises(CancelledError):
            await run(executor, make_work(tmp_path, worker_jobs.DEAF, "1"), cancel_after_s=0.1)
        assert time.monotonic() - started_s < 10.0
        await run(executor, make_work(tmp_path, worker_jobs.FINISH, "2"))

    with_executor(scenario)


def test_worker_found_dead_between_jobs_is_replaced(tmp_path: Path) -> None:
    async def scenario(executor: LocalExecutor) -> None:
        work = make_work(tmp_path, worker_jobs.FINISH, "1")
        await run(executor, work)
        pid = int((work.output / "pid.txt").read_text())
        os.kill(pid, signal.SIGKILL)
        # Not merely a zombie: that it becomes while its other threads still end.
        while executor._idle[0].is_alive():
            await asyncio.sleep(0.01)
        await run(executor, make_work(tmp_path, worker_jobs.FINISH, "2"))

    with_executor(scenario)


SERVER = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = [{support!r}, {here!r}]
if __name__ == "__main__":
    from test_server_worker import LocalExecutor, make_work, run_test_job
    async def main():
        executor = LocalExecutor(run_job=run_test_job)
        executor.start()
        work = make_work(Path(sys.argv[1]), float(sys.argv[2]))
        tell = lambda progress: print(progress.stage, flush=True)
        await executor.run(work, tell, asyncio.Event())
        await executor.close()
    asyncio.run(main())
"""


def start_server(tmp_path: Path, what: float) -> subprocess.Popen[str]:
    """A process that does nothing but run one job in a worker."""
    here = Path(__file__).parent
    script = tmp_path / "server.py"
    script.write_text(SERVER.format(support=str(here.parent / "support"), here=str(here)))
    return subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), str(what)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_worker_ends_with_its_server(tmp_path: Path) -> None:
    server = start_server(tmp_path, worker_jobs.SLEEP)
    assert server.stdout
    assert server.stdout.readline() == "sleeping\n"
    workers = psutil.Process(server.pid).children(recursive=True)
    assert workers
    server.kill()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    server.communicate()


def test_worker_does_not_talk_over_the_servers_output(tmp_path: Path) -> None:
    output, log = start_server(tmp_path, worker_jobs.CHATTER).communicate(timeout=30)
    assert output == "writing\n"
    assert "a library that prints" in log
