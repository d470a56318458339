"""Scenes on disk: what is written comes back, and what came from elsewhere is judged."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ex4d.camera import Intrinsics
from ex4d.clip import Clip
from ex4d.depth import Depth
from ex4d.dwmesh import build_dwmesh
from ex4d.errors import CancelledError, InputError
from ex4d.images import write_depth_exr, write_png
from ex4d.protocol.documents import DepthInfo, MeshRules
from ex4d.scene import Scene, write_scene
from ex4d.task import Progress, Task

FRAMES, HEIGHT_PX, WIDTH_PX = 3, 12, 16
RNG = np.random.default_rng(11)
INTRINSICS = Intrinsics(WIDTH_PX, HEIGHT_PX, 20.0, 21.0, 8.25, 6.5)
RULES = MeshRules(border_depth=500.0)
INFO = DepthInfo(source="files", kind="depth", unit="metres", licence="the user's own")


def make_depth() -> Depth:
    """A near square before a far wall; the extremes lie on the border, which does not count."""
    values = RNG.uniform(20.0, 30.0, (FRAMES, HEIGHT_PX, WIDTH_PX)).astype(np.float32)
    values[:, 4:8, 5:9] = 3.0
    values[0, 5, 6], values[1, 5, 6], values[2, 2, 2] = 2.5, 2.0, 40.0
    values[:, 0, 0], values[:, -1, -1] = 0.1, 400.0
    return Depth(values, INFO)


CLIP = Clip(
    RNG.integers(0, 256, (FRAMES, HEIGHT_PX, WIDTH_PX, 3), np.uint8),
    Fraction(30000, 1001) / 2,
    first_frame=5,
    stride=2,
)
DEPTH = make_depth()


def write(folder: Path, *, clip: Clip = CLIP, depth: Depth = DEPTH, **other: Any) -> Scene:
    return write_scene(
        folder,
        clip,
        depth,
        other.get("intrinsics", INTRINSICS),
        RULES,
        name=other.get("name", "a shot"),
        task=other.get("task", Task()),
    )


@pytest.fixture(scope="module")
def whole_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene") / "shot"
    write(folder)
    return folder


@pytest.fixture
def scene_copy(whole_scene: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_scene, tmp_path / "shot"))


def test_a_scene_comes_back_exactly(whole_scene: Path) -> None:
    scene = Scene(whole_scene)
    assert len(scene) == FRAMES
    assert scene.intrinsics == INTRINSICS
    assert scene.frame_rate == CLIP.frame_rate
    for index in range(FRAMES):
        np.testing.assert_array_equal(scene.frame(index), CLIP.frames[index])
        np.testing.assert_array_equal(scene.depth(index), DEPTH.values[index])
        mesh = build_dwmesh(DEPTH.values[index], CLIP.frames[index], INTRINSICS, RULES)
        np.testing.assert_array_equal(scene.occluded(index), mesh.occluded())
        np.testing.assert_array_equal(scene.mesh(index).rgba, mesh.rgba)
    # A test without any occluded vertex would prove nothing.
    assert 0.0 < scene.occluded(0).mean() < 1.0


def test_the_document_says_what_was_written(whole_scene: Path) -> None:
    document = Scene(whole_scene).document
    assert (document.name, document.first_source_frame, document.stride) == ("a shot", 5, 2)
    assert (document.depth, document.mesh) == (INFO, RULES)
    assert document.intrinsics == INTRINSICS.to_document()


def test_the_border_does_not_count_as_near_or_far(whole_scene: Path) -> None:
    document = Scene(whole_scene).document
    assert document.nearest_depth_first_frame == 2.5
    assert document.nearest_depth == 2.0
    assert document.farthest_depth == 40.0


def test_a_scene_is_files_that_others_read(whole_scene: Path) -> None:
    """With nothing of ours: the document by `json`, the pictures by OpenCV."""
    document = json.loads((whole_scene / "scene.json").read_text())
    assert (document["format"], document["version"]) == ("ex4d-scene", 1)
    assert document["frame_count"] == FRAMES
    for index in range(FRAMES):
        image = cv2.imread(str(whole_scene / "frames" / f"{index + 1:04d}.png"))
        np.testing.assert_array_equal(image[..., ::-1], CLIP.frames[index])
        marks = cv2.imread(str(whole_scene / "occluded" / f"{index + 1:04d}.png"), -1)
        assert marks.ndim == 2
        assert set(np.unique(marks)) == {0, 255}


def test_a_scene_knows_its_files_and_its_hash(whole_scene: Path) -> None:
    scene = Scene(whole_scene)
    names = list(scene.file_names())
    on_disk = {str(p.relative_to(whole_scene)) for p in whole_scene.rglob("*") if p.is_file()}
    assert names[0] == "scene.json"
    assert set(names) == on_disk
    assert len(names) == len(on_disk)
    assert scene.sha256 == hashlib.sha256((whole_scene / "scene.json").read_bytes()).hexdigest()


def test_writing_twice_makes_the_same_bytes(whole_scene: Path, tmp_path: Path) -> None:
    again = write(tmp_path / "again")
    for name in again.file_names():
        assert (tmp_path / "again" / name).read_bytes() == (whole_scene / name).read_bytes(), name


def test_frames_are_read_when_they_are_asked_for(scene_copy: Path) -> None:
    """Opening looks at headers alone: damaged pixels show when they are wanted."""
    path = scene_copy / "frames" / "0002.png"
    path.write_bytes(path.read_bytes()[:60])
    scene = Scene(scene_copy)
    np.testing.assert_array_equal(scene.frame(0), CLIP.frames[0])
    with pytest.raises(InputError) as caught:
        scene.frame(1)
    assert caught.value.code == "image_invalid"


def test_writing_reports_every_frame(tmp_path: Path) -> None:
    reports: list[Progress] = []
    write(tmp_path / "shot", task=Task(reports.append))
    assert reports == [Progress("meshing", i + 1, FRAMES) for i in range(FRAMES)]


# Nothing half-made


def test_a_cancelled_scene_leaves_nothing(tmp_path: Path) -> None:
    reports: list[Progress] = []
    with pytest.raises(CancelledError):
        write(tmp_path / "shot", task=Task(reports.append, lambda: len(reports) >= 2))
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_overwritten(scene_copy: Path) -> None:
    before = sorted(scene_copy.rglob("*"))
    with pytest.raises(InputError) as caught:
        write(scene_copy)
    assert caught.value.code == "folder_exists"
    assert sorted(scene_copy.rglob("*")) == before


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("depth_size", {"depth": Depth(DEPTH.values[:2], INFO)}),
        ("depth_size", {"depth": Depth(DEPTH.values[:, :, :-1], INFO)}),
        ("depth_size", {"intrinsics": INTRINSICS.resized(8, 6)}),
        ("scene_invalid", {"name": "x" * 300}),
        ("scene_invalid", {"clip": replace(CLIP, frame_rate=Fraction(10**7 + 1, 10**6))}),
        ("scene_invalid", {"intrinsics": replace(INTRINSICS, fx_px=-20.0)}),
        ("scene_invalid", {"depth": Depth(DEPTH.values * 0, INFO)}),
    ],
    ids=["frames", "width", "intrinsics", "name", "rate", "focal", "no-depth"],
)
def test_scenes_that_are_not_written(code: str, changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        write(tmp_path / "shot", **changes)
    assert caught.value.code == code
    assert not list(tmp_path.iterdir())


# From elsewhere


def delete(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def link(name: str) -> Callable[[Path], None]:
    """Replace a file or folder by a link to its content elsewhere."""

    def change(folder: Path) -> None:
        target = folder.parent / "elsewhere"
        (folder / name).rename(target)
        (folder / name).symlink_to(target)

    return change


def edit(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "scene.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def replace_text(content: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "scene.json").write_text(content)

    return change


def replace_image(name: str, image: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (write_depth_exr if name.endswith("exr") else write_png)(folder / name, image)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (delete("scene.json"), "scene.json"),
        (delete("frames/0002.png"), "frames/0002.png"),
        (delete("depth/0003.exr"), "depth/0003.exr"),
        (delete("occluded/0001.png"), "occluded/0001.png"),
        (link("scene.json"), "scene.json"),
        (link("depth/0001.exr"), "depth/0001.exr"),
        (link("frames"), "folder frames"),
        (replace_text(""), "scene.json"),
        (replace_text("[1, 2"), "scene.json"),
        (replace_text(" " * (1 << 20) + "{}"), "at most"),
        (edit(frame_count=4), "frames/0004.png"),
        (edit(frame_count=0), "frame_count"),
        (edit(frame_count=10**9), "frame_count"),
        (edit(version=2), "version"),
        (edit(format="ex4d-take"), "format"),
        (edit(script="rm"), "script"),
        (edit(nearest_depth=-1.0), "nearest_depth"),
        (edit(frame_rate={"numerator": 30, "denominator": 0}), "denominator"),
        (replace_image("frames/0001.png", np.zeros((12, 17, 3), np.uint8)), "frames/0001.png"),
        (replace_image("occluded/0003.png", np.zeros((13, 16), np.uint8)), "occluded/0003.png"),
        (replace_image("depth/0002.exr", np.ones((6, 8), np.float32)), "depth/0002.exr"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_scenes_that_do_not_open(
    change: Callable[[Path], None], words: str, scene_copy: Path
) -> None:
    change(scene_copy)
    with pytest.raises(InputError, match=words) as caught:
        Scene(scene_copy)
    assert caught.value.code == "scene_invalid"


def test_a_missing_folder_is_no_scene(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        Scene(tmp_path / "nothing")
    assert caught.value.code == "scene_invalid"


def test_a_file_that_is_no_image_is_named(scene_copy: Path) -> None:
    (scene_copy / "frames" / "0002.png").write_bytes(b"#!/bin/sh")
    with pytest.raises(InputError, match=r"0002\.png") as caught:
        Scene(scene_copy)
    assert caught.value.code == "image_invalid"


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf], ids=str)
def test_depth_that_is_no_depth_is_refused(value: float, scene_copy: Path) -> None:
    depth = DEPTH.values[1].copy()
    depth[3, 3] = value
    write_depth_exr(scene_copy / "depth" / "0002.exr", depth)
    scene = Scene(scene_copy)
    with pytest.raises(InputError, match=r"depth/0002\.exr") as caught:
        scene.depth(1)
    assert caught.value.code == "scene_invalid"


@pytest.mark.parametrize("sequence", ["frames", "occluded"])
def test_a_picture_of_the_wrong_kind_is_refused(sequence: str, scene_copy: Path) -> None:
    """Grey for colour and colour for grey have the right size, but not the right channels."""
    grey = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    image = grey if sequence == "frames" else np.dstack([grey] * 3)
    write_png(scene_copy / sequence / "0001.png", image)
    scene = Scene(scene_copy)
    with pytest.raises(InputError, match=f"{sequence}/0001") as caught:
        getattr(scene, "frame" if sequence == "frames" else sequence)(0)
    assert caught.value.code == "scene_invalid"
