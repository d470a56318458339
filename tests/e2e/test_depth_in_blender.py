"""A video and nothing else, in Blender, to a mesh: Video-Depth-Anything Small at its full size.

The checkpoint has the names, shapes and file format of the published one; its values are made up,
so what it sees means nothing. Everything else is real.
"""

import json
import os
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from blender_program import addon_zip, blender, needs_blender
from engine_tests import needs_torch

needs_torch()

import tiny_depth
from server_process import ServerProcess

from ex4d.clip import write_video
from ex4d.depth.video_depth_anything.network import SMALL
from ex4d.scene import Scene
from ex4d.task import Task

pytestmark = [needs_blender, pytest.mark.slow, pytest.mark.timeout(240)]

SCRIPT = Path(__file__).with_name("estimate_in_blender.py")
FRAMES, SIDE_PX = 4, 64
ESTIMATING = "estimating depth"


def write_clip(path: Path) -> None:
    """A bright square that moves before a gradient."""
    frames = np.empty((FRAMES, SIDE_PX, SIDE_PX, 3), np.uint8)
    frames[:] = np.linspace(0, 120, SIDE_PX)[:, None]
    for index in range(FRAMES):
        frames[index, 20:40, index : index + 20] = (220, 180, 90)
    write_video(path, frames, Fraction(24), task=Task())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the script saw in Blender."""
    folder = tmp_path_factory.mktemp("depth")
    models, clip = folder / "models", folder / "clip.mp4"
    tiny_depth.write_video_depth_anything(models, size=SMALL)
    write_clip(clip)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EX4D_MODELS", str(models))
        # Two threads that wait for each other take many times as long on a machine that is busy.
        patch.setenv("OMP_NUM_THREADS", "1")
        with ServerProcess(folder / "data", "--executor", "local") as server:
            link = server.pairing_link("anna")
            arguments = [str(addon_zip()), link, str(clip), str(folder / "results")]
            # Blender's Python has libraries of its own.
            environment = {
                name: value for name, value in os.environ.items() if name != "PYTHONPATH"
            }
            environment["BLENDER_USER_RESOURCES"] = str(folder / "blender")
            result = subprocess.run(
                [str(blender()), str(SCRIPT), *arguments],
                env=environment,
                capture_output=True,
                text=True,
                timeout=200,
                check=False,
            )
            log = server.log_text()
    assert result.returncode == 0, result.stdout + result.stderr + log
    assert "internal_error" not in log
    return json.loads(result.stdout.splitlines()[-1])


def test_video_becomes_a_mesh(told: dict) -> None:
    first = told["first"]
    assert (first["stage"], first["error"]) == ("done", "")
    scene = Scene(Path(first["folder"]))
    assert len(scene) == 3
    info = scene.document.depth
    assert (info.source, info.licence) == ("video-depth-anything", "Apache-2.0")
    assert info.weights.startswith("video_depth_anything_vits.pth ")
    depth = scene.depth(0)
    assert depth.shape == (SIDE_PX, SIDE_PX)
    assert depth.std() > 0.01, "the network said something"
    mesh = told["meshes"]["square Mesh"]
    assert mesh["vertices"] >= (SIDE_PX // 2) ** 2
    nearest, farthest = mesh["depth_range"]
    assert farthest > nearest > 0


def test_progress_is_seen(told: dict) -> None:
    assert ESTIMATING in {stage for stage, _ in told["first"]["steps"]}


def test_same_request_is_answered_without_estimating_again(told: dict) -> None:
    again = told["again"]
    assert again["stage"] == "done"
    assert ESTIMATING not in {stage for stage, _ in again["steps"]}
    assert again["seconds"] < told["first"]["seconds"] / 2
    first, second = (Scene(Path(told[name]["folder"])) for name in ("first", "again"))
    assert first.folder != second.folder
    for index in range(len(first)):
        np.testing.assert_array_equal(first.depth(index), second.depth(index))


def test_cancelled_import_leaves_what_was_there(told: dict) -> None:
    cancelled = told["cancelled"]
    assert (cancelled["stage"], cancelled["error"]) == ("cancelled", "")
    assert not cancelled["has_results"]
    assert set(told["meshes"]) == {"square Mesh", "square Mesh.001"}, "the two imports before"
    assert Scene(Path(told["first"]["folder"])).document.frame_count == 3
