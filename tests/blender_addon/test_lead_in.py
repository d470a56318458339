"""A camera that starts elsewhere is led there from the source; ranges and sizes are chosen."""

import numpy as np
import pytest
from scene_writer import SQUARE_DEPTH, write_scene
from shot_tools import exhaust

pytestmark = pytest.mark.bpy


@pytest.fixture
def shot(addon, empty_file, tmp_path):
    """A shot of 21 frames from frame 1, in a scene of as many."""
    import bpy

    folder = write_scene(tmp_path / "scene", frame_count=21)
    found = exhaust(addon("scene_import").import_scene(bpy.context, folder, frame_start=1))
    bpy.context.scene.frame_start, bpy.context.scene.frame_end = 1, 21
    return found


def sampled(addon, shot):
    """(N, 3, 4) poses and (N,) focal lengths in pixels."""
    import bpy

    poses = addon("camera").sample_trajectory(bpy.context, shot).poses
    matrices = np.array([pose.cam_to_world for pose in poses]).reshape(-1, 3, 4)
    return matrices, np.array([pose.fx_px for pose in poses])


def test_source_view_needs_no_lead_in(addon, shot):
    import bpy

    assert not addon("lead_in").starts_elsewhere(bpy.context, shot)
    bpy.ops.ex4d.add_move(move="orbit_right")
    assert not addon("lead_in").starts_elsewhere(bpy.context, shot)


def moved(camera):
    camera.location.x += 0.5


def turned(camera):
    camera.rotation_euler.z += 0.1


def widened(camera):
    camera.data.lens *= 0.8


@pytest.mark.parametrize("change", [moved, turned, widened])
@pytest.mark.parametrize("mode", ["XYZ", "QUATERNION"])
def test_lead_in_starts_at_the_source_and_meets_the_path(addon, shot, change, mode):
    import bpy

    camera = shot.ex4d_shot.camera
    bpy.ops.ex4d.add_move(move="orbit_right")
    source, source_focal = sampled(addon, shot)
    camera.animation_data_clear()
    change(camera)
    camera.rotation_mode = mode
    camera.keyframe_insert("location", frame=1)
    camera.location.z += 1.0
    camera.keyframe_insert("location", frame=21)
    path, focal = sampled(addon, shot)
    assert addon("lead_in").starts_elsewhere(bpy.context, shot)
    assert bpy.ops.ex4d.add_lead_in(frame_count=6) == {"FINISHED"}
    assert not addon("lead_in").starts_elsewhere(bpy.context, shot)
    led, led_focal = sampled(addon, shot)
    np.testing.assert_allclose(led[0], source[0], atol=1e-5)
    assert led_focal[0] == pytest.approx(source_focal[0], rel=1e-5)
    np.testing.assert_allclose(led[6:], path[6:], atol=2e-3 * SQUARE_DEPTH)
    np.testing.assert_allclose(led_focal[6:], focal[6:], rtol=1e-3)
    assert np.abs(np.diff(led[:, :, :3], axis=0)).max() < 0.2, "no flip on the way"


def test_lead_in_can_be_undone(addon, shot):
    import bpy

    name = shot.name
    shot.ex4d_shot.camera.location.x = 0.5
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.ex4d.add_lead_in()
    bpy.ops.ed.undo_push(message="lead-in")
    bpy.ops.ed.undo()
    camera = bpy.data.objects[name].ex4d_shot.camera
    assert not addon("compat").fcurves_of(camera)
    assert camera.location.x == pytest.approx(0.5)


def test_constrained_camera_is_refused_with_what_to_do(addon, shot):
    import bpy

    shot.ex4d_shot.camera.constraints.new("TRACK_TO")
    with pytest.raises(RuntimeError, match="bake its action"):
        bpy.ops.ex4d.add_lead_in()
    assert not addon("lead_in").starts_elsewhere(bpy.context, shot), "not known, so not claimed"


@pytest.mark.parametrize(
    ("length", "frames", "count"),
    [("SHORTER", 20, 17), ("LONGER", 20, 21), ("SHORTER", 21, 21), ("LONGER", 21, 21)],
)
def test_length_is_chosen_and_shown(addon, shot, length, frames, count):
    import bpy

    scene = bpy.context.scene
    scene.frame_end = frames
    scene.ex4d_generate.engine, scene.ex4d_generate.length = "ex4d", length
    scene.ex4d_generate.size = "FITTING"
    trajectory = addon("ops_jobs").take_trajectory(bpy.context, shot)
    assert len(trajectory.poses) == count
    text = addon("panels").take_text(bpy.context, shot)
    assert f"Frames 1 to {count}: {count}" in text
    assert ("4k + 1" in text) == (frames != count)


def test_percentage_of_the_resolution_is_honoured(addon, shot):
    import bpy

    render = bpy.context.scene.render
    render.resolution_x, render.resolution_y, render.resolution_percentage = 200, 100, 50
    bpy.context.scene.ex4d_generate.size = "SCENE"
    trajectory = addon("ops_jobs").take_trajectory(bpy.context, shot)
    assert (trajectory.width_px, trajectory.height_px) == (100, 50)
