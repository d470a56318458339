"""An imported shot's field of view, its scale and its folder can change without a new import."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from scene_writer import depth_of, write_scene
from shot_tools import evaluated_points, exhaust

pytestmark = pytest.mark.bpy

WIDTH, HEIGHT, FOCAL = 32, 24, 30.0
CENTER = (17.5, 10.25)


@pytest.fixture
def import_shot(addon, empty_file):
    import bpy

    def import_shot(folder, **options):
        steps = addon("scene_import").import_scene(bpy.context, folder, frame_start=1, **options)
        shot = exhaust(steps)
        bpy.context.view_layer.update()
        return shot

    return import_shot


@pytest.fixture
def shot(import_shot, tmp_path):
    return import_shot(write_scene(tmp_path / "scene", center=CENTER))


def angle_of(focal):
    return 2 * math.atan(WIDTH / 2 / focal)


def world_points(mesh_object):
    """(V, 3) as shown."""
    points = evaluated_points(mesh_object)
    matrix = np.array(mesh_object.matrix_world)
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def pixels_through(camera, points):
    """(V, 2) where the points lie in the picture of a Blender camera, in the clip's pixels."""
    import bpy
    from bpy_extras.object_utils import world_to_camera_view
    from mathutils import Vector

    render = bpy.context.scene.render
    render.resolution_x, render.resolution_y = WIDTH, HEIGHT
    seen = [world_to_camera_view(bpy.context.scene, camera, Vector(point)) for point in points]
    return np.array([(x * WIDTH, (1 - y) * HEIGHT) for x, y, _ in seen])


@pytest.mark.parametrize("focal", [12.0, 30.0, 75.0], ids=["wide", "as it was", "narrow"])
def test_mesh_is_what_the_other_lens_would_have_made(shot, focal):
    import bpy

    properties = shot.ex4d_shot
    assert properties.field_of_view == pytest.approx(angle_of(FOCAL), abs=1e-6)
    properties.field_of_view = angle_of(focal)
    bpy.context.scene.frame_set(3)
    bpy.context.view_layer.update()
    points = world_points(properties.mesh)
    rows, columns = np.mgrid[1 : HEIGHT - 1, 1 : WIDTH - 1]
    rows, columns = rows.ravel(), columns.ravel()
    z = depth_of(2, WIDTH, HEIGHT)[rows, columns]
    x = (columns + 0.5 - CENTER[0]) / focal * z
    y = (rows + 0.5 - CENTER[1]) / focal * z
    np.testing.assert_allclose(points, np.stack([x, z, -y], axis=-1), rtol=1e-5, atol=1e-5)
    expected = np.stack([columns + 0.5, rows + 0.5], axis=-1)
    for camera in (properties.source_camera, properties.camera):
        np.testing.assert_allclose(pixels_through(camera, points), expected, atol=2e-3)


def test_slider_there_and_back_changes_nothing(shot):
    properties = shot.ex4d_shot
    lens_mm = properties.camera.data.lens
    for degrees in (20, 75, 140, 3):
        properties.field_of_view = math.radians(degrees)
    properties.field_of_view = properties.scene_field_of_view
    assert tuple(properties.mesh.scale) == (1.0, 1.0, 1.0)
    assert properties.camera.data.lens == pytest.approx(lens_mm, rel=1e-5)


def test_keys_of_the_lens_come_along(addon, shot):
    properties = shot.ex4d_shot
    lens = properties.camera.data
    for frame, lens_mm in ((1, 30.0), (5, 60.0)):
        lens.lens = lens_mm
        lens.keyframe_insert("lens", frame=frame)
    # Keyed in the interface, a camera and its lens share an action.
    properties.camera.keyframe_insert("location", frame=1)
    if hasattr(lens.animation_data, "action_slot"):
        action = lens.animation_data.action
        properties.camera.animation_data.action = action
        slot = action.slots.new("OBJECT", "Camera")
        properties.camera.animation_data.action_slot = slot
        properties.camera.keyframe_insert("location", frame=1)
    properties.field_of_view = angle_of(FOCAL * 2)
    (curve,) = addon("compat").fcurves_of(lens)
    assert [curve.evaluate(frame) for frame in (1, 5)] == pytest.approx([60.0, 120.0], rel=1e-5)
    middle = curve.evaluate(3)
    properties.field_of_view = angle_of(FOCAL)
    assert curve.evaluate(3) == pytest.approx(middle / 2, rel=1e-4)


def test_field_of_view_is_one_undo_step(shot):
    import bpy

    name = shot.name
    before = shot.ex4d_shot.field_of_view
    bpy.ops.ed.undo_push(message="before")
    shot.ex4d_shot.field_of_view = math.radians(90)
    bpy.ops.ed.undo_push(message="Field of View")
    bpy.ops.ed.undo()
    found = bpy.data.objects[name].ex4d_shot
    assert found.field_of_view == pytest.approx(before)
    assert tuple(found.mesh.scale) == (1.0, 1.0, 1.0)
    assert found.applied_zoom == 1.0
    bpy.ops.ed.redo()
    found = bpy.data.objects[name].ex4d_shot
    assert found.mesh.scale.x == pytest.approx(math.tan(math.radians(45)) / (16 / FOCAL), rel=1e-5)


