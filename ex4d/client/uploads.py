"""Files on their way to the server, under its credit, each byte once."""

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import TransferError
from ..protocol.messages import BlobChunk, BlobWant
from .hashing import SLICE_BYTES, check_unchanged, open_to_read
from .wire import Wire


@dataclass(frozen=True)
class LocalBlob:
    """A file to send."""

    path: Path
    sha256: str
    size_bytes: int
    #: Size and modification time when it was hashed.
    stamp: tuple[int, int]


@dataclass
class _Sending:
    blob: LocalBlob
    offset_bytes: int
    descriptor: int = -1


class Uploads:
    """Sends what the server asked for.

    Args:
        on_failed: Told which blob could not be sent, and why.
    """

    def __init__(self, on_failed: Callable[[str, TransferError], None]) -> None:
        self._on_failed = on_failed
        self._known: dict[str, LocalBlob] = {}
        self._queue: deque[_Sending] = deque()
        self._queued: set[str] = set()
        self._credit_bytes = 0
        self._max_chunk_bytes = SLICE_BYTES

    @property
    def has_work(self) -> bool:
        """Whether something could be sent now."""
        return bool(self._queue) and self._credit_bytes > 0

    def start_session(self, max_chunk_bytes: int) -> None:
        """A new session: its credit starts at nothing, and what is missing is asked for anew."""
        self.end_session()
        self._max_chunk_bytes = min(max_chunk_bytes, SLICE_BYTES)

    def end_session(self) -> None:
        """The session is over."""
        for sending in self._queue:
            _close(sending)
        self._queue.clear()
        self._queued.clear()
        self._credit_bytes = 0

    def add(self, blobs: dict[str, LocalBlob]) -> None:
        """Blobs that the server may ask for."""
        self._known.update(blobs)

    def want(self, want: BlobWant) -> None:
        """The server asked for blobs; what it has of them is not sent again."""
        for need in want.needs:
            blob = self._known.get(need.sha256)
            if blob is not None and need.sha256 not in self._queued:
                self._queued.add(need.sha256)
                self._queue.append(_Sending(blob, need.have_bytes))

    def credit(self, grant_bytes: int) -> None:
        """The server takes more bytes."""
        self._credit_bytes += grant_bytes

    def forget(self, sha256: str) -> None:
        """The server has the blob, or nobody wants it sent any more."""
        self._known.pop(sha256, None)
        self._queued.discard(sha256)
        for sending in [item for item in self._queue if item.blob.sha256 == sha256]:
            _close(sending)
            self._queue.remove(sending)

    def step(self, wire: Wire) -> int:
        """Send one chunk; how many bytes went, 0 where the socket is full."""
        sending = self._queue[0]
        try:
            data = self._read(sending)
        except TransferError as error:
            self.forget(sending.blob.sha256)
            self._on_failed(sending.blob.sha256, error)
            return 0
        chunk = BlobChunk(sha256=sending.blob.sha256, offset_bytes=sending.offset_bytes)
        if data and not wire.send(chunk, data):
            os.lseek(sending.descriptor, sending.offset_bytes, os.SEEK_SET)
            return 0
        sending.offset_bytes += len(data)
        self._credit_bytes -= len(data)
        if sending.offset_bytes == sending.blob.size_bytes:
            _close(sending)
            self._queue.popleft()
        return len(data)

    def _read(self, sending: _Sending) -> bytes:
        blob = sending.blob
        if sending.descriptor < 0:
            check_unchanged(blob.path, blob.stamp)
            sending.descriptor = open_to_read(blob.path)
            os.lseek(sending.descriptor, sending.offset_bytes, os.SEEK_SET)
        count = min(
            self._max_chunk_bytes, self._credit_bytes, blob.size_bytes - sending.offset_bytes
        )
        data = os.read(sending.descriptor, count)
        if len(data) != count:
            msg = f"expected {count} more bytes of {blob.path.name}, found {len(data)}; the file "
            raise TransferError("source_changed", msg + "changed meanwhile: submit again")
        return data


def _close(sending: _Sending) -> None:
    if sending.descriptor >= 0:
        os.close(sending.descriptor)
        sending.descriptor = -1
