"""Results on their way from the server into a folder that appears when it is whole.

What has arrived of a file is kept when the connection or the program ends, and only the rest is
fetched. Files of the same content are fetched once.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import TransferError
from ..protocol.documents import FileRef
from .hashing import SLICE_BYTES, open_to_read

#: A blob that arrives wrong is fetched once more: the fault may have been on the way.
_MAX_TRIES = 2


class _Incoming:
    """One blob on its way to disk."""

    def __init__(self, path: Path, sha256: str, size_bytes: int) -> None:
        self.path = path
        self.sha256 = sha256
        self.size_bytes = size_bytes
        self.tries = 1
        #: Bytes on disk of which the hash is known.
        self.hashed_bytes = 0
        #: Bytes that an earlier run left on disk, still to be hashed.
        self.kept_bytes = min(path.stat().st_size, size_bytes) if path.exists() else 0
        self._digest = hashlib.sha256()
        self._descriptor = -1

    @property
    def is_checked(self) -> bool:
        """Whether all that lies on disk was hashed."""
        return self.hashed_bytes >= self.kept_bytes

    @property
    def is_right(self) -> bool:
        """Whether the whole blob is on disk and is the promised one."""
        return self._digest.hexdigest() == self.sha256

    def check_slice(self) -> None:
        """Hash the next slice of what an earlier run left."""
        if self._descriptor < 0:
            self._descriptor = open_to_read(self.path)
        count = min(SLICE_BYTES, self.kept_bytes - self.hashed_bytes)
        data = os.read(self._descriptor, count)
        self._digest.update(data)
        self.hashed_bytes += len(data)
        if self.is_checked or not data:
            self.kept_bytes = self.hashed_bytes
            self.close()

    def append(self, data: bytes) -> None:
        """Write the next bytes."""
        if self._descriptor < 0:
            flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(self.path, flags, 0o666)
            os.ftruncate(self._descriptor, self.hashed_bytes)
            os.lseek(self._descriptor, self.hashed_bytes, os.SEEK_SET)
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self._digest.update(data)
        self.hashed_bytes += len(data)
        self.kept_bytes = self.hashed_bytes

    def start_again(self) -> None:
        """Forget what came; it was wrong."""
        self.close()
        self.path.unlink(missing_ok=True)
        self._digest = hashlib.sha256()
        self.hashed_bytes = self.kept_bytes = 0
        self.tries += 1

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Download:
    """The results of one job, on their way into a folder.

    Args:
        files: What the folder shall hold.
        folder: Where it shall be; must not exist yet.
        job_id: Names the temporary folder, so that a later run finds what came.

    Raises:
        TransferError: `folder_exists` or `disk`.
    """

    def __init__(self, files: tuple[FileRef, ...], folder: Path, job_id: str) -> None:
        if folder.exists():
            msg = f"expected {folder} not to exist yet, found it there; choose another folder"
            raise TransferError("folder_exists", msg)
        self.folder = folder
        self._files = files
        self._temporary = folder.with_name(f".{folder.name}-{job_id[:12]}.part")
        self._incoming: dict[str, _Incoming] = {}
        self._unchecked: list[_Incoming] = []
        #: Blobs of which everything on disk is checked and the rest is to be fetched.
        self._to_fetch: list[_Incoming] = []
        self._fetched: set[str] = set()
        self._finishing: Iterator[None] | None = None
        self.bytes_total = sum(file.size_bytes for file in self._unique())
        with _disk_errors(folder):
            self._temporary.mkdir(parents=True, exist_ok=True)
            for file in self._unique():
                path = self._temporary / file.path
                path.parent.mkdir(exist_ok=True)
                incoming = _Incoming(path, file.sha256, file.size_bytes)
                self._incoming[file.sha256] = incoming
                self._unchecked.append(incoming)

    @property
    def bytes_done(self) -> int:
        """Bytes on disk that are known to be right so far."""
        return sum(incoming.hashed_bytes for incoming in self._incoming.values())

    @property
    def is_complete(self) -> bool:
        """Whether every blob is on disk."""
        return len(self._fetched) == len(self._incoming)

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do without the server."""
        return bool(self._unchecked) or self.is_complete

    def step(self) -> bool:
        """Check a slice of what an earlier run left, or finish; true once the folder is there.

        Raises:
            TransferError: `blob_corrupt` or `disk`.
        """
        with _disk_errors(self.folder):
            if self._unchecked:
                self._check_one()
                return False
            if self._finishing is None:
                self._finishing = self._finish()
            return next(self._finishing, "end") == "end"

    def next_fetches(self) -> list[tuple[str, int]]:
        """SHA-256 and offset of the blobs to be asked for now; each is given out once."""
        fetches = [(incoming.sha256, incoming.hashed_bytes) for incoming in self._to_fetch]
        self._to_fetch.clear()
        return fetches

    def start_session(self) -> None:
        """A new session: what is not here yet must be asked for again."""
        self._to_fetch = [
            incoming
            for sha256, incoming in self._incoming.items()
            if sha256 not in self._fetched and incoming not in self._unchecked
        ]

    def wants(self, sha256: str) -> bool:
        """Whether this blob is on its way here."""
        return sha256 in self._incoming and sha256 not in self._fetched

    def chunk(self, sha256: str, offset_bytes: int, data: bytes) -> None:
        """Write the next bytes of a blob.

        Raises:
            TransferError: `chunk_offset`, `blob_corrupt` or `disk`.
        """
        incoming = self._incoming[sha256]
        end_bytes = offset_bytes + len(data)
        if offset_bytes != incoming.hashed_bytes or end_bytes > incoming.size_bytes:
            msg = (
                f"expected bytes of {incoming.path.name} from {incoming.hashed_bytes} on, found a "
                f"chunk at {offset_bytes}; fetch the result again"
            )
            raise TransferError("chunk_offset", msg)
        with _disk_errors(self.folder):
            incoming.append(data)
            if incoming.hashed_bytes == incoming.size_bytes:
                self._complete(incoming)

    def close(self) -> None:
        """Let go of the files; what came stays for another time."""
        for incoming in self._incoming.values():
            incoming.close()

    def discard(self) -> None:
        """Remove what came."""
        self.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _unique(self) -> list[FileRef]:
        """The first file of each content."""
        return list({file.sha256: file for file in reversed(self._files)}.values())

    def _check_one(self) -> None:
        incoming = self._unchecked[-1]
        if not incoming.is_checked:
            incoming.check_slice()
            return
        self._unchecked.pop()
        if incoming.hashed_bytes == incoming.size_bytes:
            if not incoming.size_bytes:
                incoming.append(b"")
            self._complete(incoming)
        else:
            self._to_fetch.append(incoming)

    def _complete(self, incoming: _Incoming) -> None:
        incoming.close()
        if incoming.is_right:
            self._fetched.add(incoming.sha256)
            return
        if incoming.tries == _MAX_TRIES:
            msg = (
                f"expected {incoming.path.name} with SHA-256 {incoming.sha256[:12]}…, found other "
                "bytes twice; make the result again"
            )
            raise TransferError("blob_corrupt", msg)
        incoming.start_again()
        self._to_fetch.append(incoming)

    def _finish(self) -> Iterator[None]:
        """Copy the files of the same content, then name the folder; a step per file."""
        for file in self._files:
            path = self._temporary / file.path
            source = self._incoming[file.sha256].path
            if path != source:
                path.parent.mkdir(exist_ok=True)
                shutil.copyfile(source, path)
                yield
        self._temporary.rename(self.folder)


class _disk_errors:  # noqa: N801 - reads as a statement
    """Turn what the disk says into an error that says what to do."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError):
            msg = (
                f"expected to write to {self._folder.parent}, found: {error.strerror}; free some "
                "space or choose another folder, then fetch the result again"
            )
            raise TransferError("disk", msg) from error
