"""The blob store: files named by their SHA-256, one folder per user.

`blobs/<user>/<aa>/<sha256>` is whole and its hash was checked; `<sha256>.part` beside it is still
growing and becomes the blob by renaming. The folders are the only record, read once at the start.
A user sees nothing of another's blobs: the same bytes are stored once for each.

The process may be killed at any moment. A part holds whatever had been written and goes on from
there; its hash is checked at the end over all of it, so nothing half-written is ever served.
"""

import errno
import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from ex4d.errors import InputError, TransferError
from ex4d.protocol.documents import FileRef
from ex4d.protocol.messages import MAX_CHUNK_BYTES

from .config import Quotas, private_folder
from .limits import LimitsFile

_log = structlog.get_logger(__name__)

_IS_WINDOWS = os.name == "nt"
_PART = ".part"
_READ_BYTES = 4 << 20
#: What must be left for results when a job is taken on; how large they get is not known then.
_LEAST_RESULT_BYTES = 1 << 20
#: EFBIG too: some disks have room but not for a file of this size.
FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: A user and the SHA-256 of one of the user's blobs.
BlobKey = tuple[str, str]


@dataclass
class _Entry:
    size_bytes: int
    used_s: float


class BlobStore:
    """All users' blobs.

    Args:
        folder: Where they are.
        quotas: How much may be stored.
        limits: Users who may store another amount.
    """

    def __init__(self, folder: Path, quotas: Quotas, limits: LimitsFile | None = None) -> None:
        self._folder = private_folder(folder)
        self._quotas = quotas
        self._limits = limits or LimitsFile(None)
        self._blobs: dict[BlobKey, _Entry] = {}
        #: Parts; while one is being uploaded its size is what it will become.
        self._parts: dict[BlobKey, _Entry] = {}
        self._growing: set[BlobKey] = set()
        #: What live jobs need, by job: never removed.
        self._pins: dict[str, frozenset[BlobKey]] = {}
        #: What each user has stored or reserved, in bytes.
        self._used: Counter[str] = Counter()
        for path in self._folder.glob("*/*/*"):
            stat = path.stat()
            table = self._parts if path.suffix == _PART else self._blobs
            self._count(table, (path.parts[-3], path.stem), stat.st_size, stat.st_mtime)

    def size_of(self, key: BlobKey) -> int | None:
        """Size of a whole blob in bytes; None if the user has no such blob."""
        entry = self._blobs.get(key)
        return entry.size_bytes if entry else None

    def path_of(self, key: BlobKey) -> Path:
        """File of a whole blob, which this counts as used now.

        Raises:
            InputError: `not_found`.
        """
        entry = self._blobs.get(key)
        if entry is None:
            msg = f"expected a blob of yours, found none called {key[1]}; upload it"
            raise InputError("not_found", msg)
        path = self._path(key)
        entry.used_s = time.time()
        os.utime(path)
        return path

    def left_bytes(self, user: str) -> int:
        """What a user may still store."""
        return max(0, self._quota_bytes(user) - self._used[user])

    def _quota_bytes(self, user: str) -> int:
        own_bytes = self._limits.of(user).user_bytes
        return self._quotas.user_bytes if own_bytes is None else own_bytes

    def stored_bytes(self) -> int:
        """What all users have stored or reserved."""
        return self._used.total()

    def disk_left_bytes(self) -> int:
        """What the disk still takes, without what stays reserved."""
        free_bytes = shutil.disk_usage(self._folder).free
        return free_bytes - self._quotas.disk_reserve_bytes - self._promised_bytes()

    def reserve(self, user: str, blobs: Iterable[FileRef]) -> None:
        """Set room aside for blobs that are about to arrive, removing old ones where needed.

        Args:
            user: Who will own them.
            blobs: Those that are not whole yet.

        Raises:
            InputError: `blob_too_large`, `quota_exceeded` or `disk_full`; nothing is reserved then.
        """
        wanted = {(user, blob.sha256): blob.size_bytes for blob in blobs}
        for (_, sha256), size_bytes in wanted.items():
            if size_bytes > self._quotas.blob_bytes:
                msg = (
                    f"expected files of at most {self._quotas.blob_bytes} bytes, found "
                    f"{size_bytes} ({sha256[:12]}); use a shorter or smaller clip"
                )
                raise InputError("blob_too_large", msg)
        held = {key: self._parts[key].size_bytes for key in wanted if key in self._parts}
        more_bytes = sum(wanted.values()) - sum(held.values())
        # What an earlier attempt has written is on the disk already.
        new_bytes = sum(size - self.part_bytes(key) for key, size in wanted.items())
        self._make_room(user, more_bytes, new_bytes, keep=wanted.keys())
        for key, size_bytes in wanted.items():
            self._count(self._parts, key, size_bytes)
            self._growing.add(key)

    def check_room_for_results(self, user: str, keep: Iterable[BlobKey]) -> None:
        """Refuse a job of a user who has no room left, removing old blobs where needed.

        Results are kept even where they go beyond the quota, so as not to lose what was made.

        Args:
            user: Whose job it is.
            keep: The job's files, which are not removed.

        Raises:
            InputError: `quota_exceeded` or `disk_full`.
        """
        self._make_room(user, _LEAST_RESULT_BYTES, _LEAST_RESULT_BYTES, keep)

    def release(self, key: BlobKey) -> None:
        """Give back what was reserved for a part that stopped growing; its bytes stay."""
        self._growing.discard(key)
        written_bytes = self.part_bytes(key)
        if written_bytes:
            self._count(self._parts, key, written_bytes)
        else:
            self._discount(self._parts, key)

    def part_bytes(self, key: BlobKey) -> int:
        """How many bytes of a part are stored."""
        try:
            return self._part_path(key).stat().st_size
        except FileNotFoundError:
            return 0

    def shorten_part(self, key: BlobKey, size_bytes: int) -> int:
        """Make sure that a part lacks at least a byte, so that its end is the end of an upload.

        Args:
            key: The part.
            size_bytes: Size of the whole blob, at least 1.

        Returns:
            How many bytes are stored.
        """
        have_bytes = self.part_bytes(key)
        if have_bytes >= size_bytes:
            have_bytes = (size_bytes - 1) // MAX_CHUNK_BYTES * MAX_CHUNK_BYTES
            os.truncate(self._part_path(key), have_bytes)
        return have_bytes

    def open_part(self, key: BlobKey, size_bytes: int) -> "PartWriter":
        """A writer that goes on where the part ends. Reads what is there: call it off the loop.

        Raises:
            TransferError: `disk_full`.
        """
        path = self._part_path(key)
        with _told_when_full(key[1]):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            return PartWriter(path, key[1], size_bytes)

    def adopt_part(self, key: BlobKey, size_bytes: int) -> None:
        """Count a part that its writer has finished as a blob."""
        self._growing.discard(key)
        self._discount(self._parts, key)
        self._count(self._blobs, key, size_bytes)

    def add_empty(self, user: str) -> None:
        """Store the empty blob, for which there is nothing to send."""
        key = (user, hashlib.sha256().hexdigest())
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        _protect(path)
        self._count(self._blobs, key, 0)

    def take_file(self, user: str, source: Path) -> tuple[BlobKey, int]:
        """Move a finished file into the store. Call it off the loop, then `adopt_part`.

        Args:
            user: Who shall own it.
            source: A file on the same disk; it is gone afterwards.

        Returns:
            The blob and its size in bytes.
        """
        digest = hashlib.sha256()
        with source.open("rb", buffering=0) as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
            size_bytes = file.tell()
        key = (user, digest.hexdigest())
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _place(source, path)
        return key, size_bytes

    def pin(self, job_id: str, keys: Iterable[BlobKey]) -> None:
        """Keep blobs, whatever happens, until `unpin`."""
        self._pins[job_id] = frozenset(keys)

    def unpin(self, job_id: str) -> None:
        """The job has ended: its blobs may grow old."""
        self._pins.pop(job_id, None)

    def remove_old(self) -> None:
        """Remove blobs and parts that nothing used for long."""
        limit_s = time.time() - self._quotas.keep_s
        for key, entry in [*self._parts.items(), *self._blobs.items()]:
            if entry.used_s < limit_s and self._is_removable(key):
                self._remove(key)

    def _make_room(
        self, user: str, more_bytes: int, new_bytes: int, keep: Iterable[BlobKey]
    ) -> None:
        """Remove the user's least recently used blobs until the new ones fit.

        Nothing is removed if that would not be enough.
        """
        kept = set(keep)
        limit_s = time.time() - self._quotas.young_s
        idle = sorted(
            (entry.used_s, key, entry.size_bytes)
            for table in (self._parts, self._blobs)
            for key, entry in table.items()
            if entry.used_s < limit_s
            and key[0] == user
            and key not in kept
            and self._is_removable(key)
        )
        removable_bytes = sum(size_bytes for _, _, size_bytes in idle)
        if problem := self._shortage(user, more_bytes, new_bytes, freed_bytes=removable_bytes):
            raise problem
        while problem := self._shortage(user, more_bytes, new_bytes):
            if not idle:
                raise problem
            self._remove(idle.pop(0)[1])

    def _shortage(
        self, user: str, more_bytes: int, new_bytes: int, *, freed_bytes: int = 0
    ) -> InputError | None:
        left_bytes = max(0, self._quota_bytes(user) - self._used[user] + freed_bytes)
        if more_bytes > left_bytes:
            msg = (
                f"expected to store {more_bytes} bytes more, found room for {left_bytes} "
                "in your quota; wait until old files expire or ask for more"
            )
            return InputError("quota_exceeded", msg)
        total_left_bytes = self._quotas.total_bytes - self._used.total() + freed_bytes
        disk_left_bytes = self.disk_left_bytes() + freed_bytes
        if more_bytes > total_left_bytes or new_bytes > disk_left_bytes:
            msg = (
                f"expected room for {new_bytes} bytes on the server, found its disk full; "
                "ask the server's owner to make room"
            )
            return InputError("disk_full", msg)
        return None

    def _promised_bytes(self) -> int:
        """What running uploads will still write."""
        return sum(self._parts[key].size_bytes - self.part_bytes(key) for key in self._growing)

    def _count(
        self, table: dict[BlobKey, _Entry], key: BlobKey, size_bytes: int, used_s: float = 0.0
    ) -> None:
        self._discount(table, key)
        table[key] = _Entry(size_bytes, used_s or time.time())
        self._used[key[0]] += size_bytes

    def _discount(self, table: dict[BlobKey, _Entry], key: BlobKey) -> None:
        entry = table.pop(key, None)
        if entry:
            self._used[key[0]] -= entry.size_bytes

    def _is_removable(self, key: BlobKey) -> bool:
        return key not in self._growing and not any(key in keys for keys in self._pins.values())

    def _remove(self, key: BlobKey) -> None:
        self._discount(self._parts, key)
        self._discount(self._blobs, key)
        try:
            self._part_path(key).unlink(missing_ok=True)
            self._path(key).unlink(missing_ok=True)
        except PermissionError:
            # Windows keeps files that are being read; the next start counts this one again.
            _log.warning("blob_in_use", sha256=key[1])

    def _path(self, key: BlobKey) -> Path:
        user, sha256 = key
        return self._folder / user / sha256[:2] / sha256

    def _part_path(self, key: BlobKey) -> Path:
        return self._path(key).with_suffix(_PART)


