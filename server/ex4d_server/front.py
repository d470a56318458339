"""Reads messages off the socket, checks them, hands them on, answers.

Nothing is decoded before the sender's key is known, and of an unknown key nothing but `pair`.
Whatever a client does, the loop goes on, and what the server holds for it stays bounded.
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import structlog
import zmq
from msgspec import structs

from ex4d import __version__
from ex4d.errors import Ex4dError, InputError, ProtocolError
from ex4d.protocol import codec
from ex4d.protocol.messages import (
    ESTIMATORS_MINOR,
    FINAL_STATES,
    MESSAGES_WITH_BYTES,
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    BlobAbort,
    BlobChunk,
    BlobCredit,
    BlobFetch,
    BlobOffer,
    ClientMessage,
    Error,
    Hello,
    JobAccepted,
    JobCancel,
    JobEvent,
    JobList,
    JobListRequest,
    JobPreviewTaken,
    JobSubmit,
    JobWatch,
    Limits,
    Pair,
    Paired,
    Ping,
    Pong,
    ReconstructJob,
    Welcome,
)

from .blobs import BlobStore
from .keys import KeyRing
from .pairing import Pairing
from .scheduler import Scheduler
from .sessions import MAX_WATCHES, Conduct, Session, Sessions
from .transfers import Downloads, Uploads
from .wire import Wire

_log = structlog.get_logger(__name__)

#: Biggest message that an unknown key may send: `pair` is far smaller.
_MAX_STRANGER_BYTES = 4096
_MAX_LISTED_JOBS = 1000
#: After these the two ends no longer agree on what was sent: the session cannot go on.
_FATAL = frozenset({"credit_exceeded", "chunk_size", "protocol_mismatch", "key_revoked"})
#: Enough of these, and a connection is no longer listened to.
_STRIKES = frozenset({"message_invalid", "key_unknown", "pairing_refused", "pairing_rate"})
#: Answered now and then only: whoever sends these may send thousands, a client that reconnects in
#: the middle of an upload among them.
_SELDOM_ANSWERED = _STRIKES | {"hello_required"}


class Front:
    """Serves the socket.

    Args:
        wire: The socket.
        sessions: Who is connected.
        keys: The keys that the server knows.
        pairing: How unknown keys become known; None where none can.
        blobs: The blob store.
        uploads: Blobs on their way in.
        downloads: Blobs on their way out.
        scheduler: The jobs.
    """

    def __init__(
        self,
        *,
        wire: Wire,
        sessions: Sessions,
        keys: KeyRing,
        pairing: Pairing | None,
        blobs: BlobStore,
        uploads: Uploads,
        downloads: Downloads,
        scheduler: Scheduler,
    ) -> None:
        self._wire = wire
        self._sessions = sessions
        self._keys = keys
        self._pairing = pairing
        self._blobs = blobs
        self._uploads = uploads
        self._downloads = downloads
        self._scheduler = scheduler
        self._conduct = Conduct()
        self._handlers: dict[type, Callable[[Session, Any], None]] = {
            Ping: self._ping,
            BlobOffer: uploads.offer,
            BlobCredit: downloads.credit,
            BlobFetch: downloads.fetch,
            BlobAbort: self._abort,
            JobSubmit: self._submit,
            JobWatch: self._watch,
            JobCancel: self._cancel,
            JobPreviewTaken: self._preview_taken,
            JobListRequest: self._list,
        }

    def start(self) -> None:
        """Begin to listen to clients."""
        self._wire.start(self._receive)

    def tend(self) -> None:
        """Send what was held back, shut out who was revoked; to be called now and then."""
        self._keys.refresh()
        for session in self._sessions.everyone():
            if self._keys.user_of(session.public_key) != session.user:
                self._refuse(session.routing_id, "", _revoked())
        self._sessions.tend()
        self._scheduler.tend()

    def _receive(self, parts: Sequence[zmq.Frame]) -> None:
        """Deal with one message; every failure becomes an answer."""
        routing_id, frames = parts[0].bytes, parts[1:]
        if self._conduct.is_shut_out(routing_id):
            return
        request_id = ""
        try:
            # Put there by the CURVE handshake; nothing in the message can forge it.
            public_key = str(frames[-1].get("User-Id"))
            if self._keys.user_of(public_key) is None:
                self._check_stranger(routing_id, frames)
            message = _parse(frames)
            request_id = getattr(message, "request_id", "")
            if isinstance(message, Pair):
                self._pair(routing_id, public_key, message)
            else:
                self._dispatch(routing_id, public_key, message, frames)
        except Ex4dError as error:
            self._refuse(routing_id, request_id, error)
        except Exception:
            log_id = uuid.uuid4().hex
            _log.exception("internal_error", id=log_id)
            msg = f"The server met a fault in itself; its log has it under {log_id}."
            self._refuse(routing_id, request_id, InputError("internal_error", msg))

    def _dispatch(
        self,
        routing_id: bytes,
        public_key: str,
        message: ClientMessage,
        frames: Sequence[zmq.Frame],
    ) -> None:
        """Hand a message on to whoever deals with its kind."""
        user = self._keys.user_of(public_key)
        if user is None:
            raise _unknown()
        if isinstance(message, Hello):
            self._hello(routing_id, user, public_key, message)
            return
        session = self._sessions.find(routing_id)
        if session is None or session.user != user:
            msg = "expected `hello` first on each connection; say it, then repeat this message"
            raise ProtocolError("hello_required", msg)
        if isinstance(message, BlobChunk):
            self._uploads.chunk(session, message, frames[2].buffer)
        else:
            self._handlers[type(message)](session, message)

    def _check_stranger(self, routing_id: bytes, frames: Sequence[zmq.Frame]) -> None:
        """Refuse an unknown key's message before it is decoded, if it cannot be `pair`."""
        if self._sessions.find(routing_id):
            raise _revoked()
        if self._pairing is None or sum(map(len, frames)) > _MAX_STRANGER_BYTES:
            raise _unknown()

    def _refuse(self, routing_id: bytes, in_reply_to: str, error: Ex4dError) -> None:
        """Answer a failed message; messages that make no sense are answered now and then only."""
        if error.code not in _SELDOM_ANSWERED or self._conduct.may_answer(routing_id):
            answer = Error(in_reply_to=in_reply_to, code=error.code, message=error.message)
            self._wire.send(routing_id, answer)
        is_struck_out = error.code in _STRIKES and self._conduct.strike(routing_id)
        if error.code in _FATAL or is_struck_out:
            _log.warning("connection_shut_out", code=error.code)
            self._conduct.shut_out(routing_id)
            self._sessions.close(routing_id)

    def _pair(self, routing_id: bytes, public_key: str, message: Pair) -> None:
        if self._pairing is None:
            raise _unknown()
        user = self._pairing.pair(public_key, message.token, message.client_name)
        _log.info("paired", user=user)
        self._wire.send(routing_id, Paired(in_reply_to=message.request_id, user=user))

    def _hello(self, routing_id: bytes, user: str, public_key: str, message: Hello) -> None:
        if message.protocol_major != PROTOCOL_MAJOR:
            msg = (
                f"expected protocol {PROTOCOL_MAJOR} (server {__version__}), found "
                f"{message.protocol_major} (client {message.app_version}); update the older one"
            )
            raise ProtocolError("protocol_mismatch", msg)
        ours = Limits()
        limits = Limits(
            max_chunk_bytes=min(ours.max_chunk_bytes, message.limits.max_chunk_bytes),
            window_bytes=min(ours.window_bytes, message.limits.window_bytes),
        )
        session = Session(
            routing_id,
            user,
            public_key,
            limits,
            self._wire,
            minor=message.protocol_minor,
        )
        self._sessions.add(session)
        knows_estimators = message.protocol_minor >= ESTIMATORS_MINOR
        _log.info("hello", user=user, app_version=message.app_version)
        session.send(
            Welcome(
                in_reply_to=message.request_id,
                protocol_major=PROTOCOL_MAJOR,
                protocol_minor=PROTOCOL_MINOR,
                app_version=__version__,
                user=user,
                limits=limits,
                engines=self._scheduler.engines,
                quota_left_bytes=self._blobs.left_bytes(user),
                estimators=self._scheduler.estimators if knows_estimators else (),
            )
        )
        session.post_take_times(self._scheduler.take_times)

    def _ping(self, session: Session, message: Ping) -> None:
        session.send(Pong(in_reply_to=message.request_id))

    def _abort(self, session: Session, message: BlobAbort) -> None:
        self._uploads.abort(session, message.sha256)
        self._downloads.abort(session, message.sha256)

    def _submit(self, session: Session, message: JobSubmit) -> None:
        job = message.job
        if isinstance(job, ReconstructJob) and job.refines is None:
            job = structs.replace(job, refines=None if session.leaves_refining_open else False)
        event = self._scheduler.submit(session.user, message.request_id, job)
        session.send(JobAccepted(in_reply_to=message.request_id, job_id=event.job_id))
        self._follow(session, event)

    def _watch(self, session: Session, message: JobWatch) -> None:
        event = self._scheduler.event_of(session.user, message.job_id)
        self._follow(session, event, after_seq=message.after_seq)

    def _cancel(self, session: Session, message: JobCancel) -> None:
        # The answer is an event, whether this changed anything or not.
        self._follow(session, self._scheduler.cancel(session.user, message.job_id))

    def _preview_taken(self, session: Session, message: JobPreviewTaken) -> None:
        session.preview_taken(message.job_id)

    def _list(self, session: Session, message: JobListRequest) -> None:
        events = self._scheduler.newest(session.user, _MAX_LISTED_JOBS)
        session.send(JobList(in_reply_to=message.request_id, jobs=tuple(events)))

    def _follow(self, session: Session, event: JobEvent, after_seq: int = -1) -> None:
        """Send a job's newest event, and its later ones if there will be any."""
        if event.state in FINAL_STATES:
            session.watches.discard(event.job_id)
            if event.seq > after_seq:
                session.post(event)
            return
        if len(session.watches) >= MAX_WATCHES and event.job_id not in session.watches:
            msg = f"expected at most {MAX_WATCHES} jobs to be watched; connect anew"
            raise InputError("too_many_watches", msg)
        session.watches.add(event.job_id)
        if event.seq > after_seq:
            session.post(event)
        preview = self._scheduler.preview_of(session.user, event.job_id)
        if preview is not None:
            session.post_preview(*preview)


