"""A shot keeps its takes and jobs under any name; a copy has none of them."""

import hashlib
import shutil

import pytest
from scene_writer import write_scene, write_take
from shot_tools import exhaust

pytestmark = pytest.mark.bpy

ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def scene_folder(tmp_path):
    return write_scene(tmp_path / "scene")


@pytest.fixture
def shot(addon, empty_file, scene_folder):
    """A shot of five frames from frame 11."""
    import bpy

    return exhaust(addon("scene_import").import_scene(bpy.context, scene_folder, frame_start=11))


@pytest.fixture
def make_take(addon, shot, scene_folder, tmp_path):
    """Call with a name: writes the files of a take of the shot."""
    import bpy
    import msgspec

    sha256 = hashlib.sha256((scene_folder / "scene.json").read_bytes()).hexdigest()
    trajectory = addon("camera").sample_trajectory(bpy.context, shot, frame_start=11, frame_end=15)

    def make_take(name):
        return write_take(
            tmp_path / name,
            msgspec.to_builtins(trajectory),
            width=32,
            height=24,
            scene_sha256=sha256,
        )

    return make_take


@pytest.fixture
def takes(addon, shot, make_take):
    """Call with a shot: names of its takes. There are two of the first shot."""
    import bpy

    for name in ("one", "two"):
        addon("strips").add_take_strips(bpy.context, shot, make_take(name))

    def takes(of):
        return [strip.name for strip in addon("strips").takes_of(bpy.context.scene, of)]

    return takes


@pytest.fixture
def start_job(addon, shot, make_take, monkeypatch):
    """Call to start a take of the active shot as Generate does; returns the job and its shot's id.

    Its session never begins; the files are put where they belong by `arrive`.
    """
    import bpy

    monkeypatch.setattr(addon("ops_jobs"), "server_id", lambda _connection: "s" * 40)
    jobs = addon("ops_jobs")

    def start_job(of):
        trajectory = jobs.take_trajectory(bpy.context, of)
        settings = bpy.context.scene.ex4d_generate.engine_settings()
        step = bpy.context.scene.frame_step
        record = jobs.take_record(bpy.context, of, trajectory, settings, frame_step=step)
        return jobs.begin(bpy.context, record)

    return start_job


def arrive(addon, job, make_take):
    """The job's files come, and the pump brings them in."""
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(make_take(f"of {job.record.request_id}"), job.folder)
    addon("pump").tick()
    assert job.stage.value == "done", job.error
    addon("pump").stop()


def copy_of(shot, *, linked=False):
    """A copy of a shot as Shift + D, or Alt + D, on all of it makes one."""
    import bpy

    for item in (shot, *shot.children_recursive):
        item.hide_select = False
        item.select_set(True)
    before = set(bpy.data.objects)
    bpy.context.view_layer.objects.active = shot
    assert bpy.ops.object.duplicate(linked=linked) == {"FINISHED"}
    bpy.context.view_layer.update()
    (found,) = (item for item in set(bpy.data.objects) - before if item.ex4d_shot.is_shot)
    return found


NAMES = ["Tiny preview", "Tiny preview.001"]


def test_shots_have_an_id_of_their_own_from_the_start(addon, shot, scene_folder):
    import bpy

    other = exhaust(addon("scene_import").import_scene(bpy.context, scene_folder))
    ids = {item.ex4d_shot.shot_id for item in (shot, other)}
    assert len(ids) == 2
    assert all(len(shot_id) == 16 and int(shot_id, 16) for shot_id in ids)


def test_renamed_shot_keeps_its_takes_and_they_can_be_worked_with(
    addon, shot, takes, tmp_path, monkeypatch
):
    import bpy

    shot.name = "Renamed"
    # And its place in the name of another.
    bpy.data.objects.new("Tiny", None)
    assert takes(shot) == NAMES
    shown = []
    for _ in range(3):
        assert bpy.ops.ex4d.next_take() == {"FINISHED"}
        shown.append(addon("ops_takes").chosen_take(bpy.context).name)
    assert sorted(set(shown)) == NAMES
    assert shown[0] == shown[2]
    assert bpy.ops.ex4d.take_background() == {"FINISHED"}
    assert len(shot.ex4d_shot.camera.data.background_images) == 1
    current = addon("runtime").get()
    monkeypatch.setattr(type(current.connection), "is_ready", property(lambda _self: True))
    monkeypatch.setattr(addon("ops_jobs"), "server_id", lambda _connection: "local")
    assert bpy.ops.ex4d.generate_again() == {"FINISHED"}
    addon("pump").stop()
    (job,) = current.jobs
    assert (job.record.shot_id, job.record.shot_name) == (shot.ex4d_shot.shot_id, "Renamed")
    assert job.record.request.settings.seed == 8
    assert bpy.ops.ex4d.delete_take(strip=NAMES[0]) == {"FINISHED"}
    assert takes(shot) == NAMES[1:]
    assert not (tmp_path / "one").exists()


