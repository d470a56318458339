"""What was never seen is marked anew by another field of view, as the server would mark it."""

import json
import math
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scene_writer import write_exr, write_scene
from shot_tools import exhaust, needs_server

pytestmark = pytest.mark.bpy

WIDTH, HEIGHT, FRAMES = 96, 64, 3
WIDE_RAD, NARROW_RAD = math.radians(100), math.radians(20)


@pytest.fixture
def folder(tmp_path):
    """A scene of waves, some of whose faces are stretched by one field of view and not another."""
    found = write_scene(
        tmp_path / "scene", frame_count=FRAMES, width=WIDTH, height=HEIGHT, focal=90.0
    )
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for frame in range(FRAMES):
        depth = 5.0 + np.sin(columns / 2.0 + frame) * rows / HEIGHT * 2.0
        write_exr(found / "depth" / f"{frame + 1:04d}.exr", depth.astype(np.float32))
    return found


@pytest.fixture
def shot(addon, empty_file, folder, monkeypatch):
    import bpy

    monkeypatch.setattr(addon("repainting"), "SETTLE_S", 0.0)
    return exhaust(addon("scene_import").import_scene(bpy.context, folder, frame_start=1))


def settle(addon):
    """Tick until nothing is to be painted."""
    repainter = addon("runtime").get().repainter
    for _ in range(2000):
        addon("pump").tick()
        if not repainter.is_painting:
            return
    raise AssertionError("never ends")


def shown_folder(shot):
    import bpy

    return Path(bpy.path.abspath(shot.ex4d_shot.marked_image.filepath)).parent


def marked(addon, shot, index):
    path = shown_folder(shot) / f"{index + 1:04d}.png"
    return addon("material").is_marked(addon("pictures").read_png(path, WIDTH, HEIGHT))


