"""With several shots in a scene, a menu chooses the one that the panels show."""

import types

import pytest
from scene_writer import write_scene
from shot_tools import exhaust
from test_registration import Layout, draw

pytestmark = pytest.mark.bpy


@pytest.fixture
def shots(addon, empty_file, tmp_path):
    import bpy

    folder = write_scene(tmp_path / "scene", frame_count=2)
    found = [exhaust(addon("scene_import").import_scene(bpy.context, folder)) for _ in range(2)]
    bpy.data.scenes.new("Other").collection.objects.link(bpy.data.objects.new("Cube", None))
    return found


def test_menu_offers_the_shots_of_the_scene(addon, shots):
    import bpy

    layout = Layout()
    menu = addon("shot_menu").EX4D_MT_shots
    menu.draw(types.SimpleNamespace(layout=layout), bpy.context)
    assert layout.words == ["Tiny", "Tiny.001"]


@pytest.mark.parametrize("name", ["Tiny", "Tiny.001"])
def test_chosen_shot_is_the_one_of_the_panels_whatever_was_active(addon, shots, name):
    import bpy

    for active in (*(shot.ex4d_shot.camera for shot in shots), None):
        bpy.context.view_layer.objects.active = active
        assert bpy.ops.ex4d.choose_shot(shot=name) == {"FINISHED"}
        assert addon("shots").active_shot(bpy.context).name == name
        assert [item.name for item in bpy.context.selected_objects] == [name]
        assert name in draw(addon("panels").EX4D_PT_shot)


def test_shot_of_a_collection_that_is_left_out_can_be_chosen(addon, shots):
    import bpy

    bpy.context.view_layer.objects.active = shots[1]
    children = bpy.context.view_layer.layer_collection.children
    children[shots[0].users_collection[0].name].exclude = True
    assert bpy.ops.ex4d.choose_shot(shot="Tiny") == {"FINISHED"}
    assert addon("shots").active_shot(bpy.context) == shots[0]


def test_what_is_no_shot_is_refused_and_nothing_changes(addon, shots):
    import bpy

    before = bpy.context.view_layer.objects.active
    for name in ("Nothing", "Cube", shots[0].ex4d_shot.camera.name):
        with pytest.raises(RuntimeError, match="expected a shot"):
            bpy.ops.ex4d.choose_shot(shot=name)
    assert bpy.context.view_layer.objects.active == before


def test_other_modes_are_left_first(addon, shots):
    import bpy

    mesh = bpy.data.objects.new("Mine", bpy.data.meshes.new("Mine"))
    bpy.context.scene.collection.objects.link(mesh)
    bpy.context.view_layer.objects.active = mesh
    bpy.ops.object.mode_set(mode="EDIT")
    assert not bpy.ops.ex4d.choose_shot.poll()
    bpy.ops.object.mode_set(mode="OBJECT")
    assert bpy.ops.ex4d.choose_shot.poll()
