"""The session: how it comes about, what ends it, and how it comes back."""

from collections.abc import Iterator

import pytest
from model_server import KEYS, ModelServer

from ex4d.client import Client, ConnectionState
from ex4d.client.transport import Fate
from ex4d.errors import ProtocolError
from ex4d.protocol.messages import Error, Hello, JobListRequest, Pair, Ping, Pong

TOKEN = "A-Za_z0123456789abcdef"


@pytest.fixture
def client(server: ModelServer) -> Iterator[Client]:
    client = server.client()
    yield client
    client.close()


def connect(server: ModelServer, client: Client) -> None:
    client.connect()
    server.settle(client)
    assert client.state is ConnectionState.READY


def code(client: Client) -> str:
    assert client.problem is not None
    return client.problem.code


def test_greets_and_is_ready(server: ModelServer, client: Client) -> None:
    assert client.state is ConnectionState.OFFLINE
    client.connect()
    assert client.state is ConnectionState.CONNECTING
    server.settle(client)
    assert client.state is ConnectionState.READY
    assert client.problem is None
    assert client.welcome is not None
    assert client.welcome.user == "anna"


def test_pairs_once_then_greets(server: ModelServer, client: Client) -> None:
    client.pair(TOKEN)
    assert client.state is ConnectionState.PAIRING
    server.settle(client)
    assert client.state is ConnectionState.READY
    server.cut()
    server.run(client, lambda: len(server.attempts_s) == 2 and client.problem is None)
    assert [type(message) for message in server.seen] == [Pair, Hello, Hello]
    assert server.seen_of(Pair)[0].token == TOKEN


def test_pairing_survives_a_lost_connection(server: ModelServer, client: Client) -> None:
    """The token is not spent until the server has said so."""
    client.pair(TOKEN)
    client.poll()
    server.cut()
    server.run(client, lambda: client.state is ConnectionState.READY)
    assert [type(message) for message in server.seen] == [Pair, Hello]


@pytest.mark.parametrize("refusal", ["pairing_refused", "pairing_rate"])
def test_refused_token_ends_it(server: ModelServer, client: Client, refusal: str) -> None:
    server.answers[Pair] = lambda pair: Error(
        in_reply_to=pair.request_id, code=refusal, message="expected another token"
    )
    client.pair(TOKEN)
    server.pass_time(client, 100)
    assert client.state is ConnectionState.REFUSED
    assert code(client) == refusal
    assert len(server.attempts_s) == 1, "trying again does not help"


def test_unknown_key_is_named(server: ModelServer, client: Client) -> None:
    server.fates = (Fate.KEY_UNKNOWN,)
    client.connect()
    server.pass_time(client, 100)
    assert client.state is ConnectionState.REFUSED
    assert code(client) == "key_unknown"
    assert client.problem is not None
    assert KEYS.public_key in client.problem.message
    assert KEYS.secret_key not in client.problem.message
    assert len(server.attempts_s) == 1


def test_revoked_key_ends_it(server: ModelServer, client: Client) -> None:
    connect(server, client)
    server.say(Error(in_reply_to="", code="key_revoked", message="expected a known key"))
    server.pass_time(client, 100)
    assert (client.state, code(client)) == (ConnectionState.REFUSED, "key_revoked")
    connect(server, client)


@pytest.mark.parametrize(
    ("fate", "problem"), [(Fate.NO_HANDSHAKE, "server_key"), (Fate.DOWN, "unreachable")]
)
def test_pauses_grow_to_half_a_minute(
    server: ModelServer, client: Client, fate: Fate, problem: str
) -> None:
    server.fates = (fate,)
    client.connect()
    server.settle(client)
    server.pass_time(client, 150)
    assert (client.state, code(client)) == (ConnectionState.CONNECTING, problem)
    pauses_s = [b - a for a, b in zip(server.attempts_s, server.attempts_s[1:], strict=False)]
    assert pauses_s == [1, 2, 4, 8, 16, 30, 30, 30]


def test_long_session_makes_the_pauses_short_again(server: ModelServer, client: Client) -> None:
    server.fates = (Fate.DOWN,)
    client.connect()
    server.pass_time(client, 20)
    server.fates = (Fate.UP,)
    server.run(client, lambda: client.state is ConnectionState.READY)
    server.pass_time(client, 31)
    server.cut()
    server.settle(client)
    assert (client.state, code(client)) == (ConnectionState.LOST, "connection_lost")
    server.pass_time(client, 1)
    assert client.state is ConnectionState.READY


