"""The moving preview of a take: it shows, moves, is upright, and goes without a trace."""

import time
import types

import numpy as np
import pytest
from scene_writer import write_scene
from shot_tools import exhaust, needs_server, tick_until

pytestmark = pytest.mark.bpy

ID = "0123456789abcdef0123456789abcdef"
WIDTH_PX, HEIGHT_PX, FRAMES = 8, 6, 4


@pytest.fixture
def shot(addon, empty_file, tmp_path):
    import bpy

    folder = write_scene(tmp_path / "scene")
    return exhaust(addon("scene_import").import_scene(bpy.context, folder, frame_start=1))


@pytest.fixture
def clock(addon, monkeypatch):
    """The player's; it stands still unless the test moves it."""
    clock = types.SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(
        addon("preview"), "time", types.SimpleNamespace(monotonic=lambda: clock.now_s)
    )
    return clock


@pytest.fixture
def job(addon, shot, clock, tmp_path, monkeypatch):
    """A generate job that runs, as far as the pump can tell, and has no preview yet."""
    import bpy

    client_module, messages = addon("_vendor.client"), addon("_vendor.protocol.messages")
    documents = addon("_vendor.protocol.documents")
    record = addon("jobs").JobRecord(
        request_id=ID,
        job_id="f" * 32,
        server="s" * 40,
        title="Tiny take",
        request=messages.GenerateJob(
            scene=(),
            trajectory=addon("camera").sample_trajectory(bpy.context, shot),
            settings=documents.PreviewSettings(),
        ),
        sources={},
        folder=str(tmp_path / "take"),
        shot_id=shot.ex4d_shot.shot_id,
        shot_name=shot.name,
    )
    current = addon("runtime").get()
    job = current.jobs.add(record, bpy.context.scene.session_uid)
    client = types.SimpleNamespace(state=client_module.ConnectionState.READY)
    job.client, job.stage = client, addon("jobs").Stage.ACTIVE
    job.remote = types.SimpleNamespace(
        phase=client_module.JobPhase.RUNNING, job_id="f" * 32, error=None, preview=None
    )
    connection = types.SimpleNamespace(
        client=client,
        is_idle=False,
        is_ready=False,
        poll=lambda _budget_s: False,
        take_paired=lambda: None,
        close=lambda: None,
    )
    monkeypatch.setattr(current, "connection", connection)
    return job


def make_preview(addon, seed=0, width_px=WIDTH_PX, height_px=HEIGHT_PX, frame_count=FRAMES):
    random = np.random.default_rng(seed)
    frames = random.integers(0, 256, (frame_count, height_px, width_px, 3), np.uint8)
    preview = addon("_vendor.client").Preview(width_px, height_px, frame_count, frames.tobytes())
    return preview, frames


@pytest.fixture
def frames(addon, job):
    """The frames of the preview that shows: (frames, height, width, 3) uint8, top row first."""
    job.remote.preview, frames = make_preview(addon)
    addon("pump").tick()
    return frames


def images(addon):
    import bpy

    return [image for image in bpy.data.images if addon("camera_pictures").MARK in image]


def slots(shot):
    return list(shot.ex4d_shot.camera.data.background_images)


def shown(addon):
    """(height, width, 3) uint8 of the one image, top row first."""
    (image,) = images(addon)
    pixels = np.empty(image.size[0] * image.size[1] * 4, np.float32)
    image.pixels.foreach_get(pixels)
    rgba = pixels.reshape(image.size[1], image.size[0], 4)[::-1]
    assert (rgba[..., 3] == 1).all()
    return np.rint(rgba[..., :3] * 255).astype(np.uint8)


def assert_gone(addon, shot_name="Tiny"):
    import bpy

    assert images(addon) == []
    assert not any(image.name.startswith("EX-4D Preview") for image in bpy.data.images)
    for camera in bpy.data.cameras:
        assert len(camera.background_images) == 0
        assert not camera.show_background_images
        assert addon("camera_pictures").SWITCHED not in camera


