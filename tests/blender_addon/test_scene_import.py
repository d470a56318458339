"""A finished scene becomes objects that play, with the extension and without it."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from scene_writer import (
    BORDER_DEPTH,
    color_of,
    depth_of,
    occluded_of,
    square_of,
    write_exr,
    write_png,
    write_scene,
)
from shot_tools import evaluated_points, exhaust

pytestmark = pytest.mark.bpy

WIDTH, HEIGHT, FRAMES, FOCAL = 32, 24, 5, 30.0
CENTER = (17.5, 10.25)


@pytest.fixture
def scene_folder(tmp_path):
    return write_scene(tmp_path / "scene", center=CENTER)


@pytest.fixture
def import_scene(addon, empty_file):
    def import_scene(folder, **options):
        import bpy

        steps = addon("scene_import").import_scene(bpy.context, folder, **options)
        return exhaust(steps)

    return import_scene


def expected_points(frame, columns, rows):
    """The vertices of pixels, by the definition of a pinhole camera."""
    x = (columns + 0.5 - CENTER[0]) / FOCAL
    y = (rows + 0.5 - CENTER[1]) / FOCAL
    depth = depth_of(frame, WIDTH, HEIGHT)
    depth[0] = depth[-1] = BORDER_DEPTH
    depth[:, 0] = depth[:, -1] = BORDER_DEPTH
    z = depth[rows, columns]
    return np.stack([x * z, z, -y * z], axis=-1)


@pytest.mark.parametrize(
    ("blender_frame", "clip_frame"),
    [(11, 0), (12, 1), (15, 4), (1, 0), (30, 4)],
    ids=["first", "second", "last", "before", "after"],
)
def test_mesh_plays_on_the_frames_of_the_scene(
    import_scene, scene_folder, blender_frame, clip_frame
):
    import bpy

    shot = import_scene(scene_folder, frame_start=11).ex4d_shot
    bpy.context.scene.frame_set(blender_frame)
    rows, columns = np.mgrid[1 : HEIGHT - 1, 1 : WIDTH - 1]
    expected = expected_points(clip_frame, columns.ravel(), rows.ravel())
    np.testing.assert_allclose(evaluated_points(shot.mesh), expected, atol=2e-6)


@pytest.mark.parametrize("step", [2, 3, 4])
def test_proxy_has_the_same_vertices_at_every_step_and_the_last_ones(
    import_scene, scene_folder, step
):
    import bpy

    shot = import_scene(scene_folder, frame_start=1, proxy_step=step).ex4d_shot
    shot.use_proxy = True
    bpy.context.scene.frame_set(3)
    rows = sorted({*range(1, HEIGHT - 1, step), HEIGHT - 2})
    columns = sorted({*range(1, WIDTH - 1, step), WIDTH - 2})
    grid_rows, grid_columns = np.meshgrid(rows, columns, indexing="ij")
    expected = expected_points(2, grid_columns.ravel(), grid_rows.ravel())
    np.testing.assert_allclose(evaluated_points(shot.proxy), expected, atol=2e-6)
    assert shot.mesh.hide_viewport
    assert not shot.proxy.hide_viewport
    assert not shot.mesh.hide_render, "renders keep the full mesh"


def test_no_proxy_where_none_is_asked_for(import_scene, scene_folder):
    shot = import_scene(scene_folder, proxy_step=1).ex4d_shot
    assert shot.proxy is None
    shot.use_proxy = True
    assert not shot.mesh.hide_viewport, "a switch without a proxy must not hide everything"


def test_mesh_and_surround_together_are_the_whole_dw_mesh(import_scene, scene_folder):
    shot = import_scene(scene_folder).ex4d_shot
    faces = 2 * (WIDTH - 1) * (HEIGHT - 1) + 2
    assert len(shot.mesh.data.polygons) + len(shot.surround.data.polygons) == faces
    shot.show_surround = True
    far = np.isclose(evaluated_points(shot.surround)[:, 1], BORDER_DEPTH)
    assert far.sum() == 2 * (WIDTH + HEIGHT) - 4
    assert not np.isclose(evaluated_points(shot.mesh)[:, 1], BORDER_DEPTH).any()


def test_faces_look_at_the_source_camera(import_scene, scene_folder):
    shot = import_scene(scene_folder).ex4d_shot
    assert all(polygon.normal.dot(polygon.center) < 0 for polygon in shot.mesh.data.polygons)


def test_texture_puts_each_pixel_on_its_vertex(import_scene, scene_folder):
    shot = import_scene(scene_folder).ex4d_shot
    mesh = shot.mesh.data
    corners = np.empty(len(mesh.loops), dtype=np.int32)
    mesh.loops.foreach_get("vertex_index", corners)
    uvs = np.empty(len(mesh.loops) * 2, dtype=np.float32)
    mesh.uv_layers[0].uv.foreach_get("vector", uvs)
    rows, columns = np.divmod(corners, WIDTH - 2)
    expected = np.stack([(columns + 1.5) / WIDTH, 1 - (rows + 1.5) / HEIGHT], axis=-1)
    np.testing.assert_allclose(uvs.reshape(-1, 2), expected, atol=1e-6)


def test_marks_cover_exactly_what_is_occluded(addon, import_scene, scene_folder):
    import_scene(scene_folder)
    read_pixels = addon("pictures").read_pixels
    for frame in range(FRAMES):
        path = scene_folder / "blender" / "marked" / f"{frame + 1:04d}.png"
        picture = np.rint(read_pixels(path, WIDTH, HEIGHT)[..., :3] * 255).astype(int)
        mark = [round(255 * channel) for channel in addon("material").UNSEEN_SRGB]
        is_marked = (picture == mark).all(axis=-1)
        occluded = occluded_of(frame, WIDTH, HEIGHT)
        np.testing.assert_array_equal(is_marked, occluded)
        seen = ~occluded
        np.testing.assert_array_equal(picture[seen], color_of(frame, WIDTH, HEIGHT)[seen])


def test_marks_can_be_switched_off(import_scene, scene_folder):
    root = import_scene(scene_folder, frame_start=7)
    shot = root.ex4d_shot
    node = shot.mesh.active_material.node_tree.nodes.active
    assert node.image == shot.marked_image
    shot.show_marks = False
    assert node.image == shot.clip_image
    user = node.image_user
    assert (user.frame_start, user.frame_duration, user.frame_offset) == (7, FRAMES, 0)


def test_frame_start_moves_everything(import_scene, scene_folder):
    import bpy

    shot = import_scene(scene_folder, frame_start=1).ex4d_shot
    shot.frame_start = 101
    bpy.context.scene.frame_set(104)
    rows, columns = np.mgrid[1 : HEIGHT - 1, 1 : WIDTH - 1]
    expected = expected_points(3, columns.ravel(), rows.ravel())
    np.testing.assert_allclose(evaluated_points(shot.mesh), expected, atol=2e-6)
    assert shot.mesh.active_material.node_tree.nodes.active.image_user.frame_start == 101


def test_nothing_of_the_scene_is_set_without_asking(import_scene, scene_folder):
    import bpy

    scene = bpy.context.scene
    names = ("fps", "fps_base", "resolution_x", "resolution_y")
    before = [getattr(scene.render, name) for name in names]
    view = scene.view_settings.view_transform
    import_scene(scene_folder)
    assert [getattr(scene.render, name) for name in names] == before
    assert (scene.frame_start, scene.frame_end, scene.camera) == (1, 250, None)
    assert scene.view_settings.view_transform == view
    bpy.ops.ex4d.match_scene("EXEC_DEFAULT")
    assert [getattr(scene.render, name) for name in names] == before


def test_match_scene_sets_what_is_ticked(import_scene, scene_folder):
    import bpy

    shot = import_scene(scene_folder, frame_start=11).ex4d_shot
    bpy.ops.ex4d.match_scene(
        use_size=True, use_rate=True, use_range=True, use_camera=True, use_view=True
    )
    scene, render = bpy.context.scene, bpy.context.scene.render
    assert (render.resolution_x, render.resolution_y) == (WIDTH, HEIGHT)
    assert render.fps / render.fps_base == pytest.approx(30000 / 1001, rel=1e-6)
    assert (scene.frame_start, scene.frame_end) == (11, 15)
    assert scene.camera == shot.camera
    assert scene.view_settings.view_transform == "Standard"


def test_a_view_shows_the_video_on_its_mesh(import_scene, scene_folder, addon):
    import bpy

    clip = import_scene(scene_folder).ex4d_shot
    areas = [area for screen in bpy.data.screens for area in screen.areas]
    view = next(area for area in areas if area.type == "VIEW_3D").spaces.active
    addon("shots").show_video(view, clip.id_data)
    assert (view.shading.type, view.shading.color_type) == ("SOLID", "TEXTURE")
    assert view.region_3d.view_perspective == "CAMERA"
    # The scene's camera is another or none: only this view looks through the shot's.
    assert view.use_local_camera
    assert view.camera == clip.camera
    assert bpy.context.scene.camera is None


#: Run by a Blender without the extension, with the folder as its argument.
PLAY_AND_RENDER = """
import bpy, numpy as np, sys
folder = sys.argv[1]
bpy.ops.wm.open_mainfile(filepath=folder + "/shot.blend")
scene = bpy.context.scene
assert not hasattr(scene, "ex4d")
scene.frame_set(4)
mesh = bpy.data.objects["Tiny Mesh"].evaluated_get(bpy.context.evaluated_depsgraph_get()).data
points = np.empty(len(mesh.vertices) * 3, dtype=np.float32)
mesh.attributes["position"].data.foreach_get("vector", points)
np.save(folder + "/points.npy", points.reshape(-1, 3))
scene.camera = bpy.data.objects["Tiny Source Camera"]
scene.view_settings.view_transform = "Standard"
scene.render.engine = "CYCLES"
scene.cycles.samples = 4
scene.cycles.pixel_filter_type, scene.cycles.filter_width = "BOX", 0.01
scene.render.resolution_x, scene.render.resolution_y = 32, 24
scene.render.filepath = folder + "/render.png"
bpy.ops.render.render(write_still=True)
"""


@pytest.mark.parametrize("is_saved_first", [True, False], ids=["saved before", "saved after"])
def test_moved_folder_plays_without_the_extension(
    addon, import_scene, scene_folder, tmp_path, is_saved_first
):
    import bpy

    blend = str(tmp_path / "shot.blend")
    if is_saved_first:
        bpy.ops.wm.save_as_mainfile(filepath=blend)
    shot = import_scene(scene_folder, frame_start=1).ex4d_shot
    # As the Save As dialog of Blender has it.
    bpy.ops.wm.save_as_mainfile(filepath=blend, relative_remap=True)
    assert shot.mesh.modifiers[0].filepath == "//scene/blender/mesh.pc2"
    bpy.ops.wm.read_homefile(use_empty=True)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("shot.blend", "scene"):
        shutil.move(tmp_path / name, moved / name)
    # Another process, and a user folder where the extension is not installed.
    environment = {**os.environ, "BLENDER_USER_RESOURCES": str(tmp_path / "bare")}
    command = [sys.executable, "-c", PLAY_AND_RENDER, str(moved)]
    subprocess.run(command, env=environment, check=True)
    rows, columns = np.mgrid[1 : HEIGHT - 1, 1 : WIDTH - 1]
    expected = expected_points(3, columns.ravel(), rows.ravel())
    np.testing.assert_allclose(np.load(moved / "points.npy"), expected, atol=2e-6)
    read = addon("pictures").read_pixels(moved / "render.png", WIDTH, HEIGHT)[..., :3] * 255
    # Beside a mark a pixel takes some of its colour.
    seen = np.ones((HEIGHT, WIDTH), dtype=bool)
    for row, column in np.argwhere(occluded_of(3, WIDTH, HEIGHT)):
        seen[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = False
    assert seen.sum() > WIDTH * HEIGHT / 4
    error = np.abs(read - color_of(3, WIDTH, HEIGHT))[seen]
    # The next column differs by 8, the next frame by 40.
    assert error.mean() < 2.0
    assert error.max() < 16.0


def test_folder_follows_the_file(import_scene, scene_folder, tmp_path):
    import bpy

    assert import_scene(scene_folder).ex4d_shot.folder == str(scene_folder.resolve())
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"), relative_remap=True)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("shot.blend", "scene"):
        shutil.move(tmp_path / name, moved / name)
    bpy.ops.wm.open_mainfile(filepath=str(moved / "shot.blend"))
    shot = bpy.context.scene.ex4d.shot.ex4d_shot
    assert shot.folder == str((moved / "scene").resolve())
    assert shot.frame_count == FRAMES
    bpy.ops.wm.read_homefile(use_empty=True)


def data_names():
    import bpy

    collections = ("objects", "meshes", "images", "materials", "cameras", "collections")
    return {name: sorted(item.name for item in getattr(bpy.data, name)) for name in collections}


@pytest.mark.parametrize("step_count", [1, 3, FRAMES + 2], ids=["start", "caches", "meshes"])
def test_dropped_import_leaves_blender_as_it_was(addon, empty_file, scene_folder, step_count):
    import bpy

    before = data_names()
    steps = addon("scene_import").import_scene(bpy.context, scene_folder)
    for _ in range(step_count):
        next(steps)
    steps.close()
    assert data_names() == before
    assert not list((scene_folder / "blender").glob("*.part"))


def test_progress_grows_to_the_end(addon, empty_file, scene_folder):
    import bpy

    fractions = list(addon("scene_import").import_scene(bpy.context, scene_folder))
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0
    assert 0.5 < fractions[-1] <= 1.0


def test_undone_mesh_is_told(addon, empty_file, scene_folder):
    import bpy

    steps = addon("scene_import").import_scene(bpy.context, scene_folder)
    while not bpy.data.meshes:
        next(steps)
    bpy.data.meshes.remove(bpy.data.meshes[0])
    with pytest.raises(addon("_vendor.errors").InputError) as caught:
        exhaust(steps)
    assert caught.value.code == "import_undone"
    assert not bpy.data.meshes


def _drop_depth(folder):
    (folder / "depth" / "0003.exr").unlink()


def _damage_document(folder):
    (folder / "scene.json").write_text("{}", encoding="utf-8")


def _other_size(folder):
    write_exr(folder / "depth" / "0002.exr", np.ones((5, 7), dtype=np.float32))


def _damage_picture(folder):
    (folder / "frames" / "0002.png").write_bytes(b"nothing")


def _negative_depth(folder):
    write_exr(folder / "depth" / "0002.exr", -depth_of(0, WIDTH, HEIGHT))


def _no_depth(folder):
    write_exr(folder / "depth" / "0002.exr", depth_of(0, WIDTH, HEIGHT) * np.float32("nan"))


def _wide_lens(folder):
    document = json.loads((folder / "scene.json").read_text())
    document["intrinsics"]["fx_px"] = 0.5
    (folder / "scene.json").write_text(json.dumps(document))


def _no_document(folder):
    (folder / "scene.json").unlink()


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (_drop_depth, "scene_invalid"),
        (_damage_document, "scene_invalid"),
        (_no_document, "scene_invalid"),
        (_other_size, "image_invalid"),
        (_damage_picture, "image_invalid"),
        (_negative_depth, "scene_invalid"),
        (_no_depth, "scene_invalid"),
        (_wide_lens, "lens_wide"),
    ],
)
def test_damaged_scene_is_refused_and_leaves_nothing(
    addon, import_scene, scene_folder, damage, code
):
    before = data_names()
    damage(scene_folder)
    with pytest.raises(addon("_vendor.errors").InputError) as caught:
        import_scene(scene_folder)
    assert caught.value.code == code
    assert data_names() == before
    assert not list(scene_folder.glob("blender/*.p*"))


def test_picture_without_an_inside_is_refused(addon, import_scene, tmp_path):
    folder = write_scene(tmp_path / "small", width=8, height=3, frame_count=1)
    with pytest.raises(addon("_vendor.errors").InputError) as caught:
        import_scene(folder)
    assert caught.value.code == "scene_small"


def test_written_png_reads_back(addon, empty_file, tmp_path):
    picture = np.random.default_rng(1).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    addon("pictures").write_png(tmp_path / "a.png", picture)
    write_png(tmp_path / "b.png", picture)
    read = addon("pictures").read_pixels
    for name in ("a.png", "b.png"):
        np.testing.assert_array_equal(np.rint(read(tmp_path / name, 5, 7)[..., :3] * 255), picture)


def test_square_stands_in_front_of_the_wall(import_scene, scene_folder):
    """A ray through the square's middle meets it at its depth: the mesh is not mirrored."""
    import bpy
    from mathutils import Vector

    shot = import_scene(scene_folder, frame_start=1)
    bpy.context.scene.frame_set(1)
    rows, columns = square_of(0, WIDTH, HEIGHT)
    row, column = (rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2
    ray = Vector(((column + 0.5 - CENTER[0]) / FOCAL, 1.0, -(row + 0.5 - CENTER[1]) / FOCAL))
    depsgraph = bpy.context.evaluated_depsgraph_get()
    is_hit, location, *_ = bpy.context.scene.ray_cast(depsgraph, Vector(), ray.normalized())
    assert is_hit
    assert location.y == pytest.approx(3.0, abs=1e-5)
    assert shot.ex4d_shot.mesh.parent == shot
