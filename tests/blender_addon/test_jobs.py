"""The job list: sent once, found again, survives undo and reopening. The server is played here."""

import types
from pathlib import Path

import pytest
from test_registration import draw

pytestmark = pytest.mark.bpy

ID = "0123456789abcdef0123456789abcdef"
JOB_ID = "fedcba9876543210fedcba9876543210"


class FakeClient:
    """Remembers what it is told; the test moves the jobs."""

    def __init__(self):
        self.submitted, self.attached, self.cancelled = [], [], []

    def submit(self, build_request, sources, download_to, request_id=None):
        self.submitted.append((build_request(()), sources, download_to, request_id))
        return self._remote()

    def attach(self, job_id, download_to):
        self.attached.append((job_id, download_to))
        return self._remote()

    def cancel(self, job):
        self.cancelled.append(job)

    def _remote(self):
        self.remote = types.SimpleNamespace(
            phase=self.phases.HASHING, job_id=None, error=None, fraction=0.5, stage="", eta_s=None
        )
        self.remote.bytes_moved = self.remote.bytes_total = 0
        return self.remote


@pytest.fixture
def phases(addon):
    return addon("_vendor.client").JobPhase


@pytest.fixture
def session(addon, phases):
    """A connection that is ready, as far as the job list can tell."""
    client = FakeClient()
    client.phases = phases
    endpoint = types.SimpleNamespace(server_public_key="s" * 40)
    return types.SimpleNamespace(client=client, endpoint=endpoint, is_ready=True, is_local=False)


@pytest.fixture
def board(addon, tmp_path):
    return addon("jobs").JobBoard(tmp_path / "records")


@pytest.fixture
def record(addon, tmp_path):
    messages = addon("_vendor.protocol.messages")
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"clip")
    return addon("jobs").JobRecord(
        request_id=ID,
        server="s" * 40,
        title="flower",
        request=messages.ReconstructJob(
            files=(), clip="clip/clip.mp4", depth="depth/depth.npz", name="flower"
        ),
        sources={"clip/clip.mp4": str(clip)},
        folder=str(tmp_path / "scene"),
    )


def test_job_is_stored_before_it_is_sent_and_then_followed(board, record, session, phases):
    job = board.add(record, 1)
    assert (board._folder / f"{ID}.json").exists()
    board.advance(session)
    _request, sources, folder, request_id = session.client.submitted[0]
    assert request_id == ID
    assert sources == {"clip/clip.mp4": Path(record.sources["clip/clip.mp4"])}
    assert folder == job.folder
    session.client.remote.phase = phases.RUNNING
    session.client.remote.job_id = JOB_ID
    board.advance(session)
    assert not board.is_transferring
    session.client.remote.phase = phases.DONE
    board.advance(session)
    assert job.stage.value == "arrived"


def test_job_waits_for_its_own_server(board, record, session):
    job = board.add(record, 1)
    session.endpoint.server_public_key = "another"
    board.advance(session)
    assert job.stage.value == "waiting"
    assert not session.client.submitted


def test_new_session_finds_the_job_by_its_id(board, record, session, phases):
    job = board.add(record, 1)
    board.advance(session)
    session.client.remote.job_id = JOB_ID
    board.advance(session)
    first, session.client = session.client, None
    session.is_ready = False
    board.advance(session)
    assert job.stage.value == "waiting"
    session.client, session.is_ready = FakeClient(), True
    session.client.phases = phases
    board.advance(session)
    assert session.client.attached == [(JOB_ID, job.folder)]
    assert not session.client.submitted
    assert len(first.submitted) == 1


def test_job_that_was_never_confirmed_is_sent_again_as_the_same(board, record, session, addon):
    board.add(record, 1)
    board.advance(session)
    reopened = addon("jobs").JobBoard(board._folder)
    assert reopened.restore(ID, 1)
    reopened.advance(session)
    first, second = session.client.submitted
    assert first == second


def test_job_that_the_server_lost_is_sent_once_more(board, record, session, phases, addon):
    import msgspec

    job = board.add(msgspec.structs.replace(record, job_id=JOB_ID), 1)
    error = addon("_vendor.errors").InputError("not_found", "no such job")
    for _ in range(2):
        board.advance(session)
        session.client.remote.phase, session.client.remote.error = phases.FAILED, error
        session.client.remote.job_id = JOB_ID
        board.advance(session)
    assert len(session.client.attached) == 1
    assert len(session.client.submitted) == 1
    assert job.stage.value == "failed"


