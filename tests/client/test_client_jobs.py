"""Jobs: sent as one, followed, cancelled, fetched, and found again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_server import JOB_ID, ModelServer, file_ref, written
from raw_client import render_job

from ex4d.client import Client, ConnectionState, JobPhase, RemoteJob, run_until
from ex4d.errors import Ex4dError, InputError, TransferError
from ex4d.protocol.documents import FileRef
from ex4d.protocol.messages import (
    BlobAbort,
    BlobNeed,
    BlobOffer,
    BlobWant,
    Error,
    JobCancel,
    JobSubmit,
    JobWatch,
    RenderJob,
)

CONTENT = bytes(range(256)) * 300
RESULTS = {"color/0001.png": b"colour" * 2000, "mask/0001.png": b"mask", "take.json": b""}


@pytest.fixture
def server(server: ModelServer) -> ModelServer:
    server.results = dict(RESULTS)
    return server


@pytest.fixture
def submit(client: Client, tmp_path: Path) -> Callable[..., RemoteJob]:
    """Submit a job of one file; nothing has happened to it yet."""

    def start(content: bytes = CONTENT, name: str = "result", **options: Any) -> RemoteJob:
        source = tmp_path / "scene.json"
        source.write_bytes(content)
        return client.submit(render_job, {"scene.json": source}, tmp_path / name, **options)

    return start


Submit = Callable[..., RemoteJob]


def failed_with(job: RemoteJob) -> str:
    assert job.phase is JobPhase.FAILED
    assert job.error is not None
    return job.error.code


def test_from_files_to_results(server: ModelServer, client: Client, submit: Submit) -> None:
    job = submit()
    assert job.phase is JobPhase.HASHING
    server.settle(client)
    assert (job.phase, job.job_id) == (JobPhase.QUEUED, JOB_ID)
    assert server.blobs[file_ref("x", CONTENT).sha256] == CONTENT
    server.tell(JOB_ID, state="running", attempt=1, stage="rendering", done=1, total=4, eta_s=6.0)
    server.settle(client)
    assert (job.phase, job.stage, job.fraction, job.eta_s, job.attempt) == (
        JobPhase.RUNNING,
        "rendering",
        0.25,
        6.0,
        1,
    )
    server.finish(JOB_ID)
    server.settle(client)
    assert (job.phase, job.is_over, job.fraction) == (JobPhase.DONE, True, 1.0)
    assert written(job.folder) == RESULTS
    assert [path.name for path in job.folder.parent.iterdir() if path.name.startswith(".")] == []


def test_same_request_is_the_same_job_after_a_loss(
    server: ModelServer, client: Client, submit: Submit
) -> None:
    """The answer to a submission is lost with the connection; asking twice is asking once."""
    server.answers[JobSubmit] = lambda _: None
    job = submit(request_id="a" * 32)
    server.settle(client)
    assert job.phase is JobPhase.SUBMITTING
    del server.answers[JobSubmit]
    server.cut()
    server.run(client, lambda: job.phase is JobPhase.QUEUED)
    sent = server.seen_of(JobSubmit)
    assert len(sent) == 2
    assert sent[0] == sent[1]
    assert sent[0].request_id == "a" * 32
    assert len(server.events) == 1


def test_known_files_are_not_sent_again(
    server: ModelServer, client: Client, submit: Submit
) -> None:
    first = submit()
    server.settle(client)
    second = submit(name="other")
    server.settle(client)
    assert (first.phase, second.phase) == (JobPhase.QUEUED, JobPhase.QUEUED)
    assert sum(count for _, count in server.chunks_stored) == len(CONTENT)


def test_two_jobs_share_what_they_have_in_common(
    server: ModelServer, client: Client, submit: Submit
) -> None:
    first, second = submit(), submit(name="other")
    server.settle(client)
    assert (first.phase, second.phase) == (JobPhase.QUEUED, JobPhase.QUEUED)
    assert sum(count for _, count in server.chunks_stored) == len(CONTENT)


@pytest.mark.parametrize("request_id", ["", "A" * 32, "a" * 31, "../../../../etc/passwd"])
def test_bad_names_fail_here(
    server: ModelServer, client: Client, submit: Submit, tmp_path: Path, request_id: str
) -> None:
    attached = client.attach(request_id, tmp_path / "result")
    assert failed_with(attached) == "job_id"
    if request_id:
        assert failed_with(submit(request_id=request_id)) == "request_id"
    server.settle(client)
    assert not server.seen_of(JobSubmit)


@pytest.mark.parametrize(
    "path", ["../scene.json", "/scene.json", "a/b/c.json", ".hidden", "naïve.json", ""]
)
def test_file_names_that_cannot_travel_are_refused(
    server: ModelServer, client: Client, tmp_path: Path, path: str
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    job = client.submit(render_job, {path: tmp_path / "file"}, tmp_path / "result")
    server.settle(client)
    assert failed_with(job) == "file_name"
    assert not server.seen_of(BlobOffer)


def test_missing_file_is_named(server: ModelServer, client: Client, tmp_path: Path) -> None:
    job = client.submit(render_job, {"scene.json": tmp_path / "nowhere"}, tmp_path / "result")
    server.settle(client)
    assert failed_with(job) == "file_unreadable"
    assert job.error is not None
    assert "nowhere" in job.error.message


def test_builder_that_refuses_fails_the_job(
    server: ModelServer, client: Client, tmp_path: Path
) -> None:
    def build(_: tuple[FileRef, ...]) -> RenderJob:
        raise InputError("trajectory", "expected another")

    job = client.submit(build, {}, tmp_path / "result")
    server.settle(client)
    assert failed_with(job) == "trajectory"


def test_failure_at_the_server_comes_through(
    server: ModelServer, client: Client, submit: Submit
) -> None:
    job = submit()
    server.settle(client)
    server.tell(JOB_ID, state="failed", error_code="depth_size", error_message="expected 49")
    server.settle(client)
    assert failed_with(job) == "depth_size"
    assert not job.folder.exists()


def test_expired_files_are_sent_again_but_not_for_ever(
    server: ModelServer, client: Client, submit: Submit
) -> None:
    server.answers[JobSubmit] = lambda message: Error(
        in_reply_to=message.request_id, code="blob_missing", message="expected all files"
    )
    job = submit()
    server.settle(client)
    assert failed_with(job) == "blob_missing"
    assert len(server.seen_of(BlobOffer)) == 3


@pytest.mark.parametrize("code", ["quota_exceeded", "disk_full", "too_many_blobs"])
def test_refused_offer_fails_the_job(
    server: ModelServer, client: Client, submit: Submit, code: str
) -> None:
    server.answers[BlobOffer] = lambda message: Error(
        in_reply_to=message.request_id, code=code, message="expected less"
    )
    job = submit()
    server.settle(client)
    assert failed_with(job) == code
    assert not server.chunks_stored


@pytest.mark.parametrize("lie", ["unknown", "beyond"])
def test_server_that_wants_what_was_not_offered(
    server: ModelServer, client: Client, submit: Submit, lie: str
) -> None:
    need = (
        BlobNeed(sha256="0" * 64, have_bytes=0)
        if lie == "unknown"
        else BlobNeed(sha256=file_ref("x", CONTENT).sha256, have_bytes=len(CONTENT))
    )
    server.answers[BlobOffer] = lambda offer: BlobWant(in_reply_to=offer.request_id, needs=(need,))
    job = submit()
    server.settle(client)
    assert client.state is ConnectionState.LOST
    assert client.problem is not None
    assert client.problem.code == "message_invalid"
    server.answers.clear()
    server.run(client, lambda: job.phase is JobPhase.QUEUED)


# --- events --------------------------------------------------------------------------------------


def test_old_events_change_nothing(server: ModelServer, client: Client, submit: Submit) -> None:
    job = submit()
    server.settle(client)
    server.tell(JOB_ID, state="running", attempt=2, stage="rendering", done=3, total=4)
    newest = server.events[JOB_ID]
    server.tell(JOB_ID, state="running", attempt=1, stage="old attempt", done=4, total=4)
    server.events[JOB_ID] = newest
    server.say(newest)
    server.settle(client)
    assert (job.stage, job.fraction, job.attempt) == ("rendering", 0.75, 2)


def test_events_of_others_are_ignored(server: ModelServer, client: Client, submit: Submit) -> None:
    job = submit()
    server.settle(client)
    server.tell(JOB_ID, job_id="f" * 32, state="failed", error_code="x")
    server.settle(client)
    assert job.phase is JobPhase.QUEUED


def test_watch_after_a_loss_asks_for_later_events_only(
    server: ModelServer, client: Client, submit: Submit
) -> None:
    job = submit()
    server.settle(client)
    server.tell(JOB_ID, state="running", stage="rendering")
    server.settle(client)
    server.cut()
    server.run(client, lambda: bool(server.seen_of(JobWatch)))
    assert server.seen_of(JobWatch)[0].after_seq == 1
    server.finish(JOB_ID)
    server.run(client, lambda: job.is_over)
    assert job.phase is JobPhase.DONE


# --- a program that was ended and started again --------------------------------------------------


def test_attach_finds_a_job_again(
    server: ModelServer, client: Client, submit: Submit, tmp_path: Path
) -> None:
    submit()
    server.settle(client)
    client.close()
    again = server.client()
    job = again.attach(JOB_ID, tmp_path / "result")
    again.connect()
    server.settle(again)
    assert job.phase is JobPhase.QUEUED
    server.finish(JOB_ID)
    server.settle(again)
    assert job.phase is JobPhase.DONE
    assert written(tmp_path / "result") == RESULTS
    again.close()


def test_a_job_is_followed_once(server: ModelServer, client: Client, submit: Submit) -> None:
    """Two downloads into one folder would take each other's files away."""
    job = submit(request_id="a" * 32)
    assert submit(request_id="a" * 32) is job
    server.settle(client)
    assert client.attach(JOB_ID, job.folder) is job
    server.finish(JOB_ID)
    server.settle(client)
    assert job.phase is JobPhase.DONE
    assert written(job.folder) == RESULTS
    assert client.attach(JOB_ID, job.folder) is not job


