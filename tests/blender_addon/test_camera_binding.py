"""Markers on the timeline switch the camera of a take exactly as they switch that of a render."""

import random

import numpy as np
import pytest
from scene_writer import write_scene
from shot_tools import exhaust

pytestmark = pytest.mark.bpy


@pytest.fixture
def shot(addon, empty_file, tmp_path):
    """A shot of 20 frames from frame 1, in a scene of as many."""
    return import_shot(addon, tmp_path / "scene", frame_start=1)


def import_shot(addon, folder, frame_start):
    import bpy

    folder = write_scene(folder, frame_count=20)
    found = exhaust(
        addon("scene_import").import_scene(bpy.context, folder, frame_start=frame_start)
    )
    bpy.context.scene.frame_start, bpy.context.scene.frame_end = 1, 20
    return found


def add_camera(shot, name, x):
    """A camera of the shot that stands beside the source camera."""
    import bpy

    camera = bpy.data.objects.new(name, bpy.data.cameras.new(name))
    bpy.context.scene.collection.objects.link(camera)
    camera.parent = shot
    camera.matrix_basis = shot.ex4d_shot.source_camera.matrix_basis.copy()
    camera.location.x = x
    return camera


def bind(camera, frame):
    import bpy

    marker = bpy.context.scene.timeline_markers.new(camera.name, frame=frame)
    marker.camera = camera
    return marker


def places(addon):
    """x of the camera on each frame of the take."""
    import bpy

    shot = bpy.context.scene.ex4d.shot
    poses = addon("ops_jobs").take_trajectory(bpy.context, shot).poses
    return [pose.cam_to_world[3] for pose in poses]


@pytest.mark.parametrize("render_camera", ["Render", None])
def test_camera_that_renders_is_put_back(addon, shot, render_camera):
    import bpy

    scene = bpy.context.scene
    bind(add_camera(shot, "Wide", 1.0), 1)
    bind(add_camera(shot, "Side", 2.0), 13)
    scene.frame_set(5)
    scene.camera = add_camera(shot, render_camera, 3.0) if render_camera else None
    chosen = scene.camera
    assert len(places(addon)) == 20
    assert scene.camera == chosen
    assert bpy.ops.ex4d.check_coverage() == {"FINISHED"}
    assert scene.camera == chosen


@pytest.mark.parametrize(
    ("operator", "settings"),
    [
        ("add_shake", {"preset": "HANDHELD"}),
        ("add_lead_in", {"frame_count": 4}),
        ("add_move", {"move": "orbit_right"}),
    ],
)
@pytest.mark.parametrize("render_camera", ["Render", None])
def test_writing_keys_leaves_frame_and_camera(addon, shot, operator, settings, render_camera):
    import bpy

    scene = bpy.context.scene
    bind(shot.ex4d_shot.camera, 1)
    bind(add_camera(shot, "Side", 2.0), 13)
    scene.frame_set(15, subframe=0.25)
    scene.camera = add_camera(shot, render_camera, 3.0) if render_camera else None
    before = (scene.frame_current, scene.frame_subframe, scene.camera)
    assert getattr(bpy.ops.ex4d, operator)(**settings) == {"FINISHED"}
    assert (scene.frame_current, scene.frame_subframe, scene.camera) == before


@pytest.mark.parametrize("seed", range(12))
def test_camera_of_each_frame_is_the_one_that_blender_makes_active(addon, shot, seed):
    import bpy

    chance, scene = random.Random(seed), bpy.context.scene
    cameras = [add_camera(shot, f"Cam {index}", index) for index in range(4)]
    cameras[3].hide_render = chance.random() < 0.5
    for _ in range(chance.randint(1, 6)):
        # Several on one frame, frames outside the range, markers without a camera.
        marker = scene.timeline_markers.new("m", frame=chance.randint(-3, 12))
        marker.camera = chance.choice([*cameras, None])
    if addon("camera_binding").bound_camera(scene, 1) is None:
        bind(cameras[0], 5)
    for frame in chance.sample(range(-6, 24), 30):
        scene.frame_set(frame)
        assert addon("camera_binding").bound_camera(scene, frame) == scene.camera
        assert addon("camera_binding").camera_at(scene, shot, frame) == scene.camera
    by_frame = [
        camera
        for first, last, camera in addon("camera_binding").stretches(scene, shot, -6, 23)
        for _ in range(first, last + 1)
    ]
    assert by_frame == [addon("camera_binding").bound_camera(scene, at) for at in range(-6, 24)]


