"""The real zip against a real server: connect, import a video, generate a take, go away cleanly.

EX4D_EXECUTABLE names the `ex4d` program of an environment of its own, as on a user's computer.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.bpy,
    pytest.mark.slow,
    pytest.mark.skipif(
        "EX4D_EXECUTABLE" not in os.environ, reason="EX4D_EXECUTABLE names no ex4d program"
    ),
    pytest.mark.skipif(sys.platform == "win32", reason="a script is no program on Windows"),
]

WIDTH_PX, HEIGHT_PX, FRAME_COUNT = 64, 48, 5


@pytest.fixture
def local_server(addon, empty_file, tmp_path):
    """Preferences that start the real local server, with its data in the test's folder."""
    import bpy

    program = tmp_path / "ex4d"
    data = tmp_path / "server"
    program.write_text(f'#!/bin/sh\nexec "{os.environ["EX4D_EXECUTABLE"]}" "$@" --data "{data}"\n')
    program.chmod(0o755)
    chosen = addon("preferences").get(bpy.context)
    chosen.mode = "LOCAL"
    chosen.executable = str(program)
    chosen.cache = str(tmp_path / "cache")
    yield addon("runtime").get().connection
    chosen.executable = chosen.cache = ""


@pytest.fixture
def engine_server(local_server, addon, tmp_path):
    """The local server where the ex4d engine is installed, with the small golden model."""
    import bpy

    if "EX4D_ENGINE_EXECUTABLE" not in os.environ:
        pytest.skip("EX4D_ENGINE_EXECUTABLE names no ex4d program that has torch and diffsynth")
    tests = Path(__file__).parents[1]
    program = tmp_path / "ex4d_with_engine"
    program.write_text(
        "#!/bin/sh\n"
        f'export EX4D_MODELS="{tests / "golden" / "models"}" XDG_CACHE_HOME="{tmp_path}"\n'
        f'export PYTHONPATH="{tests / "support" / "site"}"\n'
        f'exec "{os.environ["EX4D_ENGINE_EXECUTABLE"]}" "$@" --data "{tmp_path / "server"}"\n'
    )
    program.chmod(0o755)
    addon("preferences").get(bpy.context).executable = str(program)
    return local_server


@pytest.fixture
def remote_server(addon, empty_file, tmp_path):
    """A server that somebody else runs, and the link that it printed."""
    import bpy

    command = [os.environ["EX4D_EXECUTABLE"], "serve", "--port", "0", "--pair", "anna"]
    command += ["--data", str(tmp_path / "remote")]
    chosen = addon("preferences").get(bpy.context)
    chosen.mode = "REMOTE"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        link = next(line for line in process.stdout if line.startswith("ex4d://"))
        yield link
        process.terminate()
        process.communicate(timeout=20)
    chosen.servers.clear()
    chosen.mode = "LOCAL"


@pytest.fixture
def clip(addon, tmp_path):
    """A slanted wall with a block before it that moves to the right."""
    import numpy as np

    folder = tmp_path / "footage"
    folder.mkdir()
    depth = np.empty((FRAME_COUNT, HEIGHT_PX, WIDTH_PX), np.float32)
    ramp = np.linspace(0, 255, WIDTH_PX).astype(np.uint8)
    for index in range(FRAME_COUNT):
        frame = np.zeros((HEIGHT_PX, WIDTH_PX, 3), np.uint8)
        frame[..., 0], frame[..., 1] = ramp, 120
        depth[index] = np.linspace(6.0, 8.0, WIDTH_PX)
        left = 12 + 4 * index
        frame[14:34, left : left + 16] = (30, 60, 220)
        depth[index, 14:34, left : left + 16] = 3.0
        addon("pictures").write_png(folder / f"shot.{index + 1:04d}.png", frame)
    np.save(folder / "depth.npy", depth)
    return folder


def import_video(clip: Path, *, wait: bool = True) -> None:
    import bpy

    result = bpy.ops.ex4d.import_video(
        clip=str(clip / "shot.0001.png"),
        depth=str(clip / "depth.npy"),
        depth_kind="depth",
        title="block",
        wait=wait,
    )
    assert result == {"FINISHED"}


