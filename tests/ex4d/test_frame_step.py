"""A take of every other frame shows exactly what the whole take shows on those frames."""

import json
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ex4d.camera import Intrinsics, move
from ex4d.clip import Clip
from ex4d.depth import Depth
from ex4d.dwmesh import default_rules
from ex4d.images import read_png
from ex4d.pipeline import generate
from ex4d.protocol.documents import DepthInfo, PreviewSettings, TakeDocument, TrajectoryDocument
from ex4d.protocol.messages import GenerateJob
from ex4d.scene import write_scene
from ex4d.task import Task

WIDTH_PX, HEIGHT_PX, FRAMES = 96, 64, 11
CAMERA = Intrinsics.from_focal(WIDTH_PX, HEIGHT_PX, 90.0)


@pytest.fixture(scope="module")
def clip() -> Clip:
    """Frames of one colour each, lighter from one to the next."""
    lightness = np.arange(20, 20 + 20 * FRAMES, 20, np.uint8)
    frames = np.broadcast_to(lightness[:, None, None, None], (FRAMES, HEIGHT_PX, WIDTH_PX, 3))
    return Clip(frames.copy(), Fraction(24))


@pytest.fixture(scope="module")
def scene_folder(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A near box before a far wall, which comes nearer."""
    depth = np.full((FRAMES, HEIGHT_PX, WIDTH_PX), 8.0, np.float32)
    for index in range(FRAMES):
        depth[index, 20:44, 30:60] = 4.0 - 0.1 * index
    info = DepthInfo(source="files", kind="depth", unit="metres", licence="ours")
    folder = tmp_path_factory.mktemp("scene") / "scene"
    rules = default_rules(8.0)
    write_scene(folder, clip, Depth(depth, info), CAMERA, rules, name="box", task=Task())
    return folder


@pytest.fixture(scope="module")
def orbit() -> TrajectoryDocument:
    return move("orbit_left", frame_count=FRAMES, radius=4.0, intrinsics=CAMERA).to_document()


@pytest.fixture(scope="module")
def whole_folder(
    scene_folder: Path, orbit: TrajectoryDocument, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The take of all frames."""
    folder = tmp_path_factory.mktemp("whole") / "take"
    take(scene_folder, orbit, folder)
    return folder


def take(scene_folder: Path, trajectory: TrajectoryDocument, folder: Path) -> TakeDocument:
    job = GenerateJob(scene=(), trajectory=trajectory, settings=PreviewSettings())
    generate(job, scene_folder, folder, Task())
    return msgspec.json.decode((folder / "take.json").read_bytes(), type=TakeDocument)


@pytest.mark.parametrize("step", [2, 5])
def test_every_so_many_frames_are_those_of_the_whole_take(
    scene_folder: Path,
    orbit: TrajectoryDocument,
    whole_folder: Path,
    clip: Clip,
    tmp_path: Path,
    step: int,
) -> None:
    stepped = msgspec.structs.replace(orbit, poses=orbit.poses[::step])
    source_frames = [pose.source_time for pose in stepped.poses]
    assert source_frames == list(range(0, FRAMES, step))
    whole = msgspec.json.decode((whole_folder / "take.json").read_bytes(), type=TakeDocument)
    found = take(scene_folder, stepped, tmp_path / "stepped")
    assert found.frame_count == len(source_frames)
    assert found.coverage == whole.coverage[::step]
    assert len(set(found.coverage)) > 1, "the camera moves"
    for place, source_frame in enumerate(source_frames):
        name, whole_name = f"{place + 1:04d}.png", f"{source_frame + 1:04d}.png"
        for kind in ("frames", "color", "mask"):
            found_bytes = (tmp_path / "stepped" / kind / name).read_bytes()
            assert found_bytes == (whole_folder / kind / whole_name).read_bytes()
        color = read_png(tmp_path / "stepped" / "color" / name)
        mask = read_png(tmp_path / "stepped" / "mask" / name) > 127
        seen = color[mask[..., 0] if mask.ndim == 3 else mask]
        assert (np.abs(seen.astype(int) - clip.frames[source_frame, 0, 0]) <= 1).all()


def test_take_says_which_source_frame_each_picture_is_of(
    scene_folder: Path, tmp_path: Path
) -> None:
    orbit = move("zoom_in", frame_count=FRAMES, radius=4.0, intrinsics=CAMERA).to_document()
    stepped = msgspec.structs.replace(orbit, poses=orbit.poses[::4])
    take(scene_folder, stepped, tmp_path / "take")
    document = json.loads((tmp_path / "take" / "take.json").read_text())
    assert [pose["source_time"] for pose in document["trajectory"]["poses"]] == [0, 4, 8]
    # They count in the scene's frames, whose rate this is.
    assert document["frame_rate"] == {"numerator": 24, "denominator": 1}
