"""The scene's Step is honoured: every so many frames is sent, and comes back in time."""

import hashlib
import shutil

import numpy as np
import pytest
from scene_writer import write_scene, write_take
from shot_tools import exhaust, needs_server, tick_until

pytestmark = pytest.mark.bpy

#: First frame and length of the clip.
FIRST, COUNT = 11, 20


@pytest.fixture
def scene_folder(tmp_path):
    return write_scene(tmp_path / "scene", frame_count=COUNT)


@pytest.fixture
def shot(addon, empty_file, scene_folder):
    """A shot with a move, in a scene of its range with a Step of 3: frames 11, 14, ... 29."""
    import bpy

    steps = addon("scene_import").import_scene(bpy.context, scene_folder, frame_start=FIRST)
    found = exhaust(steps)
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end, scene.frame_step = FIRST, FIRST + COUNT - 1, 3
    bpy.ops.ex4d.add_move(move="orbit_right")
    return found


def trajectory_of(addon, shot):
    import bpy

    return addon("ops_jobs").take_trajectory(bpy.context, shot)


def land(addon, shot, monkeypatch, scene_folder, tmp_path):
    """A take comes as by Generate: its strip."""
    import bpy
    import msgspec

    jobs = addon("ops_jobs")
    monkeypatch.setattr(jobs, "server_id", lambda _connection: "s" * 40)
    operator = addon("ops_jobs").EX4D_OT_generate
    job = jobs.begin(bpy.context, operator.record(None, bpy.context))
    plain = msgspec.to_builtins(job.record.request.trajectory)
    sha256 = hashlib.sha256((scene_folder / "scene.json").read_bytes()).hexdigest()
    take = write_take(tmp_path / "made", plain, width=32, height=24, scene_sha256=sha256)
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(take, job.folder)
    # By the time it comes, the scene has another Step.
    bpy.context.scene.frame_step = 1
    addon("pump").tick()
    addon("pump").stop()
    assert job.stage.value == "done", job.error
    return addon("strips").takes_of(bpy.context.scene, shot)[-1]


@pytest.fixture
def strip(addon, shot, monkeypatch, scene_folder, tmp_path):
    """The take of the shot's seven frames."""
    return land(addon, shot, monkeypatch, scene_folder, tmp_path)


def test_camera_is_sampled_on_the_frames_of_the_step_with_their_source_frames(addon, shot):
    import bpy

    found = trajectory_of(addon, shot).poses
    bpy.context.scene.frame_step = 1
    every = trajectory_of(addon, shot).poses
    assert [pose.source_time for pose in found] == [0, 3, 6, 9, 12, 15, 18]
    assert found == every[::3]
    assert len({pose.cam_to_world for pose in found}) == 7, "the camera moves"


@pytest.mark.parametrize(
    ("start", "end", "step"),
    [(11, 30, 3), (9, 30, 4), (1, 30, 7), (12, 29, 5), (1, 100, 3), (11, 30, 19), (11, 30, 50)],
)
def test_frames_are_those_that_a_render_has_of_the_clip(addon, shot, start, end, step):
    import bpy

    scene = bpy.context.scene
    scene.frame_start, scene.frame_end, scene.frame_step = start, end, step
    rendered = [frame for frame in range(start, end + 1, step) if FIRST <= frame < FIRST + COUNT]
    frames = addon("shots").sampled_frames(bpy.context, shot)
    assert list(frames) == rendered
    times = [pose.source_time for pose in trajectory_of(addon, shot).poses]
    assert times == [frame - FIRST for frame in rendered]
    last = rendered[-1]
    assert f"Frames {rendered[0]} to {last} in steps" in addon("panels").take_text(
        bpy.context, shot
    )


def test_step_that_leaves_nothing_of_the_clip_is_told(addon, shot):
    import bpy

    scene = bpy.context.scene
    scene.frame_start, scene.frame_step = 1, 100
    with pytest.raises(addon("_vendor.errors").InputError, match="the Step") as caught:
        addon("panels").take_text(bpy.context, shot)
    assert caught.value.code == "range_empty"


@pytest.mark.parametrize(
    ("length", "count", "last"), [("SHORTER", 5, 23), ("LONGER", 9, 35)], ids=["earlier", "later"]
)
def test_models_length_counts_the_frames_of_the_step(addon, shot, length, count, last):
    import bpy

    chosen = bpy.context.scene.ex4d_generate
    chosen.engine, chosen.length, chosen.size = "ex4d", length, "FITTING"
    poses = trajectory_of(addon, shot).poses
    assert len(poses) == count
    expected = [min(3 * index, COUNT - 1) for index in range(count)]
    assert [pose.source_time for pose in poses] == expected
    text = addon("panels").take_text(bpy.context, shot)
    assert f"Frames 11 to {last} in steps of 3: {count}" in text
    assert "The range has 7 frames in steps of 3; the model makes 4k + 1" in text


