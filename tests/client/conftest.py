"""The model of a server, and a client that is connected to it."""

from collections.abc import Iterator

import pytest
from model_server import ModelServer

from ex4d.client import Client


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture
def client(server: ModelServer) -> Iterator[Client]:
    client = server.client()
    client.connect()
    server.settle(client)
    yield client
    client.close()