def rendered_marks(addon, shot, folder, tmp_path):
    """What the server says was never seen in frame 2, from the source's place."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    document = addon("field_of_view").scene_document_file(shot.ex4d_shot, folder)
    shutil.copy(document, copy / "scene.json")
    lens = json.loads(Path(document).read_text())["intrinsics"]
    pose = {name: lens[name] for name in ("fx_px", "fy_px", "cx_px", "cy_px")}
    pose["cam_to_world"] = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]
    poses = [{**pose, "source_time": index} for index in range(FRAMES)]
    trajectory = {"width_px": WIDTH, "height_px": HEIGHT, "poses": poses}
    path = tmp_path / "trajectory.json"
    path.write_text(json.dumps(trajectory))
    command = [os.environ["EX4D_EXECUTABLE"], "render", str(copy), "--trajectory", str(path)]
    subprocess.run([*command, "--output", str(tmp_path / "render")], check=True)
    pixels = addon("pictures").read_pixels(tmp_path / "render/mask/0002.png", WIDTH, HEIGHT)
    return pixels[..., 0] < 0.5


@needs_server
@pytest.mark.parametrize("angle_rad", [WIDE_RAD, NARROW_RAD], ids=["wide", "narrow"])
def test_marks_are_those_that_the_server_makes(addon, shot, folder, tmp_path, angle_rad):
    shot.ex4d_shot.field_of_view = angle_rad
    settle(addon)
    found, expected = marked(addon, shot, 1), rendered_marks(addon, shot, folder, tmp_path)
    imported = addon("pictures").read_png(folder / "blender/marked/0002.png", WIDTH, HEIGHT)
    assert (addon("material").is_marked(imported) != expected).mean() > 0.02
    assert (found != expected).mean() < 0.001


def test_what_is_seen_again_has_its_colours_back(addon, shot, folder):
    shot.ex4d_shot.field_of_view = WIDE_RAD
    settle(addon)
    pictures = addon("pictures")
    picture = pictures.read_png(shown_folder(shot) / "0003.png", WIDTH, HEIGHT)
    frame = addon("scene_files").SceneFiles(folder).frame(2)
    seen = ~addon("material").is_marked(picture)
    before = addon("material").is_marked(
        pictures.read_png(folder / "blender/marked/0003.png", WIDTH, HEIGHT)
    )
    assert (seen & before).any()
    np.testing.assert_array_equal(picture[seen], frame[seen])


def test_undo_and_redo_show_the_marks_that_belong_to_them(addon, shot, folder):
    import bpy

    name = shot.name
    addon("runtime").get()
    bpy.ops.ed.undo_push(message="before")
    shot.ex4d_shot.field_of_view = WIDE_RAD
    bpy.ops.ed.undo_push(message="Field of View")
    settle(addon)
    changed = shown_folder(shot)
    assert changed.name.startswith("marked_")
    bpy.ops.ed.undo()
    settle(addon)
    assert shown_folder(bpy.data.objects[name]) == folder / "blender" / "marked"
    written = (changed / "0001.png").stat().st_mtime_ns
    bpy.ops.ed.redo()
    settle(addon)
    assert shown_folder(bpy.data.objects[name]) == changed
    assert (changed / "0001.png").stat().st_mtime_ns == written, "not painted again"


def test_moving_the_slider_on_drops_what_is_half_painted(addon, shot, folder, monkeypatch):
    # A tick has time for one slice.
    shot.ex4d_shot.field_of_view = NARROW_RAD
    monkeypatch.setattr(addon("coverage"), "SLICE_S", addon("pump").BUDGET_S - 1e-4)
    for _ in range(4):
        addon("pump").tick()
    assert list((folder / "blender").glob("*.part"))
    shot.ex4d_shot.field_of_view = WIDE_RAD
    settle(addon)
    (changed,) = (folder / "blender").glob("marked_*")
    assert shown_folder(shot) == changed


def test_the_newest_few_are_kept(addon, shot, folder):
    for degrees in (20, 30, 40, 50, 60):
        shot.ex4d_shot.field_of_view = math.radians(degrees)
        settle(addon)
    kept = list((folder / "blender").glob("marked_*"))
    assert len(kept) == 3
    assert shown_folder(shot) in kept


def test_scene_imported_anew_is_painted_by_its_new_depth(addon, shot, folder):
    import bpy

    shot.ex4d_shot.field_of_view = NARROW_RAD
    settle(addon)
    before = marked(addon, shot, 1)
    write_exr(folder / "depth" / "0002.exr", np.full((HEIGHT, WIDTH), 5.0, np.float32))
    assert bpy.ops.ex4d.import_scene(directory=str(folder)) == {"FINISHED"}
    assert not shown_folder(shot).is_dir()
    addon("runtime").get().repainter.look()
    settle(addon)
    assert marked(addon, shot, 1).mean() < before.mean()


def test_coverage_and_condition_use_the_marks_of_the_field_of_view(addon, shot):
    """Before anything is painted."""
    import bpy

    bpy.context.scene.frame_start, bpy.context.scene.frame_end = 1, FRAMES
    shot.ex4d_shot.field_of_view = NARROW_RAD
    assert bpy.ops.ex4d.check_coverage() == {"FINISHED"}
    unseen = addon("runtime").get().coverage.work.result.unseen
    settle(addon)
    np.testing.assert_allclose(unseen[1], marked(addon, shot, 1).mean(), atol=0.03)


def test_lost_colours_are_told_and_the_old_marks_stay(addon, shot, folder, tmp_path):
    import bpy
    from test_registration import draw

    (folder / "blender" / "marked" / "0002.hidden").unlink()
    shot.ex4d_shot.field_of_view = WIDE_RAD
    settle(addon)
    error = addon("runtime").get().repainter.error
    assert error.code == "cache_invalid"
    assert shown_folder(shot).name == "marked"
    assert not list((folder / "blender").glob("marked_*"))
    assert error.message in " ".join(draw(addon("panels").EX4D_PT_clip))
    other = exhaust(
        addon("scene_import").import_scene(bpy.context, write_scene(tmp_path / "other"))
    )
    assert addon("shots").active_shot(bpy.context) == other
    assert error.message not in " ".join(draw(addon("panels").EX4D_PT_clip)), "not of this shot"
    shot.ex4d_shot.field_of_view = shot.ex4d_shot.scene_field_of_view
    settle(addon)
    assert addon("runtime").get().repainter.error is None


def test_what_failed_is_tried_again_and_keeps_no_other_shot_waiting(addon, shot, folder, tmp_path):
    import bpy

    colours = folder / "blender" / "marked" / "0002.hidden"
    kept = colours.read_bytes()
    colours.unlink()
    shot.ex4d_shot.field_of_view = WIDE_RAD
    settle(addon)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    other = exhaust(addon("scene_import").import_scene(bpy.context, copy))
    other.ex4d_shot.field_of_view = NARROW_RAD
    settle(addon)
    assert shown_folder(other).parent == copy / "blender"
    assert shown_folder(other).name.startswith("marked_")
    assert shown_folder(shot).name == "marked"
    colours.write_bytes(kept)
    addon("runtime").get().repainter.look()
    settle(addon)
    assert shown_folder(shot).name.startswith("marked_")
    assert addon("runtime").get().repainter.error is None


@pytest.mark.parametrize("linked", [False, True])
def test_copy_shows_its_own_marks_and_start(addon, shot, linked):
    from test_shot_ids import copy_of

    copy = copy_of(shot, linked=linked)
    texture = {of: lambda of=of: addon("shots")._clip_node(of.ex4d_shot) for of in (shot, copy)}
    assert texture[copy]() == texture[shot]()
    copy.ex4d_shot.frame_start = 21
    assert [texture[of]().image_user.frame_start for of in (shot, copy)] == [1, 21]
    assert texture[copy]().image == copy.ex4d_shot.marked_image != shot.ex4d_shot.marked_image
    assert copy.ex4d_shot.proxy.active_material == copy.ex4d_shot.mesh.active_material
    copy.ex4d_shot.show_marks = False
    assert texture[shot]().image == shot.ex4d_shot.marked_image
    assert texture[copy]().image == copy.ex4d_shot.clip_image
    assert [texture[of]().image_user.frame_start for of in (shot, copy)] == [1, 21]
    copy.ex4d_shot.field_of_view, shot.ex4d_shot.field_of_view = NARROW_RAD, WIDE_RAD
    settle(addon)
    assert shown_folder(copy) != shown_folder(shot)
    assert all(shown_folder(of).name.startswith("marked_") for of in (copy, shot))


def test_copy_of_the_empty_alone_leaves_the_marks_to_the_shot(addon, shot):
    """It has the same mesh."""
    import bpy

    copy = shot.copy()
    bpy.context.scene.collection.objects.link(copy)
    copy.ex4d_shot.field_of_view = NARROW_RAD
    settle(addon)
    assert copy.ex4d_shot.marked_image == shot.ex4d_shot.marked_image
    assert shown_folder(shot).name == "marked"


def test_many_shots_of_a_scene_each_keep_their_marks(addon, shot, folder):
    import bpy

    shots = [shot]
    for _ in range(3):
        shots.append(exhaust(addon("scene_import").import_scene(bpy.context, folder)))
    for degrees, of in zip((20, 30, 40, 50), shots, strict=True):
        of.ex4d_shot.field_of_view = math.radians(degrees)
    settle(addon)
    assert len({shown_folder(of) for of in shots}) == 4
    assert all(shown_folder(of).is_dir() for of in shots)


def test_image_that_was_removed_while_it_was_painted_is_missed_by_nobody(addon, shot, monkeypatch):
    import bpy

    shot.ex4d_shot.field_of_view = NARROW_RAD
    with monkeypatch.context() as patched:
        # A tick has time for one slice.
        patched.setattr(addon("coverage"), "SLICE_S", addon("pump").BUDGET_S - 1e-4)
        for _ in range(4):
            addon("pump").tick()
    assert addon("runtime").get().repainter.is_painting
    bpy.data.images.remove(shot.ex4d_shot.marked_image)
    settle(addon)
    assert addon("runtime").get().repainter.error is None


def test_pictures_of_a_folder_that_may_only_be_read_are_shown(addon, shot, monkeypatch):
    shot.ex4d_shot.field_of_view = NARROW_RAD
    settle(addon)
    painted = shown_folder(shot)
    shot.ex4d_shot.field_of_view = shot.ex4d_shot.scene_field_of_view
    settle(addon)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    shot.ex4d_shot.field_of_view = NARROW_RAD
    settle(addon)
    assert addon("runtime").get().repainter.error is None
    assert shown_folder(shot) == painted
