"""What the whole must survive: a real server process and the real client, disturbed.

What the server alone must survive is shown in `tests/server`, with a client that is spoken by hand;
what the client alone must, in `tests/client`.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from ex4d_server.keys import FolderKeys
from machine import TIMEOUT_S, Machine
from raw_client import RawClient, file_ref, random_bytes, render_job
from server_process import ServerProcess, make_key_pair

from ex4d.bench.sample import SAMPLE_FOLDER
from ex4d.client import ConnectionState, JobPhase, KeyPair, RemoteJob
from ex4d.protocol import codec
from ex4d.protocol.documents import FileRef
from ex4d.protocol.link import parse_link
from ex4d.protocol.messages import MAX_HEADER_BYTES, ReconstructJob

MIB = 1 << 20
#: Long enough to act while the job runs.
SLOW = ("--fake-frame-s", "0.1")


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    servers: list[ServerProcess] = []

    def start(*arguments: str) -> ServerProcess:
        servers.append(ServerProcess(tmp_path / "data", *arguments))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
        assert "internal_error" not in server.log_text()


@pytest.fixture
def machine() -> Iterator[Callable[..., Machine]]:
    """Set up a machine; where a user's name is given the server knows its key."""
    machines: list[Machine] = []

    def set_up(
        server: ServerProcess,
        user: str = "",
        keys: KeyPair | None = None,
        server_key: str = "",
    ) -> Machine:
        machines.append(Machine(server, keys, server_key))
        if user:
            FolderKeys(server.data).authorise(user, machines[-1].keys.public_key)
        return machines[-1]

    yield set_up
    for item in machines:
        item.client.close()


StartServer = Callable[..., ServerProcess]
SetUp = Callable[..., Machine]


def submit(
    machine: Machine, folder: Path, content: bytes, name: str = "result", request_id: str = ""
) -> RemoteJob:
    """A job of one file and twenty frames."""
    source = folder / "scene.json"
    source.write_bytes(content)
    return machine.client.submit(
        lambda files: render_job(files, frame_count=20),
        {"scene.json": source},
        folder / name,
        request_id or None,
    )


def part_bytes(server: ServerProcess) -> int:
    """What the server has of unfinished uploads."""
    return sum(path.stat().st_size for path in server.data.rglob("*.part"))


def results(job: RemoteJob) -> dict[str, bytes]:
    assert job.phase is JobPhase.DONE, job.error
    return {
        path.relative_to(job.folder).as_posix(): path.read_bytes()
        for path in job.folder.rglob("*.png")
    }


def code(job: RemoteJob) -> str:
    assert job.phase is JobPhase.FAILED
    assert job.error is not None
    return job.error.code


def test_server_killed_while_a_file_goes_up(
    start_server: StartServer, machine: SetUp, tmp_path: Path
) -> None:
    """What it has stored is not sent again, and the job is done without a hand being moved."""
    server = start_server()
    laptop = machine(server, "anna").connect()
    content = random_bytes(40 * MIB)
    job = submit(laptop, tmp_path, content)
    laptop.run(lambda: part_bytes(server) > 8 * MIB, budget_s=0.0)
    assert job.phase is JobPhase.UPLOADING
    server.kill()
    stored = part_bytes(server)
    before = len(laptop.traffic.sent)
    laptop.run(lambda: laptop.client.state is ConnectionState.LOST)
    server.start()
    laptop.run(lambda: job.is_over)
    assert len(results(job)) == 40
    again = laptop.traffic.sent[before:]
    assert again[0][0] == stored, "from where the server was, not from the start"
    assert sum(count for _, count in again) == len(content) - stored
    (blob,) = server.data.rglob(file_ref("x", content).sha256)
    assert blob.read_bytes() == content


