"""The session with the server: connecting, pairing, greeting, and doing so again after a loss."""

import time
import uuid
from collections import deque
from enum import Enum
from typing import Any

import zmq

from ..errors import Ex4dError, ProtocolError, TransferError
from ..protocol.link import Endpoint
from ..protocol.messages import (
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    ClientMessage,
    Error,
    Hello,
    Limits,
    Pair,
    Paired,
    Ping,
    Pong,
    ServerMessage,
    TakeTime,
    TakeTimes,
    Welcome,
)
from .keys import KeyPair
from .transport import Fate, Received, Transport

#: Smaller than the protocol allows: a slice of work handles one chunk.
OUR_LIMITS = Limits(max_chunk_bytes=256 << 10)

#: Pauses between attempts: the first, then twice as long each time up to the longest.
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
#: How long connecting, and each answer that the session itself waits for, may take.
ANSWER_TIMEOUT_S = 20.0
#: A server that said nothing for so long is asked whether it is still there.
PING_AFTER_S = 15.0

#: Errors that trying again does not mend.
_REFUSALS = frozenset(
    {"key_unknown", "key_revoked", "pairing_refused", "pairing_rate", "protocol_mismatch"}
)
#: Errors after which the server listens to a new connection only.
_ENDINGS = frozenset({"hello_required", "credit_exceeded", "chunk_size"})


class ConnectionState(Enum):
    """Where the connection stands."""

    #: Not wanted.
    OFFLINE = "offline"
    #: On its way for the first time; `problem` says why it takes long.
    CONNECTING = "connecting"
    PAIRING = "pairing"
    #: Jobs and files flow.
    READY = "ready"
    #: It was there and is being made again.
    LOST = "lost"
    #: The server will not have it; `problem` says why. Nothing happens until `connect` or `pair`.
    REFUSED = "refused"


