"""Moves are saved, listed and added as Blender's own presets, in the user's folder alone."""

import os
import types
from pathlib import Path

import pytest
from scene_writer import write_scene
from shot_tools import exhaust

pytestmark = pytest.mark.bpy

CHOSEN = {
    "move": "truck_left",
    "strength": 1.5,
    "start": "SHOT",
    "frame_count": 9,
    "ease": "EASE_OUT",
}


@pytest.fixture
def shot(addon, empty_file, tmp_path):
    """A shot of 21 frames from frame 1."""
    import bpy

    folder = write_scene(tmp_path / "scene", frame_count=21)
    return exhaust(addon("scene_import").import_scene(bpy.context, folder, frame_start=1))


def user_files():
    """Everything in the user's folder of Blender, the extension apart."""
    return {
        path
        for path in Path(os.environ["BLENDER_USER_RESOURCES"]).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture
def saved(shot):
    """Path of a move that was saved under a name with what file names must not hold."""
    import bpy

    # As a button runs it: Blender saves the last operator that the user ran.
    bpy.ops.ex4d.add_move("EXEC_DEFAULT", True, **CHOSEN)
    before = user_files()
    save = bpy.ops.wm.operator_preset_add
    assert save(name="Slow: to the left/1", operator="EX4D_OT_add_move") == {"FINISHED"}
    (path,) = user_files() - before
    yield path
    path.unlink(missing_ok=True)


def keys(addon, shot):
    return {
        (curve.data_path, curve.array_index): [tuple(point.co) for point in curve.keyframe_points]
        for curve in addon("compat").fcurves_of(shot.ex4d_shot.camera)
    }


def listed(addon):
    """Files that the menu offers, by the names it shows."""
    import bpy

    found = {}

    class Layout:
        def operator(self, name, *, text, translate):
            entry = types.SimpleNamespace()
            found[text] = (name, entry)
            return entry

        def column(self, **_settings):
            return self

        row = column

        def operator_enum(self, name, prop):
            assert (name, prop) == ("ex4d.add_move", "move")

        def separator(self):
            pass

    cls = addon("saved_moves").EX4D_MT_add_move
    menu = types.SimpleNamespace(layout=Layout())
    menu.path_menu = types.MethodType(cls.path_menu, menu)
    cls.draw(menu, bpy.context)
    return {text: (name, entry.filepath) for text, (name, entry) in found.items()}


def test_move_is_saved_where_blender_keeps_the_users_presets(addon, saved):
    import bpy

    folder = bpy.utils.user_resource("SCRIPTS", path="presets/" + addon("saved_moves").FOLDER)
    assert saved.parent == Path(folder)
    assert addon("saved_moves").read_move(saved) == CHOSEN


def test_saved_move_is_listed_and_added(addon, shot, saved):
    import bpy

    expected = keys(addon, shot)
    shot.ex4d_shot.camera.animation_data_clear()
    ((text, (operator, path)),) = listed(addon).items()
    assert text.startswith("Slow")
    assert (operator, Path(path)) == ("ex4d.add_saved_move", saved)
    # Other values in between, which the operator remembers.
    bpy.ops.ex4d.add_move("EXEC_DEFAULT", True, move="orbit_up", strength=0.5)
    shot.ex4d_shot.camera.animation_data_clear()
    assert bpy.ops.ex4d.add_saved_move(filepath=path) == {"FINISHED"}
    assert keys(addon, shot) == expected
    assert len(expected["location", 0]) > 1


def test_saved_move_can_be_adjusted_and_undone_as_any(addon, shot, saved):
    import bpy

    name = shot.name
    shot.ex4d_shot.camera.animation_data_clear()
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.ex4d.add_saved_move("EXEC_DEFAULT", True, filepath=str(saved))
    last = bpy.context.active_operator
    assert last.bl_idname == "EX4D_OT_add_move"
    assert {name: getattr(last, name) for name in CHOSEN} == CHOSEN
    bpy.ops.ed.undo()
    assert keys(addon, bpy.data.objects[name]) == {}
    bpy.ops.ed.redo()
    assert keys(addon, bpy.data.objects[name]) != {}


def test_blenders_own_menu_puts_a_saved_move_into_the_last_one(addon, saved):
    import bpy

    bpy.ops.ex4d.add_move("EXEC_DEFAULT", True, move="orbit_up", strength=0.5, ease="NONE")
    bpy.ops.script.execute_preset(filepath=str(saved), menu_idname="WM_MT_operator_presets")
    last = bpy.context.active_operator
    assert {name: getattr(last, name) for name in CHOSEN} == CHOSEN


def test_saved_move_is_deleted_by_its_name(addon, saved):
    import bpy

    (text,) = listed(addon)
    before = user_files()
    bpy.ops.wm.operator_preset_add(name=text, operator="EX4D_OT_add_move", remove_name=True)
    assert before - user_files() == {saved}
    assert listed(addon) == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"op.move = 'gone'\n", "gone"),
        (b"op.move = 'zoom_in'\nop.speed = 1\n", "speed"),
        (b"import bpy\nop = bpy.context.active_operator\n\n", "save it again"),
        (b"op.move = 'zoom_in'\nop.strength = 100.0\n", "expected an amount"),
        (b"op.move = __import__('os').getcwd()\n", "save it again"),
        (b"op.move = ", "save it again"),
        (b"op.move = 'zoom_in'\nop.x = {[]: 1}\n", "save it again"),
        (b"op.move = " + b"-" * 50_000 + b"1\n", "save it again"),
        (b"op.move = 1" + b"+1" * 25_000 + b"\n", "save it again"),
        (b"other.move = 'zoom_in'\n", "save it again"),
        (b"\xff\xfe\x00", "save it again"),
    ],
)
def test_what_is_no_saved_move_is_refused_and_nothing_of_it_runs(shot, saved, content, words):
    import bpy

    shot.ex4d_shot.camera.animation_data_clear()
    saved.write_bytes(content)
    with pytest.raises(RuntimeError, match=words):
        bpy.ops.ex4d.add_saved_move(filepath=str(saved))
    assert shot.ex4d_shot.camera.animation_data is None


def test_preset_that_is_gone_is_told(shot, tmp_path):
    import bpy

    with pytest.raises(RuntimeError, match="save it again"):
        bpy.ops.ex4d.add_saved_move(filepath=str(tmp_path / "gone.py"))
