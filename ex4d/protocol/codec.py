"""Messages to bytes and back, with limits that hold before anything is allocated."""

from collections.abc import Callable
from typing import Any

import msgpack  # pyright: ignore[reportMissingTypeStubs]
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

# msgpack has no types of its own.
_pack: Callable[[Any], bytes] = msgpack.packb  # pyright: ignore
_unpack: Callable[..., Any] = msgpack.unpackb  # pyright: ignore


def encode(message: ClientMessage | ServerMessage) -> bytes:
    """Pack a message as MessagePack."""
    return _pack(msgspec.to_builtins(message))


def decode_client(header: bytes) -> ClientMessage:
    """Read what a client sent.

    Raises:
        ProtocolError: `message_invalid`, with what was wrong.
    """
    return _decode(header, ClientMessage)


def decode_server(header: bytes) -> ServerMessage:
    """Read what a server sent.

    Raises:
        ProtocolError: `message_invalid`, with what was wrong.
    """
    return _decode(header, ServerMessage)


def _decode(header: bytes, kind: Any) -> Any:
    if len(header) > MAX_HEADER_BYTES:
        msg = f"expected a message of at most {MAX_HEADER_BYTES} bytes, found {len(header)}"
        raise ProtocolError("message_invalid", msg)
    try:
        plain = _unpack(
            header,
            raw=False,
            strict_map_key=True,
            max_array_len=MAX_FILES_PER_MESSAGE,
            max_map_len=64,
            max_str_len=8192,
            max_bin_len=0,
            max_ext_len=0,
        )
        return msgspec.convert(plain, kind)
    # RecursionError and StackError (a ValueError): nesting bombs.
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException) as error:
        msg = f"expected a message of this protocol, found one that is not: {error}"
        raise ProtocolError("message_invalid", msg[:1000]) from None
