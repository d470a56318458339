"""Blobs on their way: uploads into the store and downloads out of it, in credited chunks.

Uploads. Chunks of a blob are appended in order. Two sessions of a user may send the same blob at
once: whoever is ahead appends, the other's bytes are there already and are skipped, and if the one
ahead vanishes the other simply goes on. Writing and hashing happen in threads, a batch at a time;
credit returns to the sender when its bytes are on disk, which bounds what waits in memory.

Downloads. One at a time for each session, read in threads, sent as far as the client's credit goes.
"""

import asyncio
import hashlib
import uuid
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import Executor as Threads
from dataclasses import dataclass, field
from typing import Any

import structlog

from ex4d.errors import Ex4dError, InputError, ProtocolError
from ex4d.protocol.documents import FileRef
from ex4d.protocol.messages import (
    MAX_FILES_PER_MESSAGE,
    BlobChunk,
    BlobCredit,
    BlobDone,
    BlobFetch,
    BlobNeed,
    BlobOffer,
    BlobWant,
)

from .blobs import BlobKey, BlobStore, PartWriter
from .sessions import Session

_log = structlog.get_logger(__name__)

#: Chunks that are read at once for a client, since each change of threads has its price.
_BATCH_CHUNKS = 4


class TaskSet:
    """Background tasks: kept alive while they run, ended together."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background; a failure of it is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Cancel all and wait for their end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            _log.error("internal_error", id=uuid.uuid4().hex, exc_info=task.exception())


@dataclass
class _Chunk:
    session: Session
    #: What is new in it; empty if all of it had come before.
    new: memoryview
    #: What it cost the sender.
    cost_bytes: int


@dataclass
class _Upload:
    key: BlobKey
    size_bytes: int
    #: Bytes of the blob that came in order so far, written or waiting.
    accepted_bytes: int
    #: Who sends it, and which offer of theirs to answer if it fails.
    senders: dict[Session, str] = field(default_factory=dict[Session, str])
    waiting: deque[_Chunk] = field(default_factory=deque[_Chunk])
    #: Open while chunks come.
    writer: PartWriter | None = None
    is_writing: bool = False


class Uploads:
    """Every blob that somebody has offered and not yet sent whole.

    Args:
        blobs: Where they go.
        threads: Where writing and hashing happen.
    """

    def __init__(self, blobs: BlobStore, threads: Threads) -> None:
        self._blobs = blobs
        self._threads = threads
        self._uploads: dict[BlobKey, _Upload] = {}
        self._tasks = TaskSet()

    def offer(self, session: Session, offer: BlobOffer) -> None:
        """Answer which of the offered blobs are missing, and open the window.

        Raises:
            InputError: `blob_size`, `blob_corrupt`, `blob_too_large`, `quota_exceeded`,
                `disk_full` or `too_many_blobs`; nothing is expected then.
        """
        missing = self._missing(session.user, offer.blobs)
        open_count = sum(key[0] == session.user for key in self._uploads)
        if open_count + len(missing) > 2 * MAX_FILES_PER_MESSAGE:
            msg = "expected fewer files on their way at once; send those that were offered first"
            raise InputError("too_many_blobs", msg)
        fresh = [blob for blob in missing if (session.user, blob.sha256) not in self._uploads]
        self._blobs.reserve(session.user, fresh)
        for blob in fresh:
            key = (session.user, blob.sha256)
            have_bytes = self._blobs.shorten_part(key, blob.size_bytes)
            self._uploads[key] = _Upload(key, blob.size_bytes, have_bytes)
        needs: list[BlobNeed] = []
        for blob in missing:
            upload = self._uploads[session.user, blob.sha256]
            upload.senders[session] = offer.request_id
            needs.append(BlobNeed(sha256=blob.sha256, have_bytes=upload.accepted_bytes))
        session.send(BlobWant(in_reply_to=offer.request_id, needs=tuple(needs)))
        if needs and not session.is_upload_open:
            session.is_upload_open = True
            self._grant(session, session.limits.window_bytes)

    def chunk(self, session: Session, chunk: BlobChunk, payload: memoryview) -> None:
        """Take the next bytes of a blob.

        Raises:
            ProtocolError: `credit_exceeded` or `chunk_size`; the session cannot go on.
        """
        cost_bytes = len(payload)
        if not 0 < cost_bytes <= session.limits.max_chunk_bytes:
            limit_bytes = session.limits.max_chunk_bytes
            msg = f"expected chunks of 1 to {limit_bytes} bytes, found {cost_bytes}"
            raise ProtocolError("chunk_size", msg)
        if cost_bytes > session.upload_credit_bytes:
            msg = f"expected at most {session.upload_credit_bytes} bytes more, found {cost_bytes}"
            raise ProtocolError("credit_exceeded", msg)
        session.upload_credit_bytes -= cost_bytes
        upload = self._uploads.get((session.user, chunk.sha256))
        if upload is None or session not in upload.senders:
            # Under way when the upload ended: finished by another session, failed or aborted.
            self._grant(session, cost_bytes)
            return
        end_bytes = chunk.offset_bytes + cost_bytes
        if chunk.offset_bytes > upload.accepted_bytes or end_bytes > upload.size_bytes:
            self._grant(session, cost_bytes)
            self._fail_sender(upload, session, chunk)
            return
        new = payload[max(0, upload.accepted_bytes - chunk.offset_bytes) :]
        upload.accepted_bytes = max(upload.accepted_bytes, end_bytes)
        upload.waiting.append(_Chunk(session, new, cost_bytes))
        if not upload.is_writing:
            upload.is_writing = True
            self._tasks.start(self._write(upload))

    def abort(self, session: Session, sha256: str) -> None:
        """The session no longer sends this blob; what came stays for another time."""
        upload = self._uploads.get((session.user, sha256))
        if upload:
            self._leave(upload, session)

    def forget(self, session: Session) -> None:
        """The session is gone."""
        for upload in [item for item in self._uploads.values() if session in item.senders]:
            self._leave(upload, session)

    async def close(self) -> None:
        """Stop writing."""
        await self._tasks.close()
        for upload in self._uploads.values():
            self._end(upload)

    def _missing(self, user: str, offered: tuple[FileRef, ...]) -> list[FileRef]:
        """The blobs that are not whole yet, each once."""
        missing: dict[str, FileRef] = {}
        for blob in offered:
            known = self._known_size(user, blob, missing)
            if known is not None and known != blob.size_bytes:
                msg = (
                    f"expected blob {blob.sha256[:12]} to have {known} bytes as before, found "
                    f"{blob.size_bytes}; the file changed: submit again"
                )
                raise InputError("blob_size", msg)
            if self._blobs.size_of((user, blob.sha256)) is not None:
                self._blobs.path_of((user, blob.sha256))
            elif blob.size_bytes:
                missing[blob.sha256] = blob
            elif blob.sha256 == hashlib.sha256().hexdigest():
                self._blobs.add_empty(user)
            else:
                msg = f"expected no bytes to have the SHA-256 of no bytes, found {blob.sha256}"
                raise InputError("blob_corrupt", msg)
        return list(missing.values())

    def _known_size(self, user: str, blob: FileRef, missing: dict[str, FileRef]) -> int | None:
        if blob.sha256 in missing:
            return missing[blob.sha256].size_bytes
        upload = self._uploads.get((user, blob.sha256))
        return upload.size_bytes if upload else self._blobs.size_of((user, blob.sha256))

    async def _write(self, upload: _Upload) -> None:
        """Write what waits until nothing does."""
        loop = asyncio.get_running_loop()
        try:
            while upload.waiting:
                batch = list(upload.waiting)
                upload.waiting.clear()
                is_last = upload.accepted_bytes == upload.size_bytes
                work = loop.run_in_executor(
                    self._threads, self._write_batch, upload, batch, is_last
                )
                try:
                    # The thread cannot be interrupted: even a server that stops waits for it.
                    await asyncio.shield(work)
                except asyncio.CancelledError:
                    await work
                    raise
                self._grant_batch(batch)
                if is_last:
                    self._finish(upload)
        except Ex4dError as error:
            self._fail(upload, error)
        except OSError:
            # A disk that fails is nothing a client can mend; the log has the details.
            log_id = uuid.uuid4().hex
            _log.exception("internal_error", id=log_id)
            msg = f"The server met a fault in storing a blob; its log has it under {log_id}."
            self._fail(upload, InputError("internal_error", msg))
        finally:
            upload.is_writing = False
            if not upload.senders:
                self._end(upload)

    def _write_batch(self, upload: _Upload, batch: list[_Chunk], is_last: bool) -> None:
        """The part that blocks; runs in a thread."""
        if upload.writer is None:
            upload.writer = self._blobs.open_part(upload.key, upload.size_bytes)
        upload.writer.write(chunk.new for chunk in batch)
        if is_last:
            upload.writer.finish()

    def _finish(self, upload: _Upload) -> None:
        del self._uploads[upload.key]
        self._blobs.adopt_part(upload.key, upload.size_bytes)
        # A second sender may have sent more of the same meanwhile.
        self._grant_batch(list(upload.waiting))
        upload.waiting.clear()
        for session in list(upload.senders):
            session.send(BlobDone(sha256=upload.key[1]))

    def _fail(self, upload: _Upload, error: Ex4dError) -> None:
        """Tell the senders; what is whole so far stays for another time."""
        _log.warning("upload_failed", code=error.code, user=upload.key[0])
        for session, offer_id in list(upload.senders.items()):
            session.refuse(offer_id, error.code, error.message)
        upload.senders.clear()

    def _fail_sender(self, upload: _Upload, session: Session, chunk: BlobChunk) -> None:
        msg = (
            f"expected bytes {upload.accepted_bytes} to {upload.size_bytes} of blob "
            f"{chunk.sha256[:12]}, found a chunk at {chunk.offset_bytes} that does not fit; submit "
            "again"
        )
        session.refuse(upload.senders[session], "chunk_offset", msg)
        self._leave(upload, session)

    def _leave(self, upload: _Upload, session: Session) -> None:
        upload.senders.pop(session, None)
        if not upload.senders and not upload.is_writing:
            self._end(upload)

    def _end(self, upload: _Upload) -> None:
        """Forget an upload that nobody sends any more."""
        self._grant_batch(list(upload.waiting))
        upload.waiting.clear()
        if upload.writer:
            upload.writer.close()
        if self._uploads.get(upload.key) is upload:
            del self._uploads[upload.key]
            self._blobs.release(upload.key)

    def _grant_batch(self, batch: list[_Chunk]) -> None:
        grants: dict[Session, int] = {}
        for chunk in batch:
            grants[chunk.session] = grants.get(chunk.session, 0) + chunk.cost_bytes
        for session, grant_bytes in grants.items():
            self._grant(session, grant_bytes)

    def _grant(self, session: Session, grant_bytes: int) -> None:
        """Give credit, in few messages: small change waits while the client has plenty left."""
        session.owed_credit_bytes += grant_bytes
        limits = session.limits
        is_change = session.owed_credit_bytes < limits.window_bytes // 8
        plenty_bytes = max(limits.window_bytes // 2, limits.max_chunk_bytes)
        if is_change and session.upload_credit_bytes >= plenty_bytes:
            return
        session.upload_credit_bytes += session.owed_credit_bytes
        session.send(BlobCredit(grant_bytes=session.owed_credit_bytes))
        session.owed_credit_bytes = 0


@dataclass
class _Download:
    request_id: str
    key: BlobKey
    offset_bytes: int
    size_bytes: int


class Downloads:
    """What clients fetch.

    Args:
        blobs: Where it is.
        threads: Where reading happens.
    """

    def __init__(self, blobs: BlobStore, threads: Threads) -> None:
        self._blobs = blobs
        self._threads = threads
        self._queues: dict[Session, deque[_Download]] = {}
        self._sending: set[Session] = set()
        self._tasks = TaskSet()

    def fetch(self, session: Session, fetch: BlobFetch) -> None:
        """Queue a blob for sending.

        Raises:
            InputError: `not_found`, `blob_offset` or `too_many_blobs`.
        """
        key = (session.user, fetch.sha256)
        self._blobs.path_of(key)
        size_bytes = self._blobs.size_of(key) or 0
        if fetch.offset_bytes > size_bytes:
            msg = f"expected an offset of at most {size_bytes} bytes, found {fetch.offset_bytes}"
            raise InputError("blob_offset", msg)
        queue = self._queues.setdefault(session, deque())
        if len(queue) >= MAX_FILES_PER_MESSAGE:
            msg = "expected fewer files to be fetched at once; wait for those that are on their way"
            raise InputError("too_many_blobs", msg)
        queue.append(_Download(fetch.request_id, key, fetch.offset_bytes, size_bytes))
        self._resume(session)

    def credit(self, session: Session, credit: BlobCredit) -> None:
        """The client takes more bytes; never more than its window at once."""
        session.download_credit_bytes = min(
            session.download_credit_bytes + credit.grant_bytes, session.limits.window_bytes
        )
        self._resume(session)

    def abort(self, session: Session, sha256: str) -> None:
        """The session no longer wants this blob."""
        queue = self._queues.get(session)
        if queue:
            kept = [download for download in queue if download.key[1] != sha256]
            queue.clear()
            queue.extend(kept)

    def forget(self, session: Session) -> None:
        """The session is gone."""
        self._queues.pop(session, None)

    async def close(self) -> None:
        """Stop sending."""
        await self._tasks.close()

    def _resume(self, session: Session) -> None:
        if session not in self._sending and session.download_credit_bytes:
            self._sending.add(session)
            self._tasks.start(self._send(session))

    async def _send(self, session: Session) -> None:
        """Send until the queue is empty or the credit spent."""
        # One for all that is read: new memory costs more than the reading.
        buffer = memoryview(bytearray(_BATCH_CHUNKS * session.limits.max_chunk_bytes))
        try:
            while session.is_open and session.download_credit_bytes:
                queue = self._queues.get(session)
                if not queue:
                    break
                if queue[0].offset_bytes == queue[0].size_bytes:
                    queue.popleft()
                else:
                    await self._send_batch(session, queue, buffer)
        finally:
            self._sending.discard(session)

    async def _send_batch(
        self, session: Session, queue: deque[_Download], buffer: memoryview
    ) -> None:
        """Send the next chunks of the first blob in the queue."""
        download = queue[0]
        credit_bytes = min(session.download_credit_bytes, len(buffer))
        session.download_credit_bytes -= credit_bytes
        count = min(credit_bytes, download.size_bytes - download.offset_bytes)
        loop = asyncio.get_running_loop()
        try:
            read_bytes = await loop.run_in_executor(
                self._threads, self._read, download.key, download.offset_bytes, buffer[:count]
            )
        except (InputError, FileNotFoundError):
            read_bytes = 0
        is_wanted = bool(queue) and queue[0] is download
        if is_wanted and read_bytes:
            for start in range(0, read_bytes, session.limits.max_chunk_bytes):
                payload = buffer[start : min(start + session.limits.max_chunk_bytes, read_bytes)]
                chunk = BlobChunk(sha256=download.key[1], offset_bytes=download.offset_bytes)
                session.send(chunk, payload)
                download.offset_bytes += len(payload)
        elif is_wanted:
            queue.popleft()
            msg = (
                f"expected blob {download.key[1][:12]} to be kept, found it expired; make it again"
            )
            session.refuse(download.request_id, "not_found", msg)
        session.download_credit_bytes += credit_bytes - (read_bytes if is_wanted else 0)

    def _read(self, key: BlobKey, offset_bytes: int, buffer: memoryview) -> int:
        """The part that blocks, in bytes that it read; runs in a thread."""
        with self._blobs.path_of(key).open("rb", buffering=0) as file:
            file.seek(offset_bytes)
            return file.readinto(buffer)
