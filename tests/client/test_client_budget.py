"""Nothing waits and nothing takes long: what keeps Blender responsive."""

import math
import threading
import time
from pathlib import Path

import pytest
from model_server import JOB_ID, ModelServer
from raw_client import random_bytes, render_job

from ex4d.client import JobPhase
from ex4d.client.slices import Budget, Pace
from ex4d.protocol.messages import Limits

LIMITS = Limits(max_chunk_bytes=256 << 10, window_bytes=16 << 20)
BUDGET_S = 0.008


class SteppedClock:
    """Stands for the module `time`; every look at it moves it on."""

    def __init__(self, *steps_s: float) -> None:
        self._steps_s = list(steps_s)
        self._now_s = 0.0

    def perf_counter(self) -> float:
        self._now_s += self._steps_s.pop(0)
        return self._now_s

    monotonic = perf_counter


@pytest.mark.parametrize(
    ("slices_s", "count"),
    [
        ([0.001] * 20, 7),
        ([0.005, 0.002], 1),
        ([0.001, 0.004, 0.001], 2),
        ([0.020], 1),
        ([0.0] * 50 + [0.009], 51),
    ],
    ids=["even", "long_first", "long_later", "far_too_long", "short_ones"],
)
def test_no_slice_is_begun_that_may_not_fit(
    monkeypatch: pytest.MonkeyPatch, slices_s: list[float], count: int
) -> None:
    monkeypatch.setattr("ex4d.client.slices.time", SteppedClock(0.0, *slices_s))
    budget = Budget(BUDGET_S)
    done = 1
    while budget.allows_another():
        done += 1
    assert done == count


def test_pace_guesses_late_and_from_what_was_moved_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ex4d.client.slices.time", SteppedClock(0.0, 0.1, 0.9, 0.0))
    pace = Pace(1000, moved_bytes=500)
    assert pace.fraction == 0.5
    pace.add(100)
    assert pace.eta_s is None, "a tenth of a second says nothing"
    assert pace.eta_s == pytest.approx(4.0)


def test_transfers_fit_into_ticks(tmp_path: Path) -> None:
    """Of the processor's own time, since other programs may have it meanwhile."""
    content = random_bytes(24 << 20)
    (tmp_path / "file").write_bytes(content)
    phases: dict[JobPhase, list[float]] = {}
    with ModelServer(LIMITS) as server:
        server.results = {"a.png": content[::-1]}
        client = server.client()
        client.connect()
        job = client.submit(render_job, {"scene.json": tmp_path / "file"}, tmp_path / "result")
        is_told = False
        while not job.is_over:
            phase, start_s = job.phase, time.thread_time()
            client.poll(BUDGET_S)
            phases.setdefault(phase, []).append(time.thread_time() - start_s)
            server.serve()
            if job.phase is JobPhase.QUEUED and not is_told:
                is_told = True
                server.finish(JOB_ID)
        assert job.phase is JobPhase.DONE
        client.close()
    for phase in (JobPhase.HASHING, JobPhase.UPLOADING, JobPhase.DOWNLOADING):
        assert len(phases[phase]) > 1, f"{phase} was not cut into slices"
    assert max(max(times_s) for times_s in phases.values()) < BUDGET_S + 0.002


def test_tick_with_nothing_to_do_is_nearly_free() -> None:
    with ModelServer() as server:
        client = server.client()
        client.connect()
        server.settle(client)
        start_s = time.thread_time()
        for _ in range(100):
            assert client.poll(BUDGET_S) is False
        assert (time.thread_time() - start_s) / 100 < 0.001
        client.close()


def test_endless_messages_do_not_hold_a_tick() -> None:
    """A server may have sent thousands while Blender rendered."""
    with ModelServer() as server:
        client = server.client()
        client.connect()
        server.settle(client)
        for _ in range(20_000):
            server.say(server.welcome("f" * 32))
        left = len(server.link.incoming)
        start_s = time.thread_time()
        client.poll(BUDGET_S)
        assert time.thread_time() - start_s < BUDGET_S + 0.002
        assert 0 < len(server.link.incoming) < left
        client.close()


def test_no_thread_is_started(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(random_bytes(1 << 20))
    with ModelServer() as server:
        client = server.client()
        client.connect()
        client.submit(render_job, {"scene.json": tmp_path / "file"}, tmp_path / "result")
        client.poll(math.inf)
        assert threading.active_count() == 1
        client.close()
