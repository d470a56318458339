"""Moving previews from the server: to whom they go, and that a slow client gets few of them."""

from collections.abc import Callable
from typing import Any

from ex4d_server.executors.fake import _PREVIEW_FRAMES
from ex4d_server.sessions import Session
from ex4d_server.wire import Delivery
from raw_client import RawClient, file_ref, new_id, random_bytes, render_job
from server_process import ServerProcess
from server_users import add_user

from ex4d.protocol.documents import PreviewSettings
from ex4d.protocol.messages import (
    PREVIEW_MINOR,
    GenerateJob,
    JobCancel,
    JobEvent,
    JobPreview,
    JobPreviewTaken,
    Limits,
    Ping,
    Pong,
)

Connect = Callable[..., RawClient]


def new_client(server: ServerProcess, connect: Connect, minor: int = PREVIEW_MINOR) -> RawClient:
    client = connect(server, add_user(server)[1])
    client.hello(protocol_minor=minor)
    return client


def generate_job(client: RawClient, frame_count: int) -> Any:
    """A job whose files are on the server; it takes 0.02 s a frame."""
    content = random_bytes(100)
    client.upload([content])
    render = render_job([file_ref("scene.json", content)], frame_count)
    return GenerateJob(scene=render.scene, trajectory=render.trajectory, settings=PreviewSettings())


def previews_of(client: RawClient) -> list[JobPreview]:
    return [message for message, _ in client.unread if isinstance(message, JobPreview)]


def pixel(client: RawClient, preview: JobPreview, frame: int, row: int, column: int) -> bytes:
    start = ((frame * preview.height_px + row) * preview.width_px + column) * 3
    return client.last_payload[start : start + 3]


def test_preview_is_small_moves_and_is_not_upside_down(
    server: ServerProcess, connect: Connect
) -> None:
    client = new_client(server, connect)
    job_id = client.submit(generate_job(client, frame_count=3))
    preview = client.wait_for(JobPreview)
    assert preview.job_id == job_id
    assert preview.frame_count == _PREVIEW_FRAMES
    assert len(client.last_payload) == preview.size_bytes
    assert 1 < preview.width_px == preview.height_px <= 24, "as the 32 x 32 px of the take"
    for frame in range(preview.frame_count):
        column = frame * preview.width_px // preview.frame_count
        assert pixel(client, preview, frame, 3, column) == b"\xff\xff\xff"
    _, top_green, _ = pixel(client, preview, 0, 0, 5)
    _, bottom_green, _ = pixel(client, preview, 0, preview.height_px - 1, 5)
    assert top_green < bottom_green
    assert client.wait_for_end(job_id).state == "done"


def test_client_that_confirms_gets_every_preview(server: ServerProcess, connect: Connect) -> None:
    client = new_client(server, connect)
    job_id = client.submit(generate_job(client, frame_count=20))
    numbers: list[int] = []
    while True:
        message, _ = client.receive()
        if isinstance(message, JobPreview):
            numbers.append(message.seq)
            client.send(JobPreviewTaken(job_id=job_id))
        elif isinstance(message, JobEvent) and message.state == "done":
            break
    assert numbers == sorted(set(numbers))
    assert len(numbers) > 10


def test_slow_client_gets_one_preview_and_later_the_newest(
    server: ServerProcess, connect: Connect
) -> None:
    client = new_client(server, connect)
    job_id = client.submit(generate_job(client, frame_count=100))
    first = client.wait_for(JobPreview)
    client.wait_for(JobEvent, lambda event: event.done >= 40)
    assert previews_of(client) == [], "the first is not confirmed"
    client.send(JobPreviewTaken(job_id=job_id))
    second = client.wait_for(JobPreview)
    assert second.seq > first.seq + 40
    client.wait_for_end(job_id)
    assert previews_of(client) == []
    client.send(JobPreviewTaken(job_id=job_id))
    assert client.ask(Ping(request_id=new_id()), Pong)
    assert previews_of(client) == [], "what the job looked like is of no more use"


