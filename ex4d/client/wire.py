"""One encrypted connection: frames in, frames out, and what becomes of the connection itself."""

from enum import Enum

import zmq
from zmq.utils.monitor import recv_monitor_message

from ..errors import ProtocolError
from ..protocol import codec
from ..protocol.link import Endpoint
from ..protocol.messages import MAX_CHUNK_BYTES, BlobChunk, ClientMessage, ServerMessage
from .keys import KeyPair

_RECONNECT_MS = 1_000
_MAX_RECONNECT_MS = 30_000
_CONNECT_TIMEOUT_MS = 10_000
_HEARTBEAT_MS = 5_000
_HEARTBEAT_TIMEOUT_MS = 15_000
_HANDSHAKE_MS = 10_000
#: Holds more than a whole window of chunks: libzmq must never be what says stop.
_QUEUE_MESSAGES = 4_096
#: A frame above the largest chunk is refused by libzmq itself; CURVE adds 33 bytes.
_MAX_FRAME_BYTES = MAX_CHUNK_BYTES * 4 + (64 << 10)


class WireEvent(Enum):
    """What becomes of the connection."""

    #: Encrypted and open.
    CONNECTED = "connected"
    #: It was open and is no longer; libzmq tries again by itself.
    DISCONNECTED = "disconnected"
    #: Nobody listens there, or nobody answered in time; libzmq tries again.
    UNREACHABLE = "unreachable"
    #: The server does not know our key.
    KEY_REFUSED = "key_refused"
    #: The other end is no server of ours, or has another key than ours says.
    HANDSHAKE_FAILED = "handshake_failed"


_EVENTS: dict[int, WireEvent] = {
    zmq.EVENT_HANDSHAKE_SUCCEEDED: WireEvent.CONNECTED,
    zmq.EVENT_DISCONNECTED: WireEvent.DISCONNECTED,
    zmq.EVENT_CLOSED: WireEvent.UNREACHABLE,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: WireEvent.KEY_REFUSED,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: WireEvent.HANDSHAKE_FAILED,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: WireEvent.HANDSHAKE_FAILED,
}


class Wire:
    """A DEALER socket under CURVE, with its monitor.

    Args:
        endpoint: Whom to connect to.
        keys: Who we are.
    """

    def __init__(self, endpoint: Endpoint, keys: KeyPair) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            # Nothing is queued for a connection that does not exist yet.
            (zmq.IMMEDIATE, 1),
            (zmq.RECONNECT_IVL, _RECONNECT_MS),
            (zmq.RECONNECT_IVL_MAX, _MAX_RECONNECT_MS),
            (zmq.CONNECT_TIMEOUT, _CONNECT_TIMEOUT_MS),
            (zmq.HEARTBEAT_IVL, _HEARTBEAT_MS),
            (zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS),
            (zmq.HANDSHAKE_IVL, _HANDSHAKE_MS),
            (zmq.MAXMSGSIZE, _MAX_FRAME_BYTES),
            (zmq.SNDHWM, _QUEUE_MESSAGES),
            (zmq.RCVHWM, _QUEUE_MESSAGES),
            (zmq.IPV6, 1),
        ):
            self._socket.setsockopt(option, value)
        self._socket.curve_serverkey = endpoint.server_public_key.encode("ascii")
        self._socket.curve_publickey = keys.public_key.encode("ascii")
        self._socket.curve_secretkey = keys.secret_key.encode("ascii")
        mask = 0
        for event in _EVENTS:
            mask |= event
        self._monitor = self._socket.get_monitor_socket(mask)
        self._socket.connect(endpoint.address)

    def send(self, message: ClientMessage, payload: bytes | None = None) -> bool:
        """Send without waiting; false where there is no connection to send on.

        Args:
            message: Any message of a client.
            payload: The bytes of a `BlobChunk`.
        """
        frames = [codec.MAGIC, codec.encode(message)]
        if payload is not None:
            frames.append(payload)
        try:
            # A copying send: without, pyzmq starts a Python thread for larger frames.
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> tuple[ServerMessage, bytes] | None:
        """The next message and the bytes of a chunk; None where there is none.

        Raises:
            ProtocolError: `message_invalid` if it is none of the protocol.
        """
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        if not 2 <= len(frames) <= 3 or frames[0] != codec.MAGIC:
            msg = f"expected a message of EX-4D, found {len(frames)} frames of something else"
            raise ProtocolError("message_invalid", msg)
        message = codec.decode_server(frames[1])
        if isinstance(message, BlobChunk) != (len(frames) == 3):
            msg = f"expected bytes with a chunk and with nothing else, found {len(frames)} frames"
            raise ProtocolError("message_invalid", msg)
        return message, frames[2] if len(frames) == 3 else b""

    def events(self) -> list[WireEvent]:
        """What became of the connection since the last call, oldest first."""
        found: list[WireEvent] = []
        while self._monitor.poll(0):
            event = _EVENTS.get(recv_monitor_message(self._monitor)["event"])
            if event is not None:
                found.append(event)
        return found

    def wait(self, timeout_s: float) -> None:
        """Sleep until something can be read or the time is over."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        poller.poll(int(timeout_s * 1000))

    def close(self) -> None:
        """End the connection at once."""
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)
        self._context.term()