def test_client_gone_in_the_middle_of_both_ways(
    start_server: StartServer, machine: SetUp, tmp_path: Path
) -> None:
    """Its program is ended while sending and while fetching; each time another goes on."""
    server = start_server("--fake-frame-s", "0")
    first = machine(server, "anna").connect()
    content = random_bytes(40 * MIB)

    def start(computer: Machine) -> RemoteJob:
        def build(files: tuple[FileRef, ...]) -> ReconstructJob:
            return ReconstructJob(files=files, clip="clip.mp4", depth="clip.mp4", name="x")

        (tmp_path / "clip.mp4").write_bytes(content)
        sources = {"clip.mp4": tmp_path / "clip.mp4"}
        return computer.client.submit(build, sources, tmp_path / "result", "a" * 32)

    start(first)
    first.run(lambda: part_bytes(server) > 8 * MIB, budget_s=0.0)
    first.client.close()
    second = machine(server, "", first.keys).connect()
    job = start(second)
    second.run(lambda: second.traffic.received_bytes > 8 * MIB, budget_s=0.0)
    resumed_from = second.traffic.sent[0][0]
    assert resumed_from >= 8 * MIB
    assert second.traffic.sent_bytes == len(content) - resumed_from
    assert job.phase is JobPhase.DOWNLOADING
    assert job.job_id is not None
    second.client.close()
    assert not job.folder.exists(), "nothing half is shown"
    third = machine(server, "", first.keys).connect()
    job = third.client.attach(job.job_id, job.folder)
    third.run(lambda: job.is_over)
    assert job.phase is JobPhase.DONE, job.error
    assert (tmp_path / "result" / "clip.mp4").read_bytes() == content
    assert third.traffic.received[0][0] == second.traffic.received_bytes
    assert second.traffic.received_bytes + third.traffic.received_bytes == len(content)
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()


def test_worker_killed_in_the_middle_of_a_job(
    start_server: StartServer, machine: SetUp, tmp_path: Path
) -> None:
    """The real worker, at real work: it is tried again and the scene is whole."""
    server = start_server("--executor", "local")
    laptop = machine(server, "anna").connect()

    def build(files: tuple[FileRef, ...]) -> ReconstructJob:
        return ReconstructJob(
            files=files, clip="clip.mp4", depth="depth.npz", depth_kind="metric", name="sample"
        )

    sources = {"clip.mp4": SAMPLE_FOLDER / "source.mp4", "depth.npz": SAMPLE_FOLDER / "depth.npz"}
    job = laptop.client.submit(build, sources, tmp_path / "scene")
    laptop.run(
        lambda: job.is_over or (job.phase is JobPhase.RUNNING and job.stage not in ("", "starting"))
    )
    assert not job.is_over, job.error
    workers = [
        child
        for child in psutil.Process(server.pid).children()
        if "spawn_main" in " ".join(child.cmdline())
    ]
    assert len(workers) == 1
    workers[0].kill()
    laptop.run(lambda: job.is_over)
    assert job.phase is JobPhase.DONE, job.error
    assert job.attempt == 2
    scene = json.loads((job.folder / "scene.json").read_bytes())
    assert len(list((job.folder / "frames").iterdir())) == scene["frame_count"]
    assert laptop.traffic.sent_bytes == sum(path.stat().st_size for path in sources.values())


def test_same_job_from_two_machines_at_once(
    start_server: StartServer, machine: SetUp, tmp_path: Path
) -> None:
    server = start_server(*SLOW)
    laptop = machine(server, "anna").connect()
    desktop = machine(server, "", laptop.keys).connect()
    content = random_bytes(MIB)
    jobs = []
    for number, computer in enumerate((laptop, desktop)):
        (tmp_path / str(number)).mkdir()
        jobs.append(submit(computer, tmp_path / str(number), content, request_id="b" * 32))
    deadline_s = time.monotonic() + TIMEOUT_S
    while not all(job.is_over for job in jobs):
        assert time.monotonic() < deadline_s
        for computer in (laptop, desktop):
            computer.client.poll()
        time.sleep(0.002)
    assert results(jobs[0]) == results(jobs[1]) != {}
    assert jobs[0].job_id == jobs[1].job_id
    assert [event.attempt for event in laptop.jobs()] == [1], "it ran once"


def test_cancel_frees_what_the_job_held(
    start_server: StartServer, machine: SetUp, tmp_path: Path
) -> None:
    server = start_server(*SLOW)
    laptop = machine(server, "anna").connect()
    process = psutil.Process(server.pid)
    files_before = process.num_fds()
    running = submit(laptop, tmp_path, random_bytes(MIB), "a")
    laptop.run(lambda: running.phase is JobPhase.RUNNING)
    uploading = submit(laptop, tmp_path, random_bytes(40 * MIB), "b")
    laptop.run(lambda: part_bytes(server) > MIB, budget_s=0.0)
    for job in (running, uploading):
        laptop.client.cancel(job)
        laptop.run(lambda job=job: job.is_over)
        assert job.phase is JobPhase.CANCELLED
    assert [event.state for event in laptop.jobs()] == ["cancelled"]
    deadline_s = time.monotonic() + TIMEOUT_S
    while process.num_fds() > files_before or list((server.data / "work").iterdir()):
        assert time.monotonic() < deadline_s, "the server still holds something"
        time.sleep(0.05)
    another = submit(laptop, tmp_path, random_bytes(MIB), "c")
    laptop.run(lambda: another.is_over)
    assert len(results(another)) == 40


