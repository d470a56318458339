"""Moves are ordinary keys: few, close to the exact path, undoable, without flips."""

import itertools
import math

import numpy as np
import pytest
from scene_writer import SQUARE_DEPTH, write_scene
from shot_tools import exhaust

pytestmark = pytest.mark.bpy

MOVES = (
    *("30", "60", "90", "180", "zoom_in", "zoom_out"),
    *("orbit_left", "orbit_right", "orbit_up", "orbit_down"),
    *("pan_left", "pan_right", "tilt_up", "tilt_down"),
    *("truck_left", "truck_right", "pedestal_up", "pedestal_down", "dolly_zoom"),
)


@pytest.fixture
def shot(addon, empty_file, tmp_path):
    """A shot of 49 frames that starts at frame 11."""
    import bpy

    folder = write_scene(tmp_path / "scene", frame_count=49, width=96, height=8)
    steps = addon("scene_import").import_scene(bpy.context, folder, frame_start=11, proxy_step=1)
    return exhaust(steps)


def sampled(addon, shot):
    """(N, 3, 4) poses and (N,) focal lengths in pixels."""
    import bpy

    poses = addon("camera").sample_trajectory(bpy.context, shot).poses
    matrices = np.array([pose.cam_to_world for pose in poses]).reshape(-1, 3, 4)
    return matrices, np.array([pose.fx_px for pose in poses])


def exact(addon, name, places, frame_count=49):
    """The same from the definition of the move, at places that count in frames."""
    moves = addon("_vendor.moves")
    poses = [moves.pose(name, place, frame_count, SQUARE_DEPTH) for place in places]
    matrices = np.array(
        [np.transpose((pose.right, pose.down, pose.forward, pose.position)) for pose in poses]
    )
    return matrices, np.array([30.0 * pose.focal_scale for pose in poses])


def assert_follows(addon, shot, name, places):
    """Every frame's pose is the move's at its place; returns the focal lengths there."""
    matrices, focals = sampled(addon, shot)
    exact_matrices, exact_focals = exact(addon, name, places)
    distance = np.linalg.norm(matrices[:, :, 3] - exact_matrices[:, :, 3], axis=1)
    assert distance.max() < 1e-3 * SQUARE_DEPTH
    turn = np.einsum("nij,nij->n", matrices[:, :, :3], exact_matrices[:, :, :3])
    assert np.arccos(np.clip((turn - 1) / 2, -1, 1)).max() < 1.5e-3
    np.testing.assert_allclose(focals, exact_focals, rtol=1e-3)
    return exact_focals


def curves(addon, owner):
    return {
        (curve.data_path, curve.array_index): curve for curve in addon("compat").fcurves_of(owner)
    }


def test_every_move_is_covered(addon):
    assert set(MOVES) == set(addon("_vendor.moves").MOVES)


@pytest.mark.parametrize("mode", ["XYZ", "QUATERNION"])
@pytest.mark.parametrize("name", MOVES)
def test_keys_follow_the_exact_path(addon, shot, name, mode):
    shot.location, shot.rotation_euler, shot.scale = (1.0, 2.0, 3.0), (0.2, 0.1, 1.0), (2.0,) * 3
    camera = shot.ex4d_shot.camera
    camera.rotation_mode = mode
    key_count = addon("camera_moves").write_move(shot, name, frame_start=11, frame_count=49)
    # A full turn in Euler angles bends the most.
    assert 2 <= key_count <= (20 if mode == "XYZ" else 16)
    focals = assert_follows(addon, shot, name, range(49))
    assert np.ptp(focals) > 0 or not addon("compat").fcurves_of(camera.data)


@pytest.mark.parametrize("name", ["orbit_left", "zoom_in", "pan_right", "dolly_zoom"])
def test_simple_moves_have_two_keys(addon, shot, name):
    addon("camera_moves").write_move(shot, name, frame_start=11, frame_count=49)
    for curve in addon("compat").fcurves_of(shot.ex4d_shot.camera):
        assert [point.co[0] for point in curve.keyframe_points] == [11.0, 59.0]


