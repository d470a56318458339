"""Long work in small slices, so that whoever calls keeps their time."""

import hashlib
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple, Protocol

from ..errors import TransferError

#: What one slice of reading and hashing handles: well under a millisecond.
SLICE_BYTES = 256 << 10


class Budget:
    """Says when to stop.

    A slice cannot be interrupted, so one is begun only if the longest so far would still fit.

    Args:
        budget_s: Time that may be spent; the first slice is always allowed.
    """

    def __init__(self, budget_s: float) -> None:
        self._now_s = time.perf_counter()
        self._deadline_s = self._now_s + budget_s
        self._longest_s = 0.0

    def allows_another(self) -> bool:
        """Whether one more slice fits; to be asked after each one."""
        now_s = time.perf_counter()
        self._longest_s = max(self._longest_s, now_s - self._now_s)
        self._now_s = now_s
        return now_s + self._longest_s < self._deadline_s


class Pace:
    """How far bytes have come and how long the rest will take."""

    def __init__(self, total_bytes: int, moved_bytes: int = 0) -> None:
        self.total_bytes = total_bytes
        self.moved_bytes = moved_bytes
        self._first_bytes = moved_bytes
        self._started_s = time.monotonic()

    def add(self, count: int) -> None:
        """Note that so many bytes more were moved."""
        self.moved_bytes += count

    @property
    def fraction(self) -> float:
        """Share of all bytes, 0..1."""
        return self.moved_bytes / self.total_bytes if self.total_bytes else 1.0

    @property
    def eta_s(self) -> float | None:
        """Seconds for the rest at the pace so far; None while that is a mere guess."""
        elapsed_s = time.monotonic() - self._started_s
        moved_bytes = self.moved_bytes - self._first_bytes
        if elapsed_s < 0.5 or moved_bytes <= 0:
            return None
        return elapsed_s / moved_bytes * (self.total_bytes - self.moved_bytes)


class Digest(Protocol):
    """A running hash, as `hashlib` makes them."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Go on with more bytes."""
        ...

    def hexdigest(self) -> str:
        """The hash so far."""
        ...


class Source(NamedTuple):
    """A file as it was when it was hashed."""

    path: Path
    sha256: str
    size_bytes: int
    modified_ns: int

    def check_unchanged(self, descriptor: int) -> None:
        """Compare an open file with what was hashed.

        Raises:
            TransferError: `file_changed`.
        """
        stat = os.fstat(descriptor)
        if (stat.st_size, stat.st_mtime_ns) != (self.size_bytes, self.modified_ns):
            text = (
                f"expected {self.path} to stay as it was when it was hashed, found it changed; "
                "submit again once it is finished"
            )
            raise TransferError("file_changed", text)


def hash_source(path: Path) -> Generator[int, None, Source]:
    """Hash a file, slice by slice; yields the bytes that each slice handled.

    Raises:
        TransferError: `file_changed`.
        OSError: If it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        stat = os.fstat(file.fileno())
        buffer = memoryview(bytearray(SLICE_BYTES))
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            yield count
        source = Source(path, digest.hexdigest(), stat.st_size, stat.st_mtime_ns)
        source.check_unchanged(file.fileno())
    return source