class PartWriter:
    """Appends to a part and hashes what it appends. Its methods block: call them off the loop.

    Args:
        path: File of the part.
        sha256: What the whole shall hash to.
        size_bytes: Size of the whole.
    """

    def __init__(self, path: Path, sha256: str, size_bytes: int) -> None:
        self._path = path
        self._sha256 = sha256
        self._size_bytes = size_bytes
        self._hash = hashlib.sha256()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        #: Bytes written and hashed.
        self.written_bytes = 0
        while block := os.read(self._descriptor, _READ_BYTES):
            self._hash.update(block)
            self.written_bytes += len(block)

    def write(self, buffers: Iterable[memoryview]) -> None:
        """Append.

        Raises:
            TransferError: `disk_full`; what was written before stays and can be resumed.
        """
        for buffer in buffers:
            rest = buffer
            with _told_when_full(self._sha256):
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            self._hash.update(buffer)
            self.written_bytes += len(buffer)

    def finish(self) -> None:
        """Check the hash and turn the part into a blob.

        Raises:
            TransferError: `blob_corrupt`; the part is removed then.
        """
        self.close()
        found = self._hash.hexdigest()
        if found != self._sha256 or self.written_bytes != self._size_bytes:
            self._path.unlink()
            msg = (
                f"expected a blob with SHA-256 {self._sha256}, found {found}; the file changed "
                "while it was sent: submit again"
            )
            raise TransferError("blob_corrupt", msg)
        _place(self._path, self._path.with_suffix(""))

    def close(self) -> None:
        """Stop writing; the part stays as it is."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _protect(path: Path) -> None:
    """Let nobody change a blob any more: jobs get links to this very file."""
    # Windows neither removes nor replaces a file without the right to write it.
    if not _IS_WINDOWS:
        path.chmod(0o400)


def _place(source: Path, path: Path) -> None:
    """Make a whole file the blob that its content says, which may be there already."""
    _protect(source)
    try:
        source.replace(path)
    except PermissionError:
        # Windows replaces no file that is being read; what is there is the same.
        if not path.exists():
            raise
        source.unlink()


@contextmanager
def _told_when_full(sha256: str) -> Generator[None]:
    """Turn the system's word for a full disk into ours.

    Raises:
        TransferError: `disk_full`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_ERRORS:
            raise
        msg = (
            f"expected room for blob {sha256[:12]} on the server, found its disk full; ask the "
            "server's owner to make room, then submit again"
        )
        raise TransferError("disk_full", msg) from error