def test_take_made_after_renaming_is_one_more_of_the_same(addon, shot, takes, make_take):
    import bpy

    shot.name = "Renamed"
    addon("strips").add_take_strips(bpy.context, shot, make_take("three"))
    assert takes(shot) == [*NAMES, "Renamed preview"]
    shown = set()
    for _ in range(3):
        bpy.ops.ex4d.next_take()
        shown.add(addon("ops_takes").chosen_take(bpy.context).name)
    assert shown == {*NAMES, "Renamed preview"}


def test_job_finds_its_shot_under_another_name(addon, shot, make_take, start_job, scene_folder):
    import bpy

    job = start_job(shot)
    shot.name = "Renamed"
    # Another takes the name, which the record of the job still has.
    other = exhaust(addon("scene_import").import_scene(bpy.context, scene_folder))
    other.name = "Tiny"
    assert job.record.shot_name == "Tiny"
    arrive(addon, job, make_take)
    found = addon("strips").takes_of
    assert [strip.name for strip in found(bpy.context.scene, shot)] == ["Renamed preview"]
    assert found(bpy.context.scene, other) == []


def test_job_lands_on_its_shot_after_reopening(addon, shot, make_take, start_job, tmp_path):
    import bpy

    job = start_job(shot)
    folder = str(job.folder)
    shot.name = "Renamed"
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    bpy.ops.wm.read_homefile(use_empty=True)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    (job,) = addon("runtime").get().jobs
    assert str(job.folder) == folder
    arrive(addon, job, make_take)
    found = addon("strips").takes_of(bpy.context.scene, bpy.data.objects["Renamed"])
    assert [strip.name for strip in found] == ["Renamed preview"]


def test_record_of_an_older_version_goes_by_the_name(addon, shot, make_take, start_job):
    import bpy
    import msgspec

    job = start_job(shot)
    plain = msgspec.to_builtins(job.record)
    del plain["shot_id"]
    job.record = msgspec.convert(plain, addon("jobs").JobRecord)
    arrive(addon, job, make_take)
    assert len(addon("strips").takes_of(bpy.context.scene, shot)) == 1


def test_copy_is_made_a_take_of_while_the_same_of_its_shot_is_under_way(addon, shot, start_job):
    copy = copy_of(shot)
    first, second = start_job(shot), start_job(copy)
    assert first.record.shot_id != second.record.shot_id
    with pytest.raises(addon("_vendor.errors").InputError, match="under way"):
        start_job(copy)
    addon("pump").stop()


def test_panel_shows_jobs_of_its_own_shot(addon, shot, start_job):
    import bpy
    from test_registration import Layout

    start_job(shot)
    addon("pump").stop()
    copy = copy_of(shot)
    shot.name = "Renamed"
    for of, count in ((shot, 1), (copy, 0)):
        layout = Layout()
        addon("panels")._draw_takes_under_way(layout, of, bpy.context.scene.session_uid)
        assert len(layout.words) == count


@pytest.fixture
def old_file(addon, shot, takes, tmp_path):
    """Call with whether strips name their shot: a .blend of an older version, with two takes."""
    import bpy

    def write(*, names):
        handlers = bpy.app.handlers
        ids = addon("shot_ids")
        shot.ex4d_shot.shot_id = ""
        for strip in addon("strips").all_takes(bpy.context.scene):
            del strip["ex4d_take_shot_id"]
            if not names:
                del strip["ex4d_take_shot"]
        handlers.save_pre.remove(ids._on_file)
        try:
            bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "old.blend"))
        finally:
            handlers.save_pre.append(ids._on_file)
        bpy.ops.wm.read_homefile(use_empty=True)
        bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "old.blend"))
        return bpy.data.objects["Tiny"]

    return write


@pytest.mark.parametrize("names", [True, False])
def test_takes_of_an_older_file_are_found_and_stay_when_it_is_renamed(
    addon, takes, old_file, names
):
    import bpy

    shot = old_file(names=names)
    assert shot.ex4d_shot.shot_id
    assert takes(shot) == NAMES
    shot.name = "Renamed"
    assert takes(shot) == NAMES
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)
    assert takes(bpy.data.objects["Renamed"]) == NAMES


def test_takes_of_an_older_shot_show_before_it_has_an_id(addon, shot, takes):
    """As in a file that is open when the extension is switched on."""
    import bpy

    shot.ex4d_shot.shot_id = ""
    for strip in addon("strips").all_takes(bpy.context.scene):
        del strip["ex4d_take_shot_id"]
    assert takes(shot) == NAMES
    assert addon("ops_takes").chosen_take(bpy.context).name in NAMES
    assert shot.ex4d_shot.shot_id == "", "looking changes nothing"


def test_copy_starts_without_takes(addon, shot, takes, make_take):
    import bpy

    copy = copy_of(shot)
    assert copy.ex4d_shot.shot_id not in ("", shot.ex4d_shot.shot_id)
    assert (takes(shot), takes(copy)) == (NAMES, [])
    addon("strips").add_take_strips(bpy.context, copy, make_take("three"))
    assert takes(copy) == ["Tiny.001 preview"]
    assert takes(shot) == NAMES


