# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to the server: an own local one or a remote one, and where the connection stands.

Knows nothing of Blender's data; `pump` calls `poll` and the panels show `status`.
"""

import getpass
import ipaddress
import platform
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ._vendor.client import Client, ConnectionState, Endpoint, KeyPair
from ._vendor.errors import Ex4dError
from ._vendor.protocol.messages import EstimatorInfo
from .local_server import LocalServer, ServerState


class LinkState(Enum):
    """What the user sees of the connection."""

    OFFLINE = "offline"
    STARTING = "starting"
    CONNECTING = "connecting"
    PAIRING = "pairing"
    READY = "ready"
    LOST = "lost"
    REFUSED = "refused"


_FROM_CLIENT = {
    ConnectionState.OFFLINE: LinkState.OFFLINE,
    ConnectionState.CONNECTING: LinkState.CONNECTING,
    ConnectionState.PAIRING: LinkState.PAIRING,
    ConnectionState.READY: LinkState.READY,
    ConnectionState.LOST: LinkState.LOST,
    ConnectionState.REFUSED: LinkState.REFUSED,
}


@dataclass(frozen=True)
class Status:
    """The connection in words."""

    state: LinkState
    headline: str
    #: What is wrong and what to do; empty where all is well.
    advice: str = ""


class Connection:
    """At most one session and at most one local server, which may outlive the session.

    Args:
        keys: This computer's identity.
        app_version: Told to the server.
    """

    def __init__(self, keys: KeyPair, app_version: str) -> None:
        self.keys = keys
        self.client: Client | None = None
        self.server: LocalServer | None = None
        self._app_version = app_version
        self._connect_when_started = False
        self._problem: Ex4dError | None = None
        self._pairing = False

    @property
    def endpoint(self) -> Endpoint | None:
        """Where the session goes to."""
        return None if self.client is None else self.client.endpoint

    @property
    def is_ready(self) -> bool:
        """Whether jobs can be submitted now."""
        return self.client is not None and self.client.state is ConnectionState.READY

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to poll."""
        server_needs_polling = self.server is not None and self.server.state in (
            ServerState.STARTING,
            ServerState.READY,
            ServerState.STOPPING,
        )
        return self.client is None and not server_needs_polling

    def connect(self, endpoint: Endpoint) -> None:
        """Begin a session with a server that knows this computer's key."""
        self.disconnect()
        self._open(endpoint).connect()

    def pair(self, endpoint: Endpoint, token: str) -> None:
        """Begin a session with a server that shall learn this computer's key."""
        self.disconnect()
        self._pairing = True
        self._open(endpoint).pair(token)

    def take_paired(self) -> Endpoint | None:
        """The server that has just learned this computer's key; told once."""
        if not self._pairing or not self.is_ready:
            return None
        self._pairing = False
        return self.endpoint

    def start_server(self, executable: Path, log_path: Path, *, connect: bool) -> None:
        """Start the local server, unless it runs, and connect once it listens.

        Raises:
            InputError: `server_executable` if it cannot be started.
        """
        self._connect_when_started = connect
        if self.server is not None and self.server.state is ServerState.READY:
            self._server_listens(self.server)
            return
        if self.server is not None:
            self.server.close()
        self._problem = None
        self.server = LocalServer(executable, self.keys.public_key, log_path)

    def stop_server(self) -> None:
        """End the local server and the session with it."""
        if self.server is not None:
            if self.is_local:
                self.disconnect()
            self._connect_when_started = False
            self.server.stop()

    @property
    def is_local(self) -> bool:
        """Whether the session goes to the local server that Blender started."""
        return (
            self.server is not None
            and self.endpoint is not None
            and self.endpoint.server_public_key == self.server.server_public_key
        )

    def disconnect(self) -> None:
        """End the session; jobs go on at the server, a local server goes on too."""
        self._problem = None
        self._connect_when_started = self._pairing = False
        if self.client is not None:
            self.client.close()
            self.client = None

    def close(self) -> None:
        """End everything, as when the extension is disabled."""
        self.disconnect()
        if self.server is not None:
            self.server.close()
            self.server = None

    def poll(self, budget_s: float) -> bool:
        """Do what is due within the time; true if anything changed."""
        changed = False
        if self.server is not None and self.server.poll():
            changed = True
            if self.server.state is ServerState.READY:
                self._server_listens(self.server)
            elif self.server.state is ServerState.FAILED:
                if self.is_local:
                    self.disconnect()
                self._problem = self.server.problem
        if self.client is not None:
            changed = self.client.poll(budget_s) or changed
        return changed

    def status(self) -> Status:
        """Where the connection stands."""
        if self.client is None:
            return self._status_without_client()
        state = _FROM_CLIENT[self.client.state]
        problem = self.client.problem
        advice = "" if problem is None else problem.message
        place = "this computer" if self.is_local else self.client.endpoint.host
        if state is LinkState.READY and self.client.welcome is not None:
            return Status(state, f"Connected to {place} as {self.client.welcome.user}")
        headline = {
            LinkState.OFFLINE: "Not connected",
            LinkState.CONNECTING: f"Connecting to {place}…",
            LinkState.PAIRING: f"Pairing with {place}…",
            LinkState.READY: f"Connected to {place}",
            LinkState.LOST: "Connection lost, trying again…",
            LinkState.REFUSED: f"Refused by {place}",
        }[state]
        return Status(state, headline, advice)

    def engine_problem(self, name: str) -> str:
        """Why the server cannot run an engine; empty where it can, or where nobody knows."""
        if self.client is None or self.client.welcome is None:
            return ""
        for engine in self.client.welcome.engines:
            if engine.name == name:
                return "" if engine.available else engine.reason
        return f"This server has no engine named {name}"

    def estimator(self, name: str) -> EstimatorInfo | None:
        """What the server says of an estimator; None where it says nothing."""
        if self.client is None or self.client.welcome is None:
            return None
        return next((e for e in self.client.welcome.estimators if e.name == name), None)

    def estimator_problem(self, name: str) -> str:
        """Why the server cannot run an estimator; empty where it can, or where nobody knows."""
        if self.client is None or self.client.welcome is None:
            return ""
        info = self.estimator(name)
        if info is None:
            return f"This server tells of no estimator {name}; choose a depth file, or update it"
        return "" if info.available else info.reason

    def _status_without_client(self) -> Status:
        if self.server is not None and self.server.state is ServerState.STARTING:
            return Status(LinkState.STARTING, "Starting the local server…")
        if self._problem is not None:
            return Status(LinkState.REFUSED, "No connection", self._problem.message)
        return Status(LinkState.OFFLINE, "Not connected")

    def _server_listens(self, server: LocalServer) -> None:
        if self._connect_when_started:
            self.connect(Endpoint("127.0.0.1", server.port, server.server_public_key))

    def _open(self, endpoint: Endpoint) -> Client:
        self.client = Client(
            endpoint, self.keys, app_version=self._app_version, client_name=_client_name()
        )
        return self.client


def is_loopback(host: str) -> bool:
    """Whether an address never leaves this computer."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _client_name() -> str:
    """What the server's owner will read: `anna on studio-laptop`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A user without a name, as in some containers.
        user = "someone"
    return f"{user} on {platform.node() or 'a computer'}"[:64]