def test_without_bound_markers_the_shots_own_camera_is_taken(addon, shot):
    import bpy

    shot.ex4d_shot.camera.location.x = 0.25
    bpy.context.scene.camera = add_camera(shot, "Render", 3.0)
    bpy.context.scene.timeline_markers.new("note", frame=5)
    assert places(addon) == pytest.approx([0.25] * 20)
    assert "Markers" not in addon("panels").take_text(bpy.context, shot)


def test_take_sees_through_the_camera_of_each_frame_and_the_panel_says_so(addon, shot):
    import bpy

    wide = add_camera(shot, "Wide", 1.0)
    wide.data.lens *= 0.5
    side = add_camera(shot, "Side", 2.0)
    bind(wide, 1)
    bind(side, 13)
    side.keyframe_insert("location", index=0, frame=13)
    side.location.x = 2.7
    side.keyframe_insert("location", index=0, frame=20)
    for curve in addon("compat").fcurves_of(side):
        for point in curve.keyframe_points:
            point.interpolation = "LINEAR"
    expected = [1.0] * 12 + [2.0 + 0.1 * index for index in range(8)]
    np.testing.assert_allclose(places(addon), expected, atol=1e-5)
    poses = addon("ops_jobs").take_trajectory(bpy.context, shot).poses
    assert poses[0].fx_px == pytest.approx(poses[12].fx_px / 2)
    text = addon("panels").take_text(bpy.context, shot)
    assert "Markers choose the camera: from 1 Wide, from 13 Side" in text
    assert "A marker cuts to Side at 13" in " ".join(
        addon("ops_coverage").warnings(bpy.context, shot)
    )


def test_range_of_a_shot_is_where_its_own_cameras_are_bound(addon, shot, tmp_path):
    import bpy

    other = import_shot(addon, tmp_path / "other", frame_start=1)
    bind(shot.ex4d_shot.camera, 1)
    cut = bind(other.ex4d_shot.camera, 9)
    frames = addon("shots").take_frames
    assert frames(bpy.context, shot) == (1, 8)
    assert frames(bpy.context, other) == (9, 20)
    bind(shot.ex4d_shot.camera, 15)
    assert frames(bpy.context, shot) == (1, 8), "the first of two parts"
    assert frames(bpy.context, other) == (9, 14)
    bpy.context.scene.ex4d.shot = shot
    assert len(places(addon)) == 8
    # Frames beyond the cut that the model asks for stay with the shot's own camera.
    shot.ex4d_shot.camera.location.x = 0.25
    generate = bpy.context.scene.ex4d_generate
    generate.engine, generate.size, generate.length = "ex4d", "FITTING", "LONGER"
    assert places(addon) == pytest.approx([0.25] * 9)
    cut.frame = 1
    for marker in list(bpy.context.scene.timeline_markers):
        marker.camera = other.ex4d_shot.camera
    with pytest.raises(addon("_vendor.errors").InputError, match="bind one of its own") as caught:
        frames(bpy.context, shot)
    assert caught.value.code == "range_empty"


def test_camera_chosen_for_a_shot_is_its_own_wherever_it_hangs(addon, shot, tmp_path):
    import bpy

    other = import_shot(addon, tmp_path / "other", frame_start=1)
    shot.ex4d_shot.camera = other.ex4d_shot.camera
    assert addon("shots").take_frames(bpy.context, shot) == (1, 20)
    bind(other.ex4d_shot.camera, 5)
    assert addon("shots").take_frames(bpy.context, shot) == (1, 20)


def test_camera_of_none_of_the_shots_is_seen_through_but_gets_no_moves(addon, shot):
    import bpy

    main = add_camera(shot, "Main", 0.0)
    main.parent = None
    main.location.x = 1.5
    bind(main, 1)
    assert places(addon) == pytest.approx([1.5] * 20)
    with pytest.raises(RuntimeError, match="have panel and markers choose the shot's own"):
        bpy.ops.ex4d.add_move(move="truck_right")
    assert not addon("compat").fcurves_of(main)


def test_moves_go_to_the_camera_that_is_seen_through(addon, shot):
    import bpy

    bound = add_camera(shot, "Bound", 0.0)
    bind(shot.ex4d_shot.camera, 1)
    bind(bound, 11)
    bpy.context.scene.frame_set(11)
    bpy.ops.ex4d.add_move(move="truck_right", start="PLAYHEAD")
    assert not addon("compat").fcurves_of(shot.ex4d_shot.camera)
    assert len(addon("compat").fcurves_of(bound)) == 6
    moved = places(addon)
    assert moved[:10] == pytest.approx([0.0] * 10)
    assert moved[11] > 0.0
    assert moved[19] > moved[11]