@pytest.mark.parametrize("name", MOVES)
def test_rotation_does_not_jump(addon, shot, name):
    addon("camera_moves").write_move(shot, name, frame_start=11, frame_count=49)
    found = curves(addon, shot.ex4d_shot.camera)
    for index in range(3):
        angles = [found["rotation_euler", index].evaluate(frame) for frame in range(11, 60)]
        assert np.abs(np.diff(angles)).max() < math.radians(20.0)


def drawn(addon, camera, frame):
    """(3, 4) pose of a camera in its shot by its curves, at any time between frames too."""
    return np.array(addon("axes").cam_to_world(addon("lead_in").state_at(camera, frame).matrix))[:3]


#: Share of the way by share of the time, and the speed at the first frame and at the last against
#: that of a move without ease.
EASES = {
    "NONE": (lambda time: time, 1.0, 1.0),
    "EASE_IN": (lambda time: time**2, 0.0, 2.0),
    "EASE_OUT": (lambda time: 1.0 - (1.0 - time) ** 2, 2.0, 0.0),
    "EASE_IN_OUT": (lambda time: 3.0 * time**2 - 2.0 * time**3, 0.0, 0.0),
}


@pytest.mark.parametrize("mode", ["XYZ", "QUATERNION"])
@pytest.mark.parametrize("ease", EASES)
@pytest.mark.parametrize("name", ["orbit_left", "tilt_up", "dolly_zoom", "60", "180"])
def test_eased_move_keeps_its_path_and_changes_its_pace(addon, shot, name, ease, mode):
    camera = shot.ex4d_shot.camera
    camera.rotation_mode = mode
    key_count = addon("camera_moves").write_move(
        shot, name, frame_start=11, frame_count=49, ease=ease
    )
    # A full turn at one and a half times the speed bends the most.
    assert 2 <= key_count <= (26 if name == "180" else 8)
    share_of_way, first_speed, last_speed = EASES[ease]
    assert_follows(addon, shot, name, [48.0 * share_of_way(index / 48) for index in range(49)])
    for end, inside, speed in ((0.0, 0.02, first_speed), (48.0, 47.98, last_speed)):
        matrices, _ = exact(addon, name, (end, inside))
        plain = np.abs(matrices[1] - matrices[0]).max()
        eased = np.abs(drawn(addon, camera, 11.0 + inside) - drawn(addon, camera, 11.0 + end)).max()
        assert eased / plain == pytest.approx(speed, abs=0.06)


def test_strength_scales_the_move(addon, shot):
    addon("camera_moves").write_move(
        shot, "orbit_right", frame_start=11, frame_count=49, strength=2.0
    )
    matrices, _ = sampled(addon, shot)
    angle = math.radians(60.0)
    expected = (SQUARE_DEPTH * math.sin(angle), 0.0, SQUARE_DEPTH * (1 - math.cos(angle)))
    np.testing.assert_allclose(matrices[-1, :, 3], expected, atol=1e-3)


def test_keys_outside_the_move_stay(addon, shot):
    camera = shot.ex4d_shot.camera
    for frame, value in ((1, 5.0), (20, 6.0), (30, 7.0), (80, 8.0)):
        camera.location.x = value
        camera.keyframe_insert("location", index=0, frame=frame)
    addon("camera_moves").write_move(shot, "truck_right", frame_start=20, frame_count=11)
    points = curves(addon, camera)["location", 0].keyframe_points
    found = [tuple(point.co) for point in points]
    assert found[0] == (1.0, 5.0)
    assert found[-1] == (80.0, 8.0)
    assert [frame for frame, _ in found] == [1.0, 20.0, 30.0, 80.0]
    assert found[1][1] == pytest.approx(0.0, abs=1e-6)
    assert found[2][1] == pytest.approx(0.25 * SQUARE_DEPTH, rel=1e-6)


