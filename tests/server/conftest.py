"""A server for each test file, with a new user for each test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from raw_client import RawClient
from server_process import KeyPair, ServerProcess
from server_users import add_user


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server") / "data") as process:
        yield process
        assert "internal_error" not in process.log_text()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start servers that the test may kill; arguments are those of `ex4d serve`."""
    servers: list[ServerProcess] = []

    def start(*arguments: str) -> ServerProcess:
        process = ServerProcess(tmp_path / f"data-{len(servers)}", *arguments)
        servers.append(process)
        process.start()
        return process

    yield start
    for process in servers:
        process.stop()
        assert "internal_error" not in process.log_text()


@pytest.fixture
def connect() -> Iterator[Callable[..., RawClient]]:
    """Open connections that end with the test."""
    clients: list[RawClient] = []

    def open_client(
        server: ServerProcess, keys: KeyPair | None = None, **options: int
    ) -> RawClient:
        client = RawClient(server, keys, **options)
        clients.append(client)
        return client

    yield open_client
    for client in clients:
        client.close()


@pytest.fixture
def client(server: ServerProcess, connect: Callable[..., RawClient]) -> RawClient:
    """A new user's connection that has said hello."""
    _, keys = add_user(server)
    client = connect(server, keys)
    client.hello()
    return client
