"""Before a take is sent: what goes, and how long it should take; measured, or not said."""

import hashlib
import os
import types
from pathlib import Path

import pytest
from scene_writer import write_scene
from shot_tools import exhaust, needs_server, tick_until
from test_registration import draw

pytestmark = pytest.mark.bpy

SERVER = "s" * 40


@pytest.fixture
def shot(addon, empty_file, tmp_path):
    import bpy

    folder = write_scene(tmp_path / "scene")
    yield exhaust(addon("scene_import").import_scene(bpy.context, folder, frame_start=1))
    (addon("paths").private_folder() / "sent.json").unlink(missing_ok=True)


@pytest.fixture
def current(addon, shot, monkeypatch):
    """The runtime with a session, as far as panels can tell, at a server that never made a take."""
    current = addon("runtime").get()
    client = types.SimpleNamespace(take_times=(), welcome=None)
    connection = type(current.connection)
    monkeypatch.setattr(connection, "is_ready", property(lambda _self: True))
    monkeypatch.setattr(addon("panels"), "server_id", lambda _connection: SERVER)
    monkeypatch.setattr(connection, "poll", lambda _self, _budget_s: False)
    monkeypatch.setattr(connection, "status", lambda _self: None)
    monkeypatch.setattr(addon("pump"), "_pause_s", lambda _current: None)
    current.connection.client = client
    yield current
    current.connection.client = None


def words(addon):
    return " ".join(draw(addon("panels").EX4D_PT_generate))


def count(addon, current):
    """Tick until the sizes that were asked for are known."""
    while current.sizes.is_counting:
        addon("pump").tick()


def sent_bytes(addon, shot):
    files = addon("ops_jobs").take_sources(shot.ex4d_shot).values()
    return sum(Path(path).stat().st_size for path in files)


def job_of(addon, shot, **changes):
    """A take's job, as the list of jobs has it."""
    request = addon("_vendor.protocol.messages").GenerateJob(
        scene=(),
        trajectory=addon("ops_jobs").take_trajectory(__import__("bpy").context, shot),
        settings=addon("_vendor.protocol.documents").PreviewSettings(),
    )
    record = types.SimpleNamespace(
        request_id="1",
        server=SERVER,
        request=request,
        sources=addon("ops_jobs").take_sources(shot.ex4d_shot),
    )
    jobs = addon("jobs")
    job = types.SimpleNamespace(record=record, stage=jobs.Stage.ACTIVE, remote=None)
    vars(job).update(changes)
    return job


def test_without_a_server_nothing_is_claimed(addon, shot):
    text = words(addon)
    assert "Sends" not in text
    assert "Time" not in text


def test_size_is_what_would_be_sent(addon, shot, current):
    assert "MB" not in words(addon), "not counted yet"
    count(addon, current)
    expected = sent_bytes(addon, shot)
    assert current.sizes.find(shot.ex4d_shot.folder).size_bytes == expected
    assert f"Sends {expected / 1e6:.1f} MB: the scene, once" in words(addon)


def test_large_scenes_are_counted_in_slices(addon, shot, current, monkeypatch):
    monkeypatch.setattr(addon("sending"), "_SLICE_FILES", 2)
    current.sizes.find(shot.ex4d_shot.folder)
    steps = 1
    while not current.sizes.advance():
        steps += 1
    assert steps > 6
    assert current.sizes.find(shot.ex4d_shot.folder).size_bytes == sent_bytes(addon, shot)


def test_a_lost_folder_is_no_size(addon, shot, current, tmp_path):
    for path in (tmp_path / "scene" / "depth").iterdir():
        path.unlink()
    (tmp_path / "scene" / "depth").rmdir()
    words(addon)
    count(addon, current)
    assert "MB" not in words(addon)


def test_a_scene_that_comes_back_or_changes_is_counted_again(addon, shot, current, tmp_path):
    depth, away = tmp_path / "scene" / "depth", tmp_path / "away"
    expected = sent_bytes(addon, shot)
    depth.rename(away)
    words(addon)
    count(addon, current)
    words(addon)
    assert current.sizes.is_counting, "a failure is tried again"
    assert not current.sizes.advance(), "the same failure draws nothing again"
    away.rename(depth)
    words(addon)
    count(addon, current)
    assert current.sizes.find(shot.ex4d_shot.folder).size_bytes == expected
    words(addon)
    assert not current.sizes.is_counting, "what is known is not counted again"
    document = tmp_path / "scene" / "scene.json"
    changed_ns = document.stat().st_mtime_ns
    document.write_bytes(document.read_bytes() + b"\n")
    os.utime(document, ns=(changed_ns + 10**9, changed_ns + 10**9))
    words(addon)
    count(addon, current)
    found = current.sizes.find(shot.ex4d_shot.folder)
    assert found.size_bytes == expected + 1
    assert found.scene_sha256 == hashlib.sha256(document.read_bytes()).hexdigest()


