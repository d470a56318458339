"""The pivot is measured, and noise goes on top of the keys without moving the first frame."""

import types

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


def place_pivot(origin, place):
    """What the operator is given for a pivot at a place of the world."""
    import bpy

    if origin == "POINT":
        return {"origin": origin, "point": place}
    bpy.context.scene.cursor.location = place
    bpy.data.objects["Pivot"].location = place
    bpy.context.view_layer.update()
    return {"origin": origin}


@pytest.fixture
def placed_shot(shot):
    """The shot moved and scaled, beside an active object."""
    import bpy

    shot.location, shot.scale = (5.0, 0.0, 0.0), (2.0,) * 3
    bpy.context.scene.ex4d.shot = shot
    empty = bpy.data.objects.new("Pivot", None)
    bpy.context.scene.collection.objects.link(empty)
    bpy.context.view_layer.objects.active = empty
    return shot


@pytest.mark.parametrize("origin", ["CURSOR", "OBJECT", "POINT"])
def test_pivot_is_kept_relative_to_the_source_camera(placed_shot, origin):
    import bpy

    arguments = place_pivot(origin, (6.0, 8.0, 1.0))
    assert bpy.ops.ex4d.set_pivot(**arguments) == {"FINISHED"}
    assert placed_shot.ex4d_shot.radius == pytest.approx(4.0)
    assert tuple(placed_shot.ex4d_shot.pivot_offset) == pytest.approx((0.5, 0.5))
    arguments = place_pivot(origin, (6.0, -8.0, 1.0))
    with pytest.raises(RuntimeError, match="ahead of the source camera"):
        bpy.ops.ex4d.set_pivot(**arguments)
    assert placed_shot.ex4d_shot.radius == pytest.approx(4.0)


@pytest.mark.parametrize("origin", ["OBJECT", "POINT"])
def test_pivot_that_is_nowhere_is_refused(placed_shot, origin):
    import bpy

    bpy.context.view_layer.objects.active = None
    with pytest.raises(RuntimeError, match="found none; click on one"):
        bpy.ops.ex4d.set_pivot(origin=origin)


def test_pivot_can_be_undone(placed_shot):
    import bpy

    name = placed_shot.name
    before = placed_shot.ex4d_shot.radius
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.ex4d.set_pivot(origin="POINT", point=(6.0, 8.0, 1.0))
    bpy.ops.ed.undo_push(message="pivot")
    bpy.ops.ed.undo()
    clip = bpy.data.objects[name].ex4d_shot
    assert (clip.radius, *clip.pivot_offset) == pytest.approx((before, 0.0, 0.0))
    bpy.ops.ed.redo()
    clip = bpy.data.objects[name].ex4d_shot
    assert (clip.radius, *clip.pivot_offset) == pytest.approx((4.0, 0.5, 0.5))


@pytest.mark.parametrize("field_of_view", [None, 0.5])
@pytest.mark.parametrize("move", ["orbit_left", "orbit_up"])
def test_orbit_keeps_the_pivot_where_it_is_in_the_picture(placed_shot, move, field_of_view):
    import bpy
    from bpy_extras.object_utils import world_to_camera_view
    from mathutils import Vector

    clip, scene = placed_shot.ex4d_shot, bpy.context.scene
    point = Vector((6.0, 8.0, 1.0))
    bpy.ops.ex4d.set_pivot(origin="POINT", point=point)
    if field_of_view is not None:
        # Another angle moves the mesh sideways, and the pivot with it.
        local = placed_shot.matrix_world.inverted() @ point
        clip.field_of_view = field_of_view
        point = placed_shot.matrix_world @ Vector(
            (local.x * clip.mesh.scale.x, local.y, local.z * clip.mesh.scale.z)
        )
    bpy.ops.ex4d.add_move(move=move, strength=2.0)
    seen = []
    for frame in (1, 9, 17, 25, 33):
        scene.frame_set(frame)
        seen.append(world_to_camera_view(scene, clip.camera, point))
    np.testing.assert_allclose(seen, [seen[0]] * 5, atol=5e-3)
    assert abs(seen[0].x - 0.5) > 0.05, "beside the middle"


class Picker:
    """An operator's part, with what Blender would do to it written down."""

    def __init__(self, addon, monkeypatch, point):
        module = addon("picking")
        monkeypatch.setattr(module._Prompt, "newest", None)
        monkeypatch.setattr(module, "_view_at", lambda _context, x, _y: "view" if x > 0 else None)
        monkeypatch.setattr(module, "_picked_point", lambda _context, _x, y, _area: point(y))
        self.calls = []
        note = self.calls.append
        self.context = types.SimpleNamespace(
            workspace=types.SimpleNamespace(status_text_set=note),
            window=types.SimpleNamespace(
                cursor_modal_set=note, cursor_modal_restore=lambda: note("restored")
            ),
            window_manager=types.SimpleNamespace(modal_handler_add=lambda _operator: None),
        )

        class Operator(module.PicksOnMesh):
            def picked(self, context, point):
                self.end_picking(context)
                note(point)
                return {"FINISHED"}

        self.operator = Operator()

    def begin(self):
        return self.operator.begin_picking(self.context, "Pivot")

    def send(self, kind, value="PRESS", x=1, y=0):
        event = types.SimpleNamespace(type=kind, value=value, mouse_x=x, mouse_y=y)
        return self.operator.modal(self.context, event)