def test_video_becomes_a_scene_and_a_take(addon, local_server, clip, tmp_path):
    import bpy

    blend = tmp_path / "shot.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(blend))
    assert bpy.ops.ex4d.connect() == {"FINISHED"}
    assert "as local" in local_server.status().headline
    import_video(clip)
    shot = addon("shots").active_shot(bpy.context)
    assert shot is not None
    (scene_folder,) = (tmp_path / "ex4d_scenes").iterdir()
    assert len(list((scene_folder / "depth").iterdir())) == FRAME_COUNT

    assert bpy.ops.ex4d.generate() == {"FINISHED"}
    (take_folder,) = (tmp_path / "ex4d_takes").iterdir()
    assert (take_folder / "take.json").is_file()
    strips = addon("compat").strips_of(bpy.context.scene.sequence_editor)
    assert len(strips) == 3, "the shot, its colour and its mask"

    # Mesh and camera spread together: from the source view the server must see the same picture.
    shot.ex4d_shot.field_of_view = 1.8
    assert bpy.ops.ex4d.generate() == {"FINISHED"}
    (changed,) = set((tmp_path / "ex4d_takes").iterdir()) - {take_folder}
    poses = [
        json.loads((folder / "take.json").read_text())["trajectory"]["poses"][0]
        for folder in (take_folder, changed)
    ]
    assert poses[1]["fx_px"] < 0.6 * poses[0]["fx_px"]
    pictures = [(folder / "color" / "0001.png").read_bytes() for folder in (take_folder, changed)]
    assert pictures[0] == pictures[1]

    jobs = list(addon("runtime").get().jobs)
    assert [job.stage.value for job in jobs] == ["done", "done", "done"]
    bpy.ops.wm.save_mainfile()
    assert not list((addon("paths").private_folder() / "jobs").glob("*.json"))


@pytest.mark.timeout(240)
def test_engine_makes_a_take(addon, engine_server, clip, tmp_path):
    """With a small model the picture is noise; everything else is real."""
    import bpy
    import msgspec

    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    chosen = bpy.context.scene.ex4d_generate
    chosen.engine, chosen.steps = "ex4d", 2
    assert bpy.ops.ex4d.connect() == {"FINISHED"}
    assert engine_server.engine_problem("ex4d") == ""
    import_video(clip)
    assert bpy.ops.ex4d.generate() == {"FINISHED"}
    (take_folder,) = (tmp_path / "ex4d_takes").iterdir()
    take = msgspec.json.decode((take_folder / "take.json").read_bytes())
    assert take["settings"] == {"engine": "ex4d", **take["settings"], "steps": 2}
    assert take["frame_count"] == FRAME_COUNT
    assert any("trained at 512 x 512" in note for note in take["notes"])
    assert {part["role"] for part in take["parts"]} >= {"engine", "weights"}
    names = [strip.name for strip in addon("compat").strips_of(bpy.context.scene.sequence_editor)]
    assert "block ex4d" in names


def test_engine_that_the_server_lacks_says_why(addon, local_server):
    import bpy

    assert bpy.ops.ex4d.connect() == {"FINISHED"}
    assert "pip install 'ex4d[diffusion]'" in local_server.engine_problem("ex4d")


def test_job_goes_on_while_blender_is_closed(addon, local_server, clip, tmp_path):
    """Sent, saved, closed before the end, opened again: the scene arrives."""
    import bpy

    blend = str(tmp_path / "shot.blend")
    bpy.ops.wm.save_as_mainfile(filepath=blend)
    bpy.ops.ex4d.connect()
    import_video(clip, wait=False)
    (job,) = addon("runtime").get().jobs
    tick_until(addon, lambda: job.record.job_id)
    bpy.ops.wm.save_mainfile()
    addon("runtime").unregister()  # Blender ends, and the local server with it.

    bpy.ops.wm.open_mainfile(filepath=blend)
    (found,) = addon("runtime").get().jobs
    assert found.record.job_id == job.record.job_id
    bpy.ops.ex4d.connect()
    tick_until(addon, lambda: found.stage.value in ("done", "failed", "cancelled"))
    assert found.error is None
    assert addon("shots").active_shot(bpy.context) is not None


