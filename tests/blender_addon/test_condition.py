"""The condition over the camera view: right, never an old one, gone without a trace."""

import math
import shutil

import numpy as np
import pytest
from scene_writer import color_of, occluded_of, write_scene
from shot_tools import exhaust

pytestmark = pytest.mark.bpy

WIDTH, HEIGHT = 64, 48


@pytest.fixture
def shot(addon, empty_file, tmp_path):
    """A shot of five frames from frame 11, shown at its first."""
    import bpy

    folder = write_scene(tmp_path / "scene", width=WIDTH, height=HEIGHT, focal=60.0)
    found = exhaust(addon("scene_import").import_scene(bpy.context, folder, frame_start=11))
    bpy.context.scene.frame_start, bpy.context.scene.frame_end = 11, 15
    bpy.context.scene.frame_set(11)
    return found


def tick(addon, most=500):
    """Tick until nothing is being drawn."""
    current = addon("runtime").get()
    for _ in range(most):
        addon("pump").tick()
        if not current.condition.is_drawing:
            return
    raise AssertionError("never ends")


def show(addon, value=True):
    import bpy

    bpy.context.scene.ex4d_generate.show_condition = value
    tick(addon)


def images(addon):
    import bpy

    return [image for image in bpy.data.images if addon("camera_pictures").MARK in image]


def shown(addon):
    """(height, width, 3) uint8, top row first."""
    (image,) = images(addon)
    pixels = np.empty(image.size[0] * image.size[1] * 4, np.float32)
    image.pixels.foreach_get(pixels)
    rgba = pixels.reshape(image.size[1], image.size[0], 4)[::-1]
    return np.rint(rgba[..., :3] * 255).astype(np.uint8)


def unseen_share(addon):
    return addon("material").is_marked(shown(addon)).mean()


def assert_gone(addon, shot):
    data = shot.ex4d_shot.camera.data
    assert images(addon) == []
    assert len(data.background_images) == 0
    assert not data.show_background_images
    assert addon("camera_pictures").SWITCHED not in data


def test_first_frame_of_a_take_is_given_as_it_was_filmed(addon, shot):
    import bpy

    show(addon)
    picture = shown(addon)
    colors = color_of(0, WIDTH, HEIGHT).repeat(4, axis=0).repeat(4, axis=1).astype(int)
    assert np.abs(picture.astype(int) - colors).max() <= 6
    shot.ex4d_shot.camera.location.x += 0.3
    bpy.context.view_layer.update()
    tick(addon)
    assert unseen_share(addon) > 0.05


def test_source_view_shows_the_video_and_what_it_never_saw(addon, shot):
    import bpy

    bpy.context.scene.frame_set(12)
    show(addon)
    picture = shown(addon)
    assert picture.shape == (192, 256, 3)
    found = addon("material").is_marked(picture)
    # Four pixels of the picture for each of the video's.
    occluded = occluded_of(1, WIDTH, HEIGHT).repeat(4, axis=0).repeat(4, axis=1)
    assert (found == occluded).mean() > 0.97
    colors = color_of(1, WIDTH, HEIGHT).repeat(4, axis=0).repeat(4, axis=1).astype(int)
    apart = np.abs(picture.astype(int) - colors).max(axis=-1)[~found & ~occluded]
    assert np.percentile(apart, 99) <= 6, "the video's own colours, where they were"
    (slot,) = shot.ex4d_shot.camera.data.background_images
    assert (slot.image, slot.display_depth) == (images(addon)[0], "FRONT")
    assert slot.scale == pytest.approx(
        addon("camera_pictures").fit_scale(
            shot.ex4d_shot.camera.data, bpy.context.scene.render, WIDTH, HEIGHT
        )
    )


def test_share_agrees_with_the_measured_coverage(addon, shot):
    import bpy

    bpy.ops.ex4d.add_move(move="orbit_right", strength=2.0)
    assert bpy.ops.ex4d.check_coverage() == {"FINISHED"}
    unseen = addon("runtime").get().coverage.work.result.unseen
    show(addon)
    for frame in (11, 13, 15):
        bpy.context.scene.frame_set(frame)
        tick(addon)
        assert unseen_share(addon) == pytest.approx(unseen[frame - 11], abs=0.02)


def test_old_picture_never_stays(addon, shot, monkeypatch):
    import bpy

    show(addon)
    before = shown(addon)
    bpy.context.scene.frame_set(13)
    # A machine so busy that each tick has time for one slice alone.
    monkeypatch.setattr(addon("coverage"), "SLICE_S", 1.0)
    addon("pump").tick()
    assert images(addon) == []
    tick(addon)
    assert (shown(addon) != before).any()
    moved = shown(addon)
    shot.ex4d_shot.camera.location.x += 0.3
    bpy.context.view_layer.update()
    tick(addon)
    assert (shown(addon) != moved).any()


