"""What the video never saw is measured before anything is sent, as a curve and markers."""

import math
import os
import subprocess
import tracemalloc
import zlib

import numpy as np
import pytest
from scene_writer import occluded_of, write_scene
from shot_tools import exhaust, needs_server

pytestmark = pytest.mark.bpy


@pytest.fixture
def shot(addon, empty_file, tmp_path):
    """A shot of five frames from frame 11."""
    import bpy

    folder = write_scene(tmp_path / "scene", width=64, height=48, focal=60.0)
    found = exhaust(addon("scene_import").import_scene(bpy.context, folder, frame_start=11))
    bpy.context.scene.frame_start, bpy.context.scene.frame_end = 11, 15
    return found


def measured(addon):
    import bpy

    assert bpy.ops.ex4d.check_coverage() == {"FINISHED"}
    return addon("runtime").get().coverage.work.result


def words(addon, shot):
    import bpy

    return " ".join(addon("ops_coverage").warnings(bpy.context, shot))


def test_pictures_of_ours_are_read_without_blender(addon, tmp_path):
    pictures = addon("pictures")
    rgb = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    path = tmp_path / "picture.png"
    pictures.write_png(path, rgb)
    np.testing.assert_array_equal(pictures.read_png(path, 64, 48), rgb)
    content = path.read_bytes()
    for damaged in (content[:100], content[:60] + bytes(40) + content[100:], b""):
        path.write_bytes(damaged)
        with pytest.raises(addon("_vendor.errors").InputError, match="import the scene again"):
            pictures.read_png(path, 64, 48)
    path.write_bytes(content)
    with pytest.raises(addon("_vendor.errors").InputError, match="import the scene again"):
        pictures.read_png(path, 48, 64)
    with pytest.raises(addon("_vendor.errors").InputError, match="import the scene again"):
        pictures.read_png(tmp_path / "gone.png", 64, 48)


def test_source_view_misses_what_is_marked(addon, shot):
    unseen = measured(addon).unseen
    marked = [occluded_of(frame, 64, 48).mean() for frame in range(5)]
    # The engine is given the first frame as it was filmed.
    np.testing.assert_allclose(unseen, [0.0, *marked[1:]], atol=0.02)
    assert words(addon, shot) == ""


def test_another_field_of_view_shows_the_same_from_the_source(addon, shot):
    # The scene's own marks are not quite the mesh rules'.
    shot.ex4d_shot.field_of_view *= 1.02
    before = measured(addon).unseen
    shot.ex4d_shot.field_of_view *= 1.03
    assert words(addon, shot) == ""
    np.testing.assert_allclose(measured(addon).unseen, before, atol=0.01)


def test_farther_orbits_see_less_and_a_turned_back_sees_nothing(addon, shot):
    import bpy

    bpy.ops.ex4d.add_move(move="orbit_right", strength=1.0)
    near = measured(addon).unseen
    bpy.ops.ex4d.add_move(move="orbit_right", strength=2.0)
    far = measured(addon).unseen
    assert near[0] == pytest.approx(far[0], abs=0.02)
    assert near[0] < near[-1] < far[-1]
    camera = shot.ex4d_shot.camera
    camera.animation_data_clear()
    camera.rotation_euler.z += math.pi
    assert measured(addon).unseen == (1.0,) * 5
    text = words(addon, shot)
    assert "180 degrees" in text
    assert "5 of 5 frames are mostly unseen" in text


def test_camera_behind_the_surface_is_told(addon, shot):
    camera = shot.ex4d_shot.camera
    camera.location.y = 11.0
    assert measured(addon).behind == (11, 12, 13, 14, 15)
    assert "inside the mesh in 5 frames, first at 11" in words(addon, shot)


