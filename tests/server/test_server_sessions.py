"""What the server holds for a connection."""

import msgspec
from ex4d_server.sessions import MAX_USER_SESSIONS, Session, Sessions
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


def test_connections_of_a_user_push_out_the_users_own() -> None:
    closed: list[Session] = []
    sessions = Sessions(closed.append)

    def add(name: str, user: str) -> Session:
        session = Session(name.encode(), user, "", Limits(), FullWire(), minor=0)  # pyright: ignore
        sessions.add(session)
        return session

    other = add("other", "bob")
    own = [add(f"{number}", "ada") for number in range(MAX_USER_SESSIONS)]
    assert not closed
    # A sign of life: the first is not the one that was silent for longest.
    assert sessions.find(b"0") is own[0]
    add("more", "ada")
    assert closed == [own[1]]
    assert sessions.find(b"other") is other