def test_lead_in_and_shake_go_to_the_camera_that_the_take_begins_with(addon, shot):
    import bpy

    bound = add_camera(shot, "Bound", 0.5)
    bind(bound, 1)
    assert addon("lead_in").starts_elsewhere(bpy.context, shot)
    bpy.ops.ex4d.add_lead_in(frame_count=6)
    assert not addon("lead_in").starts_elsewhere(bpy.context, shot)
    bpy.ops.ex4d.add_shake()
    assert not addon("compat").fcurves_of(shot.ex4d_shot.camera)
    assert all(len(curve.modifiers) == 1 for curve in addon("compat").fcurves_of(bound))


def test_field_of_view_and_scale_reach_every_camera_of_the_shot(addon, shot):
    import bpy

    bound, foreign = add_camera(shot, "Bound", 0.0), add_camera(shot, "Foreign", 0.0)
    foreign.parent = None
    crane = bpy.data.objects.new("Crane", None)
    bpy.context.scene.collection.objects.link(crane)
    crane.parent, bound.parent = shot, crane
    own = shot.ex4d_shot.camera
    lens, clip_end = own.data.lens, own.data.clip_end
    bound.data.lens, bound.data.clip_end = lens, clip_end
    foreign.data.lens, foreign.data.clip_end = lens, clip_end
    # As Alt + D does: with the data of the other.
    sharing = bpy.data.objects.new("Sharing", bound.data)
    bpy.context.scene.collection.objects.link(sharing)
    sharing.parent = shot
    shot.ex4d_shot.field_of_view *= 0.5
    assert own.data.lens > 1.5 * lens
    assert bound.data.lens == pytest.approx(own.data.lens)
    assert foreign.data.lens == pytest.approx(lens)
    bpy.ops.ex4d.scale_to_distance(first=(0, 3, 0), second=(0.5, 3, 0), distance=1.25)
    assert bound.data.clip_end == own.data.clip_end == pytest.approx(2.5 * clip_end)
    assert foreign.data.clip_end == pytest.approx(clip_end)


def test_coverage_goes_stale_with_the_markers_and_leaves_bound_ones(addon, shot):
    import bpy

    bound = add_camera(shot, "Bound", 0.0)
    bind(shot.ex4d_shot.camera, 1)
    marker = bind(bound, 12)
    marker.name = "EX-4D: mine now"
    bpy.ops.ex4d.check_coverage()
    current_result = addon("ops_coverage").current_result
    assert current_result(bpy.context, shot) is not None
    bpy.ops.ex4d.check_coverage()
    marker = bpy.context.scene.timeline_markers["EX-4D: mine now"]
    marker.frame = 5
    assert current_result(bpy.context, shot) is None
    marker.frame = 12
    assert current_result(bpy.context, shot) is not None
    bound.location.x = 0.1
    assert current_result(bpy.context, shot) is None


def outside_the_view_layer(shot, bound):
    import bpy

    bpy.context.scene.collection.objects.unlink(bound)


def no_camera(shot, bound):
    import bpy

    empty = bpy.data.objects.new("Empty", None)
    bpy.context.scene.collection.objects.link(empty)
    empty.parent = shot
    bpy.context.scene.timeline_markers[0].camera = empty


@pytest.mark.parametrize(
    ("arrange", "code", "words"),
    [
        (outside_the_view_layer, "camera_missing", "found Bound outside it"),
        (no_camera, "camera_type", "found Empty bound by a marker"),
    ],
)
def test_what_cannot_be_seen_through_is_refused_with_the_reason(addon, shot, arrange, code, words):
    import bpy

    bound = add_camera(shot, "Bound", 0.0)
    bind(bound, 1)
    arrange(shot, bound)
    addon("ops_coverage").warnings(bpy.context, shot)
    addon("panels").take_text(bpy.context, shot)
    with pytest.raises(addon("_vendor.errors").InputError, match=words) as caught:
        places(addon)
    assert caught.value.code == code


def test_condition_is_drawn_for_the_camera_that_is_seen_through(addon, shot):
    import bpy

    side = add_camera(shot, "Side", 0.5)
    bind(shot.ex4d_shot.camera, 1)
    bind(side, 11)
    for frame, camera in ((3, shot.ex4d_shot.camera), (12, side)):
        bpy.context.scene.frame_set(frame)
        view = addon("condition")._view(bpy.context)
        assert view.camera_name == camera.name
        assert view.pose.cam_to_world[3] == pytest.approx(camera.location.x, abs=1e-5)
