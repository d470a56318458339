"""Jobs against a real server with the fake executor."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest
from ex4d_server import scheduler as scheduling
from ex4d_server.blobs import BlobStore, Quotas
from ex4d_server.config import FakeOptions
from ex4d_server.executors.fake import FakeExecutor
from raw_client import RawClient, file_ref, new_id, random_bytes, render_job
from server_parts import running_scheduler
from server_process import ServerProcess
from server_users import add_user

from ex4d.errors import InputError
from ex4d.protocol.documents import FileRef, PreviewSettings, TakeDocument
from ex4d.protocol.messages import (
    GenerateJob,
    JobAccepted,
    JobCancel,
    JobEvent,
    JobList,
    JobListRequest,
    JobSubmit,
    JobWatch,
    ReconstructJob,
    RenderJob,
)

Connect = Callable[..., RawClient]
OwnServer = Callable[..., ServerProcess]

#: Long enough to act while the job runs.
SLOW = ("--fake-frame-s", "0.1")


def new_client(server: ServerProcess, connect: Connect) -> RawClient:
    client = connect(server, add_user(server)[1])
    client.hello()
    return client


def uploaded_job(client: RawClient, frame_count: int = 3) -> RenderJob:
    """A job of its own, whose files are on the server."""
    content = random_bytes(100)
    client.upload([content])
    return render_job([file_ref("scene.json", content)], frame_count)


def listing(client: RawClient) -> tuple[JobEvent, ...]:
    return client.ask(JobListRequest(request_id=new_id()), JobList).jobs


def test_render_job(client: RawClient) -> None:
    event = client.wait_for_end(client.submit(uploaded_job(client)))
    assert (event.state, event.attempt, event.done, event.total) == ("done", 1, 3, 3)
    names = {file.path for file in event.files}
    assert names == {f"{kind}/{n:04d}.png" for kind in ("color", "mask") for n in (1, 2, 3)}
    for file in event.files:
        assert file_ref(file.path, client.fetch(file)) == file


def test_generate_job_ends_with_a_take(client: RawClient) -> None:
    render = uploaded_job(client)
    job = GenerateJob(scene=render.scene, trajectory=render.trajectory, settings=PreviewSettings())
    event = client.wait_for_end(client.submit(job))
    take = next(file for file in event.files if file.path == "take.json")
    document = msgspec.json.decode(client.fetch(take), type=TakeDocument)
    assert document.trajectory == render.trajectory
    assert document.parts[0].name == "fake", "never passed off as the model"


def test_reconstruct_job(client: RawClient) -> None:
    clip, depth = random_bytes(1000), random_bytes(1000)
    client.upload([clip, depth])
    job = ReconstructJob(
        files=(file_ref("clip.mp4", clip), file_ref("depth.npz", depth)),
        clip="clip.mp4",
        depth="depth.npz",
        name="clip",
    )
    event = client.wait_for_end(client.submit(job))
    assert {file.path for file in event.files} == {"clip.mp4", "depth.npz"}


def test_reconstruct_job_whose_depth_is_estimated(client: RawClient) -> None:
    clip = random_bytes(1000)
    client.upload([clip])
    job = ReconstructJob(files=(file_ref("clip.mp4", clip),), clip="clip.mp4", name="clip")
    event = client.wait_for_end(client.submit(job))
    assert {file.path for file in event.files} == {"clip.mp4"}


def test_events_count_up_and_tell_the_time_left(own_server: OwnServer, connect: Connect) -> None:
    client = new_client(own_server(*SLOW), connect)
    job_id = client.submit(uploaded_job(client, frame_count=12))
    final = client.wait_for_end(job_id)
    events = [message for message, _ in client.unread if isinstance(message, JobEvent)] + [final]
    numbers = [event.seq for event in events]
    assert numbers == sorted(set(numbers))
    left_s = [event.eta_s for event in events if event.eta_s is not None]
    assert left_s, "no estimate at all"
    assert max(left_s) < 5.0
    assert left_s[-1] < left_s[0]
    assert final.eta_s is None


def test_same_request_is_the_same_job(client: RawClient) -> None:
    job, request_id = uploaded_job(client), new_id()
    first = client.submit(job, request_id)
    assert client.submit(job, request_id) == first
    client.wait_for_end(first)
    assert client.submit(job, request_id) == first
    assert client.wait_for_end(first).attempt == 1, "told again, not done again"
    assert len(listing(client)) == 1
    assert client.submit(job) != first, "a new request is a new job"


def test_same_request_with_another_job_is_a_conflict(client: RawClient) -> None:
    job, request_id = uploaded_job(client), new_id()
    client.submit(job, request_id)
    other = msgspec.structs.replace(job, scene=())
    assert client.ask_error(JobSubmit(request_id=request_id, job=other)) == "conflict"


def test_request_ids_of_users_do_not_meet(
    server: ServerProcess, client: RawClient, connect: Connect
) -> None:
    other, request_id = new_client(server, connect), new_id()
    first = client.submit(uploaded_job(client), request_id)
    assert other.submit(uploaded_job(other), request_id) != first


def test_missing_files_are_named(client: RawClient) -> None:
    job = render_job([file_ref("frames/0001.png", b"never sent")])
    client.send(JobSubmit(request_id=new_id(), job=job))
    with pytest.raises(AssertionError, match=r"blob_missing.*frames/0001\.png"):
        client.wait_for(JobAccepted)


@pytest.mark.parametrize(
    "case",
    [
        *("twice", "case", "folder", "clip_absent", "other_size"),
        *("NUL.mp4", "frames/aux.png", "Com1/clip.mp4", "clip."),
    ],
)
def test_files_that_do_not_fit_are_refused(client: RawClient, case: str) -> None:
    content = random_bytes(100)
    client.upload([content])
    file = file_ref("clip.mp4", content)
    job: RenderJob | ReconstructJob
    if case == "twice":
        job = render_job([file, file])
    elif case == "case":
        # One file where upper case is not told from lower.
        job = render_job([file, file_ref("CLIP.mp4", content)])
    elif case == "folder":
        job = render_job([file_ref("frames", content), file_ref("frames/0001.png", content)])
    elif case in ("NUL.mp4", "frames/aux.png", "Com1/clip.mp4", "clip."):
        # Windows would open a device, or another file.
        job = render_job([file_ref(case, content)])
    elif case == "other_size":
        job = render_job([FileRef(path="scene.json", sha256=file.sha256, size_bytes=99)])
    else:
        job = ReconstructJob(files=(file,), clip="clip.mp4", depth="depth.npz", name="clip")
    expected = "blob_missing" if case == "other_size" else "job_files"
    assert client.ask_error(JobSubmit(request_id=new_id(), job=job)) == expected


def test_cancel_between_queue_and_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        executor = FakeExecutor(FakeOptions(frame_s=1000.0))
        blobs = BlobStore(tmp_path / "blobs", Quotas())
        blobs.add_empty("ada")
        async with running_scheduler(tmp_path, blobs, executor) as scheduler:
            job = render_job([file_ref("scene.json", b"")])
            event = scheduler.submit("ada", new_id(), job)
            # Now its turn has come, and nothing has happened yet.
            await asyncio.sleep(0)
            assert scheduler.count() == (1, 0)
            assert scheduler.event_of("ada", event.job_id).state == "queued"
            assert scheduler.cancel("ada", event.job_id).state == "cancelling"
            while scheduler.count() != (0, 0):
                await asyncio.sleep(0.01)
            assert scheduler.event_of("ada", event.job_id).state == "cancelled"

    asyncio.run(scenario())


def test_large_requests_of_a_user_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = render_job([file_ref("scene.json", b"")], frame_count=1000)
    limit_bytes = 3 * len(msgspec.json.encode(job))
    monkeypatch.setattr(scheduling, "MAX_UNFINISHED_BYTES", limit_bytes)

    async def scenario() -> None:
        blobs = BlobStore(tmp_path / "blobs", Quotas())
        for user in ("ada", "bob"):
            blobs.add_empty(user)
        executor = FakeExecutor(FakeOptions(frame_s=1000.0))
        async with running_scheduler(tmp_path, blobs, executor) as scheduler:
            events = [scheduler.submit("ada", new_id(), job) for _ in range(3)]
            with pytest.raises(InputError) as caught:
                scheduler.submit("ada", new_id(), job)
            assert caught.value.code == "queue_full"
            scheduler.submit("bob", new_id(), job)
            scheduler.cancel("ada", events[2].job_id)
            scheduler.submit("ada", new_id(), job)

    asyncio.run(scenario())


def test_cancel_while_queued_and_while_running(own_server: OwnServer, connect: Connect) -> None:
    client = new_client(own_server(*SLOW), connect)
    running = client.submit(uploaded_job(client, frame_count=100))
    queued = client.submit(uploaded_job(client))
    client.wait_for_state(running, "running")
    for job_id in (queued, running):
        client.send(JobCancel(request_id=new_id(), job_id=job_id))
        event = client.wait_for_end(job_id, timeout_s=5)
        assert (event.state, event.files) == ("cancelled", ())
    client.send(JobCancel(request_id=new_id(), job_id=running))
    assert client.wait_for(JobEvent).state == "cancelled", "harmless when it has ended"
    assert client.wait_for_end(client.submit(uploaded_job(client))).state == "done"


def test_client_gone_and_back_finds_its_result(own_server: OwnServer, connect: Connect) -> None:
    server = own_server(*SLOW)
    client = new_client(server, connect)
    job_id = client.submit(uploaded_job(client, frame_count=5))
    client.wait_for_state(job_id, "running")
    client.close_socket()
    again = connect(server, client.keys)
    again.hello()
    again.watch(job_id)
    event = again.wait_for_end(job_id)
    assert (event.state, event.attempt) == ("done", 1)
    again.send(JobWatch(request_id=new_id(), job_id=job_id, after_seq=event.seq))
    with pytest.raises(TimeoutError):
        again.receive(timeout_s=0.3)
    assert again.fetch(event.files[0])


def test_killed_server_finishes_its_jobs_after_all(own_server: OwnServer, connect: Connect) -> None:
    server = own_server(*SLOW)
    client = new_client(server, connect)
    running = client.submit(uploaded_job(client, frame_count=10))
    queued = client.submit(uploaded_job(client))
    last_seq = client.wait_for(JobEvent, lambda event: event.done > 2).seq
    server.kill()
    client.close_socket()
    server.start()
    again = connect(server, client.keys)
    again.hello()
    again.watch(running)
    again.watch(queued)
    event = again.wait_for_end(running)
    assert (event.state, event.attempt) == ("done", 2)
    assert event.seq > last_seq
    assert again.wait_for_end(queued).state == "done"
    server.stop()
    assert not list((server.data / "work").iterdir()), "nothing of either attempt stays"


def test_job_that_kills_the_server_is_given_up(own_server: OwnServer, connect: Connect) -> None:
    server = own_server("--fake-frame-s", "10")
    client = new_client(server, connect)
    keys, job_id = client.keys, client.submit(uploaded_job(client))
    for attempt in (1, 2, 3):
        client.wait_for(
            JobEvent, lambda event, n=attempt: (event.state, event.attempt) == ("running", n)
        )
        server.kill()
        server.start()
        client = connect(server, keys)
        client.hello()
        client.watch(job_id)
    event = client.wait_for_end(job_id)
    assert (event.state, event.error_code, event.attempt) == ("failed", "worker_lost", 3)


def test_stopped_server_goes_on_without_blame(own_server: OwnServer, connect: Connect) -> None:
    server = own_server("--fake-frame-s", "0.2")
    client = new_client(server, connect)
    keys, job_id = client.keys, client.submit(uploaded_job(client))
    for _ in range(4):
        client.wait_for_state(job_id, "running")
        assert server.stop() == 0
        server.start()
        client = connect(server, keys)
        client.hello()
        client.watch(job_id)
    assert client.wait_for_end(job_id).state == "done"


@pytest.mark.parametrize(("lost", "state", "attempt"), [(2, "done", 3), (3, "failed", 3)])
def test_lost_attempts_are_repeated_twice(
    own_server: OwnServer, connect: Connect, lost: int, state: str, attempt: int
) -> None:
    client = new_client(own_server("--fake-lost-attempts", str(lost)), connect)
    event = client.wait_for_end(client.submit(uploaded_job(client)))
    assert (event.state, event.attempt) == (state, attempt)
    assert event.error_code == ("worker_lost" if state == "failed" else "")


def test_failed_job_says_why_and_is_not_repeated(own_server: OwnServer, connect: Connect) -> None:
    client = new_client(own_server("--fake-fail-code", "depth_size"), connect)
    event = client.wait_for_end(client.submit(uploaded_job(client)))
    assert (event.state, event.error_code, event.attempt) == ("failed", "depth_size", 1)
    assert event.error_message


def test_users_take_turns(own_server: OwnServer, connect: Connect) -> None:
    server = own_server("--fake-frame-s", "0.05")
    busy, other = new_client(server, connect), new_client(server, connect)
    many = [busy.submit(uploaded_job(busy)) for _ in range(20)]
    for _ in range(2):
        other.wait_for_end(other.submit(uploaded_job(other)))
    states = [event.state for event in listing(busy)]
    assert len(states) == len(many)
    assert states.count("queued") >= 15, "the other user did not wait for all of them"


def test_queue_of_one_user_is_bounded(own_server: OwnServer, connect: Connect) -> None:
    client = new_client(own_server("--fake-frame-s", "10"), connect)
    job = uploaded_job(client)
    for _ in range(100):
        client.submit(job)
    assert client.ask_error(JobSubmit(request_id=new_id(), job=job)) == "queue_full"


def test_list_is_newest_first_and_without_files(client: RawClient) -> None:
    job_ids = [client.submit(uploaded_job(client)) for _ in range(3)]
    for job_id in job_ids:
        client.wait_for_end(job_id)
    events = listing(client)
    assert [event.job_id for event in events] == job_ids[::-1]
    assert all(event.state == "done" and event.files == () for event in events)


@pytest.mark.skipif(sys.platform != "linux", reason="sets another process's limits")
def test_disk_full_while_jobs_run(own_server: OwnServer, connect: Connect) -> None:
    """The journal cannot be written: new jobs are refused, the running one ends and is told."""
    import resource

    server = own_server(*SLOW)
    client = new_client(server, connect)
    job = uploaded_job(client)
    journal = server.data / "journal.sqlite3-wal"
    process, (_, hard) = psutil.Process(server.pid), resource.getrlimit(resource.RLIMIT_FSIZE)
    first = client.submit(job)
    process.rlimit(resource.RLIMIT_FSIZE, (journal.stat().st_size, hard))
    assert client.wait_for_end(first).state == "done"
    assert client.ask_error(JobSubmit(request_id=new_id(), job=job)) == "disk_full"
    process.rlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert client.wait_for_end(client.submit(job)).state == "done", "the slot is free"
    server.kill()
    server.start()
    again = connect(server, client.keys)
    again.hello()
    assert [event.state for event in listing(again)] == ["done"] * 2, "written after all"
