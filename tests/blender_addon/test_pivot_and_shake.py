"""The pivot is measured, and noise goes on top of the keys without moving the first frame."""

import numpy as np
import pytest
from scene_writer import write_scene
from shot_tools import exhaust

pytestmark = pytest.mark.bpy


@pytest.fixture
def shot(addon, empty_file, tmp_path):
    """A shot of 33 frames from frame 1."""
    import bpy

    folder = write_scene(tmp_path / "scene", frame_count=33, width=64, height=8)
    found = exhaust(addon("scene_import").import_scene(bpy.context, folder, frame_start=1))
    bpy.context.scene.frame_start, bpy.context.scene.frame_end = 1, 33
    return found


def sampled(addon, shot):
    import bpy

    poses = addon("camera").sample_trajectory(bpy.context, shot).poses
    return np.array([pose.cam_to_world for pose in poses]).reshape(-1, 3, 4)


@pytest.mark.parametrize("mode", ["XYZ", "QUATERNION"])
@pytest.mark.parametrize("preset", ["HANDHELD", "SHAKE"])
def test_shake_adds_to_the_keys_and_starts_at_rest(addon, shot, preset, mode):
    import bpy

    shot.ex4d_shot.camera.rotation_mode = mode
    bpy.ops.ex4d.add_move(move="orbit_right")
    plain = sampled(addon, shot)
    bpy.ops.ex4d.add_shake(preset=preset)
    shaken = sampled(addon, shot)
    np.testing.assert_allclose(shaken[0], plain[0], atol=1e-6)
    assert not addon("lead_in").starts_elsewhere(bpy.context, shot)
    size = addon("ops_moves").SHAKES[preset]
    shifts = np.abs(shaken[:, :, 3] - plain[:, :, 3]).max()
    assert 0.1 < shifts / (size.shift * shot.ex4d_shot.radius) < 2.0
    turns = np.abs(shaken[:, :, :3] - plain[:, :, :3]).max()
    assert 0.1 < turns / size.turn_rad < 2.0
    bpy.ops.ex4d.add_shake(preset=preset, strength=0.0)
    np.testing.assert_allclose(sampled(addon, shot), plain, atol=1e-6)
    for curve in addon("compat").fcurves_of(shot.ex4d_shot.camera):
        assert len(curve.modifiers) <= 1


def test_lead_in_leaves_the_shake_on_top(addon, shot):
    import bpy

    shot.ex4d_shot.camera.location.x = 0.5
    bpy.ops.ex4d.add_shake(preset="SHAKE")
    before = sampled(addon, shot)
    bpy.ops.ex4d.add_lead_in(frame_count=6)
    np.testing.assert_allclose(sampled(addon, shot)[6:], before[6:], atol=5e-3)


@pytest.mark.parametrize("origin", ["CURSOR", "OBJECT"])
def test_pivot_is_measured_along_the_view_of_a_placed_shot(shot, origin):
    import bpy

    shot.location, shot.scale = (5.0, 0.0, 0.0), (2.0,) * 3
    bpy.context.scene.ex4d.shot = shot
    empty = bpy.data.objects.new("Pivot", None)
    bpy.context.scene.collection.objects.link(empty)
    empty.location = bpy.context.scene.cursor.location = (6.0, 8.0, 1.0)
    bpy.context.view_layer.objects.active = empty
    bpy.context.view_layer.update()
    assert bpy.ops.ex4d.set_pivot(origin=origin) == {"FINISHED"}
    assert shot.ex4d_shot.radius == pytest.approx(4.0)
    empty.location = bpy.context.scene.cursor.location = (6.0, -8.0, 1.0)
    bpy.context.view_layer.update()
    with pytest.raises(RuntimeError, match="ahead of the source camera"):
        bpy.ops.ex4d.set_pivot(origin=origin)
