"""The takes of a shot are listed, compared, repeated and deleted; nothing else is touched."""

import hashlib
import types

import pytest
from scene_writer import write_scene, write_take
from shot_tools import exhaust

pytestmark = pytest.mark.bpy


@pytest.fixture
def shot(addon, empty_file, tmp_path):
    """A shot of five frames from frame 11, with two takes."""
    import bpy
    import msgspec

    folder = write_scene(tmp_path / "scene")
    found = exhaust(addon("scene_import").import_scene(bpy.context, folder, frame_start=11))
    sha256 = hashlib.sha256((folder / "scene.json").read_bytes()).hexdigest()
    trajectory = addon("camera").sample_trajectory(bpy.context, found, frame_start=11, frame_end=15)
    for name in ("one", "two"):
        take = write_take(
            tmp_path / name,
            msgspec.to_builtins(trajectory),
            width=32,
            height=24,
            scene_sha256=sha256,
        )
        addon("strips").add_take_strips(bpy.context, found, take)
    return found


def takes(addon, shot):
    import bpy

    return addon("ops_takes").takes_of(bpy.context.scene, shot)


def test_only_the_shots_own_takes_are_listed(addon, shot):
    import bpy

    assert [strip.name for strip in takes(addon, shot)] == ["Tiny preview", "Tiny preview.001"]
    assert addon("ops_takes").describe(takes(addon, shot)[0]) == "seed 7, 5 frames"
    shot.name = "Renamed"
    assert takes(addon, shot) == []
    assert addon("ops_takes").chosen_take(bpy.context) is None


def test_takes_are_shown_in_turn(addon, shot):
    import bpy

    bpy.ops.ex4d.next_take()
    first = [strip.mute for strip in takes(addon, shot)]
    bpy.ops.ex4d.next_take()
    second = [strip.mute for strip in takes(addon, shot)]
    assert sorted([first, second]) == [[False, True], [True, False]]
    bpy.ops.ex4d.next_take(strip="Tiny preview.001")
    assert [strip.mute for strip in takes(addon, shot)] == [True, False]
    assert addon("ops_takes").chosen_take(bpy.context).name == "Tiny preview.001"


def test_settings_of_a_take_come_back(addon, shot):
    import bpy

    panel = bpy.context.scene.ex4d_generate
    panel.engine, panel.seed = "ex4d", 99
    assert bpy.ops.ex4d.use_take_settings() == {"FINISHED"}
    assert (panel.engine, panel.seed, panel.size) == ("preview", 7, "CUSTOM")
    assert (panel.width_px, panel.height_px) == (32, 24)


def test_generate_again_needs_a_session(addon, shot):
    import bpy

    assert not bpy.ops.ex4d.generate_again.poll()


@pytest.mark.parametrize(("new_seed", "seed"), [(True, 8), (False, 7)])
def test_generate_again_sends_the_same_path_as_a_new_job(
    addon, shot, tmp_path, monkeypatch, new_seed, seed
):
    import bpy

    # Whatever the lens is by now.
    shot.ex4d_shot.field_of_view *= 1.2
    current = addon("runtime").get()
    connection = type(current.connection)
    monkeypatch.setattr(connection, "is_ready", property(lambda _self: True))
    monkeypatch.setattr(addon("ops_jobs"), "server_id", lambda _connection: "local")
    assert bpy.ops.ex4d.generate_again(new_seed=new_seed) == {"FINISHED"}
    addon("pump").stop()
    (job,) = current.jobs
    document = addon("strips").take_of_strip(takes(addon, shot)[0])
    assert job.record.request.trajectory == document.trajectory
    assert job.record.request.settings.seed == seed
    assert job.record.sources["scene.json"] == str(tmp_path / "scene" / "scene.json")
    assert not job.folder.exists(), "a folder of its own"


def test_generate_again_is_refused_where_the_scene_is_another(addon, shot, tmp_path):
    document = addon("strips").take_of_strip(takes(addon, shot)[0])
    path = tmp_path / "scene" / "scene.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(addon("_vendor.errors").InputError) as caught:
        addon("ops_takes").scene_of(document, shot.ex4d_shot)
    assert caught.value.code == "scene_other"


def test_a_new_seed_is_one_that_no_take_has(addon, shot):
    import bpy
    import msgspec

    strips = addon("strips")
    for strip, seed in zip(takes(addon, shot), (7, 8), strict=True):
        document = strips.take_of_strip(strip)
        settings = msgspec.structs.replace(document.settings, seed=seed)
        changed = msgspec.structs.replace(document, settings=settings)
        strip[strips.DOCUMENT_PROPERTY] = msgspec.json.encode(changed).decode()
    assert addon("ops_takes").free_seed(bpy.context, shot) == 9


def test_take_becomes_the_cameras_background_once(addon, shot):
    import bpy

    camera = shot.ex4d_shot.camera.data
    for name in ("Tiny preview", "Tiny preview.001"):
        assert bpy.ops.ex4d.take_background(strip=name) == {"FINISHED"}
    (slot,) = camera.background_images
    assert "two" in slot.image.filepath
    assert slot.image.source == "SEQUENCE"
    assert (slot.image_user.frame_start, slot.image_user.frame_duration) == (11, 5)
    assert camera.show_background_images


def test_delete_removes_the_take_and_leaves_what_is_not_its_own(addon, shot, tmp_path):
    import bpy

    (tmp_path / "one" / "notes.txt").write_text("mine")
    assert bpy.ops.ex4d.delete_take(strip="Tiny preview") == {"FINISHED"}
    assert [strip.name for strip in takes(addon, shot)] == ["Tiny preview.001"]
    assert len(addon("compat").strips_of(bpy.context.scene.sequence_editor)) == 3
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["notes.txt"]
    assert len(list((tmp_path / "two" / "frames").iterdir())) == 5


def test_files_of_another_take_are_not_deleted(addon, shot, tmp_path):
    import bpy

    (tmp_path / "one" / "take.json").write_text("{}")
    with pytest.raises(RuntimeError, match="by hand"):
        bpy.ops.ex4d.delete_take(strip="Tiny preview")
    assert len(list((tmp_path / "one" / "frames").iterdir())) == 5
    assert len(takes(addon, shot)) == 2


def test_panel_lists_takes(addon, shot):
    import bpy
    from test_registration import Layout

    panel = addon("ops_takes").EX4D_PT_takes
    assert panel.poll(bpy.context)
    layout = Layout()
    panel.draw(types.SimpleNamespace(layout=layout), bpy.context)
    assert "ex4d.delete_take" in layout.words