def _parse(frames: Sequence[zmq.Frame]) -> ClientMessage:
    """Check the frames and decode the header.

    Raises:
        ProtocolError: `protocol_mismatch` or `message_invalid`.
    """
    magic = frames[0].bytes if len(frames[0]) <= len(codec.MAGIC) else b""
    if magic != codec.MAGIC:
        if magic[:-1] == codec.MAGIC[:-1]:
            msg = (
                f"expected protocol {PROTOCOL_MAJOR} (server {__version__}), found "
                f"{magic[-1]}; update the older one"
            )
            raise ProtocolError("protocol_mismatch", msg)
        raise ProtocolError("message_invalid", "expected a message of EX-4D, found something else")
    if not 2 <= len(frames) <= 3:
        msg = f"expected two or three frames, found {len(frames)}"
        raise ProtocolError("message_invalid", msg)
    message = codec.decode_client(frames[1].bytes)
    if isinstance(message, MESSAGES_WITH_BYTES) != (len(frames) == 3):
        msg = f"expected bytes with a chunk and with nothing else, found {len(frames)} frames"
        raise ProtocolError("message_invalid", msg)
    return message


def _unknown() -> ProtocolError:
    msg = (
        "expected a key that this server knows, found another; pair first (`ex4d keys pair` on the "
        "server makes a link)"
    )
    return ProtocolError("key_unknown", msg)


def _revoked() -> ProtocolError:
    msg = "expected a key that this server knows, found it revoked; ask the server's owner"
    return ProtocolError("key_revoked", msg)
