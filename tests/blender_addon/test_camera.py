"""The sampled trajectory is what Blender projects, whatever moves the camera."""

import math
import random

import numpy as np
import pytest
from scene_writer import write_scene
from shot_tools import exhaust

pytestmark = pytest.mark.bpy

#: Of the condition's picture against Blender's projection.
MAX_ERROR_PX = 0.1


@pytest.fixture
def shot(addon, empty_file, tmp_path):
    """A shot of five frames that starts at frame 11."""
    import bpy

    folder = write_scene(tmp_path / "scene", center=(17.5, 10.25))
    steps = addon("scene_import").import_scene(bpy.context, folder, frame_start=11, proxy_step=1)
    return exhaust(steps)


def animate(owner, data_path, values):
    """Key a property over the shot's frames, linearly between its first and its last value."""
    for frame, value in zip((11, 15), values, strict=True):
        setattr(owner, data_path, value)
        owner.keyframe_insert(data_path, frame=frame)


def shifted_lens(shot, camera, scene):
    camera.data.shift_x, camera.data.shift_y = 0.21, -0.13


def portrait(shot, camera, scene):
    scene.render.resolution_x, scene.render.resolution_y = 576, 1024
    camera.data.sensor_fit = "AUTO"


def portrait_shifted_vertical(shot, camera, scene):
    portrait(shot, camera, scene)
    camera.data.sensor_fit = "VERTICAL"
    camera.data.shift_x, camera.data.shift_y = -0.1, 0.17


def wide_vertical(shot, camera, scene):
    scene.render.resolution_x, scene.render.resolution_y = 1024, 428
    camera.data.sensor_fit = "VERTICAL"
    camera.data.shift_y = 0.3


def animated_lens(shot, camera, scene):
    animate(camera.data, "lens", (24.0, 85.0))


def animated_camera(shot, camera, scene):
    animate(camera, "location", ((0.0, 0.0, 0.0), (0.5, -0.8, 0.2)))
    animate(camera, "rotation_euler", ((math.pi / 2, 0.0, 0.0), (1.4, 0.05, 0.2)))


def parented_camera(shot, camera, scene):
    import bpy

    crane = bpy.data.objects.new("crane", None)
    scene.collection.objects.link(crane)
    camera.parent = crane
    crane.scale = (2.5, 2.5, 2.5)
    animate(crane, "rotation_euler", ((0.0, 0.1, 0.0), (0.0, -0.1, 0.3)))
    animate(camera, "location", ((0.0, 0.0, 0.0), (0.2, 0.1, -0.1)))


def constrained_camera(shot, camera, scene):
    import bpy

    target = bpy.data.objects.new("target", None)
    scene.collection.objects.link(target)
    animate(target, "location", ((-0.5, 6.0, 0.0), (0.8, 5.0, 0.5)))
    camera.location = (0.4, -0.5, 0.3)
    constraint = camera.constraints.new("TRACK_TO")
    constraint.target = target
    constraint.track_axis, constraint.up_axis = "TRACK_NEGATIVE_Z", "UP_Y"


def placed_root(shot, camera, scene):
    shot.location = (3.0, -2.0, 1.5)
    shot.rotation_euler = (0.3, -0.2, 1.1)
    shot.scale = (2.5, 2.5, 2.5)
    animated_camera(shot, camera, scene)


def animated_root(shot, camera, scene):
    placed_root(shot, camera, scene)
    animate(shot, "location", ((0.0, 0.0, 0.0), (1.0, 2.0, 3.0)))


def tall_pixels(shot, camera, scene):
    scene.render.pixel_aspect_y = 1.46
    camera.data.sensor_fit = "AUTO"
    camera.data.shift_x, camera.data.shift_y = 0.1, 0.2


def wide_pixels(shot, camera, scene):
    scene.render.pixel_aspect_x = 2.0
    camera.data.shift_x, camera.data.shift_y = 0.1, 0.2


CASES = (
    shifted_lens,
    portrait,
    portrait_shifted_vertical,
    wide_vertical,
    animated_lens,
    animated_camera,
    parented_camera,
    constrained_camera,
    placed_root,
    animated_root,
    tall_pixels,
    wide_pixels,
)