def test_move_again_gives_the_same_keys(addon, shot):
    camera = shot.ex4d_shot.camera

    def keys():
        addon("camera_moves").write_move(shot, "180", frame_start=11, frame_count=49)
        return {
            key: [(*point.co, *point.handle_left, *point.handle_right) for point in points]
            for key, curve in curves(addon, camera).items()
            if (points := curve.keyframe_points)
        }

    assert keys() == keys()


def test_keys_are_editable_beziers(addon, shot):
    addon("camera_moves").write_move(shot, "180", frame_start=11, frame_count=49)
    for curve in addon("compat").fcurves_of(shot.ex4d_shot.camera):
        assert not curve.lock
        for point in curve.keyframe_points:
            assert point.interpolation == "BEZIER"
            assert point.handle_left_type == point.handle_right_type == "ALIGNED"


def test_operator_starts_at_the_playhead_and_can_be_undone(addon, shot):
    import bpy

    bpy.context.scene.frame_set(20)
    name = shot.name
    bpy.ops.ed.undo_push(message="before")
    assert bpy.ops.ex4d.add_move(move="dolly_zoom", start="PLAYHEAD") == {"FINISHED"}
    bpy.ops.ed.undo_push(message="move")
    camera = bpy.data.objects[name].ex4d_shot.camera
    points = curves(addon, camera)["location", 1].keyframe_points
    assert [point.co[0] for point in points] == [20.0, 59.0]
    assert addon("compat").fcurves_of(camera.data)
    bpy.ops.ed.undo()
    camera = bpy.data.objects[name].ex4d_shot.camera
    assert not addon("compat").fcurves_of(camera)
    assert not addon("compat").fcurves_of(camera.data)
    bpy.ops.ed.redo()
    camera = bpy.data.objects[name].ex4d_shot.camera
    assert len(addon("compat").fcurves_of(camera)) == 6


def elsewhere(shot):
    shot.ex4d_shot.camera.parent = None
    return {}


def deleted(shot):
    shot.ex4d_shot.camera = None
    return {}


def driven(shot):
    shot.ex4d_shot.camera.driver_add("location", 0)
    return {}


def too_strong(shot):
    return {"strength": 20.0}


def other_amount_of_a_reference_move(shot):
    return {"move": "60", "strength": 0.5}


def after_the_end(shot):
    import bpy

    bpy.context.scene.frame_set(200)
    return {"start": "PLAYHEAD"}


@pytest.mark.parametrize(
    ("arrange", "words"),
    [
        (elsewhere, "child of Tiny"),
        (deleted, "deleted"),
        (driven, "driver"),
        (too_strong, "expected an amount"),
        (other_amount_of_a_reference_move, "the reference fixes"),
        (after_the_end, "playhead"),
    ],
)
def test_what_cannot_be_keyed_is_refused_with_the_reason(shot, arrange, words):
    import bpy

    camera = shot.ex4d_shot.camera
    options = {"move": "orbit_left", **arrange(shot)}
    with pytest.raises(RuntimeError, match=words):
        bpy.ops.ex4d.add_move(**options)
    assert camera.animation_data is None or camera.animation_data.action is None


def test_chosen_keys_keep_within_the_tolerance(addon):
    module = addon("camera_moves")
    frames = np.linspace(0.0, 4.0 * np.pi, 200)
    values = np.stack([np.sin(frames), np.abs(np.cos(frames))], axis=1)
    slopes = np.gradient(values, axis=0)
    tolerances = np.array([0.01, 0.01])
    keys = module.choose_keys(values, slopes, tolerances)
    assert keys[0] == 0
    assert keys[-1] == 199
    for first, last in itertools.pairwise(keys):
        curve = module._hermite(values, slopes, first, last)
        assert np.abs(curve - values[first : last + 1]).max() <= 0.01
    assert len(keys) < 60
