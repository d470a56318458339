"""The encrypted socket: how it is opened, and how messages pass through it."""

import asyncio
from collections.abc import Callable, Sequence
from enum import Enum
from typing import cast

import zmq

from ex4d.errors import InputError
from ex4d.protocol import codec
from ex4d.protocol.messages import MAX_HEADER_BYTES, ServerMessage

from .auth import ZAP_DOMAIN
from .keys import ServerKeys

#: After so many messages in a row the other tasks get their turn.
_BURST = 16
#: Parts of messages from this size on are counted until the system has taken them. Of smaller ones
#: libzmq's own limit lets 16 MiB wait for a connection.
_COUNTED_BYTES = 16 << 10
#: What may wait in libzmq for all connections of a user: the windows of sixteen that read slowly.
MAX_QUEUED_BYTES = 256 << 20


class Delivery(Enum):
    """What became of a message."""

    SENT = "sent"
    #: The peer does not read, or all connections of its user together do not read enough.
    FULL = "full"
    #: The peer is not there any more.
    GONE = "gone"


class _Held:
    """The large parts of messages to one user that libzmq may still hold."""

    def __init__(self) -> None:
        self._parts: list[tuple[zmq.MessageTracker, int]] = []
        self._size_bytes = 0

    def has_room(self, more_bytes: int) -> bool:
        """Whether so much more may be sent; only asks what has left where it matters."""
        if self._size_bytes + more_bytes > MAX_QUEUED_BYTES:
            self._parts = [part for part in self._parts if not part[0].done]
            self._size_bytes = sum(size for _, size in self._parts)
        return self._size_bytes + more_bytes <= MAX_QUEUED_BYTES

    def add(self, parts: list[tuple[zmq.MessageTracker, int]]) -> None:
        """These were sent."""
        self._parts += parts
        self._size_bytes += sum(size for _, size in parts)


class Wire:
    """The socket in the event loop: sends without ever waiting, reads a burst at a time.

    libzmq's descriptor tells that something has changed, once; any call on the socket may use that
    up. So whoever has sent also looks whether there is something to read. (`zmq.asyncio` does the
    same with a future for each message, which costs a fifth of the speed of uploads.)

    Args:
        socket: The bound ROUTER.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._descriptor = cast("int", socket.getsockopt(zmq.FD))
        self._loop = asyncio.get_running_loop()
        self._handle: Callable[[Sequence[zmq.Frame]], None] | None = None
        self._is_read_due = False
        self._held: dict[str, _Held] = {}

    def start(self, handle: Callable[[Sequence[zmq.Frame]], None]) -> None:
        """Hand every message's frames to `handle`, which must not raise."""
        self._handle = handle
        self._loop.add_reader(self._descriptor, self._read)
        self._read_soon()

    def stop(self) -> None:
        """Read no more; sending still works."""
        self._handle = None
        self._loop.remove_reader(self._descriptor)

    def send(
        self,
        routing_id: bytes,
        message: ServerMessage,
        payload: memoryview | None = None,
        *,
        user: str = "",
    ) -> Delivery:
        """Send one message to one peer.

        Credit and requests are no proof that somebody reads: what waits in libzmq is measured.

        Args:
            routing_id: ZeroMQ's name of the connection.
            message: What to send.
            payload: The third frame; copied, since the sender's buffer is used again at once.
            user: Whose connection it is; empty for messages that are small.
        """
        frames: list[bytes | zmq.Frame] = [routing_id, codec.MAGIC]
        counted: list[tuple[zmq.MessageTracker, int]] = []
        parts = [codec.encode(message)]
        if payload is not None:
            parts.append(bytes(payload))
        for part in parts:
            if len(part) < _COUNTED_BYTES:
                frames.append(part)
                continue
            frame = zmq.Frame(part, track=True, copy=False)
            counted.append((cast("zmq.MessageTracker", frame.tracker), len(part)))
            frames.append(frame)
        held = self._held.setdefault(user, _Held()) if counted else None
        if held is not None and not held.has_room(sum(size for _, size in counted)):
            return Delivery.FULL
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK, copy=not counted)
        except zmq.Again:
            return Delivery.FULL
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return Delivery.GONE
        finally:
            self._read_soon()
        if held is not None:
            held.add(counted)
        return Delivery.SENT

    def _read_soon(self) -> None:
        if not self._is_read_due:
            self._is_read_due = True
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        self._is_read_due = False
        for _ in range(_BURST):
            if self._handle is None:
                return
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._handle(frames)
        # There may be more; first the other tasks get their turn.
        self._read_soon()


def open_socket(
    context: zmq.Context[zmq.Socket[bytes]], keys: ServerKeys, bind: str, port: int
) -> tuple[zmq.Socket[bytes], int]:
    """Bind the encrypted socket.

    Args:
        context: Where the authenticator already runs.
        keys: The server's pair.
        bind: Address, for example 127.0.0.1 or ::1.
        port: TCP port; 0: any free one.

    Returns:
        The socket and its port.

    Raises:
        InputError: `no_curve` if libzmq cannot encrypt, `address_in_use` if it cannot be bound.
    """
    if not zmq.has("curve"):
        msg = "expected a libzmq with CURVE encryption, found one without; install pyzmq's wheel"
        raise InputError("no_curve", msg)
    socket = context.socket(zmq.ROUTER)
    # Without it a ROUTER silently drops what a full or vanished peer does not take.
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    # Per frame; libzmq drops the connection of whoever sends more.
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_HEADER_BYTES + 65536)
    # What libzmq queues lies outside of what credit bounds, so let it be little.
    socket.setsockopt(zmq.RCVHWM, 64)
    socket.setsockopt(zmq.SNDHWM, 1024)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 5_000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15_000)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 30_000)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 10_000)
    socket.setsockopt(zmq.LINGER, 1_000)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN.encode("ascii"))
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public_key.encode("ascii"))
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret_key.encode("ascii"))
    host = f"[{bind}]" if ":" in bind else bind
    try:
        socket.bind(f"tcp://{host}:{port or '*'}")
    except zmq.ZMQError as error:
        socket.close(linger=0)
        msg = f"expected to listen on {bind} port {port}, found: {error.strerror}; choose another"
        raise InputError("address_in_use", msg) from error
    endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    return socket, int(endpoint.rpartition(":")[2])