# --- what shows ----------------------------------------------------------------------------------


def test_nothing_shows_before_the_first_preview(addon, job):
    addon("pump").tick()
    assert_gone(addon)


def test_preview_is_an_upright_image_in_front_of_the_shots_camera(addon, shot, frames, clock):
    (image,) = images(addon)
    assert image.name == f"EX-4D Preview {shot.name}"
    assert tuple(image.size) == (WIDTH_PX, HEIGHT_PX)
    np.testing.assert_array_equal(shown(addon), frames[int(clock.now_s * 8) % FRAMES])
    (slot,) = slots(shot)
    assert (slot.image, slot.display_depth, slot.alpha) == (image, "FRONT", 1.0)
    assert shot.ex4d_shot.camera.data.show_background_images
    assert not slots_of_source(shot)


def test_preview_hangs_before_the_cameras_that_markers_bind(addon, shot, job, clock):
    import bpy

    cameras = []
    for name, frame in (("Wide", 1), ("Side", 3), ("Late", 200)):
        camera = bpy.data.objects.new(name, bpy.data.cameras.new(name))
        bpy.context.scene.collection.objects.link(camera)
        camera.parent = shot
        bpy.context.scene.timeline_markers.new(name, frame=frame).camera = camera
        cameras.append(camera.data)
    job.remote.preview, _ = make_preview(addon)
    addon("pump").tick()
    (image,) = images(addon)
    assert [[slot.image for slot in data.background_images] for data in cameras] == [
        [image],
        [image],
        [],
    ]
    assert slots(shot) == [], "nobody looks through it"
    job.remote.preview = None
    addon("pump").tick()
    assert_gone(addon)


def slots_of_source(shot):
    return list(shot.ex4d_shot.source_camera.data.background_images)


def test_picture_file_of_the_preview_is_upright_too(addon, frames, clock, tmp_path):
    """As any other program would see it."""
    (image,) = images(addon)
    image.filepath_raw, image.file_format = str(tmp_path / "preview.png"), "PNG"
    image.save()
    found = addon("pictures").read_pixels(tmp_path / "preview.png", WIDTH_PX, HEIGHT_PX)
    expected = frames[int(clock.now_s * 8) % FRAMES]
    np.testing.assert_array_equal(np.rint(found[..., :3] * 255).astype(np.uint8), expected)


def test_preview_plays_in_a_loop_and_is_drawn_again_only_when_it_changes(
    addon, frames, clock, monkeypatch
):
    drawn: list[float] = []
    monkeypatch.setattr(
        addon("preview"), "redraw_views", lambda _region_type: drawn.append(clock.now_s)
    )
    seen = []
    for _ in range(32):
        clock.now_s += 1 / 32
        addon("pump").tick()
        seen.append(int(clock.now_s * 8) % FRAMES)
        np.testing.assert_array_equal(shown(addon), frames[seen[-1]])
    assert set(seen) == set(range(FRAMES))
    assert len(drawn) == 8, "eight frames a second"
    addon("pump").tick()
    assert len(drawn) == 8


def test_newer_preview_takes_its_place_at_once(addon, job, frames, clock):
    job.remote.preview, newer = make_preview(addon, seed=1)
    addon("pump").tick()
    np.testing.assert_array_equal(shown(addon), newer[int(clock.now_s * 8) % FRAMES])
    job.remote.preview, wider = make_preview(addon, seed=2, width_px=12, frame_count=1)
    addon("pump").tick()
    np.testing.assert_array_equal(shown(addon), wider[0])


def test_tick_costs_little(addon, job, frames, clock):
    """The largest preview that there is: 81 frames of 1280 x 720 px, an eighth of that a side."""
    job.remote.preview, _ = make_preview(addon, width_px=160, height_px=90, frame_count=21)
    player, jobs = addon("runtime").get().previews, addon("runtime").get().jobs
    player.advance(jobs)
    times_s = []
    for _ in range(40):
        clock.now_s += 0.125
        started_s = time.perf_counter()
        player.advance(jobs)
        times_s.append(time.perf_counter() - started_s)
    assert np.median(times_s) < 0.002