def test_nothing_is_drawn_again_while_nothing_changes(addon, shot, monkeypatch):
    show(addon)
    redraws = []
    monkeypatch.setattr(addon("condition"), "redraw_views", redraws.append)
    monkeypatch.setattr(addon("pump"), "redraw", lambda: redraws.append("UI"))
    assert addon("pump").tick() == addon("pump").WAITING_S
    assert redraws == []


def test_switched_off_it_leaves_nothing(addon, shot):
    show(addon)
    show(addon, False)
    assert_gone(addon, shot)
    assert addon("pump").tick() is None, "nothing is left to do"


def test_own_background_images_stay_as_they_are(addon, shot):
    import bpy

    data = shot.ex4d_shot.camera.data
    mine = data.background_images.new()
    mine.image = bpy.data.images.new("Mine", 4, 4)
    data.show_background_images = True
    mine.alpha = 0.25
    show(addon)
    assert len(data.background_images) == 2
    show(addon, False)
    (slot,) = data.background_images
    assert (slot.image.name, slot.alpha, slot.show_background_image) == ("Mine", 0.25, True)
    assert data.show_background_images


def test_undo_brings_the_switch_back_and_the_picture_with_it(addon, shot):
    import bpy

    bpy.ops.ed.undo_push(message="before")
    show(addon)
    bpy.ops.ed.undo_push(message="on")
    show(addon, False)
    bpy.ops.ed.undo_push(message="off")
    bpy.ops.ed.undo()
    assert bpy.context.scene.ex4d_generate.show_condition
    assert addon("pump").is_running()
    tick(addon)
    assert len(images(addon)) == 1
    bpy.ops.ed.undo()
    tick(addon)
    assert_gone(addon, bpy.data.objects["Tiny"])
    bpy.ops.ed.redo()
    tick(addon)
    assert len(images(addon)) == 1