def test_result_is_a_curve_and_markers_and_goes_stale(addon, shot):
    import bpy

    bpy.ops.ex4d.add_move(move="orbit_right", strength=2.0)
    found = measured(addon)
    curves = {curve.data_path: curve for curve in addon("compat").fcurves_of(shot)}
    curve = curves['["ex4d_unseen"]']
    points = [tuple(point.co) for point in curve.keyframe_points]
    np.testing.assert_allclose(points, list(enumerate(found.unseen, 11)), rtol=1e-6)
    bpy.context.scene.frame_set(13)
    assert shot["ex4d_unseen"] == pytest.approx(found.unseen[2])
    markers = bpy.context.scene.timeline_markers
    assert found.worst_frame in [marker.frame for marker in markers]
    count = len(markers)
    measured(addon)
    assert len(markers) == count, "markers of the last check go"
    current_result = addon("ops_coverage").current_result
    assert current_result(bpy.context, shot) is not None
    curve = addon("compat").fcurves_of(shot.ex4d_shot.camera)[0]
    curve.keyframe_points[-1].co[1] += 0.1
    assert current_result(bpy.context, shot) is None


def test_pump_measures_in_slices_and_draws_less_often(addon, shot, monkeypatch):
    import bpy

    draws, ticks = [], 0
    monkeypatch.setattr(addon("pump"), "redraw", lambda: draws.append(1))
    monkeypatch.setattr(addon("drawing"), "_BLOCK_VERTICES", 200)
    bpy.ops.ex4d.check_coverage(wait=False)
    current = addon("runtime").get()
    assert current.coverage.work.result is None
    draws.clear()
    for _ in range(2000):
        ticks += 1
        pause_s = addon("pump").tick()
        if current.coverage.work.is_over:
            break
        assert pause_s == addon("pump").BUSY_S
    assert len(current.coverage.work.result.unseen) == 5
    assert 5 <= len(draws) <= min(21, ticks)
    assert addon("pump").tick() is None, "nothing is left to do"


def test_lost_points_are_told(addon, shot):
    from pathlib import Path

    import bpy

    Path(shot.ex4d_shot.folder, "blender", "mesh.pc2").unlink()
    with pytest.raises(RuntimeError, match="import the scene again"):
        bpy.ops.ex4d.check_coverage()


def test_colours_that_unpack_to_more_are_refused_unpacked(addon, tmp_path):
    path = tmp_path / "0001.hidden"
    path.write_bytes(zlib.compress(bytes(64 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(addon("_vendor.errors").InputError, match="expected 10 colours"):
            addon("coverage")._read_colors(path, 10)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@needs_server
def test_agrees_with_the_mask_of_the_same_path(addon, empty_file, tmp_path):
    """What is told beforehand against what the server renders, from 0 to 90 degrees."""
    import bpy

    folder = write_scene(tmp_path / "scene", frame_count=8, width=160, height=120, focal=140.0)
    shot = exhaust(addon("scene_import").import_scene(bpy.context, folder, frame_start=11))
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 11, 18
    # The first two frames show the source's view, of which the engine is given the first whole.
    scene.frame_set(12)
    bpy.ops.ex4d.add_move(
        move="orbit_right", strength=3.0, start="PLAYHEAD", frame_count=7, ease="NONE"
    )
    found = measured(addon).unseen
    trajectory = addon("ops_jobs").take_trajectory(bpy.context, shot)
    path = tmp_path / "trajectory.json"
    path.write_bytes(addon("documents").msgspec.json.encode(trajectory))
    command = [os.environ["EX4D_EXECUTABLE"], "render", str(folder), "--trajectory", str(path)]
    subprocess.run([*command, "--output", str(tmp_path / "render")], check=True)
    masks = [
        addon("pictures").read_pixels(tmp_path / "render" / "mask" / f"{index:04d}.png", 160, 120)
        for index in range(1, 9)
    ]
    rendered = [1.0 - mask[..., 0].mean() for mask in masks]
    assert rendered[0] == 0.0 < 0.05 < rendered[1] < 0.3 < rendered[4] < rendered[-1]
    np.testing.assert_allclose(found, rendered, atol=0.02)