@pytest.mark.parametrize(
    ("frame", "take", "fit", "aspect", "scale"),
    [
        ((1920, 1080), (160, 90), "AUTO", (1, 1), 1.0),
        ((1920, 1080), (64, 64), "AUTO", (1, 1), 1920 / 1080),
        ((1080, 1080), (160, 90), "AUTO", (1, 1), 1.0),
        ((1920, 1080), (90, 160), "AUTO", (1, 1), 1920 / 1080),
        ((1920, 1080), (64, 64), "VERTICAL", (1, 1), 1.0),
        ((1080, 1080), (160, 90), "VERTICAL", (1, 1), 16 / 9),
        ((1000, 1000), (64, 64), "HORIZONTAL", (2, 1), 1.0),
    ],
)
def test_take_lies_right_upon_the_scene(addon, shot, frame, take, fit, aspect, scale):
    """For these the camera's angle is the same along a side that both have."""
    import bpy

    render = bpy.context.scene.render
    render.resolution_x, render.resolution_y = frame
    render.pixel_aspect_x, render.pixel_aspect_y = aspect
    camera = shot.ex4d_shot.camera.data
    camera.sensor_fit = fit
    assert addon("camera_pictures").fit_scale(camera, render, *take) == pytest.approx(scale)


# --- how it goes ---------------------------------------------------------------------------------


def cancel(addon, job):
    job.remote.phase, job.remote.preview = addon("_vendor.client").JobPhase.CANCELLING, None


def cancelled(addon, job):
    job.remote.phase = addon("_vendor.client").JobPhase.CANCELLED


def fail(addon, job):
    job.remote.phase = addon("_vendor.client").JobPhase.FAILED
    job.remote.error = addon("_vendor.errors").InputError("depth_size", "expected 49 frames")


def end(addon, job):
    job.remote.phase, job.remote.preview = addon("_vendor.client").JobPhase.DOWNLOADING, None


def disconnect(addon, job):
    addon("runtime").get().connection.client = None


def dismiss(addon, job):
    addon("runtime").get().jobs.dismiss(job)


def switch_off(addon, job):
    import bpy

    bpy.context.scene.ex4d_generate.show_preview = False


def delete_shot(addon, job):
    import bpy

    bpy.data.objects.remove(bpy.data.objects[job.record.shot_name])


@pytest.mark.parametrize(
    "happen", [cancel, cancelled, fail, end, disconnect, dismiss, switch_off, delete_shot]
)
def test_preview_goes_with_the_next_tick(addon, shot, job, frames, happen):
    assert len(slots(shot)) == 1
    happen(addon, job)
    addon("pump").tick()
    assert_gone(addon)


def test_preview_stays_where_the_shot_is_renamed(addon, shot, job, frames, clock):
    shot.name = "Renamed"
    clock.now_s += 1 / 8
    addon("pump").tick()
    np.testing.assert_array_equal(shown(addon), frames[int(clock.now_s * 8) % FRAMES])
    assert len(slots(shot)) == 1


def test_switched_on_again_it_shows_again(addon, job, frames):
    import bpy

    switch_off(addon, job)
    addon("pump").tick()
    bpy.context.scene.ex4d_generate.show_preview = True
    addon("pump").tick()
    assert len(images(addon)) == 1


def test_another_file_has_none(addon, frames):
    import bpy

    bpy.ops.wm.read_homefile(use_empty=True)
    assert_gone(addon)
    addon("pump").tick()
    assert_gone(addon)


def test_disabled_extension_leaves_none(addon, frames):
    addon("camera_pictures").unregister()
    assert_gone(addon)


