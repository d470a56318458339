"""What the server holds for a connection."""

import msgspec
from ex4d_server.sessions import Session, Sessions
from ex4d_server.wire import Delivery
from message_examples import SERVER_EXAMPLES

from ex4d.protocol.messages import JobEvent, Limits


class FullWire:
    """The peer never reads."""

    def send(self, *_: object, **__: object) -> Delivery:
        return Delivery.FULL


def test_watch_ends_with_its_job() -> None:
    sessions = Sessions(lambda session: None)
    session = Session(b"1", "anna", "", Limits(), FullWire(), minor=0)  # pyright: ignore
    sessions.add(session)
    running = next(
        message
        for message in SERVER_EXAMPLES.values()
        if isinstance(message, JobEvent) and message.state == "running"
    )
    session.watches.add(running.job_id)
    sessions.publish("anna", running)
    assert session.watches == {running.job_id}
    event = msgspec.structs.replace(running, state="done")
    sessions.publish("anna", event)
    assert session.watches == set()
    assert list(session._held_back) == [running.job_id], "told once the peer reads again"
