"""Moving previews of running jobs: the newest is kept, one at a time is asked for, all are shed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_server import JOB_ID, ModelServer
from raw_client import render_job

from ex4d.client import Client, ConnectionState, JobPhase, RemoteJob
from ex4d.protocol.messages import JobPreview, JobPreviewTaken

OTHER_ID = "a" * 32
WIDTH_PX, HEIGHT_PX, FRAMES = 4, 3, 2
PIXELS = bytes(range(WIDTH_PX * HEIGHT_PX * FRAMES * 3))


@pytest.fixture
def server(server: ModelServer) -> ModelServer:
    server.results = {"take.json": b"{}"}
    return server


@pytest.fixture
def job(server: ModelServer, client: Client, tmp_path: Path) -> RemoteJob:
    """A job that runs."""
    source = tmp_path / "scene.json"
    source.write_bytes(b"{}")
    job = client.submit(render_job, {"scene.json": source}, tmp_path / "result")
    server.settle(client)
    server.tell(JOB_ID, state="running", attempt=1)
    server.settle(client)
    return job


def show(
    server: ModelServer, client: Client, seq: int, pixels: bytes = PIXELS, **size: int
) -> None:
    sizes = {"width_px": WIDTH_PX, "height_px": HEIGHT_PX, "frame_count": FRAMES} | size
    server.say(JobPreview(job_id=JOB_ID, seq=seq, **sizes), pixels)
    server.settle(client)


def test_newest_preview_is_kept_and_each_is_confirmed(
    server: ModelServer, client: Client, job: RemoteJob
) -> None:
    assert job.preview is None
    show(server, client, 10)
    assert job.preview is not None
    size = (job.preview.width_px, job.preview.height_px, job.preview.frame_count)
    assert (size, job.preview.pixels) == ((WIDTH_PX, HEIGHT_PX, FRAMES), PIXELS)
    show(server, client, 12, PIXELS[::-1])
    newest = job.preview
    assert newest.pixels == PIXELS[::-1]
    for old in (11, 12):
        show(server, client, old)
        assert job.preview is newest, "that one was seen, or is older"
    server.tell(JOB_ID, stage="denoising", done=1, total=4)
    server.settle(client)
    assert job.preview is newest, "progress takes no preview away"
    assert server.seen_of(JobPreviewTaken) == [JobPreviewTaken(job_id=JOB_ID)] * 4


def lost(server: ModelServer, client: Client, job: RemoteJob) -> None:
    server.tell(JOB_ID, state="queued")


def started_anew(server: ModelServer, client: Client, job: RemoteJob) -> None:
    """The event in between was left out."""
    server.tell(JOB_ID, state="running", attempt=2)


def done(server: ModelServer, client: Client, job: RemoteJob) -> None:
    server.finish(JOB_ID)


def failed(server: ModelServer, client: Client, job: RemoteJob) -> None:
    server.tell(JOB_ID, state="failed", error_code="depth_size", error_message="expected 49")


def cancelled_there(server: ModelServer, client: Client, job: RemoteJob) -> None:
    server.tell(JOB_ID, state="cancelling")


def cancelled_here(server: ModelServer, client: Client, job: RemoteJob) -> None:
    server.is_answering = False
    client.cancel(job)
    assert job.preview is None, "at once"


@pytest.mark.parametrize("end", [lost, started_anew, done, failed, cancelled_there, cancelled_here])
def test_preview_goes_with_what_it_was_of(
    server: ModelServer,
    client: Client,
    job: RemoteJob,
    end: Callable[[ModelServer, Client, RemoteJob], Any],
) -> None:
    show(server, client, 10)
    assert job.preview is not None
    end(server, client, job)
    server.settle(client)
    assert job.preview is None
    if end is not started_anew:
        show(server, client, 100)
        assert job.preview is None, "it came too late"


@pytest.mark.parametrize(
    ("pixels", "size"),
    [
        (PIXELS[:-1], {}),
        (PIXELS + b"\0", {}),
        (b"", {}),
        (PIXELS, {"width_px": 8192, "height_px": 8192, "frame_count": 4096}),
        (bytes(1024 * 1024 * 3), {"width_px": 1024, "height_px": 1024, "frame_count": 1}),
    ],
    ids=["short", "long", "empty", "bomb", "beyond the limit"],
)
def test_pixels_of_another_size_are_refused(
    server: ModelServer, client: Client, job: RemoteJob, pixels: bytes, size: dict[str, int]
) -> None:
    show(server, client, 10, pixels, **size)
    assert client.state is ConnectionState.LOST
    assert client.problem is not None
    assert client.problem.code == "message_invalid"
    assert job.preview is None
    assert not server.seen_of(JobPreviewTaken)
    server.run(client, lambda: client.state is ConnectionState.READY)
    show(server, client, 11)
    assert job.preview is not None, "the job went on"


def test_preview_stays_while_the_connection_is_made_again(
    server: ModelServer, client: Client, job: RemoteJob
) -> None:
    show(server, client, 10)
    server.cut()
    server.settle(client)
    assert client.state is ConnectionState.LOST
    assert job.preview is not None
    server.run(client, lambda: client.state is ConnectionState.READY)
    assert (job.phase, job.preview is not None) == (JobPhase.RUNNING, True)


def test_preview_of_a_job_that_nobody_follows_is_harmless(
    server: ModelServer, client: Client, job: RemoteJob
) -> None:
    preview = JobPreview(job_id=OTHER_ID, seq=1, width_px=1, height_px=1, frame_count=1)
    server.say(preview, b"rgb")
    server.settle(client)
    assert job.preview is None
    assert client.state is ConnectionState.READY