def test_saved_file_has_none_and_the_open_one_shows_it_again(addon, shot, frames, tmp_path):
    import bpy

    path = tmp_path / "shot.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(path), compress=False, copy=True)
    assert b"EX-4D Preview" not in path.read_bytes()
    with bpy.data.libraries.load(str(path)) as (inside, _):
        assert not any(name.startswith("EX-4D Preview") for name in inside.images)
    addon("pump").tick()
    assert len(images(addon)) == len(slots(shot)) == 1


def test_file_that_was_saved_behind_our_back_is_cleaned(addon, frames, tmp_path):
    """As Blender's own autosave does: without a word to extensions."""
    import bpy

    path = tmp_path / "auto.blend"
    handlers = bpy.app.handlers.save_pre
    kept = list(handlers)
    handlers.clear()
    bpy.ops.wm.save_as_mainfile(filepath=str(path), compress=False)
    handlers.extend(kept)
    assert b"EX-4D Preview" in path.read_bytes()
    addon("runtime").unregister()
    bpy.ops.wm.open_mainfile(filepath=str(path))
    assert_gone(addon)


# --- undo ----------------------------------------------------------------------------------------


def move_and_push(shot, message):
    import bpy

    shot.ex4d_shot.camera.location.x += 1.0
    bpy.ops.ed.undo_push(message=message)


def current_shot():
    import bpy

    return bpy.data.objects["Tiny"]


@pytest.fixture
def steps(shot, job):
    """Undo steps from before the preview."""
    import bpy

    bpy.ops.ed.undo_push(message="before")
    for number in range(3):
        bpy.context.view_layer.update()
        move_and_push(shot, f"moved {number}")


def test_undo_and_redo_neither_crash_nor_leave_it_behind(addon, steps, shot, frames, job):
    import bpy

    for number in range(3):
        # The camera itself changes, and one step is like the last but for the preview.
        move_and_push(current_shot(), f"with a preview {number}")
        addon("pump").tick()
    for _ in range(4):
        bpy.ops.ed.undo()
        assert_gone(addon)
        addon("pump").tick()
        assert len(images(addon)) == len(slots(current_shot())) == 1
    for _ in range(4):
        bpy.ops.ed.redo()
        assert_gone(addon)
        addon("pump").tick()
        assert len(images(addon)) == len(slots(current_shot())) == 1
    cancel(addon, job)
    addon("pump").tick()
    assert_gone(addon)
    for step in (bpy.ops.ed.undo, bpy.ops.ed.undo, bpy.ops.ed.redo, bpy.ops.ed.redo):
        step()
        assert_gone(addon)
        bpy.context.view_layer.update()
        addon("pump").tick()
        assert_gone(addon)


def test_undo_to_before_the_preview_leaves_no_camera_pointing_to_it(addon, steps, shot, frames):
    """The camera is the same in both steps: Blender keeps it as it is, and frees the image."""
    import bpy

    for step in (bpy.ops.ed.undo, bpy.ops.ed.redo, bpy.ops.ed.undo):
        step()
        assert_gone(addon)
        bpy.context.view_layer.update()
        addon("pump").tick()
        assert len(images(addon)) == len(slots(current_shot())) == 1


def test_preview_makes_no_undo_step(addon, steps, shot, job):
    import bpy

    at = shot.ex4d_shot.camera.location.x
    job.remote.preview, _ = make_preview(addon)
    for _ in range(3):
        addon("pump").tick()
    bpy.ops.ed.undo()
    assert current_shot().ex4d_shot.camera.location.x == pytest.approx(at - 1.0)


# --- what belongs to the user --------------------------------------------------------------------


@pytest.mark.parametrize("is_shown", [True, False], ids=["shown", "hidden"])
def test_background_images_of_the_user_stay_as_they_are(addon, shot, job, is_shown):
    import bpy

    own = bpy.data.images.new("EX-4D Preview Tiny", 2, 2)
    camera = shot.ex4d_shot.camera.data
    slot = camera.background_images.new()
    slot.image, slot.alpha = own, 0.25
    camera.show_background_images = is_shown
    job.remote.preview, _ = make_preview(addon)
    addon("pump").tick()
    assert len(images(addon)) == 1
    assert len(slots(shot)) == (2 if is_shown else 1), "hidden ones would come into view"
    assert camera.show_background_images is is_shown
    cancel(addon, job)
    addon("pump").tick()
    (kept,) = slots(shot)
    assert (kept.image, kept.alpha) == (own, 0.25)
    assert camera.show_background_images is is_shown
    assert images(addon) == []