def test_wrong_keys_are_told_apart(start_server: StartServer, machine: SetUp) -> None:
    server = start_server()
    machine(server, "anna").connect()
    stranger = machine(server)
    stranger.client.connect()
    assert stranger.problem_code() == "key_unknown"
    assert stranger.client.state is ConnectionState.REFUSED
    assert stranger.client.problem is not None
    assert stranger.keys.public_key in stranger.client.problem.message
    deceived = machine(server, "anna", server_key=make_key_pair().public_key)
    deceived.client.connect()
    assert deceived.problem_code() == "server_key"
    assert deceived.client.welcome is None


def test_pairing_link_is_good_for_one(start_server: StartServer, machine: SetUp) -> None:
    server = start_server()
    token = parse_link(server.pairing_link("anna")).token
    first, second = machine(server), machine(server)
    first.client.pair(token)
    first.run(lambda: first.client.state is ConnectionState.READY)
    second.client.pair(token)
    assert second.problem_code() == "key_unknown", "nobody is expected any more"
    # While somebody else is expected, strangers get as far as showing their token.
    server.pairing_link("ben")
    third = machine(server)
    third.client.pair(token)
    assert third.problem_code() == "pairing_refused"
    assert third.client.state is ConnectionState.REFUSED
    assert [event.job_id for event in first.jobs()] == []
    for secret in (token, first.keys.secret_key, second.keys.secret_key):
        assert secret not in server.log_text()


def test_what_is_anothers_cannot_be_seen(
    start_server: StartServer, machine: SetUp, tmp_path: Path
) -> None:
    server = start_server("--fake-frame-s", "0")
    anna, ben = machine(server, "anna").connect(), machine(server, "ben").connect()
    content = random_bytes(3 * MIB)
    job = submit(anna, tmp_path, content)
    anna.run(lambda: job.is_over)
    assert job.job_id is not None
    assert ben.jobs() == ()
    theirs = ben.client.attach(job.job_id, tmp_path / "theirs")
    nobodys = ben.client.attach("c" * 32, tmp_path / "nobodys")
    ben.run(lambda: theirs.is_over and nobodys.is_over)
    assert code(theirs) == code(nobodys) == "not_found"
    assert theirs.error is not None
    assert nobodys.error is not None
    assert theirs.error.message.replace(job.job_id, "") == nobodys.error.message.replace(
        "c" * 32, ""
    )
    # The same footage goes up whole: that it is there already does not show.
    own = submit(ben, tmp_path, content, "own", request_id=job.request_id)
    ben.run(lambda: own.is_over)
    assert ben.traffic.sent_bytes == len(content)
    assert results(own) == results(job)
    assert own.job_id != job.job_id


def test_hostile_neighbours_are_not_noticed(
    start_server: StartServer, machine: SetUp, tmp_path: Path
) -> None:
    """Garbage and oversized frames from a known key, while another user moves files."""
    server = start_server("--fake-frame-s", "0")
    laptop = machine(server, "anna").connect()
    mallory = make_key_pair()
    FolderKeys(server.data).authorise("mallory", mallory.public_key)
    content = random_bytes(40 * MIB)
    job = submit(laptop, tmp_path, content)
    laptop.run(lambda: laptop.traffic.sent, budget_s=0.0)
    memory_before = psutil.Process(server.pid).memory_info().rss
    rubbish: list[list[bytes]] = [
        [os.urandom(1000)],
        [codec.MAGIC, os.urandom(MAX_HEADER_BYTES)],
        [codec.MAGIC, b"\x91" * 100_000],
        [codec.MAGIC, b"", b"", b"", b""],
        # More than the socket takes: the connection ends.
        [codec.MAGIC, b"x" * (MAX_HEADER_BYTES + MIB)],
    ]
    for frames in rubbish:
        with RawClient(server, mallory) as neighbour:
            neighbour.hello()
            for _ in range(20):
                neighbour.socket.send_multipart(frames)
                laptop.client.poll(0.0)
            # What is sent leaves before the socket is closed.
            neighbour.receive_all(quiet_s=0.05)
    assert job.phase is JobPhase.UPLOADING, "all this happened meanwhile"
    laptop.run(lambda: job.is_over)
    assert len(results(job)) == 40
    assert laptop.traffic.sent_bytes == len(content), "the connection was never lost"
    (blob,) = server.data.rglob(file_ref("x", content).sha256)
    assert blob.read_bytes() == content
    assert psutil.Process(server.pid).memory_info().rss - memory_before < 128 * MIB
