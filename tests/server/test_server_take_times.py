"""Takes are timed, and clients that understand it are told."""

from collections.abc import Callable
from pathlib import Path

import pytest
from ex4d_server.take_times import MeasuredTakes
from machine import Machine
from message_examples import CLIENT_EXAMPLES
from raw_client import RawClient, file_ref, random_bytes, render_job
from server_process import ServerProcess
from server_users import add_user

from ex4d.client import KeyPair
from ex4d.protocol.documents import FileRef, PreviewSettings
from ex4d.protocol.messages import MAX_TAKE_TIMES, TAKE_TIMES_MINOR, GenerateJob, TakeTimes
from ex4d.protocol.take_time import expected_s, kind_of, work_of

Connect = Callable[..., RawClient]
FRAMES, FRAME_S = 5, 0.1


def generate(scene: tuple[FileRef, ...], seed: int = 0) -> GenerateJob:
    render = render_job(scene, FRAMES)
    settings = PreviewSettings(seed=seed)
    return GenerateJob(scene=scene, trajectory=render.trajectory, settings=settings)


def test_clients_hear_how_long_a_take_took_then_and_at_the_next_hello(
    own_server: Callable[..., ServerProcess], connect: Connect, tmp_path: Path
) -> None:
    server = own_server("--fake-frame-s", str(FRAME_S))
    _, keys = add_user(server)
    machine = Machine(server, KeyPair(*keys)).connect()
    old = connect(server, add_user(server)[1])
    old.hello(protocol_minor=TAKE_TIMES_MINOR - 1)
    assert machine.client.take_times == ()
    source = tmp_path / "scene.json"
    source.write_bytes(random_bytes(100))
    job = machine.client.submit(generate, {"scene.json": source}, tmp_path / "take")
    machine.run(lambda: job.is_over and machine.client.take_times)
    (time,) = machine.client.take_times
    assert FRAMES * FRAME_S <= time.time_s < FRAMES * FRAME_S + 5.0, "measured"
    settings = PreviewSettings()
    work = work_of(settings, 32, 32, FRAMES)
    assert expected_s(machine.client.take_times, kind_of(settings), work) == time.time_s
    machine.client.close()
    content = random_bytes(100)
    old.upload([content])
    old.wait_for_end(old.submit(generate((file_ref("scene.json", content),))))
    seen = [message for message, _ in old.unread] + old.receive_all(0.2)
    assert not [message for message in seen if isinstance(message, TakeTimes)]
    server.stop()
    server.start()
    late = connect(server, add_user(server)[1])
    late.hello(protocol_minor=TAKE_TIMES_MINOR)
    told = late.wait_for(TakeTimes)
    assert [(time.kind, time.work) for time in told.times] == [("preview", work)]


@pytest.fixture
def takes(tmp_path: Path) -> MeasuredTakes:
    return MeasuredTakes(tmp_path / "take_times.json", lambda _user, _times: None)


def test_newest_of_a_size_counts_and_old_sizes_give_way(
    takes: MeasuredTakes, tmp_path: Path
) -> None:
    takes.add("anna", generate(()), 2.0)
    takes.add("anna", generate((), seed=1), 1.0)
    (time,) = takes.times.times
    assert time.time_s == 1.0
    for count in range(1, MAX_TAKE_TIMES + 10):
        render = render_job((), count)
        job = GenerateJob(scene=(), trajectory=render.trajectory, settings=PreviewSettings())
        takes.add("anna", job, float(count))
    assert len(takes.times.times) == MAX_TAKE_TIMES
    assert takes.times.times[0].time_s == MAX_TAKE_TIMES + 9
    again = MeasuredTakes(tmp_path / "take_times.json", lambda _user, _times: None)
    assert again.times == takes.times


def test_other_jobs_and_damaged_files_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "take_times.json"
    path.write_bytes(b'{"type": "\xff"}')
    assert MeasuredTakes(path, lambda _user, _times: None).times.times == ()
    path.write_text('{"type": "take_times", "times": [{"kind": 3}]}')
    takes = MeasuredTakes(path, lambda _user, _times: None)
    assert takes.times.times == ()
    takes.add("anna", CLIENT_EXAMPLES["job_submit render"].job, 1.0)
    assert takes.times.times == ()
    path.unlink()
    path.mkdir()
    takes.add("anna", generate(()), 1.0)
    assert len(takes.times.times) == 1, "known until the end of this run"