def project(pose, point):
    """Pixel of a point of the scene, by the definition of a pinhole camera."""
    matrix = np.array(pose.cam_to_world).reshape(3, 4)
    x, y, z = matrix[:, :3].T @ (np.asarray(point) - matrix[:, 3])
    return pose.fx_px * x / z + pose.cx_px, pose.fy_px * y / z + pose.cy_px


@pytest.mark.parametrize("arrange", CASES)
def test_cube_appears_where_blender_projects_it(addon, shot, arrange):
    import bpy
    from bpy_extras.object_utils import world_to_camera_view
    from mathutils import Vector

    scene, camera = bpy.context.scene, shot.ex4d_shot.camera
    scene.render.resolution_x, scene.render.resolution_y = 512, 512
    arrange(shot, camera, scene)
    width, height = scene.render.resolution_x, scene.render.resolution_y
    # A cube with a corner at a known point of the scene: 0.4 right, 0.3 down, 5 ahead.
    corner = (0.4, 0.3, 5.0)
    mesh = bpy.data.meshes.new("cube")
    mesh.from_pydata([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)], [], [(0, 1, 2), (0, 1, 3)])
    cube = bpy.data.objects.new("cube", mesh)
    scene.collection.objects.link(cube)
    cube.parent = shot
    cube.location = (corner[0], corner[2], -corner[1])
    trajectory = addon("camera").sample_trajectory(
        bpy.context, shot, width_px=width, height_px=height
    )
    assert [pose.source_time for pose in trajectory.poses] == [0, 1, 2, 3, 4]
    for frame, pose in zip(range(11, 16), trajectory.poses, strict=True):
        scene.frame_set(frame)
        depsgraph = bpy.context.evaluated_depsgraph_get()
        world = cube.evaluated_get(depsgraph).matrix_world @ Vector()
        seen = world_to_camera_view(scene, camera.evaluated_get(depsgraph), world)
        x, y = project(pose, corner)
        assert seen.z > 0
        assert abs(x - seen.x * width) < MAX_ERROR_PX
        assert abs(y - (1 - seen.y) * height) < MAX_ERROR_PX


def test_random_lenses_agree_with_the_projection_that_blender_renders_with(addon, empty_file):
    import bpy

    rng = random.Random(5)
    scene = bpy.context.scene
    data = bpy.data.cameras.new("camera")
    camera = bpy.data.objects.new("camera", data)
    scene.collection.objects.link(camera)
    for _ in range(200):
        width, height = rng.choice([(512, 512), (1920, 817), (333, 777), (576, 1024)])
        scene.render.pixel_aspect_x = rng.choice([1.0, 1.4587, 2.0])
        scene.render.pixel_aspect_y = rng.choice([1.0, 1.094])
        data.sensor_fit = rng.choice(["AUTO", "HORIZONTAL", "VERTICAL"])
        data.lens = rng.uniform(12.0, 120.0)
        data.sensor_width, data.sensor_height = rng.uniform(10, 40), rng.uniform(8, 30)
        data.shift_x, data.shift_y = rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6)
        fx, fy, cx, cy = addon("camera").intrinsics_px(data, scene.render, width, height)
        matrix = camera.calc_matrix_camera(
            bpy.context.evaluated_depsgraph_get(),
            x=width,
            y=height,
            scale_x=scene.render.pixel_aspect_x,
            scale_y=scene.render.pixel_aspect_y,
        )
        x, y, z = rng.uniform(-1.0, 1.0), rng.uniform(-1.0, 1.0), rng.uniform(3.0, 20.0)
        clip = np.array(matrix) @ np.array([x, -y, -z, 1.0])
        expected = (clip[:2] / clip[3] * (0.5, -0.5) + 0.5) * (width, height)
        found = (fx * x / z + cx, fy * y / z + cy)
        np.testing.assert_allclose(found, expected, atol=0.02)


def test_source_camera_is_the_identity_with_the_clips_intrinsics(addon, shot):
    import bpy

    shot.location, shot.scale = (1.0, 2.0, 3.0), (0.5, 0.5, 0.5)
    for camera in (shot.ex4d_shot.source_camera, shot.ex4d_shot.camera):
        trajectory = addon("camera").sample_trajectory(bpy.context, shot, camera)
        assert (trajectory.width_px, trajectory.height_px) == (32, 24)
        for pose in trajectory.poses:
            matrix = np.reshape(pose.cam_to_world, (3, 4))
            np.testing.assert_allclose(matrix, np.eye(4)[:3], atol=1e-6)
            lens = (pose.fx_px, pose.fy_px, pose.cx_px, pose.cy_px)
            np.testing.assert_allclose(lens, (30.0, 30.0, 17.5, 10.25), rtol=1e-6)