def test_saved_file_holds_no_picture_and_opens_without_it(addon, shot, tmp_path):
    import bpy

    show(addon)
    path = str(tmp_path / "shot.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    tick(addon)
    assert len(images(addon)) == 1, "the open file shows it again"
    # Blender 5.2 does not look into the file that is open.
    copy = str(shutil.copy(path, tmp_path / "copy.blend"))
    with bpy.data.libraries.load(copy) as (inside, _):
        assert not any("Condition" in name for name in inside.images)
    bpy.ops.wm.open_mainfile(filepath=path)
    assert not bpy.context.scene.ex4d_generate.show_condition
    tick(addon)
    assert images(addon) == []
    show(addon)
    assert len(images(addon)) == 1
    bpy.ops.wm.read_homefile(use_empty=True)
    tick(addon)
    assert images(addon) == []


def test_opening_a_file_that_showed_it_touches_no_file_of_ours(addon, shot, tmp_path, monkeypatch):
    import bpy

    show(addon)
    path = str(tmp_path / "shot.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.read_homefile(use_empty=True)
    # As after a start of Blender.
    addon("pump").stop()
    addon("runtime").unregister()
    asked = []
    private_folder = addon("paths").private_folder
    monkeypatch.setattr(
        addon("paths"), "private_folder", lambda: asked.append(1) or private_folder()
    )
    bpy.ops.wm.open_mainfile(filepath=path)
    bpy.ops.ed.undo_push(message="opened")
    bpy.ops.ed.undo_push(message="a step")
    bpy.context.scene.frame_set(12)
    bpy.ops.ed.undo()
    assert not bpy.context.scene.ex4d_generate.show_condition
    assert asked == []
    assert addon("runtime").peek() is None
    assert not addon("pump").is_running()
    bpy.context.scene.ex4d_generate.show_condition = True
    assert asked
    tick(addon)
    assert len(images(addon)) == 1


def slots(shot):
    return [slot.show_background_image for slot in shot.ex4d_shot.camera.data.background_images]


def test_passing_frame_hides_the_picture_before_the_next_tick(addon, shot):
    import bpy

    show(addon)
    (image,) = images(addon)
    bpy.context.scene.frame_set(13)
    assert slots(shot) == [False]
    bpy.context.scene.frame_set(11)
    addon("pump").tick()
    assert (slots(shot), images(addon)) == ([True], [image]), "the same one, which is right again"
    bpy.context.scene.frame_set(13)
    tick(addon)
    assert slots(shot) == [True]


def test_frames_of_an_animation_render_hide_the_picture(addon, shot, monkeypatch):
    import bpy

    show(addon)
    scene = bpy.context.scene
    # A render beside the interface, of which the tick hears.
    monkeypatch.setattr(addon("pump"), "is_rendering", lambda: True)
    scene.frame_set(12)
    assert slots(shot) == [True], "the thread of the render changes nothing"
    addon("pump").tick()
    assert slots(shot) == [False]
    scene.frame_set(11)
    monkeypatch.undo()
    addon("pump").tick()
    assert slots(shot) == [True]


def test_lost_files_are_told_once(addon, shot):
    from pathlib import Path

    Path(shot.ex4d_shot.folder, "blender", "mesh.pc2").unlink()
    show(addon)
    assert images(addon) == []
    assert "import the scene again" in addon("runtime").get().condition.error.message


def test_damaged_disk_is_told(addon, shot, monkeypatch):
    def fail(*_arguments):
        raise OSError("the disk is gone")

    monkeypatch.setattr(addon("coverage").np, "memmap", fail)
    show(addon)
    assert images(addon) == []
    assert "the disk is gone" in addon("runtime").get().condition.error.message


def orthographic(shot):
    shot.ex4d_shot.camera.data.type = "ORTHO"


def stretched(shot):
    shot.scale = (1.0, 1.0, 1.1)


def sheared(shot):
    import bpy

    crane = bpy.data.objects.new("crane", None)
    bpy.context.scene.collection.objects.link(crane)
    shot.ex4d_shot.camera.parent = crane
    crane.scale = (1.0, 3.0, 1.0)
    shot.ex4d_shot.camera.rotation_euler = (1.0, 0.4, 0.7)


def bound_cube(shot):
    import bpy

    cube = bpy.data.objects.new("cube", None)
    bpy.context.scene.collection.objects.link(cube)
    bpy.context.scene.timeline_markers.new("cube", frame=11).camera = cube


def without_backgrounds(shot):
    import bpy

    data = shot.ex4d_shot.camera.data
    data.background_images.new().image = bpy.data.images.new("Mine", 4, 4)
    data.show_background_images = False


@pytest.mark.parametrize(
    ("arrange", "code"),
    [
        (orthographic, "camera_type"),
        (stretched, "shot_skewed"),
        (sheared, "camera_skewed"),
        (bound_cube, "camera_type"),
        (without_backgrounds, "backgrounds_off"),
    ],
)
def test_panel_says_why_there_is_no_picture(addon, shot, arrange, code):
    import bpy
    from test_registration import draw

    show(addon)
    arrange(shot)
    bpy.context.view_layer.update()
    tick(addon)
    error = addon("runtime").get().condition.error
    assert error.code == code
    assert images(addon) == []
    assert error.message in " ".join(draw(addon("ops_coverage").EX4D_PT_coverage))
    addon("pump").tick()
    assert addon("runtime").get().condition.error is error, "told once"
    show(addon, False)
    assert addon("runtime").get().condition.error is None


def test_linked_camera_is_told_and_stays_as_it_is(addon, shot, tmp_path):
    import bpy

    path = str(tmp_path / "cameras.blend")
    linked = bpy.data.cameras.new("Elsewhere")
    bpy.data.libraries.write(path, {linked})
    bpy.data.cameras.remove(linked)
    with bpy.data.libraries.load(path, link=True) as (_, wanted):
        wanted.cameras = ["Elsewhere"]
    shot.ex4d_shot.camera.data = bpy.data.cameras["Elsewhere"]
    bpy.context.view_layer.update()
    show(addon)
    assert addon("runtime").get().condition.error.code == "camera_linked"
    assert len(bpy.data.cameras["Elsewhere"].background_images) == 0


def test_linked_scene_that_showed_it_asks_for_nothing(addon, empty_file, tmp_path):
    import bpy

    path, scene = str(tmp_path / "scenes.blend"), bpy.context.scene
    scene.name = "Elsewhere"
    scene.ex4d_generate.show_condition = True
    assert addon("condition").is_shown_anywhere()
    bpy.ops.wm.save_as_mainfile(filepath=path, copy=True)
    bpy.ops.wm.read_homefile(use_empty=True)
    with bpy.data.libraries.load(path, link=True) as (_, wanted):
        wanted.scenes = ["Elsewhere"]
    assert bpy.data.scenes["Elsewhere"].ex4d_generate.show_condition
    assert not addon("condition").is_shown_anywhere()
    assert addon("condition")._wanted_view() == (None, None)


def test_camera_that_sees_nothing_is_all_magenta(addon, shot):
    import bpy

    shot.ex4d_shot.camera.rotation_euler.z += math.pi
    bpy.context.view_layer.update()
    show(addon)
    assert unseen_share(addon) == 1.0


def test_camera_that_a_marker_binds_is_the_one(addon, shot):
    import bpy

    data = bpy.data.cameras.new("Other")
    other = bpy.data.objects.new("Other", data)
    bpy.context.scene.collection.objects.link(other)
    other.rotation_euler.x = -math.pi / 2
    markers = bpy.context.scene.timeline_markers
    markers.new("first", frame=11).camera = shot.ex4d_shot.camera
    markers.new("cut", frame=13).camera = other
    show(addon)
    assert len(shot.ex4d_shot.camera.data.background_images) == 1
    bpy.context.scene.frame_set(13)
    tick(addon)
    assert len(shot.ex4d_shot.camera.data.background_images) == 0
    assert len(data.background_images) == 1
    assert unseen_share(addon) == 1.0