def test_results_that_came_before_blender_ended_are_used(board, record, session):
    Path(record.folder).mkdir()
    job = board.add(record, 1)
    board.advance(session)
    assert job.stage.value == "arrived"
    assert not session.client.submitted


@pytest.mark.parametrize(
    "request_id", ["", "../../etc/passwd", ID.upper(), "f" * 32], ids=["-", "path", "upper", "else"]
)
def test_file_from_elsewhere_names_nothing(board, record, request_id):
    board.add(record, 1)
    assert board.restore(request_id, 1) is False


def test_cancel_before_sending_ends_the_job(board, record, session):
    session.is_ready = False
    job = board.add(record, 1)
    board.advance(session)
    board.cancel(job)
    assert job.stage.value == "cancelled"


def test_cancel_asks_the_server(board, record, session, phases):
    job = board.add(record, 1)
    board.advance(session)
    board.cancel(job)
    assert session.client.cancelled == [session.client.remote]
    assert job.stage.value == "active", "until the server confirms"
    session.client.remote.phase = phases.CANCELLED
    board.advance(session)
    assert job.stage.value == "cancelled"


def test_failure_keeps_its_reason_and_its_record_until_saved(board, record, session, phases, addon):
    job = board.add(record, 1)
    board.advance(session)
    error = addon("_vendor.errors").InputError("depth_size", "expected 49 frames, found 48")
    session.client.remote.phase, session.client.remote.error = phases.FAILED, error
    board.advance(session)
    assert (job.stage.value, job.error) == ("failed", error)
    assert (board._folder / f"{ID}.json").exists()
    board.drop_ended_records()
    assert not (board._folder / f"{ID}.json").exists()


def start_job(addon, record, scene):
    current = addon("runtime").get()
    job = current.jobs.add(record, scene.session_uid)
    addon("scene_jobs").store()
    return job


