"""The takes of a shot are listed, compared, repeated and deleted; nothing else is touched."""

import hashlib
import shutil
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

    return addon("strips").takes_of(bpy.context.scene, shot)


def test_only_the_shots_own_takes_are_listed(addon, shot):
    import bpy

    assert [strip.name for strip in takes(addon, shot)] == ["Tiny preview", "Tiny preview.001"]
    assert addon("panel_takes").describe(takes(addon, shot)[0]) == "seed 7"
    for strip in takes(addon, shot):
        strip["ex4d_take_shot_id"] = "0123456789abcdef"
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


def test_next_take_of_a_shot_that_is_gone_is_refused_with_words(addon, shot, sequencer):
    import bpy

    collection = addon("compat").strips_of(bpy.context.scene.sequence_editor)
    for take in takes(addon, shot):
        # As takes of the oldest versions.
        del take["ex4d_take_shot"], take["ex4d_take_shot_id"]
    bpy.context.scene.sequence_editor.active_strip = collection["Tiny preview"]
    bpy.data.objects.remove(shot)
    before = places(addon)
    with sequencer(), pytest.raises(RuntimeError, match="import its scene"):
        bpy.ops.ex4d.next_take()
    assert places(addon) == before


def test_next_take_of_a_shot_under_another_name_is_refused_with_words(addon, shot, sequencer):
    import bpy

    collection = addon("compat").strips_of(bpy.context.scene.sequence_editor)
    for take in takes(addon, shot):
        # As takes of the oldest versions.
        del take["ex4d_take_shot"], take["ex4d_take_shot_id"]
    bpy.context.scene.sequence_editor.active_strip = collection["Tiny preview"]
    shot.name = "Renamed"
    with sequencer(), pytest.raises(RuntimeError, match="import its scene"):
        bpy.ops.ex4d.next_take()


def places(addon):
    """Name -> channel, first frame, hidden, of every strip."""
    import bpy

    found = addon("compat").strips_of(bpy.context.scene.sequence_editor)
    first = {strip.name: addon("compat").strip_range(strip)[0] for strip in found}
    return {strip.name: (strip.channel, first[strip.name], strip.mute) for strip in found}


def lay(addon, folder, name, *, channel, first, count):
    """A strip that is no take."""
    import bpy

    collection = addon("compat").strips_of(bpy.context.scene.sequence_editor)
    path = str(folder / "one" / "frames" / "0001.png")
    strip = collection.new_image(name=name, filepath=path, channel=channel, frame_start=first)
    for _ in range(count - 1):
        strip.elements.append("0001.png")
    assert addon("compat").strip_range(strip) == (first, first + count)
    return strip


@pytest.fixture
def sequencer(shot):
    """Call to get a context as an operator has it while the mouse is in the sequencer."""
    import bpy

    window = bpy.context.window_manager.windows[0]
    area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    area.type = "SEQUENCE_EDITOR"
    if hasattr(bpy.context.workspace, "sequencer_scene"):
        bpy.context.workspace.sequencer_scene = bpy.context.scene
    region = next(region for region in area.regions if region.type == "WINDOW")
    yield lambda: bpy.context.temp_override(window=window, area=area, region=region)
    area.type = "VIEW_3D"


