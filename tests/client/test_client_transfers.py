"""Files up and down: from the right byte, under credit, checked, and never half."""

import errno
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from model_server import JOB_ID, LIMITS, ModelServer, file_ref, written
from raw_client import random_bytes, render_job

from ex4d.client import Client, ConnectionState, JobPhase, RemoteJob
from ex4d.client.client import STALL_S
from ex4d.protocol.messages import (
    BlobAbort,
    BlobChunk,
    BlobCredit,
    BlobFetch,
    BlobOffer,
    Error,
    Limits,
)

#: Not a multiple of the chunk, and several windows.
CONTENT = random_bytes(5 * LIMITS.window_bytes + 1234)
SHA256 = file_ref("x", CONTENT).sha256


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def failed_with(job: RemoteJob) -> str:
    assert job.phase is JobPhase.FAILED
    assert job.error is not None
    return job.error.code


def send(client: Client, source: Path, name: str = "result") -> RemoteJob:
    return client.submit(render_job, {"scene.json": source}, source.with_name(name))


def step_until(server: ModelServer, client: Client, condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        server.step(client)
    raise AssertionError("it did not happen")


def lose_connection(server: ModelServer, client: Client) -> None:
    """In the middle of things; the pause before the next attempt has passed."""
    server.cut()
    client.poll(math.inf)
    assert client.state is ConnectionState.LOST
    server.clock.now_s += 60.0


# --- up ------------------------------------------------------------------------------------------


def test_upload_goes_on_where_the_server_is(
    server: ModelServer, client: Client, source: Path
) -> None:
    server.parts[SHA256] = bytearray(CONTENT[:50_000])
    job = send(client, source)
    server.settle(client)
    assert job.phase is JobPhase.QUEUED
    assert server.blobs[SHA256] == CONTENT
    assert server.chunks_stored[0][0] == 50_000


def test_no_byte_goes_up_twice(server: ModelServer, client: Client, source: Path) -> None:
    job = send(client, source)
    for count in (3, 7, 15):
        step_until(server, client, lambda count=count: len(server.chunks_stored) >= count)
        lose_connection(server, client)
    server.run(client, lambda: job.phase is JobPhase.QUEUED)
    assert sum(count for _, count in server.chunks_stored) == len(CONTENT)
    assert server.blobs[SHA256] == CONTENT


@pytest.mark.parametrize("window", [4096, 5000, 1 << 20], ids=str)
def test_credit_is_kept(source: Path, window: int) -> None:
    """The model fails where more is sent than was granted."""
    with ModelServer(Limits(max_chunk_bytes=4096, window_bytes=window)) as server:
        client = server.client()
        client.connect()
        job = send(client, source)
        server.settle(client)
        assert job.phase is JobPhase.QUEUED
        client.close()


def test_without_credit_nothing_is_sent(server: ModelServer, client: Client, source: Path) -> None:
    job = send(client, source)
    step_until(server, client, lambda: server.seen_of(BlobOffer))
    server.link.window_bytes = LIMITS.window_bytes
    server.link.incoming.pop()
    server.settle(client)
    assert job.phase is JobPhase.UPLOADING
    assert not server.chunks_stored
    server.say(BlobCredit(grant_bytes=LIMITS.window_bytes))
    server.settle(client)
    assert job.phase is JobPhase.QUEUED


def test_credit_of_a_lost_connection_is_void(
    server: ModelServer, client: Client, source: Path
) -> None:
    """Lost while most of the window was still to be spent: the new one grants a whole window."""
    job = send(client, source)
    while not any(isinstance(message, BlobChunk) for message, _ in server.link.outgoing):
        client.poll(0.0)
        if server.link.outgoing and not isinstance(server.link.outgoing[0][0], BlobChunk):
            server.serve()
    assert len(server.link.outgoing) == 1
    lose_connection(server, client)
    server.settle(client)
    assert job.phase is JobPhase.QUEUED
    assert server.blobs[SHA256] == CONTENT


def test_progress_starts_from_what_is_there(
    server: ModelServer, client: Client, source: Path
) -> None:
    server.parts[SHA256] = bytearray(CONTENT[: len(CONTENT) // 2])
    job = send(client, source)
    step_until(server, client, lambda: server.chunks_stored)
    client.poll(0.0)
    assert job.bytes_total == len(CONTENT)
    assert 0.5 <= job.fraction < 0.9


@pytest.mark.parametrize("when", ["hashing", "sending"])
def test_changing_file_is_noticed_here(
    server: ModelServer, client: Client, source: Path, when: str
) -> None:
    big = random_bytes(3 << 20)
    source.write_bytes(big)
    job = send(client, source)
    if when == "hashing":
        client.poll(0.0)
        client.poll(0.0)
        client.poll(0.0)
    else:
        step_until(server, client, lambda: server.chunks_stored)
    with source.open("ab") as file:
        file.write(b"more")
    server.settle(client)
    assert failed_with(job) == "file_changed"
    assert not server.blobs
    if when == "sending":
        assert server.seen_of(BlobAbort)


def test_vanished_file_is_told(server: ModelServer, client: Client, source: Path) -> None:
    job = send(client, source)
    step_until(server, client, lambda: job.phase is JobPhase.UPLOADING)
    source.unlink()
    server.settle(client)
    assert failed_with(job) == "file_unreadable"


def test_failed_upload_harms_no_other(server: ModelServer, client: Client, source: Path) -> None:
    doomed = source.with_name("doomed")
    doomed.write_bytes(random_bytes(100_000))
    bad, good = send(client, doomed, "a"), send(client, source, "b")
    step_until(server, client, lambda: good.phase is JobPhase.UPLOADING)
    doomed.unlink()
    server.settle(client)
    assert failed_with(bad) == "file_unreadable"
    assert good.phase is JobPhase.QUEUED


def test_empty_files_travel_by_name_alone(
    server: ModelServer, client: Client, source: Path
) -> None:
    source.write_bytes(b"")
    job = send(client, source)
    server.settle(client)
    assert job.phase is JobPhase.QUEUED
    assert not server.chunks_stored


def test_standstill_is_taken_up_anew(server: ModelServer, client: Client, source: Path) -> None:
    job = send(client, source)
    step_until(server, client, lambda: server.chunks_stored)
    server.is_answering = False
    server.pass_time(client, STALL_S + 2)
    assert client.problem is not None
    assert client.problem.code in ("stalled", "no_answer")
    server.is_answering = True
    server.run(client, lambda: job.phase is JobPhase.QUEUED)
    assert server.blobs[SHA256] == CONTENT


# --- down ----------------------------------------------------------------------------------------


@pytest.fixture
def job(server: ModelServer, client: Client, tmp_path: Path) -> RemoteJob:
    """A job that is queued, with results of a few windows."""
    server.results = {
        "frames/0001.png": CONTENT,
        "mask/0001.png": b"mask",
        "mask/0002.png": b"mask",
    }
    job = client.submit(render_job, {}, tmp_path / "result")
    server.settle(client)
    assert job.phase is JobPhase.QUEUED
    return job


def arrived_bytes(server: ModelServer) -> int:
    return sum(count for _, count in server.chunks_arrived)


def test_same_content_is_fetched_once(server: ModelServer, client: Client, job: RemoteJob) -> None:
    server.finish(JOB_ID)
    server.settle(client)
    assert job.phase is JobPhase.DONE
    assert written(job.folder) == server.results
    assert arrived_bytes(server) == len(CONTENT) + len(b"mask")


def test_no_byte_comes_down_twice(server: ModelServer, client: Client, job: RemoteJob) -> None:
    server.finish(JOB_ID)
    for count in (2, 9, 16):
        step_until(server, client, lambda count=count: len(server.chunks_arrived) >= count)
        lose_connection(server, client)
    server.run(client, lambda: job.is_over)
    assert written(job.folder) == server.results
    assert arrived_bytes(server) == len(CONTENT) + len(b"mask")


def test_restarted_program_fetches_the_rest(
    server: ModelServer, client: Client, job: RemoteJob
) -> None:
    server.finish(JOB_ID)
    step_until(server, client, lambda: len(server.chunks_arrived) >= 5)
    client.close()
    before_bytes = arrived_bytes(server)
    assert not job.folder.exists(), "nothing half is shown"
    again = server.client()
    resumed = again.attach(JOB_ID, job.folder)
    again.connect()
    server.settle(again)
    assert resumed.phase is JobPhase.DONE
    assert written(job.folder) == server.results
    assert server.seen_of(BlobFetch)[-2].offset_bytes == before_bytes
    assert arrived_bytes(server) == len(CONTENT) + len(b"mask")
    again.close()


def test_spoilt_beginning_is_fetched_anew(
    server: ModelServer, client: Client, job: RemoteJob
) -> None:
    """What lay on this disk was not what had come: a crash of the computer does that."""
    partial = job.folder.with_name(f".{job.folder.name}.{JOB_ID[:12]}.part")
    (partial / "frames").mkdir(parents=True)
    (partial / "frames" / "0001.png").write_bytes(b"\0" * 10_000)
    server.finish(JOB_ID)
    server.settle(client)
    assert job.phase is JobPhase.DONE
    assert written(job.folder) == server.results


def test_too_long_a_beginning_is_dropped(
    server: ModelServer, client: Client, job: RemoteJob
) -> None:
    partial = job.folder.with_name(f".{job.folder.name}.{JOB_ID[:12]}.part")
    (partial / "frames").mkdir(parents=True)
    (partial / "frames" / "0001.png").write_bytes(CONTENT + b"more")
    server.finish(JOB_ID)
    server.settle(client)
    assert job.phase is JobPhase.DONE
    assert written(job.folder) == server.results


def test_wrong_content_is_refused(server: ModelServer, client: Client, job: RemoteJob) -> None:
    server.finish(JOB_ID)
    server.blobs[SHA256] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    server.settle(client)
    assert failed_with(job) == "blob_corrupt"
    assert not job.folder.exists()
    assert client.state is ConnectionState.READY


def test_result_that_is_gone_is_told(server: ModelServer, client: Client, job: RemoteJob) -> None:
    server.finish(JOB_ID)
    server.blobs.clear()
    server.settle(client)
    assert failed_with(job) == "result_expired"


@pytest.mark.parametrize(
    ("offset", "size"),
    [(4096, 100), (1, 4095), (0, len(CONTENT) + 1)],
    ids=["hole", "shifted", "beyond_the_end"],
)
def test_chunks_that_do_not_fit_end_the_connection(
    server: ModelServer, client: Client, job: RemoteJob, offset: int, size: int
) -> None:
    server.answers[BlobFetch] = lambda _: None
    server.finish(JOB_ID)
    server.settle(client)
    server.say(BlobChunk(sha256=SHA256, offset_bytes=offset), b"?" * size)
    server.settle(client)
    assert client.problem is not None
    assert client.problem.code == "chunk_offset"
    server.answers.clear()
    server.run(client, lambda: job.is_over)
    assert written(job.folder) == server.results


def test_chunks_nobody_asked_for_write_nothing(
    server: ModelServer, client: Client, job: RemoteJob, tmp_path: Path
) -> None:
    before = written(tmp_path)
    for _ in range(100):
        server.say(BlobChunk(sha256="0" * 64, offset_bytes=0), b"?" * 4096)
    server.settle(client)
    assert client.state is ConnectionState.READY
    assert written(tmp_path) == before
    assert job.phase is JobPhase.QUEUED


def test_repeated_chunks_are_written_once(
    server: ModelServer, client: Client, job: RemoteJob
) -> None:
    server.finish(JOB_ID)
    step_until(server, client, lambda: len(server.chunks_arrived) >= 2)
    server.say(BlobChunk(sha256=SHA256, offset_bytes=0), CONTENT[:4096])
    server.settle(client)
    assert written(job.folder) == server.results


def test_granted_credit_stays_within_the_window(
    server: ModelServer, client: Client, job: RemoteJob
) -> None:
    """A server that has been asked for much may send at most a window that was not yet read."""
    server.finish(JOB_ID)
    server.settle(client)
    granted = sum(message.grant_bytes for message in server.seen_of(BlobCredit))
    assert granted <= LIMITS.window_bytes + arrived_bytes(server)
    assert granted >= arrived_bytes(server)


@pytest.mark.parametrize(
    "names",
    [("a.png", "A.png"), ("con", "x"), ("frames/aux.png", "x"), ("name.", "x")],
    ids=["case", "device", "device_with_suffix", "dot"],
)
def test_names_that_some_disks_confuse_are_refused(
    server: ModelServer, client: Client, job: RemoteJob, names: tuple[str, str]
) -> None:
    server.results = dict.fromkeys(names, b"content")
    server.finish(JOB_ID)
    server.settle(client)
    assert failed_with(job) == "job_results"
    assert not server.seen_of(BlobFetch)


def test_folder_with_these_results_is_taken_as_it_is(
    server: ModelServer, client: Client, job: RemoteJob
) -> None:
    for path, content in server.results.items():
        (job.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (job.folder / path).write_bytes(content)
    server.finish(JOB_ID)
    server.settle(client)
    assert job.phase is JobPhase.DONE
    assert not server.seen_of(BlobFetch)


def test_folder_with_other_things_is_left_alone(
    server: ModelServer, client: Client, job: RemoteJob
) -> None:
    job.folder.mkdir()
    (job.folder / "novel.txt").write_text("chapter one")
    server.finish(JOB_ID)
    server.settle(client)
    assert failed_with(job) == "folder_taken"
    assert written(job.folder) == {"novel.txt": b"chapter one"}


def test_empty_folder_is_filled(server: ModelServer, client: Client, job: RemoteJob) -> None:
    job.folder.mkdir()
    server.finish(JOB_ID)
    server.settle(client)
    assert written(job.folder) == server.results


def test_full_disk_is_told_and_what_came_is_kept(
    server: ModelServer, client: Client, job: RemoteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.finish(JOB_ID)
    step_until(server, client, lambda: len(server.chunks_arrived) >= 3)

    class FullDisk:
        def __init__(self, *_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        from ex4d.client import downloads

        for incoming in client._downloads._incoming.values():
            downloads._close(incoming)
        patch.setattr(downloads, "FileIO", FullDisk)
        server.settle(client)
    assert failed_with(job) == "disk_full"
    before_bytes = arrived_bytes(server)
    resumed = client.attach(JOB_ID, job.folder)
    server.settle(client)
    assert resumed.phase is JobPhase.DONE
    assert written(job.folder) == server.results
    assert arrived_bytes(server) - before_bytes < len(CONTENT)


def test_too_small_a_disk_is_refused_before_a_byte(
    server: ModelServer, client: Client, job: RemoteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ex4d.client import downloads

    usage = downloads.shutil.disk_usage(job.folder.parent)._replace(free=1000)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage)
    server.finish(JOB_ID)
    server.settle(client)
    assert failed_with(job) == "disk_full"
    assert not server.seen_of(BlobFetch)


def test_two_jobs_with_a_result_in_common(
    server: ModelServer, client: Client, job: RemoteJob, tmp_path: Path
) -> None:
    other = client.submit(render_job, {}, tmp_path / "other")
    server.settle(client)
    assert other.job_id is not None
    server.finish(JOB_ID)
    server.finish(other.job_id)
    server.settle(client)
    assert written(job.folder) == written(other.folder) == server.results


def test_many_small_results(server: ModelServer, client: Client, job: RemoteJob) -> None:
    server.results = {f"frames/{n:04d}.png": b"%d" % n for n in range(300)}
    server.finish(JOB_ID)
    server.settle(client)
    assert written(job.folder) == server.results


def test_silent_server_is_asked_again(server: ModelServer, client: Client, job: RemoteJob) -> None:
    server.answers[BlobFetch] = lambda _: None
    server.finish(JOB_ID)
    server.settle(client)
    server.pass_time(client, STALL_S + 1)
    assert client.problem is not None
    assert client.problem.code == "stalled"
    server.answers.clear()
    server.run(client, lambda: job.is_over)
    assert job.phase is JobPhase.DONE


def test_long_absence_is_no_standstill(server: ModelServer, client: Client, job: RemoteJob) -> None:
    """Blender rendered for an hour: what came meanwhile is read, the connection stays."""
    server.finish(JOB_ID)
    step_until(server, client, lambda: server.chunks_arrived)
    server.clock.now_s += 3600.0
    server.settle(client)
    assert job.phase is JobPhase.DONE
    assert len(server.attempts_s) == 1


def test_error_about_nothing_is_only_logged(
    server: ModelServer, client: Client, job: RemoteJob, caplog: pytest.LogCaptureFixture
) -> None:
    server.say(Error(in_reply_to="", code="strange", message="expected sense"))
    server.settle(client)
    assert "expected sense" in caplog.text
    assert job.phase is JobPhase.QUEUED