def test_attach_to_nothing_says_so(server: ModelServer, client: Client, tmp_path: Path) -> None:
    job = client.attach("e" * 32, tmp_path / "result")
    server.settle(client)
    assert failed_with(job) == "not_found"


def test_list_survives_a_loss(server: ModelServer, client: Client, submit: Submit) -> None:
    submit()
    server.settle(client)
    seen: list[tuple[object, ...]] = []
    client.list_jobs(seen.append)
    server.cut()
    server.run(client, lambda: bool(seen))
    server.settle(client)
    assert [[event.job_id for event in events] for events in seen] == [[JOB_ID]]


# --- cancel --------------------------------------------------------------------------------------


def test_cancel_before_anything_was_sent(
    server: ModelServer, client: Client, submit: Submit
) -> None:
    job = submit()
    client.cancel(job)
    server.settle(client)
    assert job.phase is JobPhase.CANCELLED
    assert not server.seen_of(BlobOffer)


def test_cancel_while_sending_keeps_what_arrived(
    server: ModelServer, client: Client, submit: Submit
) -> None:
    job = submit()
    while not server.chunks_stored:
        server.step(client)
    client.cancel(job)
    server.settle(client)
    assert job.phase is JobPhase.CANCELLED
    assert len(server.seen_of(BlobAbort)) == 1
    assert not server.seen_of(JobSubmit)
    again = submit(name="again")
    server.settle(client)
    assert again.phase is JobPhase.QUEUED
    assert sum(count for _, count in server.chunks_stored) == len(CONTENT)


