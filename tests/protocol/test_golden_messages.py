"""The bytes of protocol 1.0, kept for ever: a later release must still write and read these.

`messages_1_0.json` holds them in hexadecimal digits. It is never regenerated; a new message adds
its own line, which the failing test prints.
"""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from message_examples import CLIENT_EXAMPLES, SERVER_EXAMPLES

from ex4d.protocol import codec
from ex4d.protocol.messages import ClientMessage, ServerMessage

GOLDEN = json.loads((Path(__file__).parent / "messages_1_0.json").read_text())
CASES = [
    *(("client", name, message) for name, message in CLIENT_EXAMPLES.items()),
    *(("server", name, message) for name, message in SERVER_EXAMPLES.items()),
]


@pytest.mark.parametrize(
    ("side", "name", "message"), CASES, ids=[f"{side} {name}" for side, name, _ in CASES]
)
def test_bytes_of_a_message_never_change(side: str, name: str, message: Any) -> None:
    header = codec.encode(message)
    assert GOLDEN[side].get(name) == header.hex()
    decode = codec.decode_client if side == "client" else codec.decode_server
    assert decode(bytes.fromhex(GOLDEN[side][name])) == message


@pytest.mark.parametrize(
    ("union", "examples"),
    [(ClientMessage, CLIENT_EXAMPLES), (ServerMessage, SERVER_EXAMPLES)],
    ids=["client", "server"],
)
def test_every_message_has_an_example(union: Any, examples: dict[str, Any]) -> None:
    assert {type(message) for message in examples.values()} == set(get_args(union))


def test_magic_names_the_major_version() -> None:
    assert codec.MAGIC == b"EX4D\x01"
