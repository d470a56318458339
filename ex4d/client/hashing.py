"""SHA-256 of files, a slice at a time."""

import hashlib
import os
from pathlib import Path

from ..errors import TransferError
from ..protocol.documents import FileRef

#: One slice takes a millisecond or so.
SLICE_BYTES = 512 << 10


class FileHasher:
    """Hashes some files, in order.

    Args:
        sources: Relative path on the server -> file here.

    Raises:
        TransferError: `source_missing` if a file cannot be found.
    """

    def __init__(self, sources: dict[str, Path]) -> None:
        self.bytes_done = 0
        self.bytes_total = 0
        #: What was hashed so far, in order.
        self.files: list[FileRef] = []
        #: Where each lies, with its size and modification time in ns when it was hashed.
        self.hashed: list[tuple[Path, tuple[int, int]]] = []
        self._todo = list(sources.items())
        self._next = 0
        self._descriptor = -1
        self._stamp = (0, 0)
        self._digest = hashlib.sha256()
        for _, path in self._todo:
            self.bytes_total += _stamp(path)[0]

    @property
    def is_done(self) -> bool:
        """Whether all files are hashed."""
        return self._next == len(self._todo)

    def step(self) -> None:
        """Hash one slice.

        Raises:
            TransferError: `source_missing` or `source_changed`.
        """
        name, path = self._todo[self._next]
        if self._descriptor < 0:
            self._stamp = _stamp(path)
            self._descriptor = open_to_read(path)
            self._digest = hashlib.sha256()
        data = os.read(self._descriptor, SLICE_BYTES)
        if data:
            self._digest.update(data)
            self.bytes_done += len(data)
            return
        self.close()
        size_bytes = check_unchanged(path, self._stamp)
        self.files.append(
            FileRef(path=name, sha256=self._digest.hexdigest(), size_bytes=size_bytes)
        )
        self.hashed.append((path, self._stamp))
        self._next += 1

    def close(self) -> None:
        """Let go of the file that is being read."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def open_to_read(path: Path) -> int:
    """Open a file; a descriptor.

    Raises:
        TransferError: `source_missing`.
    """
    try:
        # O_BINARY exists, and matters, on Windows only.
        return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise _missing(path, error) from error


def check_unchanged(path: Path, stamp: tuple[int, int]) -> int:
    """Check that a file is as it was; its size in bytes.

    Raises:
        TransferError: `source_missing` or `source_changed`.
    """
    if _stamp(path) != stamp:
        msg = f"expected {path.name} to stay as it was, found it changed meanwhile; submit again"
        raise TransferError("source_changed", msg)
    return stamp[0]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise _missing(path, error) from error
    return status.st_size, status.st_mtime_ns


def _missing(path: Path, error: OSError) -> TransferError:
    msg = f"expected to read {path}, found: {error.strerror}; choose the file again"
    return TransferError("source_missing", msg)