def test_cancel_of_one_leaves_the_files_of_another(
    server: ModelServer, client: Client, submit: Submit
) -> None:
    first, second = submit(), submit(name="other")
    while not server.chunks_stored:
        server.step(client)
    client.cancel(first)
    server.settle(client)
    assert (first.phase, second.phase) == (JobPhase.CANCELLED, JobPhase.QUEUED)


def test_cancel_while_submitting_reaches_the_job(
    server: ModelServer, client: Client, submit: Submit
) -> None:
    job = submit()
    while not client.poll() or job.phase is not JobPhase.SUBMITTING:
        server.serve()
    client.cancel(job)
    client.cancel(job)
    assert job.phase is JobPhase.CANCELLING
    server.settle(client)
    assert job.phase is JobPhase.CANCELLED
    assert server.events[JOB_ID].state == "cancelled"


def test_cancel_is_said_again_after_a_loss(
    server: ModelServer, client: Client, submit: Submit
) -> None:
    job = submit()
    server.settle(client)
    client.cancel(job)
    assert job.phase is JobPhase.CANCELLING
    server.cut()
    server.run(client, lambda: job.is_over)
    assert job.phase is JobPhase.CANCELLED
    assert server.seen_of(JobCancel)


def test_cancel_that_comes_too_late_fetches_nothing(
    server: ModelServer, client: Client, submit: Submit
) -> None:
    job = submit()
    server.settle(client)
    client.cancel(job)
    server.finish(JOB_ID)
    server.settle(client)
    assert job.phase is JobPhase.CANCELLED
    assert not job.folder.exists()


def test_cancel_of_what_the_server_forgot(
    server: ModelServer, client: Client, submit: Submit
) -> None:
    job = submit()
    server.settle(client)
    server.events.clear()
    client.cancel(job)
    server.settle(client)
    assert job.phase is JobPhase.CANCELLED


def test_cancel_while_fetching_leaves_nothing(
    server: ModelServer, client: Client, submit: Submit
) -> None:
    server.results = {"a.png": b"x" * 60_000}
    job = submit()
    server.settle(client)
    server.finish(JOB_ID)
    while not server.chunks_arrived:
        server.step(client)
    client.cancel(job)
    server.settle(client)
    assert job.phase is JobPhase.CANCELLED
    assert {path.name for path in job.folder.parent.iterdir()} == {"scene.json"}


def test_cancel_of_what_is_over_does_nothing(
    server: ModelServer, client: Client, submit: Submit
) -> None:
    job = submit()
    server.settle(client)
    server.finish(JOB_ID)
    server.settle(client)
    client.cancel(job)
    assert job.phase is JobPhase.DONE


# --- the loop of the command line ----------------------------------------------------------------


def test_run_until_raises_the_refusal(server: ModelServer, client: Client, submit: Submit) -> None:
    job = submit()
    server.say(Error(in_reply_to="", code="key_revoked", message="expected a known key"))
    with pytest.raises(Ex4dError) as caught:
        run_until(client, lambda: job.is_over, timeout_s=600.0)
    assert caught.value.code == "key_revoked"


def test_run_until_gives_up(server: ModelServer, client: Client) -> None:
    with pytest.raises(TransferError) as caught:
        run_until(client, lambda: False, timeout_s=5.0)
    assert caught.value.code == "timeout"