@pytest.mark.parametrize("where", ["3D view", "sequencer"])
def test_take_that_shows_has_the_same_channels_and_frames_as_the_last(
    addon, shot, sequencer, tmp_path, where
):
    import contextlib

    import bpy

    editor = bpy.context.scene.sequence_editor
    collection = addon("compat").strips_of(editor)
    # Something over the takes, as CG would be, which must stay over whichever shows.
    over = lay(addon, tmp_path, "CG", channel=10, first=11, count=5)
    bpy.ops.ex4d.next_take(strip="Tiny preview")
    # The user looks at the mask meanwhile.
    collection["Tiny preview mask"].mute = False
    before = places(addon)
    assert before["Tiny preview"] == (1, 11, False)
    assert before["Tiny preview.001"] == (4, 11, True)
    enter = sequencer if where == "sequencer" else contextlib.nullcontext
    with enter():
        if where == "sequencer":
            editor.active_strip = collection["Tiny preview color"]
        for shown, hidden in (("", ".001"), (".001", ""), ("", ".001"), (".001", "")):
            now = places(addon)
            for place, suffix in enumerate(("", " color", " mask")):
                name, other = f"Tiny preview{suffix}{shown}", f"Tiny preview{suffix}{hidden}"
                assert now[name] == (1 + place, 11, suffix == " color")
                assert now[other] == (4 + place, 11, True)
            assert bpy.ops.ex4d.next_take() == {"FINISHED"}
            if where == "sequencer":
                assert editor.active_strip.name == f"Tiny preview{hidden}"
    assert over.channel == 10
    assert addon("ops_takes").chosen_take(bpy.context).name == "Tiny preview"


def test_strips_that_are_in_the_way_keep_takes_where_they_are(addon, shot, tmp_path):
    import bpy

    collection = addon("compat").strips_of(bpy.context.scene.sequence_editor)
    bpy.ops.ex4d.next_take(strip="Tiny preview")
    # The take that comes begins earlier, where something lies on the other's channel.
    for name in ("Tiny preview.001", "Tiny preview color.001", "Tiny preview mask.001"):
        start = "content_start" if hasattr(collection[name], "content_start") else "frame_start"
        setattr(collection[name], start, 9)
    lay(addon, tmp_path, "Title", channel=1, first=8, count=3)
    before = {name: place[:2] for name, place in places(addon).items()}
    assert bpy.ops.ex4d.next_take() == {"FINISHED"}
    after = places(addon)
    assert {name: place[:2] for name, place in after.items()} == before
    assert after["Tiny preview"][2]
    assert not after["Tiny preview.001"][2]


def test_turns_go_by_age_whatever_the_channels(addon, shot, tmp_path):
    import bpy
    import msgspec

    trajectory = addon("strips").document_of(takes(addon, shot)[0]).trajectory
    take = write_take(tmp_path / "three", msgspec.to_builtins(trajectory), width=32, height=24)
    addon("strips").add_take_strips(bpy.context, shot, take)
    shown = []
    for _ in range(6):
        bpy.ops.ex4d.next_take()
        shown += [strip.name for strip in takes(addon, shot) if not strip.mute]
        assert places(addon)[shown[-1]][0] == 1
    names = ["Tiny preview", "Tiny preview.001", "Tiny preview.002"]
    assert shown == names * 2


@pytest.mark.parametrize("part", ["", " color", " mask"])
def test_sequencer_means_the_take_of_the_active_strip(addon, shot, sequencer, part):
    import bpy
    from test_registration import Layout

    editor = bpy.context.scene.sequence_editor
    collection = addon("compat").strips_of(editor)
    panel = addon("panel_takes").EX4D_PT_take_strip
    for suffix in ("", ".001"):
        editor.active_strip = collection[f"Tiny preview{part}{suffix}"]
        with sequencer():
            chosen = addon("ops_takes").chosen_take(bpy.context)
            assert chosen.name == f"Tiny preview{suffix}"
            assert panel.poll(bpy.context)
            layout = Layout()
            panel.draw(types.SimpleNamespace(layout=layout), bpy.context)
            assert f"Tiny preview{suffix}" in layout.words
            assert "ex4d.generate_again" in layout.words
    bpy.context.scene.ex4d_generate.seed = 99
    with sequencer():
        assert bpy.ops.ex4d.use_take_settings() == {"FINISHED"}
    assert bpy.context.scene.ex4d_generate.seed == 7


