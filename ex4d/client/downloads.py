"""Results on their way to a folder: fetched by content, checked, and shown when all are there.

They grow in a hidden folder beside their destination, which is renamed at the end. What is there
already, after a lost connection or a restart, is hashed again and not fetched again. Nothing is
forced out to the disk: a crash of this program loses nothing, and after a crash of the computer
what was lost is found by its hash and can be fetched again.
"""

import errno
import hashlib
import shutil
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from ..errors import Ex4dError, ProtocolError, TransferError
from ..protocol.documents import FileRef, is_portable
from ..protocol.messages import BlobAbort, BlobChunk, BlobCredit, BlobFetch, Error
from .session import Session
from .slices import SLICE_BYTES, Digest, Pace

#: Files asked for ahead of time, so that small ones do not wait for a round trip each. A server
#: queues few messages for a client that does not read.
_MAX_AHEAD = 64
_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT)


class Download:
    """The files of one job.

    Args:
        folder: Where they go.
        job_id: The job that made them.
        files: What it made.
        on_end: Called once, with the reason if it failed.

    Raises:
        ProtocolError: `job_results` if the files cannot lie side by side in a folder.
    """

    def __init__(
        self,
        folder: Path,
        job_id: str,
        files: tuple[FileRef, ...],
        on_end: Callable[[Ex4dError | None], None],
    ) -> None:
        _check_names(files)
        self.folder = folder
        #: The same after a restart, so that it is found again.
        self.partial = folder.with_name(f".{folder.name}.{job_id[:12]}.part")
        self.files = files
        self.on_end = on_end
        #: Files of the same content are fetched once.
        self.paths_by_hash: dict[str, list[str]] = {}
        for file in files:
            self.paths_by_hash.setdefault(file.sha256, []).append(file.path)
        self.sizes = {file.sha256: file.size_bytes for file in files}
        self.pace = Pace(sum(self.sizes.values()))


@dataclass
class _Incoming:
    """A blob that is being fetched."""

    download: Download
    sha256: str
    #: Its first file; the others become copies.
    path: Path
    size_bytes: int
    digest: Digest
    received_bytes: int
    #: Whether its beginning was on the disk before.
    is_resumed: bool
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    file: FileIO | None = None