def test_bound_cameras_count_on_the_frames_of_the_step(addon, shot):
    import bpy

    side = bpy.data.objects.new("Side", bpy.data.cameras.new("Side"))
    bpy.context.scene.collection.objects.link(side)
    side.parent = shot
    side.matrix_basis = shot.ex4d_shot.source_camera.matrix_basis.copy()
    side.location.x = 5.0
    for camera, frame in ((shot.ex4d_shot.camera, 1), (side, 18), (shot.ex4d_shot.camera, 21)):
        bpy.context.scene.timeline_markers.new("m", frame=frame).camera = camera
    x = [pose.cam_to_world[3] for pose in trajectory_of(addon, shot).poses]
    # 11, 14, 17, 20, 23, ...
    assert [value == pytest.approx(5.0) for value in x] == [False] * 3 + [True] + [False] * 3


def test_expected_time_is_of_the_frames_of_the_step(addon, shot, monkeypatch):
    import types

    import bpy

    counts = []
    current = types.SimpleNamespace(
        connection=types.SimpleNamespace(
            client=types.SimpleNamespace(take_times=()), is_ready=True
        ),
        sizes=types.SimpleNamespace(find=lambda _folder: None),
    )
    monkeypatch.setattr(addon("panels").runtime, "peek", lambda: current)
    monkeypatch.setattr(
        addon("panels").sending,
        "time_text",
        lambda _times, _settings, _size, count: counts.append(count) or "",
    )
    addon("panels").expectation_text(bpy.context, shot)
    assert counts == [7]


def picture_of(addon, strip, frame):
    """File that a strip shows at a frame of the timeline."""
    return strip.elements[frame - addon("compat").content_start(strip)].filename


def test_take_comes_back_in_time(addon, strip):
    import bpy

    assert addon("panel_takes").describe(strip) == "seed 7, in steps of 3"
    found = addon("compat").strips_of(bpy.context.scene.sequence_editor)
    assert len(found) == 3
    for item in found:
        # As long as the clip: the last picture stands for what is left of it.
        assert addon("compat").strip_range(item) == (FIRST, FIRST + COUNT)
        for frame in range(FIRST, FIRST + COUNT):
            expected = (frame - FIRST) // 3 + 1
            assert picture_of(addon, item, frame) == f"{expected:04d}.png"


def test_sequencer_shows_each_picture_on_its_frames(addon, strip):
    """What Blender itself plays: the grey of each frame's picture."""
    import bpy

    scene = bpy.context.scene
    scene.view_settings.view_transform = "Standard"
    scene.render.resolution_x, scene.render.resolution_y = 32, 24
    scene.render.image_settings.file_format = "PNG"
    shown = []
    for frame in (11, 13, 14, 19, 29, 30):
        scene.frame_set(frame)
        scene.render.filepath = f"{addon('strips').folder_of(strip)}/shown_{frame}.png"
        bpy.ops.render.render(write_still=True)
        image = bpy.data.images.load(scene.render.filepath)
        shown.append(round(image.pixels[0] * 255))
    # The take's pictures are of grey 0, 1, 2, ...
    assert shown == [0, 0, 1, 2, 6, 6]


def test_range_that_ends_before_the_clip_holds_its_last_picture_as_long(
    addon, shot, monkeypatch, scene_folder, tmp_path
):
    import bpy

    bpy.context.scene.frame_end = 21
    strip = land(addon, shot, monkeypatch, scene_folder, tmp_path)
    assert addon("compat").strip_range(strip) == (11, 23)
    assert picture_of(addon, strip, 22) == "0004.png"


def test_made_again_it_keeps_its_step(addon, shot, strip, monkeypatch):
    import bpy

    current = addon("runtime").get()
    monkeypatch.setattr(type(current.connection), "is_ready", property(lambda _self: True))
    assert bpy.ops.ex4d.generate_again() == {"FINISHED"}
    addon("pump").stop()
    job = list(current.jobs)[-1]
    assert job.record.frame_step == 3
    assert [pose.source_time for pose in job.record.request.trajectory.poses][:3] == [0, 3, 6]


@pytest.mark.parametrize("value", [0, -3, 10**9, "3", 2.5])
def test_step_that_a_file_makes_up_counts_for_nothing(addon, strip, value):
    strip["ex4d_take_frame_step"] = value
    assert addon("strips").frame_step_of(strip) == 1