def test_clicks_on_the_mesh_are_taken_and_all_else_is_left_to_blender(addon, monkeypatch):
    picker = Picker(addon, monkeypatch, lambda y: "point" if y > 0 else None)
    assert picker.begin() == {"RUNNING_MODAL"}
    assert "click on the mesh" in picker.calls[0]
    for event in (("MOUSEMOVE",), ("MIDDLEMOUSE",), ("LEFTMOUSE", "RELEASE"), ("G",)):
        assert picker.send(*event) == {"PASS_THROUGH"}
    assert picker.send("LEFTMOUSE", x=-1, y=1) == {"PASS_THROUGH"}, "outside of 3D views"
    assert picker.send("LEFTMOUSE", y=0) == {"RUNNING_MODAL"}, "beside the mesh"
    assert picker.send("LEFTMOUSE", y=1) == {"FINISHED"}
    assert picker.calls[-3:] == [None, "restored", "point"]


@pytest.mark.parametrize("key", ["ESC", "RIGHTMOUSE"])
def test_picking_can_be_cancelled(addon, monkeypatch, key):
    picker = Picker(addon, monkeypatch, lambda _y: "point")
    picker.begin()
    assert picker.send(key) == {"CANCELLED"}
    assert picker.calls[-2:] == [None, "restored"]
    picker.begin()
    picker.operator.cancel(picker.context)
    assert picker.calls[-2:] == [None, "restored"], "when Blender ends it"


def test_newer_picking_ends_the_older_one(addon, monkeypatch):
    older = Picker(addon, monkeypatch, lambda _y: "point")
    older.begin()
    newer = Picker(addon, monkeypatch, lambda _y: "point")
    addon("picking")._Prompt.newest = older.operator._prompt
    newer.begin()
    assert older.calls[-1] is None, "its text goes at once"
    count = len(older.calls), len(newer.calls)
    for context in (older.context, newer.context):
        older.context = context
        assert older.send("LEFTMOUSE", y=1) == {"CANCELLED"}
        older.operator.cancel(context)
    assert (len(older.calls), len(newer.calls)) == count, "nothing of the newer is removed"
    assert newer.send("LEFTMOUSE", y=1) == {"FINISHED"}
    assert newer.calls[-3:] == [None, "restored", "point"]
    assert older.send("LEFTMOUSE", y=1) == {"CANCELLED"}


def test_text_goes_from_the_workspace_that_got_it(addon, monkeypatch):
    picker = Picker(addon, monkeypatch, lambda _y: "point")
    picker.begin()
    other = []
    picker.context.workspace = types.SimpleNamespace(status_text_set=other.append)
    assert picker.send("ESC") == {"CANCELLED"}
    assert picker.calls[-2:] == [None, "restored"]
    assert other == []


def test_click_in_a_quad_view_is_taken_in_the_view_under_the_pointer(addon, shot, monkeypatch):
    import bpy

    area = next(area for area in bpy.context.screen.areas if area.type == "VIEW_3D")
    # Without a window, regions do not give it.
    view = area.spaces.active.region_3d

    def region(x, y, kind="WINDOW", width=100, data=view):
        return types.SimpleNamespace(x=x, y=y, type=kind, width=width, height=100, data=data)

    quad = [region(0, 0), region(0, 100), region(100, 0), region(100, 100)]
    sidebar = region(180, 100, "UI", width=20, data=None)
    fake = types.SimpleNamespace(type="VIEW_3D", regions=[sidebar, *quad])
    context = types.SimpleNamespace(screen=types.SimpleNamespace(areas=[fake]))
    module = addon("picking")
    assert module._view_at(context, 150, 30) is quad[2]
    assert module._view_at(context, 30, 150) is quad[1]
    assert module._view_at(context, 190, 150) is None, "the sidebar lies over it"
    assert module._view_at(context, 250, 30) is None
    asked = []
    for name in ("region_2d_to_origin_3d", "region_2d_to_vector_3d"):
        monkeypatch.setattr(module.view3d_utils, name, lambda *place: asked.append(place))
    monkeypatch.setattr(module, "point_on_ray", lambda *_ray: "point")
    assert module._picked_point(bpy.context, 150, 30, quad[2]) == "point"
    assert asked == [(quad[2], view, (50, 30))] * 2
