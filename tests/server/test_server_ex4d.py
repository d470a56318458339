"""A complete job with the ex4d engine: clip, scene, trajectory, condition, take, over the wire.

The weights are the small golden ones, so the picture is noise; everything else is real.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from engine_tests import GOLDEN_MODELS, needs_engine

needs_engine()

from server_process import ServerProcess

from ex4d.bench.preview import reduced
from ex4d.bench.sample import Sample, load_sample
from ex4d.client import Client, JobPhase, KeyPair, RemoteJob, run_until
from ex4d.clip import write_video
from ex4d.errors import Ex4dError
from ex4d.protocol.documents import Ex4dSettings, FileRef
from ex4d.protocol.link import parse_link
from ex4d.protocol.messages import GenerateJob, ReconstructJob
from ex4d.scene import Scene
from ex4d.take import Take
from ex4d.task import Task

SIDE_PX, FRAME_STEP = 64, 6
SETTINGS = Ex4dSettings(steps=2, seed=3)
SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture
def sample() -> Sample:
    return reduced(load_sample(), frame_step=FRAME_STEP, size_px=SIDE_PX)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("EX4D_MODELS", str(GOLDEN_MODELS))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT / "site"))
    with ExitStack() as stack:
        data = tmp_path / "data"
        server = stack.enter_context(ServerProcess(data, "--executor", "local"))
        keys = server.authorise("anna")
        link = parse_link(server.pairing_link("ben"))
        client = Client(link.endpoint, KeyPair(*keys), app_version="test", client_name="laptop")
        stack.callback(client.close)
        client.connect()
        yield client
        assert "internal_error" not in server.log_text()


def finish(client: Client, job: RemoteJob) -> None:
    """Wait for a job's end.

    Raises:
        Ex4dError: If it failed.
    """
    run_until(client, lambda: job.is_over, timeout_s=100)
    if job.error is not None:
        raise job.error


def make_scene(client: Client, sample: Sample, folder: Path) -> Scene:
    """From clip and depth, on the server."""
    folder.mkdir()
    clip, depth = folder / "clip.mp4", folder / "depth.npz"
    write_video(clip, sample.clip.frames, sample.clip.frame_rate, task=Task())
    np.savez(depth, depth=sample.depth.values)

    def build(files: tuple[FileRef, ...]) -> ReconstructJob:
        return ReconstructJob(
            files=files,
            clip="clip.mp4",
            depth="depth.npz",
            depth_kind="metric",
            name="sample",
            focal_px=sample.intrinsics.fx_px,
        )

    sources = {"clip.mp4": clip, "depth.npz": depth}
    finish(client, client.submit(build, sources, folder / "scene"))
    return Scene(folder / "scene")


def make_take(
    client: Client, scene: Scene, sample: Sample, settings: Ex4dSettings, folder: Path
) -> Take:
    trajectory = sample.trajectory.to_document()
    sources = {name: scene.folder / name for name in scene.file_names()}
    job = client.submit(
        lambda files: GenerateJob(scene=files, trajectory=trajectory, settings=settings),
        sources,
        folder,
    )
    finish(client, job)
    assert job.phase is JobPhase.DONE
    return Take(folder)


def test_from_clip_to_take(client: Client, sample: Sample, tmp_path: Path) -> None:
    scene = make_scene(client, sample, tmp_path / "work")
    assert client.welcome is not None
    engines = {engine.name: engine for engine in client.welcome.engines}
    assert engines["ex4d"].available, engines["ex4d"].reason

    take = make_take(client, scene, sample, SETTINGS, tmp_path / "take")
    document = take.document
    assert document.settings == SETTINGS
    assert len(take) == len(sample.trajectory) == 9
    assert {part.role for part in document.parts} >= {"engine", "rasteriser", "weights"}
    assert "512 x 512" in document.notes[0]
    assert take.mask(0).all()
    assert not take.mask(len(take) - 1).all()
    frames = np.stack([take.frame(index) for index in range(len(take))])
    assert frames.shape == (9, SIDE_PX, SIDE_PX, 3)
    assert frames.std() > 1

    # The models are warm now, and the same take is the same bytes.
    again = make_take(client, scene, sample, SETTINGS, tmp_path / "again")
    for index in range(len(take)):
        np.testing.assert_array_equal(again.frame(index), frames[index])

    refused = Ex4dSettings(loras=("unheard-of",))
    with pytest.raises(Ex4dError) as caught:
        make_take(client, scene, sample, refused, tmp_path / "refused")
    assert caught.value.code == "lora_missing"
    assert os.environ["EX4D_MODELS"] not in caught.value.message
