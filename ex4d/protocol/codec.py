"""Messages to bytes and back, with limits that hold before anything is allocated."""

import math
from typing import Any, cast, get_args

import msgpack
import msgspec

from ..errors import ProtocolError
from .messages import (
    MAX_FILES_PER_MESSAGE,
    MAX_HEADER_BYTES,
    ClientMessage,
    ServerMessage,
)

#: First frame of every message: the protocol's name and its major version.
MAGIC = b"EX4D\x01"


def _kinds_by_tag(union: Any) -> dict[object, Any]:
    return {kind.__struct_config__.tag: kind for kind in get_args(union)}


# msgspec would examine a union anew for each message, which takes longer than all the rest.
_CLIENT_KINDS = _kinds_by_tag(ClientMessage)
_SERVER_KINDS = _kinds_by_tag(ServerMessage)


def encode(message: ClientMessage | ServerMessage) -> bytes:
    """Pack a message as MessagePack."""
    return msgpack.packb(msgspec.to_builtins(message))


def decode_client(header: bytes) -> ClientMessage:
    """Read what a client sent.

    Raises:
        ProtocolError: `message_invalid`, with what was wrong.
    """
    return _decode(header, _CLIENT_KINDS)


def decode_server(header: bytes) -> ServerMessage:
    """Read what a server sent.

    Raises:
        ProtocolError: `message_invalid`, with what was wrong.
    """
    return _decode(header, _SERVER_KINDS)


def _decode(header: bytes, kinds: dict[object, Any]) -> Any:
    if len(header) > MAX_HEADER_BYTES:
        msg = f"expected a message of at most {MAX_HEADER_BYTES} bytes, found {len(header)}"
        raise ProtocolError("message_invalid", msg)
    try:
        plain = msgpack.unpackb(
            header,
            raw=False,
            strict_map_key=True,
            max_array_len=MAX_FILES_PER_MESSAGE,
            max_map_len=64,
            max_str_len=8192,
            max_bin_len=0,
            max_ext_len=0,
        )
        _check_finite(plain)
        return msgspec.convert(plain, _kind_of(plain, kinds))
    # RecursionError and StackError (a ValueError): nesting bombs.
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException) as error:
        msg = f"expected a message of this protocol, found one that is not: {error}"
        raise ProtocolError("message_invalid", msg[:1000]) from None


def _kind_of(plain: object, kinds: dict[object, Any]) -> Any:
    """The type that a message says it is of.

    Raises:
        ValueError: If it says none that is known.
    """
    tag = cast("dict[object, object]", plain).get("type") if isinstance(plain, dict) else None
    if not isinstance(tag, str) or tag not in kinds:
        msg = f"found the type {str(tag)[:64]!r}"
        raise ValueError(msg)
    return kinds[tag]


def _check_finite(plain: object) -> None:
    """Refuse NaN and infinity, which limits such as "at least 0" let through.

    Raises:
        ValueError: If there is one.
    """
    todo = [plain]
    while todo:
        value = todo.pop()
        if isinstance(value, float):
            if not math.isfinite(value):
                msg = f"found {value} where a finite number was expected"
                raise ValueError(msg)
        elif isinstance(value, dict):
            todo.extend(cast("dict[object, object]", value).values())
        elif isinstance(value, list):
            todo.extend(cast("list[object]", value))