def test_copy_keeps_what_was_made_of_it_after_reopening(addon, shot, takes, make_take, tmp_path):
    import bpy

    copy = copy_of(shot)
    addon("strips").add_take_strips(bpy.context, copy, make_take("three"))
    # Files are read in the order of names.
    copy.name = "A copy"
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    assert takes(bpy.data.objects["Tiny"]) == NAMES
    assert takes(bpy.data.objects["A copy"]) == ["Tiny.001 preview"]


def test_shot_appended_twice_is_two(addon, shot, takes, tmp_path):
    import bpy

    path = str(tmp_path / "shot.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path, copy=True)
    for count in (1, 2):
        with bpy.data.libraries.load(path) as (source, target):
            target.collections = list(source.collections)
        bpy.context.scene.collection.children.link(target.collections[0])
        bpy.context.view_layer.update()
        shots = [item for item in bpy.context.scene.objects if item.ex4d_shot.is_shot]
        assert len({item.ex4d_shot.shot_id for item in shots}) == len(shots) == 1 + count
    assert [takes(item) for item in shots] == [NAMES, [], []]


def test_scene_that_was_copied_whole_has_its_own_takes(addon, shot, takes):
    import bpy

    original = bpy.context.scene
    bpy.ops.scene.new(type="FULL_COPY")
    scene = next(scene for scene in bpy.data.scenes if scene != original)
    bpy.context.window.scene = scene
    bpy.context.view_layer.update()
    (copy,) = (item for item in scene.objects if item.ex4d_shot.is_shot)
    assert copy != shot
    assert len(addon("strips").takes_of(scene, copy)) == 2
    assert len(addon("strips").takes_of(original, shot)) == 2


def test_undo_and_redo_of_a_copy_leave_takes_and_jobs_with_their_shots(
    addon, shot, takes, make_take, start_job
):
    import bpy

    name = shot.name
    bpy.ops.ed.undo_push(message="before")
    copy = copy_of(shot).name
    # As Blender does: the step is made before the copy is noticed.
    bpy.ops.ed.undo_push(message="copy")
    job = start_job(bpy.data.objects[copy])
    own_id = job.record.shot_id
    assert own_id == bpy.data.objects[copy].ex4d_shot.shot_id
    bpy.ops.ed.undo()
    assert takes(bpy.data.objects[name]) == NAMES
    bpy.ops.ed.redo()
    assert bpy.data.objects[copy].ex4d_shot.shot_id == own_id
    assert takes(bpy.data.objects[copy]) == []
    arrive(addon, job, make_take)
    assert takes(bpy.data.objects[copy]) == ["Tiny.001 preview"]
    assert takes(bpy.data.objects[name]) == NAMES
    bpy.ops.ed.undo()
    assert takes(bpy.data.objects[copy]) == []
    bpy.ops.ed.redo()
    assert takes(bpy.data.objects[copy]) == ["Tiny.001 preview"]


def test_undo_of_an_older_shots_id_does_not_lose_a_job(addon, shot, make_take, start_job):
    import bpy

    bpy.ops.ed.undo_push(message="imported")
    shot.ex4d_shot.shot_id = ""
    bpy.ops.ed.undo_push(message="as appended from an older file")
    job = start_job(shot)
    bpy.ops.ed.undo_push(message="something")
    bpy.ops.ed.undo()
    shot = bpy.data.objects["Tiny"]
    assert shot.ex4d_shot.shot_id == job.record.shot_id
    shot.name = "Renamed"
    arrive(addon, job, make_take)
    assert len(addon("strips").takes_of(bpy.context.scene, bpy.data.objects["Renamed"])) == 1


def test_scene_imported_again_takes_up_the_takes_of_the_shot_that_is_gone(
    addon, shot, takes, scene_folder, tmp_path
):
    import bpy

    for item in (*shot.children_recursive, shot):
        bpy.data.objects.remove(item)
    # Of another scene, and so none of ours.
    other = write_scene(tmp_path / "other", frame_count=4)
    assert takes(exhaust(addon("scene_import").import_scene(bpy.context, other))) == []
    again = exhaust(addon("scene_import").import_scene(bpy.context, scene_folder))
    assert takes(again) == NAMES
    third = exhaust(addon("scene_import").import_scene(bpy.context, scene_folder))
    assert takes(third) == [], "they have a shot"


@pytest.mark.parametrize("value", [5, 2.5, [1, 2], b"Tiny"])
def test_what_a_file_makes_up_about_its_takes_counts_for_nothing(addon, shot, takes, value):
    import bpy

    strip = addon("strips").takes_of(bpy.context.scene, shot)[0]
    for name in ("ex4d_take_shot_id", "ex4d_take_shot", "ex4d_take_number"):
        strip[name] = value
    addon("shot_ids").ensure()
    assert set(takes(shot)) == set(NAMES), "by the beginning of its name"
    assert bpy.ops.ex4d.next_take() == {"FINISHED"}
