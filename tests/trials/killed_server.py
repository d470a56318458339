"""The server is killed at random moments of uploads, jobs and downloads.

Nothing may be lost, and no byte that the other side has stored may travel again.
"""

import random
import time
from pathlib import Path

from ex4d_server.keys import FolderKeys
from machine import Machine
from raw_client import random_bytes
from server_process import ServerProcess

from ex4d.client import ConnectionState, JobPhase, RemoteJob
from ex4d.protocol.documents import FileRef
from ex4d.protocol.messages import ReconstructJob

FULL = 20
SHORT = 3
_CLIP_BYTES = 24 << 20
_JOB_S = 0.4
_PHASES = ("upload", "job", "download")


def run(folder: Path, count: int) -> dict[str, float]:
    """Kill a server so many times, each time in the next phase of a new job.

    Args:
        folder: An empty one.
        count: How often.
    """
    chance = random.Random(count)
    again_bytes = 0
    back_s: list[float] = []
    with ServerProcess(folder / "data", "--fake-frame-s", str(_JOB_S)) as server:
        anna = Machine(server)
        FolderKeys(server.data).authorise("anna", anna.keys.public_key)
        anna.connect()
        for number in range(count):
            content = random_bytes(_CLIP_BYTES)
            anna.traffic.sent.clear()
            anna.traffic.received.clear()
            job = _submit(anna, folder, number, content)
            _reach(_PHASES[number % len(_PHASES)], chance.random(), anna, server, job)
            server.kill()
            stored_bytes = sum(path.stat().st_size for path in server.data.rglob("*.part"))
            sent_before = len(anna.traffic.sent)
            started_s = time.monotonic()
            anna.run(lambda: anna.client.state is ConnectionState.LOST)
            server.start()
            anna.run(lambda job=job: job.is_over)
            back_s.append(time.monotonic() - started_s)
            assert job.phase is JobPhase.DONE, job.error
            assert (job.folder / "clip.mp4").read_bytes() == content
            sent_after = anna.traffic.sent[sent_before:]
            again_bytes += sum(
                max(0, min(stored_bytes, offset + size) - offset) for offset, size in sent_after
            )
            again_bytes += max(0, anna.traffic.received_bytes - len(content))
        jobs = anna.jobs()
        assert [event.state for event in jobs] == ["done"] * count
        assert all(event.attempt <= 2 for event in jobs)
        assert not list(server.data.rglob("*.part"))
        assert "internal_error" not in server.log_text()
        anna.client.close()
    assert again_bytes == 0
    return {
        "kills": count,
        "jobs lost": 0,
        "bytes sent again": again_bytes,
        "slowest recovery, s": max(back_s),
    }


def _submit(anna: Machine, folder: Path, number: int, content: bytes) -> RemoteJob:
    def build(files: tuple[FileRef, ...]) -> ReconstructJob:
        return ReconstructJob(files=files, clip="clip.mp4", depth="clip.mp4", name="x")

    source = folder / "clip.mp4"
    source.write_bytes(content)
    return anna.client.submit(build, {"clip.mp4": source}, folder / f"result-{number}", None)


def _reach(phase: str, share: float, anna: Machine, server: ServerProcess, job: RemoteJob) -> None:
    """Go on until a share of a phase has passed."""
    bound = int(share * _CLIP_BYTES * 0.9)
    if phase == "upload":
        anna.run(
            lambda: sum(path.stat().st_size for path in server.data.rglob("*.part")) > bound,
            budget_s=0.0,
        )
    elif phase == "job":
        anna.run(lambda: job.phase is JobPhase.RUNNING)
        end_s = time.monotonic() + share * _JOB_S * 0.8
        anna.run(lambda: time.monotonic() > end_s)
    else:
        anna.run(lambda: anna.traffic.received_bytes > bound, budget_s=0.0)
