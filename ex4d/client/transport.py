"""One attempt at an encrypted connection: a DEALER socket and the monitor that tells its fate.

Everything here answers at once. libzmq encrypts, sends and receives in a thread of its own, so that
no Python thread is needed. A transport that failed is closed and another one takes its place:
nothing that an old connection still held can reach a new one.
"""

from enum import Enum
from typing import Any, NamedTuple

import zmq
from zmq.utils.monitor import recv_monitor_message

from ..errors import ProtocolError
from ..protocol import codec
from ..protocol.link import Endpoint
from ..protocol.messages import (
    MAX_HEADER_BYTES,
    MESSAGES_WITH_BYTES,
    PROTOCOL_MAJOR,
    ClientMessage,
    ServerMessage,
)
from .keys import KeyPair

#: A heartbeat each so often, and silence after which the connection counts as dead. libzmq's thread
#: answers them, so that a Blender which renders for an hour stays connected.
_HEARTBEAT_MS = 5_000
_HEARTBEAT_TIMEOUT_MS = 15_000
_HANDSHAKE_MS = 10_000


class Fate(Enum):
    """What the monitor says of a connection."""

    #: Encrypted and ready.
    UP = "up"
    #: There was no answer, or the other end closed.
    DOWN = "down"
    #: The other end does not know the client's key.
    KEY_UNKNOWN = "key_unknown"
    #: The other end could not prove to be the expected server.
    NO_HANDSHAKE = "no_handshake"


_FATES = {
    zmq.EVENT_HANDSHAKE_SUCCEEDED: Fate.UP,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: Fate.KEY_UNKNOWN,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: Fate.NO_HANDSHAKE,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: Fate.NO_HANDSHAKE,
    zmq.EVENT_DISCONNECTED: Fate.DOWN,
    zmq.EVENT_CLOSED: Fate.DOWN,
}


class Received(NamedTuple):
    """A message from the server."""

    message: ServerMessage
    #: The bytes of one of `MESSAGES_WITH_BYTES`; empty otherwise.
    payload: memoryview


class Transport:
    """One connection, or the attempt at one.

    Args:
        context: Whose I/O thread does the work.
        endpoint: The server.
        keys: The client's pair.
    """

    def __init__(self, context: "zmq.Context[Any]", endpoint: Endpoint, keys: KeyPair) -> None:
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        # Nothing is queued for a connection that does not exist.
        socket.setsockopt(zmq.IMMEDIATE, 1)
        # A new attempt is a new transport, at a time that the session chooses.
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, _HANDSHAKE_MS)
        socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TTL, 2 * _HEARTBEAT_TIMEOUT_MS)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        # Servers are not trusted either; the largest frame is a header.
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_HEADER_BYTES + 65536)
        # With it a name may resolve to an IPv6 address at which an IPv4 server does not listen.
        socket.setsockopt(zmq.IPV6, int(endpoint.is_ipv6))
        socket.setsockopt(zmq.CURVE_SERVERKEY, endpoint.server_public_key.encode("ascii"))
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public_key.encode("ascii"))
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret_key.encode("ascii"))
        events = 0
        for event in _FATES:
            events |= event
        self._socket = socket
        self._monitor: zmq.Socket[Any] = socket.get_monitor_socket(events)
        socket.connect(f"tcp://{endpoint.address}")

    def close(self) -> None:
        """Drop the connection and what it still held."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)

    def fate(self) -> Fate | None:
        """What happened to the connection since the last call; None if nothing did."""
        try:
            event = recv_monitor_message(self._monitor, zmq.NOBLOCK)
        except zmq.Again:
            return None
        return _FATES.get(zmq.Event(event["event"]))

    def send(self, message: ClientMessage, payload: memoryview | None = None) -> bool:
        """Hand a message over to libzmq.

        Returns:
            False if it takes no more at the moment; nothing was sent then.

        Raises:
            ProtocolError: `message_too_large`.
        """
        header = codec.encode(message)
        if len(header) > MAX_HEADER_BYTES:
            text = (
                f"expected a message of at most {MAX_HEADER_BYTES} bytes, found {len(header)}; "
                "submit fewer files"
            )
            raise ProtocolError("message_too_large", text)
        frames: list[bytes | memoryview] = [codec.MAGIC, header]
        if payload is not None:
            frames.append(payload)
        try:
            # Always by copying: without it pyzmq would start a Python thread for large frames.
            self._socket.send_multipart(frames, zmq.NOBLOCK, copy=True)
        except zmq.Again:
            return False
        return True

    def receive(self) -> Received | None:
        """The next message; None if there is none now.

        Raises:
            ProtocolError: `protocol_mismatch` or `message_invalid`.
        """
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        magic = frames[0].bytes if len(frames[0]) == len(codec.MAGIC) else b""
        if magic != codec.MAGIC:
            raise _not_ours(magic)
        if not 2 <= len(frames) <= 3:
            text = f"expected two or three frames, found {len(frames)}; update client and server"
            raise ProtocolError("message_invalid", text)
        message = codec.decode_server(frames[1].bytes)
        if isinstance(message, MESSAGES_WITH_BYTES) != (len(frames) == 3):
            kind = type(message).__name__
            text = (
                f"expected bytes with a chunk or a preview and nothing else, found {len(frames)} "
                f"frames of a {kind}; update client and server"
            )
            raise ProtocolError("message_invalid", text)
        return Received(message, frames[2].buffer if len(frames) == 3 else memoryview(b""))

    def wait(self, timeout_s: float, *, for_room: bool) -> None:
        """Sleep until something arrives or happens.

        Args:
            timeout_s: At most so long.
            for_room: Whether room for another message counts as well.
        """
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN | (zmq.POLLOUT if for_room else 0))
        poller.register(self._monitor, zmq.POLLIN)
        poller.poll(int(timeout_s * 1000) + 1)


def _not_ours(magic: bytes) -> ProtocolError:
    if magic[:-1] == codec.MAGIC[:-1]:
        text = (
            f"expected protocol {PROTOCOL_MAJOR}, found {magic[-1]} at the server; update the "
            "older of the two"
        )
        return ProtocolError("protocol_mismatch", text)
    text = "expected messages of EX-4D, found something else; check the server's address"
    return ProtocolError("message_invalid", text)
