"""Old clients at new servers, and new clients at old ones, of the same major version."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from ex4d_server.keys import FolderKeys
from machine import Machine
from raw_client import RawClient, file_ref, random_bytes, render_job
from server_process import ServerProcess
from server_users import add_user

from ex4d.client import JobPhase
from ex4d.protocol.documents import FileRef, PreviewSettings
from ex4d.protocol.messages import (
    PROTOCOL_MINOR,
    REFINES_MINOR,
    GenerateJob,
    JobPreview,
    ReconstructJob,
)


class OldServer(ServerProcess):
    program = (sys.executable, str(Path(__file__).parents[1] / "support" / "old_server.py"))


@pytest.fixture
def old_server(tmp_path: Path) -> Iterator[ServerProcess]:
    with OldServer(tmp_path / "data") as server:
        yield server
        assert "internal_error" not in server.log_text()


def generate(scene: tuple[FileRef, ...]) -> GenerateJob:
    render = render_job(scene, frame_count=20)
    return GenerateJob(scene=scene, trajectory=render.trajectory, settings=PreviewSettings())


@pytest.mark.parametrize("minor", [0, PROTOCOL_MINOR + 1, 1000])
def test_client_of_another_minor_version_is_served(
    server: ServerProcess, connect: Callable[..., RawClient], minor: int
) -> None:
    client = connect(server, add_user(server)[1])
    welcome = client.hello(protocol_minor=minor)
    assert (welcome.protocol_major, welcome.protocol_minor) == (1, PROTOCOL_MINOR)
    content = random_bytes(1000)
    client.upload([content])
    job_id = client.submit(generate((file_ref("scene.json", content),)))
    event = client.wait_for_end(job_id)
    assert event.state == "done"
    assert client.fetch(event.files[0])
    kinds = {type(message) for message, _ in client.unread}
    assert (JobPreview in kinds) == (minor > 0), "what it does not know it does not get"


def test_silence_about_refined_depth_meant_no_in_older_clients(
    tmp_path: Path, connect: Callable[..., RawClient]
) -> None:
    content = random_bytes(1000)
    job = ReconstructJob(files=(file_ref("clip.mp4", content),), clip="clip.mp4", name="x")
    explicit = msgspec.structs.replace(job, refines=False)
    with ServerProcess(tmp_path / "data") as server:
        keys = add_user(server)[1]
        old, new = (connect(server, keys) for _ in range(2))
        old.hello(protocol_minor=REFINES_MINOR - 1)
        new.hello(protocol_minor=REFINES_MINOR)
        old.upload([content])
        # What was done before is answered from its results, without a step of work.
        done = [
            client.wait_for_end(client.submit(request)).done
            for client, request in ((old, job), (new, explicit), (new, job))
        ]
    assert done == [1, 0, 1]


def test_client_at_an_older_server(old_server: ServerProcess, tmp_path: Path) -> None:
    """The whole way, and no message that the server would not understand."""
    machine = Machine(old_server)
    FolderKeys(old_server.data).authorise("anna", machine.keys.public_key)
    machine.connect()
    assert machine.client.welcome is not None
    assert machine.client.welcome.protocol_minor == 0
    source = tmp_path / "scene.json"
    source.write_bytes(random_bytes(1000))
    job = machine.client.submit(generate, {"scene.json": source}, tmp_path / "take", None)
    machine.run(lambda: job.is_over)
    assert job.phase is JobPhase.DONE, job.error
    assert (job.folder / "take.json").exists()
    assert machine.client.problem is None
    machine.client.close()
