"""A take becomes strips beside what is there, and says how it was made."""

import json

import pytest
from scene_writer import write_scene, write_take
from shot_tools import exhaust

pytestmark = pytest.mark.bpy


@pytest.fixture
def shot(addon, empty_file, tmp_path):
    """A shot of five frames that starts at frame 11."""
    import bpy

    folder = write_scene(tmp_path / "scene")
    steps = addon("scene_import").import_scene(bpy.context, folder, frame_start=11, proxy_step=1)
    return exhaust(steps)


@pytest.fixture
def make_take(addon, shot, tmp_path):
    def make_take(frame_start=11, frame_end=15, name="take", width=32, height=24):
        import bpy
        import msgspec

        trajectory = addon("camera").sample_trajectory(
            bpy.context, shot, frame_start=frame_start, frame_end=frame_end
        )
        plain = msgspec.to_builtins(trajectory)
        return write_take(tmp_path / name, plain, width=width, height=height)

    return make_take


def strips_by_name(addon):
    import bpy

    return {s.name: s for s in addon("compat").strips_of(bpy.context.scene.sequence_editor)}


def test_strips_lie_beside_each_other_at_the_frames_of_the_take(addon, shot, make_take):
    import bpy

    strips = addon("strips").add_take_strips(bpy.context, shot, make_take(12, 14))
    assert [strip.name for strip in strips] == [
        "Tiny preview",
        "Tiny preview color",
        "Tiny preview mask",
    ]
    assert [strip.channel for strip in strips] == [1, 2, 3]
    assert [strip.mute for strip in strips] == [False, True, True]
    for strip, folder in zip(strips, ("frames", "color", "mask"), strict=True):
        assert addon("compat").strip_range(strip) == (12, 15)
        assert [item.filename for item in strip.elements] == ["0001.png", "0002.png", "0003.png"]
        assert bpy.path.abspath(strip.directory).rstrip("/").endswith(f"take/{folder}")


@pytest.mark.parametrize(
    ("first", "last"),
    [(11, 15), (9, 17), (13, 13), (11, 11), (15, 20), (14, 15)],
    ids=["whole", "beyond", "one", "first", "end", "last two"],
)
def test_strips_start_where_the_take_was_sampled(addon, shot, make_take, first, last):
    import bpy

    strips = addon("strips").add_take_strips(bpy.context, shot, make_take(first, last))
    assert addon("compat").strip_range(strips[0]) == (first, last + 1)


def test_start_can_be_given(addon, shot, make_take):
    import bpy

    strips = addon("strips").add_take_strips(bpy.context, shot, make_take(), frame_start=100)
    assert addon("compat").strip_range(strips[0]) == (100, 105)


@pytest.mark.parametrize(
    ("size", "scale"), [((1920, 1080), 45.0), ((320, 480), 10.0), ((32, 24), 1.0)]
)
def test_picture_fills_the_frame_and_is_never_squeezed(addon, shot, make_take, size, scale):
    import bpy

    render = bpy.context.scene.render
    render.resolution_x, render.resolution_y = size
    for strip in addon("strips").add_take_strips(bpy.context, shot, make_take()):
        assert strip.transform.scale_x == pytest.approx(scale)
        assert strip.transform.scale_y == pytest.approx(scale)


def test_strips_that_are_there_stay(addon, shot, make_take):
    import bpy

    take = make_take()
    add = addon("strips").add_take_strips
    for _ in range(3):
        add(bpy.context, shot, take)
    places = {
        (strip.channel, *addon("compat").strip_range(strip))
        for strip in strips_by_name(addon).values()
    }
    assert places == {(channel, 11, 16) for channel in range(1, 10)}
    late = add(bpy.context, shot, take, frame_start=16)
    assert [strip.channel for strip in late] == [1, 2, 3], "there is room behind the others"


def test_full_channels_are_told_and_nothing_is_added(addon, shot, make_take):
    import bpy

    take = make_take()
    for _ in range(128 // 3):
        addon("strips").add_take_strips(bpy.context, shot, take)
    before = set(strips_by_name(addon))
    with pytest.raises(addon("_vendor.errors").InputError) as caught:
        addon("strips").add_take_strips(bpy.context, shot, take)
    assert caught.value.code == "channels_full"
    assert set(strips_by_name(addon)) == before


def test_strip_says_how_its_take_was_made(addon, shot, make_take, tmp_path):
    import bpy

    take = make_take()
    strip = addon("strips").add_take_strips(bpy.context, shot, take)[0]
    blend = str(tmp_path / "shot.blend")
    bpy.ops.wm.save_as_mainfile(filepath=blend)
    bpy.ops.wm.open_mainfile(filepath=blend)
    strip = strips_by_name(addon)["Tiny preview"]
    assert json.loads(strip["ex4d_take"]) == json.loads((take / "take.json").read_text())
    assert addon("strips").document_of(strip).settings.seed == 7
    assert addon("strips").document_of(strips_by_name(addon)["Tiny preview mask"]) is None
    bpy.ops.wm.read_homefile(use_empty=True)


def test_damaged_settings_of_a_strip_are_refused(addon, shot, make_take):
    import bpy

    strip = addon("strips").add_take_strips(bpy.context, shot, make_take())[0]
    strip["ex4d_take"] = '{"format": "other"}'
    with pytest.raises(addon("_vendor.errors").InputError) as caught:
        addon("strips").document_of(strip)
    assert caught.value.code == "take_invalid"


def test_paths_are_relative_in_a_saved_file(addon, shot, make_take, tmp_path):
    import bpy

    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    strips = addon("strips").add_take_strips(bpy.context, shot, make_take())
    assert strips[0].directory == "//take/frames/"
    assert strips[0].transform.scale_x == pytest.approx(45.0), "the picture was found"


def test_workspaces_show_the_sequencer_of_the_scene(addon, shot, make_take):
    import bpy

    addon("strips").add_take_strips(bpy.context, shot, make_take())
    for workspace in bpy.data.workspaces:
        if hasattr(workspace, "sequencer_scene"):
            assert workspace.sequencer_scene == bpy.context.scene


@pytest.mark.parametrize("missing", ["take.json", "frames/0002.png", "mask/0005.png"])
def test_incomplete_take_is_refused(addon, shot, make_take, missing):
    import bpy

    take = make_take()
    (take / missing).unlink()
    with pytest.raises(addon("_vendor.errors").InputError) as caught:
        addon("strips").add_take_strips(bpy.context, shot, take)
    assert caught.value.code == "take_invalid"
    assert not strips_by_name(addon)
