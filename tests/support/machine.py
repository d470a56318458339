"""A computer with the real client, for tests: it counts every chunk that passes."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from server_process import ServerProcess, make_key_pair

from ex4d.client import Client, ConnectionState, Endpoint, KeyPair
from ex4d.protocol.messages import BlobChunk, ClientMessage, JobEvent

TIMEOUT_S = 40.0


@dataclass
class Traffic:
    """Offset and length of each chunk that a client sent and got, in order."""

    sent: list[tuple[int, int]] = field(default_factory=list)
    received: list[tuple[int, int]] = field(default_factory=list)

    @property
    def sent_bytes(self) -> int:
        return sum(count for _, count in self.sent)

    @property
    def received_bytes(self) -> int:
        return sum(count for _, count in self.received)


class Machine:
    """A computer with the real client; it counts what passes through its session.

    Args:
        server: Whom it talks to.
        keys: Its own; new ones that nobody knows where absent.
        server_key: What it expects the server's key to be.
    """

    def __init__(
        self, server: ServerProcess, keys: KeyPair | None = None, server_key: str = ""
    ) -> None:
        self.keys = keys or KeyPair(*make_key_pair())
        endpoint = Endpoint(server.host, server.port, server_key or server.public_key)
        self.client = Client(endpoint, self.keys, app_version="test", client_name="laptop")
        self.traffic = Traffic()
        session = self.client._session
        send_chunk, receive = session.send_chunk, session.receive

        def count_sent(message: ClientMessage, payload: memoryview) -> bool:
            is_sent = send_chunk(message, payload)
            if is_sent and isinstance(message, BlobChunk):
                self.traffic.sent.append((message.offset_bytes, len(payload)))
            return is_sent

        def count_received():
            received = receive()
            if received is not None and isinstance(received.message, BlobChunk):
                self.traffic.received.append((received.message.offset_bytes, len(received.payload)))
            return received

        session.send_chunk = count_sent
        session.receive = count_received

    def run(self, is_over: Callable[[], object], budget_s: float = 0.008) -> None:
        """Poll until something holds."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not is_over():
            assert time.monotonic() < deadline_s, (self.client.state, self.client.problem)
            if not self.client.poll(budget_s):
                self.client.wait(0.05)

    def connect(self) -> "Machine":
        self.client.connect()
        self.run(lambda: self.client.state is ConnectionState.READY)
        return self

    def problem_code(self) -> str:
        self.run(lambda: self.client.problem)
        assert self.client.problem is not None
        return self.client.problem.code

    def jobs(self) -> tuple[JobEvent, ...]:
        answers: list[tuple[JobEvent, ...]] = []
        self.client.list_jobs(answers.append)
        self.run(lambda: answers)
        return answers[0]
