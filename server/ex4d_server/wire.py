"""The encrypted socket: how it is opened, and how messages leave through it."""

import asyncio
from enum import Enum
from typing import cast

import zmq
import zmq.asyncio

from ex4d.errors import InputError
from ex4d.protocol import codec
from ex4d.protocol.messages import MAX_HEADER_BYTES, ServerMessage

from .auth import ZAP_DOMAIN
from .keys import ServerKeys


class Delivery(Enum):
    """What became of a message."""

    SENT = "sent"
    #: The peer does not read.
    FULL = "full"
    #: The peer is not there any more.
    GONE = "gone"


class Outlet:
    """Sends messages without ever waiting.

    Args:
        socket: The ROUTER.
    """

    def __init__(self, socket: zmq.asyncio.Socket) -> None:
        self._socket = socket

    def send(
        self, routing_id: bytes, message: ServerMessage, payload: bytes | None = None
    ) -> Delivery:
        """Send one message to one peer."""
        frames = [routing_id, codec.MAGIC, codec.encode(message)]
        if payload is not None:
            frames.append(payload)
        try:
            # Told not to wait, the socket answers at once: the future is done already.
            sent = self._socket.send_multipart(frames, zmq.NOBLOCK)  # pyright: ignore[reportUnknownMemberType]
            cast("asyncio.Future[None]", sent).result()
        except zmq.Again:
            return Delivery.FULL
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return Delivery.GONE
        return Delivery.SENT


def open_socket(
    context: zmq.asyncio.Context, keys: ServerKeys, bind: str, port: int
) -> tuple[zmq.asyncio.Socket, int]:
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