def test_a_document_that_is_too_large_is_not_read_whole(addon, shot, current, tmp_path):
    document = tmp_path / "scene" / "scene.json"
    document.write_bytes(document.read_bytes() + b" " * (1 << 20))
    words(addon)
    count(addon, current)
    assert current.sizes.find(shot.ex4d_shot.folder).size_bytes == 0
    with pytest.raises(addon("_vendor.errors").InputError, match="found more") as caught:
        addon("scene_files").SceneFiles(tmp_path / "scene")
    assert caught.value.code == "scene_invalid"


def test_what_was_sent_is_remembered_for_that_server(addon, shot, current):
    phases = addon("_vendor.client").JobPhase
    words(addon)
    count(addon, current)
    uploading = types.SimpleNamespace(phase=phases.UPLOADING)
    assert not current.sent.note([job_of(addon, shot, remote=uploading)])
    assert "the scene was sent" not in words(addon)
    # Of the scene as it is: another field of view changes none of its large files.
    shot.ex4d_shot.field_of_view *= 1.2
    queued = types.SimpleNamespace(phase=phases.QUEUED)
    assert current.sent.note([job_of(addon, shot, remote=queued)])
    assert "the scene was sent" in words(addon)
    path = addon("paths").private_folder() / "sent.json"
    again = addon("sending").SentScenes(path)
    sha256 = current.sizes.find(shot.ex4d_shot.folder).scene_sha256
    assert again.has(SERVER, sha256)
    assert not again.has("t" * 40, sha256)
    path.write_text("{")
    assert not addon("sending").SentScenes(path).has(SERVER, sha256)


def test_a_scene_that_the_server_made_needs_no_sending(addon, shot, current, tmp_path):
    jobs = addon("jobs")
    made = job_of(addon, shot, stage=jobs.Stage.ARRIVED, folder=tmp_path / "scene")
    made.record.request = None
    assert current.sent.note([made])
    words(addon)
    count(addon, current)
    assert "the scene was sent" in words(addon)


def test_time_is_measured_or_not_known(addon, shot, current):
    take_time = addon("_vendor.protocol.messages").TakeTime
    assert "Time not known" in words(addon)
    half = take_time(kind="preview", work=32 * 24 * 5 // 2, time_s=30.0)
    current.connection.client.take_times = (half,)
    assert "Takes about 60 s" in words(addon)
    other = take_time(kind="ex4d exact", work=32 * 24 * 5, time_s=30.0)
    current.connection.client.take_times = (other,)
    assert "Time not known" in words(addon)


@pytest.mark.slow
@needs_server
def test_several_are_queued_and_what_the_first_taught_is_told(addon, shot, fake_server, tmp_path):
    """The whole way: three at once, each a take of its own, and no byte of the scene twice."""
    import bpy

    chosen = addon("preferences").get(bpy.context)
    chosen.mode = "REMOTE"
    try:
        assert bpy.ops.ex4d.pair_server(link=fake_server("0.1")) == {"FINISHED"}
        # Their frames lie beside the file.
        bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
        words(addon)
        count(addon, addon("runtime").get())
        assert "the scene, once" in words(addon)
        assert "Time not known" in words(addon)
        for seed in (1, 2, 3):
            bpy.context.scene.ex4d_generate.seed = seed
            assert bpy.ops.ex4d.generate(wait=False) == {"FINISHED"}
        jobs, stage = addon("runtime").get().jobs, addon("jobs").Stage
        assert len(list(jobs)) == 3
        tick_until(addon, lambda: all(job.stage is stage.DONE for job in jobs))
        takes = addon("strips").takes_of(bpy.context.scene, shot)
        seeds = [addon("strips").document_of(take).settings.seed for take in takes]
        assert sorted(seeds) == [1, 2, 3]
        assert len({addon("strips").folder_of(take) for take in takes}) == 3
        assert "the scene was sent" in words(addon)
        current = addon("runtime").get()
        (time,) = current.connection.client.take_times
        assert 0.5 <= time.time_s < 5.0
        assert "Takes about" in words(addon)
    finally:
        addon("runtime").unregister()
        chosen.servers.clear()
        chosen.mode = "LOCAL"