def test_reopened_file_finds_its_jobs(addon, empty_file, record, tmp_path):
    import bpy

    job = start_job(addon, record, bpy.context.scene)
    path = str(tmp_path / "shot.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    addon("runtime").unregister()  # Blender ends.
    bpy.ops.wm.open_mainfile(filepath=path)
    found = addon("runtime").get().jobs.get(ID)
    assert found.record == job.record
    assert addon("scene_jobs").find_scene(found.scene_uid) == bpy.context.scene


def test_other_file_has_other_jobs(addon, empty_file, record):
    import bpy

    start_job(addon, record, bpy.context.scene)
    bpy.ops.wm.read_homefile(use_empty=True)
    assert list(addon("runtime").get().jobs) == []


def test_linked_scene_keeps_its_jobs_to_its_own_file(addon, empty_file, record, tmp_path):
    import bpy

    start_job(addon, record, bpy.context.scene)
    bpy.context.scene.name = "Elsewhere"
    path, other = str(tmp_path / "scenes.blend"), str(tmp_path / "other.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path, copy=True)
    bpy.ops.wm.read_homefile(use_empty=True)
    with bpy.data.libraries.load(path, link=True) as (_, wanted):
        wanted.scenes = ["Elsewhere"]
    # Blender saves what is linked and used.
    bpy.context.scene.background_set = bpy.data.scenes["Elsewhere"]
    bpy.ops.wm.save_as_mainfile(filepath=other)
    bpy.ops.wm.open_mainfile(filepath=other)
    assert len(bpy.data.scenes["Elsewhere"].ex4d_jobs) == 1
    assert list(addon("runtime").get().jobs) == []


def test_second_click_does_not_send_the_same_again(addon, empty_file, record, tmp_path):
    import bpy
    import msgspec

    begin, board = addon("ops_jobs").begin, addon("runtime").get().jobs
    first = begin(bpy.context, record)
    second_click = msgspec.structs.replace(
        record, request_id="1" * 32, folder=str(tmp_path / "other")
    )
    with pytest.raises(Exception, match="found 'flower' under way") as caught:
        begin(bpy.context, second_click)
    assert caught.value.code == "under_way"
    request = msgspec.structs.replace(record.request, stride=2)
    begin(bpy.context, msgspec.structs.replace(second_click, request=request))
    board.finish(first, addon("jobs").Stage.CANCELLED)
    begin(bpy.context, msgspec.structs.replace(second_click, request_id="2" * 32))
    assert [job.record.request_id for job in board] == [ID, "1" * 32, "2" * 32]


def test_undo_does_not_lose_a_job(addon, empty_file, record, tmp_path):
    import bpy

    bpy.ops.ed.undo_push(message="before")
    start_job(addon, record, bpy.context.scene)
    bpy.ops.ed.undo_push(message="after")
    bpy.ops.ed.undo()
    assert addon("runtime").get().jobs.get(ID) is not None
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    assert [item.request_id for item in bpy.context.scene.ex4d_jobs] == [ID]


def test_tick_drives_jobs_and_knows_when_to_rest(addon, empty_file, record, session, monkeypatch):
    import bpy

    pump = addon("pump")
    job = start_job(addon, record, bpy.context.scene)
    current = addon("runtime").get()
    assert pump.tick() is None, "nothing to do without a connection"
    session.client.state = addon("_vendor.client").ConnectionState.READY
    session.is_idle = False
    session.poll = lambda _budget_s: False
    session.close = lambda: None
    session.take_paired = lambda: None
    monkeypatch.setattr(current, "connection", session)
    assert pump.tick() == pump.BUSY_S
    session.client.remote.phase = addon("_vendor.client").JobPhase.RUNNING
    assert pump.tick() == pump.WAITING_S
    session.client.remote.phase = addon("_vendor.client").JobPhase.CANCELLED
    assert pump.tick() == pump.IDLE_S
    assert job.stage.value == "cancelled"


@pytest.mark.parametrize(
    ("stage", "is_listed"),
    [("WAITING", True), ("ARRIVED", True), ("FAILED", True), ("DONE", False), ("CANCELLED", False)],
)
def test_panel_lists_what_goes_on_or_failed(addon, empty_file, record, stage, is_listed):
    import bpy

    job = start_job(addon, record, bpy.context.scene)
    addon("runtime").get().jobs.finish(job, addon("jobs").Stage[stage])
    assert ("flower" in draw(addon("panels").EX4D_PT_jobs)) == is_listed


def test_panel_draws_what_happens_between_two_ticks(addon, empty_file, record, session, phases):
    import bpy

    job = start_job(addon, record, bpy.context.scene)
    addon("runtime").get().jobs.advance(session)
    for phase in phases:
        session.client.remote.phase = phase
        assert job.stage is addon("jobs").Stage.ACTIVE
        _, text, _ = draw(addon("panels").EX4D_PT_jobs)
        assert text


def test_timer_survives_an_unforeseen_error(addon, empty_file, monkeypatch, caplog):
    pump = addon("pump")

    def fail(_budget_s):
        raise ZeroDivisionError

    current = addon("runtime").get()
    monkeypatch.setattr(current.connection, "poll", fail)
    assert pump._on_timer() == pump.IDLE_S
    assert "a tick failed" in caplog.text


def test_lost_shot_keeps_the_take_and_says_where_it_is(addon, empty_file, record):
    import bpy
    import msgspec

    messages = addon("_vendor.protocol.messages")
    documents = addon("_vendor.protocol.documents")
    pose = documents.CameraPose(
        cam_to_world=(1.0, 0.0, 0.0, 0.0) * 3, fx_px=1.0, fy_px=1.0, cx_px=0.0, cy_px=0.0,
        source_time=0,
    )  # fmt: skip
    trajectory = documents.TrajectoryDocument(width_px=16, height_px=16, poses=(pose,))
    request = messages.GenerateJob(
        scene=(), trajectory=trajectory, settings=documents.PreviewSettings()
    )
    Path(record.folder).mkdir()
    record = msgspec.structs.replace(record, request=request, shot_name="gone")
    job = start_job(addon, record, bpy.context.scene)
    addon("pump").tick()
    assert job.stage.value == "failed"
    assert record.folder in job.error.message
    assert addon("jobs").JobBoard(Path(addon("runtime").get().jobs._folder)).restore(ID, 1)