def test_job_goes_on_while_its_file_is_opened_anew(addon, local_server, clip, tmp_path):
    """The connection stays, and what it has begun to fetch is fetched once."""
    import bpy

    blend = str(tmp_path / "shot.blend")
    bpy.ops.wm.save_as_mainfile(filepath=blend)
    bpy.ops.ex4d.connect()
    import_video(clip, wait=False)
    (job,) = addon("runtime").get().jobs
    tick_until(addon, lambda: job.record.job_id)
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=blend)
    (found,) = addon("runtime").get().jobs
    tick_until(addon, lambda: found.stage.value in ("done", "failed", "cancelled"))
    assert found.error is None
    assert addon("shots").active_shot(bpy.context) is not None


def test_cancelled_job_ends_and_brings_nothing(addon, local_server, clip):
    import bpy

    bpy.ops.ex4d.connect()
    import_video(clip, wait=False)
    (job,) = addon("runtime").get().jobs
    bpy.ops.ex4d.cancel_job(request_id=job.record.request_id)
    tick_until(addon, lambda: job.stage.value in ("done", "failed", "cancelled"))
    assert job.stage.value == "cancelled"
    assert not job.folder.exists()
    bpy.ops.ex4d.dismiss_job(request_id=job.record.request_id)
    assert list(addon("runtime").get().jobs) == []


def test_refused_clip_says_why(addon, local_server, clip):
    import bpy

    bpy.ops.ex4d.connect()
    (clip / "shot.0001.png").write_bytes(b"this is no picture")
    with pytest.raises(RuntimeError, match="expected"):
        import_video(clip)


def test_killed_server_is_noticed_and_replaced(addon, local_server):
    import bpy

    bpy.ops.ex4d.connect()
    local_server.server._process.kill()
    tick_until(addon, lambda: local_server.client is None)
    assert "ended with code -9" in local_server.status().advice
    bpy.ops.ex4d.connect()
    assert local_server.is_ready


def test_server_ends_with_the_extension(addon, local_server):
    import bpy

    bpy.ops.ex4d.connect()
    process_id = local_server.server._process.pid
    addon("runtime").unregister()
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)


def test_pairing_makes_this_computer_known_for_good(addon, remote_server):
    import bpy

    assert bpy.ops.ex4d.pair_server(link=remote_server) == {"FINISHED"}
    connection = addon("runtime").get().connection
    assert "as anna" in connection.status().headline
    (server,) = addon("preferences").get(bpy.context).servers
    assert server.host == "127.0.0.1"
    bpy.ops.ex4d.disconnect()
    assert bpy.ops.ex4d.connect() == {"FINISHED"}


def test_unknown_computer_is_refused_with_the_remedy(addon, remote_server):
    import bpy

    link = addon("_vendor.protocol.link").parse_link(remote_server)
    addon("preferences").get(bpy.context).remember(link.endpoint)
    with pytest.raises(RuntimeError, match="pair"):
        bpy.ops.ex4d.connect()
    state = addon("runtime").get().connection.status().state
    assert state is addon("connection").LinkState.REFUSED


def test_failed_pairing_remembers_nothing(addon, remote_server):
    import bpy

    broken = remote_server.strip()[:-4] + "AAAA"
    with pytest.raises(RuntimeError):
        bpy.ops.ex4d.pair_server(link=broken)
    assert len(addon("preferences").get(bpy.context).servers) == 0


def test_stop_and_disconnect_leave_no_timer_work(addon, local_server):
    import bpy

    bpy.ops.ex4d.connect()
    bpy.ops.ex4d.stop_server()
    tick_until(addon, lambda: local_server.is_idle)
    assert addon("pump").tick() is None


def tick_until(addon, is_over, timeout_s=60.0):
    deadline_s = time.monotonic() + timeout_s
    while not is_over():
        assert time.monotonic() < deadline_s
        addon("pump").tick()
        time.sleep(0.002)