class Downloads:
    """Everything that is being fetched.

    Args:
        session: The way to the server.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._preparing: dict[Download, Generator[bool, None, None]] = {}
        self._incoming: dict[str, _Incoming] = {}
        self._is_open = False
        #: Bytes that came and may come once more.
        self._owed_bytes = 0

    @property
    def is_waiting(self) -> bool:
        """Whether the server should be sending."""
        return bool(self._incoming)

    def begin(self) -> None:
        """A new session: ask again for what is missing, from the byte on."""
        self._is_open = False
        self._owed_bytes = 0
        for incoming in self._incoming.values():
            self._fetch(incoming)

    def start(self, download: Download) -> None:
        """Take up a download."""
        self._preparing[download] = self._prepare(download)

    def stop(self, download: Download) -> None:
        """Give up a download; what came stays where it is."""
        work = self._preparing.pop(download, None)
        if work is not None:
            work.close()
        for incoming in [item for item in self._incoming.values() if item.download is download]:
            _close(incoming)
            del self._incoming[incoming.sha256]
            self._session.post(BlobAbort(sha256=incoming.sha256))

    def close(self) -> None:
        """Give up everything."""
        for download in {*self._preparing, *(item.download for item in self._incoming.values())}:
            self.stop(download)

    def step(self) -> bool:
        """Check or ask for one more file; false if there is nothing to do now."""
        for download, work in list(self._preparing.items()):
            if len(self._incoming) >= _MAX_AHEAD:
                return False
            try:
                did = next(work)
            except StopIteration:
                del self._preparing[download]
                self._finish_if_whole(download)
                did = True
            except OSError as error:
                self._fail(download, _write_error(download.folder, error))
                did = True
            except Ex4dError as error:
                self._fail(download, error)
                did = True
            if did:
                return True
        return False

    def take(self, chunk: BlobChunk, payload: memoryview) -> None:
        """Write the next bytes of a blob."""
        incoming = self._incoming.get(chunk.sha256)
        # Bytes of a blob that is no longer wanted, or that came before, count as well.
        self._owe(len(payload))
        if incoming is None:
            return
        end_bytes = chunk.offset_bytes + len(payload)
        if end_bytes <= incoming.received_bytes:
            return
        if chunk.offset_bytes != incoming.received_bytes or end_bytes > incoming.size_bytes:
            text = (
                f"expected byte {incoming.received_bytes} of a blob of {incoming.size_bytes}, "
                f"found a chunk from {chunk.offset_bytes} to {end_bytes}; it is fetched again"
            )
            self._session.restart(ProtocolError("chunk_offset", text))
            return
        try:
            self._write(incoming, payload)
        except OSError as error:
            self._fail(incoming.download, _write_error(incoming.download.folder, error))

    def refuse(self, error: Error) -> bool:
        """Note that a blob cannot be had; false if the error is about something else."""
        for incoming in self._incoming.values():
            if incoming.request_id == error.in_reply_to:
                # Not the server's own code: it is the result that is gone, not the job.
                code = "result_expired" if error.code == "not_found" else error.code
                self._fail(incoming.download, TransferError(code, error.message))
                return True
        return False

    def _prepare(self, download: Download) -> Generator[bool, None, None]:
        """Look at what is there and ask for the rest; yields whether it did anything."""
        if _is_filled(download.folder):
            yield from self._check_folder(download)
            download.pace.add(download.pace.total_bytes)
            return
        _check_room(download)
        download.partial.mkdir(parents=True, exist_ok=True)
        for sha256, paths in download.paths_by_hash.items():
            while sha256 in self._incoming:
                # On its way for another download; the two have separate files.
                yield False
            path = download.partial / paths[0]
            path.parent.mkdir(exist_ok=True)
            size_bytes = download.sizes[sha256]
            if path.exists() and path.stat().st_size > size_bytes:
                path.unlink()
            digest, have_bytes = yield from _hash_existing(path)
            download.pace.add(have_bytes)
            incoming = _Incoming(
                download, sha256, path, size_bytes, digest, have_bytes, is_resumed=have_bytes > 0
            )
            self._incoming[sha256] = incoming
            if have_bytes == size_bytes:
                path.touch()
                self._complete(incoming)
            else:
                self._fetch(incoming)
            yield True
        download.pace = Pace(download.pace.total_bytes, download.pace.moved_bytes)

    def _check_folder(self, download: Download) -> Generator[bool, None, None]:
        """Make sure that a folder which is there already holds just these files.

        Raises:
            TransferError: `folder_taken`.
        """
        for file in download.files:
            digest, _ = yield from _hash_existing(download.folder / file.path)
            if digest.hexdigest() != file.sha256:
                text = (
                    f"expected no folder {download.folder} or one with this job's results, found "
                    f"another {file.path} in it or none; choose another folder"
                )
                raise TransferError("folder_taken", text)

    def _fetch(self, incoming: _Incoming) -> None:
        incoming.request_id = uuid.uuid4().hex
        self._session.post(
            BlobFetch(
                request_id=incoming.request_id,
                sha256=incoming.sha256,
                offset_bytes=incoming.received_bytes,
            )
        )
        if not self._is_open:
            self._is_open = True
            self._session.post(BlobCredit(grant_bytes=self._session.limits.window_bytes))

    def _owe(self, count: int) -> None:
        """Give credit back, in portions that are worth a message."""
        self._owed_bytes += count
        if self._owed_bytes >= self._session.limits.window_bytes // 16:
            self._session.post(BlobCredit(grant_bytes=self._owed_bytes))
            self._owed_bytes = 0

    def _write(self, incoming: _Incoming, payload: memoryview) -> None:
        if incoming.file is None:
            incoming.file = FileIO(incoming.path, "ab")
        rest = payload
        while rest:
            rest = rest[incoming.file.write(rest) :]
        incoming.digest.update(payload)
        incoming.received_bytes += len(payload)
        incoming.download.pace.add(len(payload))
        if incoming.received_bytes == incoming.size_bytes:
            self._complete(incoming)

    def _complete(self, incoming: _Incoming) -> None:
        """Check a blob that is all there and make its files of it."""
        _close(incoming)
        download = incoming.download
        found = incoming.digest.hexdigest()
        if found != incoming.sha256:
            incoming.path.unlink()
            self._repeat_or_fail(incoming, found)
            return
        del self._incoming[incoming.sha256]
        for copy in download.paths_by_hash[incoming.sha256][1:]:
            path = download.partial / copy
            path.parent.mkdir(exist_ok=True)
            shutil.copyfile(incoming.path, path)
        self._finish_if_whole(download)

    def _repeat_or_fail(self, incoming: _Incoming, found: str) -> None:
        """Fetch a blob anew if its beginning may have been spoilt on this disk."""
        if incoming.is_resumed:
            incoming.is_resumed = False
            incoming.download.pace.add(-incoming.received_bytes)
            incoming.received_bytes = 0
            incoming.digest = hashlib.sha256()
            self._fetch(incoming)
            return
        text = (
            f"expected {incoming.path.name} with SHA-256 {incoming.sha256}, found {found}; fetch "
            "it again, and look at the server's disk if that does not help"
        )
        self._fail(incoming.download, TransferError("blob_corrupt", text))

    def _finish_if_whole(self, download: Download) -> None:
        is_fetching = any(item.download is download for item in self._incoming.values())
        if download in self._preparing or is_fetching:
            return
        try:
            if download.partial.exists():
                if download.folder.exists():
                    # Empty: `_prepare` saw to that. Windows renames onto nothing at all.
                    download.folder.rmdir()
                download.partial.rename(download.folder)
        except OSError as error:
            download.on_end(_write_error(download.folder, error))
            return
        download.on_end(None)

    def _fail(self, download: Download, error: Ex4dError) -> None:
        self.stop(download)
        download.on_end(error)


def _hash_existing(path: Path) -> Generator[bool, None, tuple[Digest, int]]:
    """Hash what there is of a file, slice by slice; its digest and length in bytes."""
    digest = hashlib.sha256()
    total_bytes = 0
    if path.exists():
        buffer = memoryview(bytearray(SLICE_BYTES))
        with FileIO(path, "rb") as file:
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
                total_bytes += count
                yield True
    return digest, total_bytes


def _check_names(files: tuple[FileRef, ...]) -> None:
    """Refuse names that some file system would take for one another, or for a device.

    Their pattern is checked by the protocol: no `..`, one folder at most.

    Raises:
        ProtocolError: `job_results`.
    """
    seen: dict[str, str] = {}
    for file in files:
        if not is_portable(file.path) or file.path.lower() in seen:
            text = f"expected results with plain, different names, found {file.path}"
            raise ProtocolError("job_results", text)
        seen[file.path.lower()] = file.path


def _check_room(download: Download) -> None:
    """Refuse a download that the disk cannot hold.

    Raises:
        TransferError: `disk_full`.
    """
    parent = download.folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    have_bytes = sum(
        path.stat().st_size
        for path in (download.partial / file.path for file in download.files)
        if path.exists()
    )
    need_bytes = sum(file.size_bytes for file in download.files) - have_bytes
    free_bytes = shutil.disk_usage(parent).free
    if need_bytes > free_bytes:
        text = (
            f"expected room for {need_bytes} bytes in {parent}, found {free_bytes}; make room and "
            "fetch the results again"
        )
        raise TransferError("disk_full", text)


def _is_filled(folder: Path) -> bool:
    return folder.exists() and any(folder.iterdir())


def _write_error(folder: Path, error: OSError) -> TransferError:
    if error.errno in _FULL_ERRORS:
        text = (
            f"expected room for the results in {folder.parent}, found the disk full; make room "
            "and fetch them again: what came so far is kept"
        )
        return TransferError("disk_full", text)
    text = (
        f"expected to write the results to {folder}, found: {error.strerror}; mend that and fetch "
        "them again: what came so far is kept"
    )
    return TransferError("file_write", text)


def _close(incoming: _Incoming) -> None:
    if incoming.file is not None:
        incoming.file.close()
        incoming.file = None