def test_take_is_made_with_the_changed_lens(addon, shot, tmp_path):
    module = addon("field_of_view")
    folder = tmp_path / "scene"
    properties = shot.ex4d_shot
    assert module.scene_document_file(properties, folder) == folder / "scene.json"
    properties.field_of_view = angle_of(20.0)
    path = module.scene_document_file(properties, folder)
    document = json.loads(Path(path).read_text())
    original = json.loads((folder / "scene.json").read_text())
    intrinsics = document["intrinsics"]
    assert intrinsics["fx_px"] == pytest.approx(20.0, rel=1e-6)
    assert intrinsics["fy_px"] == pytest.approx(20.0, rel=1e-6)
    assert (intrinsics["cx_px"], intrinsics["cy_px"]) == CENTER
    assert document["depth"]["focal_source"] == "user"
    assert document["mesh"] == original["mesh"]
    assert original["intrinsics"]["fx_px"] == FOCAL, "the scene's own file stays"
    assert module.scene_document_file(properties, folder) == path, "named by its content"
    properties.field_of_view = properties.scene_field_of_view
    assert module.scene_document_file(properties, folder) == folder / "scene.json"


def test_measured_distance_scales_the_shot_and_no_take(addon, shot):
    import bpy

    first, second = (0.0, 3.0, 0.0), (0.5, 3.0, 0.0)
    clip_end = shot.ex4d_shot.camera.data.clip_end
    before = addon("camera").sample_trajectory(bpy.context, shot)
    far = world_points(shot.ex4d_shot.mesh)
    result = bpy.ops.ex4d.scale_to_distance(first=first, second=second, distance=1.25)
    assert result == {"FINISHED"}
    bpy.context.view_layer.update()
    np.testing.assert_allclose(world_points(shot.ex4d_shot.mesh), far * 2.5, rtol=1e-5, atol=1e-5)
    assert shot.ex4d_shot.camera.data.clip_end == pytest.approx(clip_end * 2.5)
    after = addon("camera").sample_trajectory(bpy.context, shot)
    for old, new in zip(before.poses, after.poses, strict=True):
        assert new.cam_to_world == pytest.approx(old.cam_to_world, abs=1e-5)


def test_one_point_is_no_distance(shot):
    import bpy

    with pytest.raises(RuntimeError, match="two points apart"):
        bpy.ops.ex4d.scale_to_distance(first=(1, 1, 1), second=(1, 1, 1), distance=2.0)
    assert tuple(shot.scale) == (1.0, 1.0, 1.0)


def test_points_are_picked_on_the_mesh_that_is_shown(addon, shot):
    import bpy
    from mathutils import Vector

    pick = addon("picking").point_on_ray
    origin, direction = Vector((0, 0, 0)), Vector((0, 1, 0))
    for use_proxy in (False, True):
        shot.ex4d_shot.use_proxy = use_proxy
        bpy.context.view_layer.update()
        point = pick(bpy.context, shot, origin, direction)
        assert point is not None
        assert 2.9 < point.y < 9.6
    assert pick(bpy.context, shot, origin, -direction) is None
    cube = bpy.data.objects.new("before it", bpy.data.meshes.new("before it"))
    bpy.context.collection.objects.link(cube)
    cube.data.from_pydata([(-1, 1, -1), (1, 1, -1), (0, 1, 1)], [], [(0, 1, 2)])
    bpy.context.view_layer.update()
    assert pick(bpy.context, shot, origin, direction) is None, "something else lies before it"


def test_moved_scene_is_found_again_and_the_other_shot_left_alone(import_shot, shot, tmp_path):
    import bpy

    other = import_shot(write_scene(tmp_path / "other"))
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "two.blend"))
    assert other.ex4d_shot.clip_image.filepath.startswith("//")
    untouched = other.ex4d_shot.folder
    bpy.context.scene.frame_set(3)
    expected = evaluated_points(shot.ex4d_shot.mesh)
    moved = tmp_path / "archive" / "scene"
    moved.parent.mkdir()
    shutil.move(tmp_path / "scene", moved)
    bpy.context.scene.ex4d.shot = shot
    bpy.context.view_layer.objects.active = shot
    assert bpy.ops.ex4d.find_scene_folder(directory=str(moved)) == {"FINISHED"}
    assert shot.ex4d_shot.folder == str(moved.resolve())
    assert shot.ex4d_shot.clip_image.filepath.startswith("//")
    bpy.context.scene.frame_set(1)
    bpy.context.scene.frame_set(3)
    np.testing.assert_array_equal(evaluated_points(shot.ex4d_shot.mesh), expected)
    for image, file in (("clip_image", "frames"), ("marked_image", "blender/marked")):
        path = bpy.path.abspath(getattr(shot.ex4d_shot, image).filepath)
        assert Path(path).samefile(moved / file / "0001.png")
    assert other.ex4d_shot.folder == untouched


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: shutil.rmtree(folder / "blender"), "import the scene again"),
        (lambda folder: (folder / "scene.json").unlink(), "found none that can be read"),
    ],
    ids=["no caches", "no scene"],
)
def test_wrong_folder_changes_nothing(shot, tmp_path, change, words):
    import bpy

    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "scene", copy)
    change(copy)
    before = shot.ex4d_shot.folder
    with pytest.raises(RuntimeError, match=words):
        bpy.ops.ex4d.find_scene_folder(directory=str(copy))
    assert shot.ex4d_shot.folder == before


def test_folder_of_another_scene_is_refused(shot, tmp_path):
    import bpy

    other = write_scene(tmp_path / "longer", frame_count=7)
    with pytest.raises(RuntimeError, match="found 7 of"):
        bpy.ops.ex4d.find_scene_folder(directory=str(other))