class Session:
    """Keeps a connection to one server.

    Args:
        endpoint: The server.
        keys: The client's pair.
        app_version: Told to the server.
        client_name: Told to the server when pairing.
    """

    def __init__(
        self, endpoint: Endpoint, keys: KeyPair, app_version: str, client_name: str
    ) -> None:
        self.endpoint = endpoint
        self.state = ConnectionState.OFFLINE
        #: What is wrong with the connection; None while all is well.
        self.problem: Ex4dError | None = None
        #: What the server said of itself, the last time.
        self.welcome: Welcome | None = None
        #: How long takes took on the server, the newest first.
        self.take_times: tuple[TakeTime, ...] = ()
        #: Grows by one each time that the session becomes ready: what an earlier one was asked
        #: for must be asked for again.
        self.generation = 0
        self._keys = keys
        self._app_version = app_version
        self._client_name = client_name
        self._token = ""
        self._context: zmq.Context[Any] | None = None
        self._transport: Transport | None = None
        #: Messages that libzmq did not take yet.
        self._outbox: deque[ClientMessage] = deque()
        #: The request of the session itself that is not answered yet, and until when it should be.
        self._asked_id = ""
        self._deadline_s = 0.0
        #: When the next attempt is due, and the pause after the one that fails next.
        self._retry_s = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._ready_s = 0.0
        self._heard_s = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether jobs and files flow."""
        return self.state is ConnectionState.READY

    @property
    def limits(self) -> Limits:
        """The smaller limits of both ends."""
        theirs = self.welcome.limits if self.welcome else OUR_LIMITS
        return Limits(
            max_chunk_bytes=min(theirs.max_chunk_bytes, OUR_LIMITS.max_chunk_bytes),
            window_bytes=min(theirs.window_bytes, OUR_LIMITS.window_bytes),
        )

    def open(self, token: str = "") -> None:
        """Begin to connect, and to pair first if there is a token."""
        self.close()
        self._token = token
        self._pause_s = FIRST_PAUSE_S
        self.state = ConnectionState.PAIRING if token else ConnectionState.CONNECTING
        self._context = zmq.Context()
        self._attempt()

    def close(self) -> None:
        """End the session."""
        self._drop()
        if self._context is not None:
            self._context.term()
            self._context = None
        self.state = ConnectionState.OFFLINE
        self.problem = None
        self._token = ""

    def post(self, message: ClientMessage) -> None:
        """Send a message as soon as there is room. It is dropped with the connection.

        Raises:
            ProtocolError: `message_too_large`.
        """
        if self._transport is None:
            return
        if self._outbox or not self._transport.send(message):
            self._outbox.append(message)

    def send_chunk(self, message: ClientMessage, payload: memoryview) -> bool:
        """Send bytes now; false if there is no room for them."""
        if self._transport is None or self._outbox:
            return False
        return self._transport.send(message, payload)

    def restart(self, problem: Ex4dError) -> None:
        """Give the connection up and make another one after a pause."""
        self._drop()
        self.problem = problem
        now_s = time.monotonic()
        if self.state is ConnectionState.READY:
            self.state = ConnectionState.LOST
            # A server that greets and fails soon after is no reason to hurry.
            if now_s - self._ready_s > LONGEST_PAUSE_S:
                self._pause_s = FIRST_PAUSE_S
        self._retry_s = now_s + self._pause_s
        self._pause_s = min(2.0 * self._pause_s, LONGEST_PAUSE_S)

    def receive(self) -> Received | None:
        """The next message, also where it was the session's own business; None: there is none."""
        if self._transport is None:
            return None
        try:
            received = self._transport.receive()
        except ProtocolError as error:
            self._fail(error)
            return None
        if received is not None:
            self._heard_s = time.monotonic()
            self._handle(received.message)
        return received

    def tend(self) -> None:
        """Note what became of the connection and do what is due.

        To be called when `receive` returned None, so that an answer which is already here is never
        missed: the caller may have been away for minutes.
        """
        if self._transport is not None:
            self._note_fate(self._transport)
        if self._transport is not None:
            while self._outbox and self._transport.send(self._outbox[0]):
                self._outbox.popleft()
            self._check_time()
        elif self._is_wanted() and time.monotonic() >= self._retry_s:
            self._attempt()

    def wait(self, timeout_s: float, *, for_room: bool) -> None:
        """Sleep until there may be something to do.

        Args:
            timeout_s: At most so long.
            for_room: Whether there are bytes to send.
        """
        if self._transport is not None:
            self._transport.wait(timeout_s, for_room=for_room or bool(self._outbox))
        elif self._is_wanted():
            time.sleep(max(0.0, min(timeout_s, self._retry_s - time.monotonic())))
        else:
            time.sleep(timeout_s)

    def _is_wanted(self) -> bool:
        return self.state not in (ConnectionState.OFFLINE, ConnectionState.REFUSED)

    def _attempt(self) -> None:
        assert self._context is not None  # noqa: S101 - made by `open`
        self._transport = Transport(self._context, self.endpoint, self._keys)
        self._deadline_s = time.monotonic() + ANSWER_TIMEOUT_S

    def _drop(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        self._outbox.clear()
        self._asked_id = ""

    def _fail(self, error: Ex4dError) -> None:
        """Give up for good if trying again does not help, otherwise for a while."""
        if error.code not in _REFUSALS:
            self.restart(error)
            return
        self._drop()
        self.state = ConnectionState.REFUSED
        self.problem = self._unknown_key() if error.code == "key_unknown" else error

    def _note_fate(self, transport: Transport) -> None:
        where = self.endpoint.address
        match transport.fate():
            case Fate.UP:
                self._greet()
            case Fate.KEY_UNKNOWN:
                self._fail(self._unknown_key())
            case Fate.NO_HANDSHAKE:
                text = (
                    f"expected the server at {where} to prove that it has the key "
                    f"{self.endpoint.server_public_key}, found that it cannot; if the server was "
                    "set up anew, pair with it again"
                )
                self.restart(ProtocolError("server_key", text))
            case Fate.DOWN if self.state is ConnectionState.READY:
                text = f"The connection to {where} was interrupted; it is being made again."
                self.restart(TransferError("connection_lost", text))
            case Fate.DOWN:
                text = (
                    f"expected an EX-4D server at {where}, found none that answers; check that it "
                    "runs, its address, and the firewall"
                )
                self.restart(TransferError("unreachable", text))
            case None:
                pass

    def _greet(self) -> None:
        """Pair if that is still to be done, then say hello."""
        self._asked_id = uuid.uuid4().hex
        self._deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        if self._token:
            self.post(
                Pair(request_id=self._asked_id, token=self._token, client_name=self._client_name)
            )
            return
        self.post(
            Hello(
                request_id=self._asked_id,
                protocol_major=PROTOCOL_MAJOR,
                protocol_minor=PROTOCOL_MINOR,
                app_version=self._app_version,
                limits=OUR_LIMITS,
            )
        )

    def _handle(self, message: ServerMessage) -> None:
        """Deal with a message if it concerns the session itself."""
        if isinstance(message, Error) and message.code in _REFUSALS | _ENDINGS:
            self._fail(ProtocolError(message.code, message.message))
        elif isinstance(message, TakeTimes):
            self.take_times = message.times
        elif (
            isinstance(message, Welcome | Paired | Pong | Error)
            and self._asked_id
            and message.in_reply_to == self._asked_id
        ):
            self._asked_id = ""
            self._answer(message)

    def _answer(self, message: Welcome | Paired | Pong | Error) -> None:
        """Go on with what the session had asked for."""
        if isinstance(message, Error):
            self._fail(ProtocolError(message.code, message.message))
        elif isinstance(message, Paired):
            self._token = ""
            self.state = ConnectionState.CONNECTING
            self._greet()
        elif isinstance(message, Welcome):
            self._become_ready(message)

    def _become_ready(self, welcome: Welcome) -> None:
        if welcome.protocol_major != PROTOCOL_MAJOR:
            text = (
                f"expected protocol {PROTOCOL_MAJOR} (this is version {self._app_version}), found "
                f"{welcome.protocol_major} (server {welcome.app_version}); update the older one"
            )
            self._fail(ProtocolError("protocol_mismatch", text))
            return
        self.welcome = welcome
        self.problem = None
        self.state = ConnectionState.READY
        self.generation += 1
        self._ready_s = time.monotonic()

    def _check_time(self) -> None:
        """Ask a silent server for a sign of life; give up one that does not answer."""
        now_s = time.monotonic()
        if self._asked_id or not self.is_ready:
            if now_s > self._deadline_s:
                text = (
                    f"expected an answer from {self.endpoint.address} within "
                    f"{ANSWER_TIMEOUT_S:.0f} s, found none; it is being tried again"
                )
                self.restart(TransferError("no_answer", text))
        elif now_s - self._heard_s > PING_AFTER_S:
            self._asked_id = uuid.uuid4().hex
            self._deadline_s = now_s + ANSWER_TIMEOUT_S
            self.post(Ping(request_id=self._asked_id))

    def _unknown_key(self) -> ProtocolError:
        text = (
            f"expected the server at {self.endpoint.address} to know this computer's key, found "
            f"that it does not. Ask its owner for a pairing link (`ex4d keys pair NAME`), or to "
            f"let this key in (`ex4d keys authorise NAME KEY`): {self._keys.public_key}"
        )
        return ProtocolError("key_unknown", text)