def test_strips_that_are_no_take_are_told_apart_without_the_disk(
    addon, shot, tmp_path, monkeypatch
):
    import pathlib

    import bpy

    collection = addon("compat").strips_of(bpy.context.scene.sequence_editor)
    foreign = lay(addon, tmp_path, "Mine", channel=20, first=11, count=1)
    color = collection["Tiny preview color.001"]
    asked, resolved = [], []
    abspath, resolve = bpy.path.abspath, pathlib.Path.resolve
    with monkeypatch.context() as patch:
        patch.setattr(bpy.path, "abspath", lambda path: asked.append(path) or abspath(path))
        patch.setattr(pathlib.Path, "resolve", lambda path: resolved.append(path) or resolve(path))
        assert addon("strips").take_of(collection, foreign) is None
        assert asked == [], "its folder alone says that it is none"
        assert addon("strips").take_of(collection, color).name == "Tiny preview.001"
    assert len(asked) <= 2 * len(collection), "in proportion to the strips"
    assert resolved == [], "links are not followed, which asks the disk"


def test_settings_of_a_take_come_back(addon, shot):
    import bpy

    panel = bpy.context.scene.ex4d_generate
    panel.engine, panel.seed = "ex4d", 99
    takes(addon, shot)[0]["ex4d_take_frame_step"] = 2
    assert bpy.ops.ex4d.use_take_settings() == {"FINISHED"}
    assert bpy.context.scene.frame_step == 2
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
    document = addon("strips").document_of(takes(addon, shot)[0])
    assert job.record.request.trajectory == document.trajectory
    assert job.record.request.settings.seed == seed
    assert job.record.sources["scene.json"] == str(tmp_path / "scene" / "scene.json")
    assert not job.folder.exists(), "a folder of its own"


def test_generate_again_is_refused_where_the_scene_is_another(addon, shot, tmp_path):
    document = addon("strips").document_of(takes(addon, shot)[0])
    path = tmp_path / "scene" / "scene.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(addon("_vendor.errors").InputError) as caught:
        addon("strips").scene_of(document, shot.ex4d_shot)
    assert caught.value.code == "scene_other"


def test_a_new_seed_is_one_that_no_take_has(addon, shot):
    import bpy
    import msgspec

    strips = addon("strips")
    for strip, seed in zip(takes(addon, shot), (7, 8), strict=True):
        document = strips.document_of(strip)
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


def test_take_is_behind_each_camera_that_markers_bind_while_it_lasts(addon, shot):
    import bpy

    cameras = {}
    for name, frame in (("Before", 3), ("Wide", 9), ("Side", 13), ("After", 16)):
        camera = bpy.data.objects.new(name, bpy.data.cameras.new(name))
        bpy.context.scene.collection.objects.link(camera)
        camera.parent = shot
        bpy.context.scene.timeline_markers.new(name, frame=frame).camera = camera
        cameras[name] = camera.data
    # One that shares its lens, and one of another shot, which no take of this one sees through.
    twin = bpy.data.objects.new("Twin", cameras["Side"])
    bpy.context.scene.collection.objects.link(twin)
    twin.parent = shot
    bpy.context.scene.timeline_markers.new("Twin", frame=14).camera = twin
    other = bpy.data.objects.new("Other shot", None)
    other.ex4d_shot.is_shot = True
    foreign = bpy.data.objects.new("Foreign", bpy.data.cameras.new("Foreign"))
    foreign.parent = other
    for item in (other, foreign):
        bpy.context.scene.collection.objects.link(item)
    bpy.context.scene.timeline_markers.new("Foreign", frame=15).camera = foreign
    for _ in range(2):
        assert bpy.ops.ex4d.take_background(strip="Tiny preview") == {"FINISHED"}
    backed = {data.name for data in bpy.data.cameras if len(data.background_images)}
    assert backed == {"Wide", "Side"}, "not the shot's own, through which nobody looks"
    for name in backed:
        (slot,) = cameras[name].background_images
        # Each shows the whole take, so that its own frames are right.
        assert (slot.image_user.frame_start, slot.image_user.frame_duration) == (11, 5)
        assert "one" in slot.image.filepath