def test_server_that_greets_and_fails_is_not_pestered(server: ModelServer, client: Client) -> None:
    client.connect()
    for _ in range(5):
        server.run(client, lambda: client.state is ConnectionState.READY)
        server.cut()
        server.settle(client)
    assert server.attempts_s[-1] - server.attempts_s[0] >= 1 + 2 + 4 + 8


def test_silent_server_is_given_up(server: ModelServer, client: Client) -> None:
    server.is_answering = False
    client.connect()
    server.settle(client)
    server.pass_time(client, 20)
    assert client.problem is None
    server.pass_time(client, 1)
    assert code(client) == "no_answer"
    server.is_answering = True
    server.run(client, lambda: client.state is ConnectionState.READY)


def test_quiet_server_is_asked_for_a_sign_of_life(server: ModelServer, client: Client) -> None:
    connect(server, client)
    server.pass_time(client, 100)
    assert 5 <= len(server.seen_of(Ping)) <= 7
    assert len(server.attempts_s) == 1
    server.answers[Ping] = lambda _: None
    problems = []
    for _ in range(40):
        server.pass_time(client, 1)
        problems += [client.problem.code] if client.problem else []
    assert problems == ["no_answer"]
    assert client.state is ConnectionState.READY


def test_answer_that_waits_is_read_however_late(server: ModelServer, client: Client) -> None:
    """Blender may render for an hour between two polls."""
    client.connect()
    client.poll()
    server.serve()
    server.clock.now_s += 3600.0
    server.settle(client)
    assert client.state is ConnectionState.READY
    assert len(server.attempts_s) == 1


@pytest.mark.parametrize("is_welcome", [True, False], ids=["welcome", "error"])
def test_other_major_version_ends_it(server: ModelServer, client: Client, is_welcome: bool) -> None:
    def answer(hello: Hello):
        if is_welcome:
            return server.welcome(hello.request_id, protocol_major=2)
        message = "expected protocol 2, found 1; update the older one"
        return Error(in_reply_to=hello.request_id, code="protocol_mismatch", message=message)

    server.answers[Hello] = answer
    client.connect()
    server.pass_time(client, 50)
    assert (client.state, code(client)) == (ConnectionState.REFUSED, "protocol_mismatch")
    assert client.problem is not None
    assert "update" in client.problem.message
    assert len(server.attempts_s) == 1


def test_unreadable_message_ends_the_connection_only(server: ModelServer, client: Client) -> None:
    connect(server, client)
    server.link.incoming.append(ProtocolError("message_invalid", "expected a message"))
    server.settle(client)
    assert (client.state, code(client)) == (ConnectionState.LOST, "message_invalid")
    server.pass_time(client, 1)
    assert client.state is ConnectionState.READY
    assert client.problem is None


def test_answers_to_others_are_not_taken(server: ModelServer, client: Client) -> None:
    """A welcome that answers nothing makes no session."""
    server.answers[Hello] = lambda _: server.welcome("f" * 32)
    client.connect()
    server.settle(client)
    server.say(Pong(in_reply_to="f" * 32))
    server.settle(client)
    assert client.state is ConnectionState.CONNECTING


def test_messages_wait_for_room_in_order(server: ModelServer, client: Client) -> None:
    connect(server, client)
    server.is_full = True
    listings: list[int] = []
    for number in range(3):
        client.list_jobs(lambda _, number=number: listings.append(number))
    server.settle(client)
    assert not server.seen_of(JobListRequest)
    server.is_full = False
    server.settle(client)
    assert listings == [0, 1, 2]


def test_closed_client_does_nothing(server: ModelServer, client: Client) -> None:
    connect(server, client)
    client.close()
    assert server.link.is_closed
    assert client.state is ConnectionState.OFFLINE
    server.clock.now_s += 100.0
    assert client.poll() is False
    assert len(server.attempts_s) == 1


def test_waiting_ends_with_the_pause(server: ModelServer, client: Client) -> None:
    server.fates = (Fate.DOWN,)
    client.connect()
    client.poll()
    before_s = server.clock.now_s
    client.wait(100.0)
    assert server.clock.now_s - before_s == 1.0