def test_clip_without_square_pixels_keeps_its_intrinsics(addon, empty_file, tmp_path):
    import json

    import bpy

    folder = write_scene(tmp_path / "scene", center=(17.5, 10.25))
    document = json.loads((folder / "scene.json").read_text())
    document["intrinsics"]["fy_px"] = 45.0
    (folder / "scene.json").write_text(json.dumps(document))
    shot = exhaust(addon("scene_import").import_scene(bpy.context, folder))
    bpy.ops.ex4d.match_scene(use_size=True)
    pose = addon("camera").sample_trajectory(bpy.context, shot).poses[0]
    lens = (pose.fx_px, pose.fy_px, pose.cx_px, pose.cy_px)
    np.testing.assert_allclose(lens, (30.0, 45.0, 17.5, 10.25), rtol=1e-6)


def test_playhead_is_put_back(addon, shot):
    import bpy

    scene = bpy.context.scene
    scene.frame_set(13, subframe=0.25)
    addon("camera").sample_trajectory(bpy.context, shot)
    assert (scene.frame_current, scene.frame_subframe) == (13, 0.25)


@pytest.mark.parametrize(
    ("first", "last", "times"),
    [(1, 250, [0, 1, 2, 3, 4]), (12, 13, [1, 2]), (14, 40, [3, 4])],
    ids=["all", "inside", "end"],
)
def test_take_covers_what_scene_and_clip_share(addon, shot, first, last, times):
    import bpy

    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = first, last
    trajectory = addon("camera").sample_trajectory(bpy.context, shot)
    assert [pose.source_time for pose in trajectory.poses] == times


def test_frames_beyond_the_clip_hold_its_ends(addon, shot):
    import bpy

    trajectory = addon("camera").sample_trajectory(bpy.context, shot, frame_start=9, frame_end=17)
    assert [pose.source_time for pose in trajectory.poses] == [0, 0, 0, 1, 2, 3, 4, 4, 4]


def orthographic(shot, camera):
    camera.data.type = "ORTHO"


def panoramic(shot, camera):
    camera.data.type = "PANO"


def stretched_root(shot, camera):
    shot.scale = (1.0, 1.0, 1.1)


def mirrored_root(shot, camera):
    shot.scale = (-1.0, 1.0, 1.0)


def flat_root(shot, camera):
    shot.scale = (0.0, 0.0, 0.0)


def sheared_camera(shot, camera):
    import bpy

    crane = bpy.data.objects.new("crane", None)
    bpy.context.scene.collection.objects.link(crane)
    camera.parent = crane
    crane.scale = (1.0, 3.0, 1.0)
    camera.rotation_euler = (1.0, 0.4, 0.7)


def hidden_camera(shot, camera):
    import bpy

    bpy.context.scene.collection.children[0].objects.unlink(camera)


def no_camera(shot, camera):
    shot.ex4d_shot.camera = None


def range_elsewhere(shot, camera):
    import bpy

    bpy.context.scene.frame_start = 100


@pytest.mark.parametrize(
    ("arrange", "code", "word"),
    [
        (orthographic, "camera_type", "ORTHO"),
        (panoramic, "camera_type", "PANO"),
        (stretched_root, "shot_skewed", "stretched"),
        (mirrored_root, "shot_skewed", "mirrored"),
        (flat_root, "shot_skewed", "scale"),
        (sheared_camera, "camera_skewed", "sheared"),
        (hidden_camera, "camera_missing", "choose"),
        (no_camera, "camera_missing", "choose"),
        (range_elsewhere, "range_empty", "11 to 15"),
    ],
)
def test_what_cannot_be_sampled_is_refused_with_the_reason(addon, shot, arrange, code, word):
    import bpy

    arrange(shot, shot.ex4d_shot.camera)
    bpy.context.scene.frame_set(3)
    with pytest.raises(addon("_vendor.errors").InputError) as caught:
        addon("camera").sample_trajectory(bpy.context, shot)
    assert caught.value.code == code
    assert word in caught.value.message
    assert bpy.context.scene.frame_current == 3
