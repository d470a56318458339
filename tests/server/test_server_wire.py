"""What waits in libzmq for peers that do not read is bounded for each user."""

import asyncio

import pytest
import zmq
from ex4d_server import wire
from ex4d_server.wire import Delivery, Wire

from ex4d.protocol.messages import BlobChunk

MIB = 1 << 20
CHUNK = BlobChunk(sha256="0" * 64, offset_bytes=0)
#: What the system's own buffers may take of what was sent.
SYSTEM_BYTES = 16 * MIB


def test_large_messages_wait_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_QUEUED_BYTES", 8 * MIB)
    payload = memoryview(bytes(MIB))

    def fill(sender: Wire, name: bytes, user: str) -> int:
        """How many chunks are taken before the wire is full."""
        for count in range(1000):
            if sender.send(name, CHUNK, payload, user=user) is Delivery.FULL:
                return count
        raise AssertionError("expected the wire to be full at last")

    async def scenario() -> None:
        router = context.socket(zmq.ROUTER)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        dealers = {}
        for name in (b"first", b"second", b"other"):
            dealers[name] = context.socket(zmq.DEALER)
            dealers[name].setsockopt(zmq.RCVHWM, 1)
            dealers[name].setsockopt(zmq.ROUTING_ID, name)
            dealers[name].connect(f"tcp://127.0.0.1:{port}")
            dealers[name].send(b"hello")
            assert router.recv_multipart() == [name, b"hello"]
        sender = Wire(router)
        taken = fill(sender, b"first", "ada")
        # The system takes more now and then.
        while more := fill(sender, b"first", "ada"):
            taken += more
            await asyncio.sleep(0.1)
        assert 8 * MIB <= taken * MIB <= 8 * MIB + SYSTEM_BYTES
        # Or as much as the system took in the meantime.
        assert fill(sender, b"second", "ada") <= 2, "the user's other connection has no more room"
        assert fill(sender, b"other", "bob") >= 8, "another user has"
        # Small messages go out, so that the client can be told.
        assert sender.send(b"first", CHUNK, user="ada") is Delivery.SENT
        for _ in range(taken):
            assert await asyncio.to_thread(dealers[b"first"].recv_multipart)
        assert fill(sender, b"second", "ada") >= 8, "what was read counts no more"
        for socket in (router, *dealers.values()):
            socket.close(linger=0)

    with zmq.Context() as context:
        asyncio.run(scenario())
