"""A reconstruction that ended early goes on from its windows, over the wire."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from engine_tests import needs_torch

needs_torch()

import tiny_depth
from raw_client import RawClient, file_ref, new_id
from server_process import ServerProcess

from ex4d.clip import write_video
from ex4d.images import read_depth_exr
from ex4d.protocol.messages import JobCancel, JobEvent, ReconstructJob
from ex4d.task import Task

#: Two windows.
FRAMES, SIDE_PX = 44, 16
#: Of the first window; neither key frames nor shared with the next.
MARKED = slice(1, 12)
TIMEOUT_S = 100.0


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    tiny_depth.write_video_depth_anything(tmp_path / "models")
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with ServerProcess(tmp_path / "data", "--executor", "local") as process:
        yield process
        assert "internal_error" not in process.log_text()


@pytest.fixture
def clip(tmp_path: Path) -> bytes:
    frames = np.random.default_rng(1).integers(0, 256, (FRAMES, SIDE_PX, SIDE_PX, 3), np.uint8)
    write_video(tmp_path / "clip.mp4", frames, Fraction(24), task=Task())
    return (tmp_path / "clip.mp4").read_bytes()


def connected(server: ServerProcess) -> RawClient:
    client = RawClient(server, server.authorise("anna"))
    client.hello()
    return client


def flat_frames(client: RawClient, event: JobEvent, folder: Path) -> list[bool]:
    """For each frame of a finished scene whether its depth is the same everywhere."""
    assert event.state == "done", event
    found: list[bool] = []
    for file in event.files:
        if file.path.startswith("depth/"):
            path = folder / "depth.exr"
            path.write_bytes(client.fetch(file))
            depth = read_depth_exr(path)
            found.append(bool(np.ptp(depth) < 1e-4 * depth.max()))
    return found


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_cancelled_job_goes_on_from_its_windows(
    server: ServerProcess, clip: bytes, tmp_path: Path
) -> None:
    files = (file_ref("clip.mp4", clip),)
    job = ReconstructJob(files=files, clip="clip.mp4", name="noise", depth_range="min_max")
    with connected(server) as anna:
        anna.upload([clip])
        job_id = anna.submit(job)
        anna.wait_for(
            JobEvent,
            lambda event: event.stage == "estimating depth" and event.done > 0,
            timeout_s=TIMEOUT_S,
        )
        anna.send(JobCancel(request_id=new_id(), job_id=job_id))
        assert anna.wait_for_end(job_id).state == "cancelled"
        first = min((server.data / "kept" / "anna").rglob("*.npy"))
        # A mark by which the window is known again.
        values = np.load(first)
        values[MARKED] = values.mean()
        np.save(first, values)

        flat = flat_frames(anna, anna.wait_for_end(anna.submit(job), TIMEOUT_S), tmp_path)
        assert all(flat[MARKED]), "the window that was kept"
        assert sum(flat) == len(flat[MARKED])
        assert not list((server.data / "kept").rglob("*.npy")), "nothing stays of what is done"
