"""The clients that are connected, and what the server holds for each of them."""

import time
from collections import OrderedDict
from collections.abc import Callable

from ex4d.protocol.messages import (
    FINAL_STATES,
    PREVIEW_MINOR,
    REFINES_MINOR,
    TAKE_TIMES_MINOR,
    Error,
    JobEvent,
    JobPreview,
    Limits,
    ServerMessage,
    TakeTimes,
)

from .wire import Delivery, Wire

#: Beyond these the session that was silent for longest is forgotten.
MAX_SESSIONS = 1024
#: The same for a user: nobody shall push others out, or open more windows than the disk can empty.
MAX_USER_SESSIONS = 32
#: Messages that cannot be read, after which a session ends.
MAX_STRIKES = 20
#: Unfinished jobs that one session may watch.
MAX_WATCHES = 1000


class Session:
    """One connection of one user, from `hello` on.

    Args:
        routing_id: ZeroMQ's name of the connection.
        user: Whose key it uses.
        public_key: That key, in Z85.
        limits: The smaller ones of both sides.
        wire: Where its messages leave.
        minor: The client's minor version of the protocol: what it does not know it does not get.
    """

    def __init__(
        self,
        routing_id: bytes,
        user: str,
        public_key: str,
        limits: Limits,
        wire: Wire,
        *,
        minor: int,
    ) -> None:
        self.routing_id = routing_id
        self.user = user
        self.public_key = public_key
        self.limits = limits
        self._wire = wire
        self._minor = minor
        #: False once the peer is gone or was shut out; nothing is sent any more.
        self.is_open = True
        #: Bytes that the client may still send.
        self.upload_credit_bytes = 0
        #: Bytes that were written since the last credit; granted before the client runs short.
        self.owed_credit_bytes = 0
        #: Whether the client has got its first credit.
        self.is_upload_open = False
        #: Bytes that the client has allowed and not yet got.
        self.download_credit_bytes = 0
        #: Jobs whose events go to this session.
        self.watches: set[str] = set()
        #: Newest event of each job that could not be sent yet: older ones are not worth keeping.
        self._held_back: dict[str, JobEvent] = {}
        #: Newest preview, and its pixels, of each job that could not be sent yet.
        self._previews: dict[str, tuple[JobPreview, memoryview]] = {}
        #: Jobs of which a preview was sent that the client has not read yet.
        self._previews_under_way: set[str] = set()

    @property
    def leaves_refining_open(self) -> bool:
        """Whether silence about refined depth means what the server thinks best."""
        return self._minor >= REFINES_MINOR

    def send(self, message: ServerMessage, payload: memoryview | None = None) -> None:
        """Send a message; a peer that is gone, or asks without reading, loses its session."""
        if self.is_open:
            delivery = self._wire.send(self.routing_id, message, payload, user=self.user)
            self.is_open = delivery is Delivery.SENT

    def refuse(self, in_reply_to: str, code: str, message: str) -> None:
        """Tell the client that a request failed."""
        self.send(Error(in_reply_to=in_reply_to, code=code, message=message))

    def post(self, event: JobEvent) -> None:
        """Send an event, now or when the peer reads again; newer ones replace it meanwhile."""
        self._held_back[event.job_id] = event
        if event.state != "running":
            self._previews.pop(event.job_id, None)
        self.flush()

    def post_preview(self, preview: JobPreview, pixels: memoryview) -> None:
        """Send a preview once the client has read the one before; newer ones replace it meanwhile.

        A client that does not know previews gets none.
        """
        if self._minor >= PREVIEW_MINOR:
            self._previews[preview.job_id] = (preview, pixels)
            self.flush()

    def post_take_times(self, times: TakeTimes) -> None:
        """Send how long takes have taken, if there are any; of no use to wait for room."""
        if self._minor >= TAKE_TIMES_MINOR and times.times and self.is_open:
            delivery = self._wire.send(self.routing_id, times, user=self.user)
            self.is_open = delivery is not Delivery.GONE

    def preview_taken(self, job_id: str) -> None:
        """The client has read a job's preview."""
        self._previews_under_way.discard(job_id)
        self.flush()

    def flush(self) -> None:
        """Try to send what was held back, events first."""
        for job_id, event in list(self._held_back.items()):
            if not self.is_open:
                return
            delivery = self._wire.send(self.routing_id, event, user=self.user)
            if delivery is Delivery.FULL:
                return
            self.is_open = delivery is Delivery.SENT
            del self._held_back[job_id]
        for job_id, (preview, pixels) in list(self._previews.items()):
            if not self.is_open:
                return
            if job_id in self._previews_under_way:
                continue
            delivery = self._wire.send(self.routing_id, preview, pixels, user=self.user)
            if delivery is Delivery.FULL:
                return
            self.is_open = delivery is Delivery.SENT
            self._previews_under_way.add(job_id)
            del self._previews[job_id]


