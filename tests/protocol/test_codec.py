"""Every message survives the wire; nothing else gets through, whatever its shape."""

from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from message_examples import CLIENT_EXAMPLES, ID, SERVER_EXAMPLES, any_message

from ex4d.errors import ProtocolError
from ex4d.protocol import codec
from ex4d.protocol.messages import (
    MAX_FILES_PER_MESSAGE,
    MAX_HEADER_BYTES,
    ClientMessage,
    Error,
    ServerMessage,
)

PING = msgspec.to_builtins(CLIENT_EXAMPLES["ping"])
SUBMIT = msgspec.to_builtins(CLIENT_EXAMPLES["job_submit generate"])
EVENT = msgspec.to_builtins(SERVER_EXAMPLES["job_event running"])
WANT = msgspec.to_builtins(SERVER_EXAMPLES["blob_want"])


@settings(max_examples=60)
@given(any_message(ClientMessage))
def test_client_messages_survive_the_wire(message: ClientMessage) -> None:
    assert codec.decode_client(codec.encode(message)) == message


@settings(max_examples=60)
@given(any_message(ServerMessage))
def test_server_messages_survive_the_wire(message: ServerMessage) -> None:
    assert codec.decode_server(codec.encode(message)) == message


def changed(plain: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A deep copy with the value at a dotted path replaced or added."""
    copy = msgpack.unpackb(msgpack.packb(plain))
    *parents, name = path.split(".")
    place = copy
    for parent in parents:
        place = place[int(parent) if parent.isdigit() else parent]
    place[int(name) if name.isdigit() else name] = value
    return copy


REFUSED = {
    "nothing": b"",
    "reserved byte": b"\xc1",
    "not a map": msgpack.packb([1, 2]),
    "no type": msgpack.packb({"request_id": ID}),
    "unknown type": msgpack.packb(PING | {"type": "shutdown"}),
    "type is a list": msgpack.packb(PING | {"type": ["ping"]}),
    "message of the other side": codec.encode(SERVER_EXAMPLES["pong"]),
    "unknown field": msgpack.packb(PING | {"more": 1}),
    "missing field": msgpack.packb({"type": "ping"}),
    "wrong type": msgpack.packb(PING | {"request_id": 7}),
    "bytes for text": msgpack.packb(PING | {"request_id": ID.encode()}),
    "bad id": msgpack.packb(PING | {"request_id": ID.upper()}),
    "id with a new line": msgpack.packb(PING | {"request_id": ID + "\n"}),
    "number as key": msgpack.packb({1: 2}),
    "trailing bytes": msgpack.packb(PING) + b"\x00",
    "truncated": msgpack.packb(PING)[:-1],
    "extension": msgpack.packb(PING | {"request_id": msgpack.ExtType(5, b"x")}),
    "not UTF-8": msgpack.packb(PING).replace(ID.encode(), b"\xff" * 32),
    "deep list": b"\x91" * 1_000_000 + b"\xc0",
    "deep map": b"\x81\xa1a" * 300_000 + b"\xc0",
    "huge list claimed": b"\xdd\xff\xff\xff\xff",
    "huge map claimed": b"\xdf\xff\xff\xff\xff",
    "huge text claimed": b"\xdb\xff\xff\xff\xff",
    "huge bytes claimed": b"\xc6\xff\xff\xff\xff",
    "list over the limit": msgpack.packb([None] * (MAX_FILES_PER_MESSAGE + 1)),
    "map over the limit": msgpack.packb({str(number): 0 for number in range(100)}),
    "text over the limit": msgpack.packb(PING | {"request_id": "0" * 10_000}),
    "too long": b"\x00" * (MAX_HEADER_BYTES + 1),
    "NaN in a matrix": msgpack.packb(
        changed(SUBMIT, "job.trajectory.poses.0.cam_to_world.3", float("nan"))
    ),
    "infinite focal length": msgpack.packb(
        changed(SUBMIT, "job.trajectory.poses.0.fx_px", float("inf"))
    ),
    "short matrix": msgpack.packb(
        changed(SUBMIT, "job.trajectory.poses.0.cam_to_world", [1.0] * 11)
    ),
    "unknown engine": msgpack.packb(changed(SUBMIT, "job.settings.engine", "shell")),
    "unknown job": msgpack.packb(changed(SUBMIT, "job.type", "delete")),
    "path that leads out": msgpack.packb(changed(SUBMIT, "job.scene.0.path", "../scene.json")),
    "absolute path": msgpack.packb(changed(SUBMIT, "job.scene.0.path", "/etc/passwd")),
    "hidden file": msgpack.packb(changed(SUBMIT, "job.scene.0.path", ".ssh")),
    "Windows path": msgpack.packb(changed(SUBMIT, "job.scene.0.path", "C:\\a")),
    "two folders": msgpack.packb(changed(SUBMIT, "job.scene.0.path", "a/b/c")),
    "negative size": msgpack.packb(changed(SUBMIT, "job.scene.0.size_bytes", -1)),
    "boolean for a number": msgpack.packb(changed(SUBMIT, "job.settings.seed", True)),
}


@pytest.mark.parametrize("header", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_client_message_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError, match="expected a message") as caught:
        codec.decode_client(header)
    assert caught.value.code == "message_invalid"
    assert len(caught.value.message) <= 1000


@pytest.mark.parametrize(
    "plain",
    [
        changed(EVENT, "eta_s", float("nan")),
        changed(EVENT, "eta_s", float("inf")),
        changed(EVENT, "seq", -1),
        changed(EVENT, "state", "exploded"),
        changed(WANT, "needs.0.have_bytes", 2**60),
        PING,
    ],
    ids=["NaN", "infinity", "negative", "state", "size", "other side"],
)
def test_what_is_no_server_message_is_refused(plain: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        codec.decode_server(msgpack.packb(plain))


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_garbage_raises_the_one_error(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        codec.decode_client(header)


@settings(max_examples=300)
@given(
    st.sampled_from(list(CLIENT_EXAMPLES.values())),
    st.integers(min_value=0),
    st.integers(0, 255),
)
def test_damaged_message_is_a_message_or_the_one_error(
    message: ClientMessage, place: int, value: int
) -> None:
    header = bytearray(codec.encode(message))
    header[place % len(header)] = value
    try:
        decoded = codec.decode_client(bytes(header))
    except ProtocolError:
        return
    assert codec.decode_client(codec.encode(decoded)) == decoded


def test_long_messages_of_an_error_fit() -> None:
    error = Error(in_reply_to="", code="x", message="y" * 4096)
    assert codec.decode_server(codec.encode(error)) == error