def test_linked_camera_gets_no_background_and_no_other_does(addon, shot, tmp_path):
    import bpy

    path = tmp_path / "camera.blend"
    data = bpy.data.cameras.new("Linked")
    bpy.data.libraries.write(str(path), {data})
    bpy.data.cameras.remove(data)
    with bpy.data.libraries.load(str(path), link=True) as (_, target):
        target.cameras = ["Linked"]
    camera = bpy.data.objects.new("Side", target.cameras[0])
    bpy.context.scene.collection.objects.link(camera)
    camera.parent = shot
    bpy.context.scene.timeline_markers.new("Own", frame=11).camera = shot.ex4d_shot.camera
    bpy.context.scene.timeline_markers.new("Side", frame=13).camera = camera
    with pytest.raises(RuntimeError, match="make it local"):
        bpy.ops.ex4d.take_background(strip="Tiny preview")
    assert not any(len(data.background_images) for data in bpy.data.cameras)


def test_trimmed_take_behind_the_camera_shows_each_frame_where_it_belongs(addon, shot):
    import bpy

    (strip, _) = takes(addon, shot)
    if hasattr(strip, "left_handle"):
        strip.left_handle, strip.right_handle = 13, 15
    else:
        strip.frame_final_start, strip.frame_final_end = 13, 15
    assert addon("compat").strip_range(strip) == (13, 15)
    assert bpy.ops.ex4d.take_background(strip=strip.name) == {"FINISHED"}
    (slot,) = shot.ex4d_shot.camera.data.background_images
    # Frame 13 is the take's third.
    assert (slot.image_user.frame_start, slot.image_user.frame_duration) == (11, 5)
    assert slot.image.filepath.endswith("0001.png")


def test_thumbnail_is_the_last_frame_and_goes_with_the_file(addon, shot, tmp_path):
    import bpy

    thumbnails = addon("thumbnails")
    (first, second) = takes(addon, shot)
    # Without windows there are no icons; the picture is there.
    assert thumbnails.icon_of(first) == thumbnails.icon_of(first) >= 0
    thumbnails.icon_of(second)
    assert sorted(thumbnails._pictures) == [
        str(tmp_path / name / "frames" / "0005.png") for name in ("one", "two")
    ]
    for picture in thumbnails._pictures.values():
        assert tuple(picture.image_size) == (32, 24)
    bpy.ops.wm.read_homefile(use_empty=True)
    assert len(thumbnails._pictures) == 0
    registration = addon("registration")
    registration.unregister()
    assert thumbnails._pictures is None
    registration.register()


def test_frames_of_a_take_open_without_the_extension(addon, shot, tmp_path):
    """Plain pictures in order, and what made them as text."""
    import json

    import bpy

    folder = tmp_path / "one"
    assert sorted(path.name for path in folder.iterdir()) == [
        "color",
        "frames",
        "mask",
        "take.json",
    ]
    for path in sorted((folder / "frames").iterdir()):
        image = bpy.data.images.load(str(path))
        assert tuple(image.size) == (32, 24)
    assert json.loads((folder / "take.json").read_text())["settings"]["seed"] == 7


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

    panel = addon("panel_takes").EX4D_PT_takes
    assert panel.poll(bpy.context)
    layout = Layout()
    panel.draw(types.SimpleNamespace(layout=layout), bpy.context)
    assert "ex4d.generate_again" in layout.words


def test_settings_of_a_take_that_never_end_are_damaged(addon, shot):
    import bpy

    depth = 100_000
    takes(addon, shot)[0]["ex4d_take"] = '{"a": ' + "[" * depth + "]" * depth + "}"
    assert addon("panel_takes").describe(takes(addon, shot)[0]) == "damaged"
    with pytest.raises(RuntimeError, match="expected a TakeDocument in Tiny preview"):
        bpy.ops.ex4d.use_take_settings(strip="Tiny preview")


def test_folder_of_a_take_that_is_gone_is_told(addon, shot, tmp_path):
    import bpy

    shutil.rmtree(tmp_path / "one")
    with pytest.raises(RuntimeError, match="found none; make it again"):
        bpy.ops.ex4d.open_take_folder(strip="Tiny preview")