def test_old_client_gets_none(server: ServerProcess, connect: Connect) -> None:
    client = new_client(server, connect, minor=PREVIEW_MINOR - 1)
    job_id = client.submit(generate_job(client, frame_count=20))
    client.wait_for(JobEvent, lambda event: event.done >= 5)
    client.watch(job_id)
    client.wait_for_end(job_id)
    assert previews_of(client) == []


def test_only_sessions_of_the_owner_that_watch_get_previews(
    server: ServerProcess, connect: Connect
) -> None:
    owner = new_client(server, connect)
    idle = connect(server, owner.keys)
    idle.hello(protocol_minor=PREVIEW_MINOR)
    other = new_client(server, connect)
    job_id = owner.submit(generate_job(owner, frame_count=100))
    owner.wait_for(JobPreview)
    other.send(JobPreviewTaken(job_id=job_id))
    other.watch(job_id)
    assert other.receive()[0].code == "not_found"
    assert idle.receive_all(0.2) == other.receive_all(0.2) == []
    late = connect(server, owner.keys)
    late.hello(protocol_minor=PREVIEW_MINOR)
    late.watch(job_id)
    kinds = [type(late.receive()[0]) for _ in range(2)]
    assert kinds == [JobEvent, JobPreview], "the newest at once, after where the job stands"
    owner.send(JobCancel(request_id=new_id(), job_id=job_id))
    owner.wait_for_end(job_id)


def test_render_jobs_have_no_preview(server: ServerProcess, connect: Connect) -> None:
    client = new_client(server, connect)
    generate = generate_job(client, frame_count=5)
    client.wait_for_end(client.submit(render_job(generate.scene, frame_count=5)))
    assert previews_of(client) == []


# --- one session by itself -----------------------------------------------------------------------


class FakeWire:
    """Takes messages while it has room."""

    def __init__(self) -> None:
        self.room = 0
        self.sent: list[Any] = []

    def send(
        self, routing_id: bytes, message: Any, payload: memoryview | None = None, *, user: str
    ) -> Delivery:
        if len(self.sent) >= self.room:
            return Delivery.FULL
        self.sent.append(message)
        return Delivery.SENT


def make_event(job_id: str, seq: int, state: str = "running") -> JobEvent:
    return JobEvent(
        job_id=job_id,
        seq=seq,
        state=state,
        attempt=1,
        stage="",
        done=0,
        total=0,
        eta_s=None,
        error_code="",
        error_message="",
        files=(),
    )


def make_preview(job_id: str, seq: int) -> tuple[JobPreview, memoryview]:
    preview = JobPreview(job_id=job_id, seq=seq, width_px=1, height_px=1, frame_count=1)
    return preview, memoryview(b"rgb")


def test_previews_wait_behind_events_and_only_the_newest_of_each_job_does() -> None:
    wire: Any = FakeWire()
    session = Session(b"peer", "anna", "key", Limits(), wire, minor=PREVIEW_MINOR)
    for seq in range(0, 100, 2):
        for job_id in ("a", "b", "c"):
            session.post_preview(*make_preview(job_id, seq))
            session.post(make_event(job_id, seq + 1))
    session.post(make_event("c", 100, "cancelled"))
    wire.room = 4
    session.flush()
    expected = [make_event("a", 99), make_event("b", 99), make_event("c", 100, "cancelled")]
    assert wire.sent == [*expected, make_preview("a", 98)[0]]
    wire.room = 100
    session.flush()
    assert wire.sent[4:] == [make_preview("b", 98)[0]]
    session.post_preview(*make_preview("a", 102))
    session.preview_taken("b")
    assert len(wire.sent) == 5, "that of a is under way, and there is no newer one of b"
    session.preview_taken("a")
    assert wire.sent[5:] == [make_preview("a", 102)[0]]
