"""Files on their way to the server, one after the other, as far as its credit goes."""

from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO

from ..errors import Ex4dError, TransferError
from ..protocol.messages import BlobAbort, BlobChunk
from .session import OUR_LIMITS, Session
from .slices import Source


@dataclass
class _Upload:
    source: Source
    #: What is handed over to libzmq or was at the server before.
    offset_bytes: int


class Uploads:
    """What the server wants and has not confirmed yet.

    Args:
        session: The way to the server.
        on_sent: Told the SHA-256 of a blob and how many bytes of it were sent.
        on_failure: Told the SHA-256 of a blob that cannot be sent, and why.
    """

    def __init__(
        self,
        session: Session,
        on_sent: Callable[[str, int], None],
        on_failure: Callable[[str, Ex4dError], None],
    ) -> None:
        self._session = session
        self._on_sent = on_sent
        self._on_failure = on_failure
        self._credit_bytes = 0
        self._waiting: dict[str, _Upload] = {}
        #: Sent to the end, not yet confirmed.
        self._unconfirmed: set[str] = set()
        self._file: FileIO | None = None
        #: Where chunks are read to; one for all, since new memory costs more than the reading.
        self._buffer = memoryview(bytearray(OUR_LIMITS.max_chunk_bytes))

    def forget(self) -> None:
        """Forget everything: the connection is gone, and credit with it."""
        self._close_file()
        self._credit_bytes = 0
        self._waiting.clear()
        self._unconfirmed.clear()

    def add(self, source: Source, have_bytes: int) -> None:
        """Send a file from `have_bytes` on, unless it is on its way already."""
        if source.sha256 not in self._waiting and source.sha256 not in self._unconfirmed:
            self._waiting[source.sha256] = _Upload(source, have_bytes)

    def allow(self, grant_bytes: int) -> None:
        """The server takes so many bytes more."""
        self._credit_bytes += grant_bytes

    def remove(self, sha256: str) -> None:
        """The server has the whole blob."""
        self._unconfirmed.discard(sha256)
        # Another client of the same user may have sent it meanwhile.
        self._take_out(sha256)

    def abort(self, sha256: str) -> None:
        """Send no more of a blob."""
        if sha256 in self._unconfirmed or sha256 in self._waiting:
            self._unconfirmed.discard(sha256)
            self._take_out(sha256)
            self._session.post(BlobAbort(sha256=sha256))

    @property
    def is_sendable(self) -> bool:
        """Whether bytes could leave if there is room for them."""
        return bool(self._waiting) and self._chunk_bytes() <= self._credit_bytes

    def step(self) -> bool:
        """Send one chunk; false if none can be sent now."""
        if not self.is_sendable:
            return False
        sha256, upload = next(iter(self._waiting.items()))
        try:
            count = self._send_chunk(upload)
        except OSError as error:
            text = (
                f"expected to read {upload.source.path}, found: {error.strerror}; check the file "
                "and submit again"
            )
            self._give_up(sha256, TransferError("file_unreadable", text))
            return True
        except TransferError as error:
            self._give_up(sha256, error)
            return True
        if count == 0:
            return False
        upload.offset_bytes += count
        if upload.offset_bytes == upload.source.size_bytes:
            self._take_out(sha256)
            self._unconfirmed.add(sha256)
        self._on_sent(sha256, count)
        return True

    def _chunk_bytes(self) -> int:
        """Size of the next chunk."""
        upload = next(iter(self._waiting.values()))
        limits = self._session.limits
        return min(
            limits.max_chunk_bytes,
            limits.window_bytes,
            upload.source.size_bytes - upload.offset_bytes,
        )

    def _send_chunk(self, upload: _Upload) -> int:
        """Send the next bytes of a file; how many, 0 if there is no room."""
        if self._file is None:
            self._file = FileIO(upload.source.path, "rb")
            upload.source.check_unchanged(self._file.fileno())
        count = self._chunk_bytes()
        self._file.seek(upload.offset_bytes)
        payload = self._buffer[: self._file.readinto(self._buffer[:count])]
        if upload.offset_bytes + count == upload.source.size_bytes or len(payload) < count:
            # With the last bytes the server would find out, but could not say what is wrong.
            upload.source.check_unchanged(self._file.fileno())
        chunk = BlobChunk(sha256=upload.source.sha256, offset_bytes=upload.offset_bytes)
        if not self._session.send_chunk(chunk, payload):
            return 0
        self._credit_bytes -= count
        return count

    def _give_up(self, sha256: str, error: Ex4dError) -> None:
        self.abort(sha256)
        self._on_failure(sha256, error)

    def _take_out(self, sha256: str) -> None:
        if self._waiting and next(iter(self._waiting)) == sha256:
            self._close_file()
        self._waiting.pop(sha256, None)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