class Sessions:
    """All sessions by routing id.

    Args:
        on_close: Called for each session that ends.
    """

    def __init__(self, on_close: Callable[[Session], None]) -> None:
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        self._on_close = on_close

    def find(self, routing_id: bytes) -> Session | None:
        """The session of a connection; counts as a sign of life."""
        session = self._sessions.get(routing_id)
        if session is None or not session.is_open:
            return None
        self._sessions.move_to_end(routing_id)
        return session

    def add(self, session: Session) -> None:
        """Take a new session in place of an older one of the same connection."""
        self.close(session.routing_id)
        own = [other for other in self._sessions.values() if other.user == session.user]
        if len(own) >= MAX_USER_SESSIONS:
            self.close(own[0].routing_id)
        if len(self._sessions) >= MAX_SESSIONS:
            self.close(next(iter(self._sessions)))
        self._sessions[session.routing_id] = session

    def close(self, routing_id: bytes) -> None:
        """Forget a session; harmless if there is none."""
        session = self._sessions.pop(routing_id, None)
        if session:
            session.is_open = False
            self._on_close(session)

    def publish(self, user: str, event: JobEvent) -> None:
        """Send an event to those sessions of the user that watch its job."""
        for session in self._sessions.values():
            if session.user == user and event.job_id in session.watches:
                session.post(event)
                if event.state in FINAL_STATES:
                    session.watches.discard(event.job_id)

    def publish_preview(self, user: str, preview: JobPreview, pixels: memoryview) -> None:
        """Send a preview to those sessions of the user that watch its job."""
        for session in self._sessions.values():
            if session.user == user and preview.job_id in session.watches:
                session.post_preview(preview, pixels)

    def publish_take_times(self, user: str, times: TakeTimes) -> None:
        """Send to all sessions of a user how long takes have taken."""
        for session in self._sessions.values():
            if session.user == user:
                session.post_take_times(times)

    def tend(self) -> None:
        """Send what was held back and forget who is gone; to be called now and then."""
        for session in list(self._sessions.values()):
            session.flush()
            if not session.is_open:
                self.close(session.routing_id)

    def everyone(self) -> list[Session]:
        """All sessions."""
        return list(self._sessions.values())


class Conduct:
    """How connections behave: those that send rubbish get few answers, then none.

    It outlives sessions, and knows connections that never had one. Only the most recent ones are
    remembered.
    """

    def __init__(self) -> None:
        self._records: OrderedDict[bytes, _Record] = OrderedDict()

    def strike(self, routing_id: bytes) -> bool:
        """Count a bad message; true if the connection is shut out by this very one."""
        record = self._record(routing_id)
        record.strikes += 1
        return record.strikes == MAX_STRIKES

    def is_shut_out(self, routing_id: bytes) -> bool:
        """Whether the connection's messages are no longer read."""
        record = self._records.get(routing_id)
        return record is not None and record.strikes >= MAX_STRIKES

    def shut_out(self, routing_id: bytes) -> None:
        """Read no more messages of this connection."""
        self._record(routing_id).strikes = MAX_STRIKES

    def may_answer(self, routing_id: bytes) -> bool:
        """Whether one more complaint is due: at most ten at once, then two a second."""
        record = self._record(routing_id)
        now_s = time.monotonic()
        record.answers = min(10.0, record.answers + (now_s - record.updated_s) * 2.0)
        record.updated_s = now_s
        if record.answers < 1.0:
            return False
        record.answers -= 1.0
        return True

    def _record(self, routing_id: bytes) -> "_Record":
        record = self._records.get(routing_id)
        if record is None:
            record = self._records[routing_id] = _Record()
            if len(self._records) > 4 * MAX_SESSIONS:
                self._records.popitem(last=False)
        return record


class _Record:
    def __init__(self) -> None:
        self.strikes = 0
        self.answers = 10.0
        self.updated_s = time.monotonic()
