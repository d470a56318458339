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

import msgspec
import numpy as np
import psutil
import pytest
import worker_jobs
from ex4d_server.executors import Preview, Work, WorkerLostError
from ex4d_server.executors.local import LocalExecutor
from ex4d_server.worker import WorkPreview, small_preview
from raw_client import render_job
from worker_jobs import run_test_job

from ex4d.errors import CancelledError, Ex4dError
from ex4d.protocol.messages import MAX_CHUNK_BYTES
from ex4d.task import Progress


def make_work(folder: Path, what: float, name: str = "1") -> Work:
    job_folder = folder / name
    (job_folder / "inputs").mkdir(parents=True)
    request = render_job([], focal_px=what)
    return Work("0" * 32, request, job_folder / "inputs", job_folder / "output")


def with_executor(
    scenario: Callable[[LocalExecutor], Coroutine[Any, Any, None]], silence_s: float = 60.0
) -> None:
    """Run a scenario with one worker, and make sure that nothing outlives it."""

    async def main() -> None:
        executor = LocalExecutor(run_job=run_test_job, cancel_grace_s=0.3, silence_s=silence_s)
        executor.start()
        try:
            await asyncio.wait_for(scenario(executor), 30)
        finally:
            await executor.close()

    asyncio.run(main())
    assert not [child for child in psutil.Process().children(recursive=True) if is_worker(child)]


def is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    # Also of one that has ended and was not waited for.
    except psutil.NoSuchProcess:
        return False


async def run(
    executor: LocalExecutor,
    work: Work,
    cancel_after_s: float | None = None,
    show: Callable[[Preview], None] = lambda preview: None,
) -> list[Progress]:
    progress: list[Progress] = []
    cancel = asyncio.Event()
    if cancel_after_s is not None:
        asyncio.get_running_loop().call_later(cancel_after_s, cancel.set)
    await executor.run(work, progress.append, cancel, show=show)
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


@pytest.mark.skipif(sys.platform != "linux", reason="limits and stops a process")
@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (worker_jobs.HUNGRY, "ended with code 1"),
        (worker_jobs.STOPPED, "told nothing for 5 seconds"),
        (worker_jobs.DEAF, "told nothing for 5 seconds"),
    ],
    ids=["out of memory", "stopped", "hung"],
)
def test_worker_without_memory_or_word_is_a_lost_attempt(
    tmp_path: Path, what: float, reason: str
) -> None:
    async def scenario(executor: LocalExecutor) -> None:
        with pytest.raises(WorkerLostError, match=reason):
            await run(executor, make_work(tmp_path, what, "1"))
        await run(executor, make_work(tmp_path, worker_jobs.FINISH, "2"))

    with_executor(scenario, silence_s=5.0)


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


def test_worker_without_a_standard_error_starts() -> None:
    """As on Windows, where the server has no console: it waits for work until the server ends."""
    script = (
        "import multiprocessing, os\n"
        "from ex4d_server.worker import serve_pipe\n"
        "ours, theirs = multiprocessing.Pipe()\n"
        "ours.close()\n"
        "os.close(2)\n"
        "serve_pipe(theirs, '', print)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0


def test_previews_come_through(tmp_path: Path) -> None:
    async def scenario(executor: LocalExecutor) -> None:
        shown: list[Preview] = []
        work = make_work(tmp_path, worker_jobs.SHOW, "1")
        assert await run(executor, work, show=shown.append) == [Progress("writing", 1, 1)]
        sizes = {(preview.frame_count, preview.height_px, preview.width_px) for preview in shown}
        assert sizes == {worker_jobs.PREVIEW_SHAPE[:3]}
        # The loop may have been busy: then some in between are missing, never the last.
        levels = [preview.pixels[0] for preview in shown]
        assert levels == sorted(set(levels))
        assert levels[-1] == worker_jobs.PREVIEWS - 1
        assert set(shown[-1].pixels) == {worker_jobs.PREVIEWS - 1}

    with_executor(scenario)


def test_only_the_newest_preview_waits_for_a_busy_server(tmp_path: Path) -> None:
    async def scenario(executor: LocalExecutor) -> None:
        shown: list[Preview] = []

        def show(preview: Preview) -> None:
            shown.append(preview)
            # Longer than the worker takes for all the others.
            time.sleep(1.0)

        await run(executor, make_work(tmp_path, worker_jobs.SHOW, "1"), show=show)
        assert len(shown) < 5 < worker_jobs.PREVIEWS
        assert shown[-1].pixels[0] == worker_jobs.PREVIEWS - 1

    with_executor(scenario)


@pytest.mark.parametrize(
    "what", [worker_jobs.SHOW_WRONG, worker_jobs.SHOW_TOO_MUCH], ids=["wrong size", "too much"]
)
def test_worker_that_breaks_the_rules_of_previews_is_ended(tmp_path: Path, what: float) -> None:
    async def scenario(executor: LocalExecutor) -> None:
        with pytest.raises(WorkerLostError):
            await run(executor, make_work(tmp_path, what, "1"), show=lambda _: pytest.fail("shown"))
        await run(executor, make_work(tmp_path, worker_jobs.FINISH, "2"))

    with_executor(scenario)


def test_preview_is_made_to_fit() -> None:
    frames = np.arange(18, dtype=np.uint8).repeat(480 * 640 * 3).reshape(18, 480, 640, 3)
    preview = small_preview(frames)
    assert (preview.width_px, preview.height_px, preview.frame_count) == (160, 120, 18)
    assert len(preview.pixels) <= MAX_CHUNK_BYTES
    assert preview.pixels[:: 160 * 120 * 3] == bytes(range(18))
    as_it_is = small_preview(frames[:, :8, :8])
    assert as_it_is.pixels == frames[:, :8, :8].tobytes()
    message = WorkPreview(preview)
    assert msgspec.json.decode(msgspec.json.encode(message), type=WorkPreview) == message


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
        await executor.run(work, tell, asyncio.Event(), show=lambda preview: None)
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