def test_coverage_is_measured_on_the_frames_of_the_step(addon, shot):
    import bpy

    scene = bpy.context.scene
    assert bpy.ops.ex4d.check_coverage() == {"FINISHED"}
    found = addon("runtime").get().coverage.work.result
    assert list(found.frames) == [11, 14, 17, 20, 23, 26, 29]
    curve = next(
        curve for curve in addon("compat").fcurves_of(shot) if curve.data_path == '["ex4d_unseen"]'
    )
    points = [tuple(point.co) for point in curve.keyframe_points]
    np.testing.assert_allclose(points, list(zip(found.frames, found.unseen, strict=True)))
    assert curve.evaluate(19) == curve.evaluate(17), "a picture is held"
    assert found.worst_frame in [marker.frame for marker in scene.timeline_markers]
    assert found.worst_frame in found.frames
    scene.frame_step = 1
    assert addon("ops_coverage").current_result(bpy.context, shot) is None
    assert bpy.ops.ex4d.check_coverage() == {"FINISHED"}
    every = addon("runtime").get().coverage.work.result
    assert found.unseen == every.unseen[::3]


def test_condition_is_drawn_where_a_take_has_a_frame_and_says_so_elsewhere(addon, shot):
    import bpy

    condition, scene = addon("condition"), bpy.context.scene
    for frame in (11, 17, 29):
        scene.frame_set(frame)
        assert condition._view(bpy.context).pose.source_time == frame - FIRST
    scene.frame_set(19)
    with pytest.raises(addon("_vendor.errors").InputError, match="go to 17 or 20") as caught:
        condition._view(bpy.context)
    assert caught.value.code == "frame_left_out"


def background_picture(camera_data, frame):
    """Number of the file that Blender shows behind a camera, as `BKE_image_user_frame_get` says."""
    import bpy

    bpy.context.scene.frame_set(frame)
    evaluated = camera_data.evaluated_get(bpy.context.evaluated_depsgraph_get())
    (slot,) = evaluated.background_images
    user = slot.image_user
    shown = min(max(frame - user.frame_start + 1, 1), user.frame_duration)
    return shown + user.frame_offset


def test_take_behind_the_camera_is_in_time_too(addon, shot, strip):
    import bpy

    camera_data = shot.ex4d_shot.camera.data
    assert bpy.ops.ex4d.take_background() == {"FINISHED"}
    for frame in range(FIRST - 3, FIRST + COUNT + 5):
        shown = min(max(frame, FIRST), FIRST + COUNT - 1)
        name = picture_of(addon, strip, shown)
        assert f"{background_picture(camera_data, frame):04d}.png" == name
    (curve,) = camera_data.animation_data.drivers
    assert curve.driver.is_simple_expression, "files from elsewhere may run no Python"
    # It moves nothing of the camera, which may go on being keyed.
    assert addon("lead_in").is_plain(shot, shot.ex4d_shot.camera)
    assert bpy.ops.ex4d.add_lead_in() == {"FINISHED"}
    assert bpy.ops.ex4d.add_move(move="zoom_in") == {"FINISHED"}
    # Again, with another take: no driver is left over.
    strip["ex4d_take_frame_step"] = 1
    assert bpy.ops.ex4d.take_background() == {"FINISHED"}
    assert len(camera_data.animation_data.drivers) == 0
    assert [background_picture(camera_data, frame) for frame in (11, 12, 13)] == [1, 2, 3]


@pytest.mark.slow
@needs_server
def test_whole_way_through_a_server(addon, shot, fake_server, tmp_path):
    import bpy

    chosen = addon("preferences").get(bpy.context)
    chosen.mode = "REMOTE"
    try:
        assert bpy.ops.ex4d.pair_server(link=fake_server("0.01")) == {"FINISHED"}
        bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
        assert bpy.ops.ex4d.generate(wait=False) == {"FINISHED"}
        shot.name = "Renamed meanwhile"
        (job,) = addon("runtime").get().jobs
        tick_until(addon, lambda: job.stage in addon("jobs").ENDED)
        assert job.error is None
        (strip,) = addon("strips").takes_of(bpy.context.scene, shot)
        assert addon("strips").document_of(strip).frame_count == 7
        assert addon("compat").strip_range(strip) == (FIRST, FIRST + COUNT)
        assert [picture_of(addon, strip, frame) for frame in (13, 14)] == ["0001.png", "0002.png"]
    finally:
        addon("runtime").unregister()
        chosen.servers.clear()
        chosen.mode = "LOCAL"