def test_camera_of_another_file_is_left_alone(addon, shot, job, tmp_path):
    import bpy

    path = str(tmp_path / "cameras.blend")
    bpy.data.libraries.write(path, {bpy.data.cameras.new("theirs")})
    with bpy.data.libraries.load(path, link=True) as (_, into):
        into.cameras = ["theirs"]
    shot.ex4d_shot.camera.data = into.cameras[0]
    job.remote.preview, _ = make_preview(addon)
    addon("pump").tick()
    assert len(images(addon)) == 1, "to be looked at in an image editor"
    assert slots(shot) == []
    cancel(addon, job)
    addon("pump").tick()
    assert_gone(addon)


def test_background_image_that_was_added_meanwhile_stays_in_view(addon, shot, job, frames):
    import bpy

    camera = shot.ex4d_shot.camera.data
    camera.background_images.new().image = bpy.data.images.new("mine", 2, 2)
    cancel(addon, job)
    addon("pump").tick()
    assert [slot.image.name for slot in slots(shot)] == ["mine"]
    assert camera.show_background_images


def test_copy_of_the_camera_is_cleaned_as_well(addon, shot, job, frames):
    copy = shot.ex4d_shot.camera.data.copy()
    assert len(copy.background_images) == 1
    cancel(addon, job)
    addon("pump").tick()
    assert_gone(addon)


def test_renamed_image_is_still_ours(addon, job, frames):
    (image,) = images(addon)
    image.name = "something else"
    job.remote.preview, _ = make_preview(addon, seed=3)
    addon("pump").tick()
    assert [image.name for image in images(addon)] == ["something else"]
    cancel(addon, job)
    addon("pump").tick()
    assert_gone(addon)


def test_nothing_changes_while_rendering(addon, job, frames, monkeypatch):
    import bpy

    pump = addon("pump")
    app = types.SimpleNamespace(is_job_running=lambda _kind: True, timers=bpy.app.timers)
    monkeypatch.setattr(pump, "bpy", types.SimpleNamespace(app=app, context=bpy.context))
    cancel(addon, job)
    pump.tick()
    assert len(images(addon)) == 1
    monkeypatch.undo()


# --- with a real server --------------------------------------------------------------------------


@pytest.mark.slow
@needs_server
@pytest.mark.parametrize("ending", ["cancel", "disconnect"])
def test_preview_comes_from_a_server(addon, shot, fake_server, ending):
    import bpy

    chosen = addon("preferences").get(bpy.context)
    chosen.mode = "REMOTE"
    try:
        assert bpy.ops.ex4d.pair_server(link=fake_server("2")) == {"FINISHED"}
        assert bpy.ops.ex4d.generate(wait=False) == {"FINISHED"}
        tick_until(addon, lambda: images(addon))
        first = shown(addon).copy()
        white = (first == 255).all(axis=-1)
        assert white.all(axis=0).sum() == 1, "one column"
        green = first[:, ~white.all(axis=0), 1]
        assert (green[0] < green[-1]).all(), "green grows downwards"
        tick_until(addon, lambda: not np.array_equal(shown(addon), first))
        if ending == "cancel":
            (job,) = addon("runtime").get().jobs
            bpy.ops.ex4d.cancel_job(request_id=job.record.request_id)
        else:
            bpy.ops.ex4d.disconnect()
        addon("pump").tick()
        assert_gone(addon)
    finally:
        addon("runtime").unregister()
        chosen.servers.clear()
        chosen.mode = "LOCAL"
