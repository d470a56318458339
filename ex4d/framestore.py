"""Frames of a clip that need not fit into memory.

Small clips are ordinary arrays. Larger ones are arrays too, mapped from a nameless file in the
folder for temporary files (TMPDIR), which goes when the array does. Whoever walks over all frames
uses `each_frame`, or calls `release` now and then, so that few of them are resident at a time.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

#: Clips up to this size stay in memory.
IN_MEMORY_BYTES = 512 << 20
#: So much of a mapped clip is resident before it is released.
_RESIDENT_BYTES = 128 << 20


def new_frames(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Frames of zeros.

    Args:
        shape: Of the whole clip, frames first.
        dtype: Of its numbers.

    Raises:
        InputError: `disk_full` where the clip fits neither into memory nor on the disk.
    """
    size_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if size_bytes <= IN_MEMORY_BYTES:
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile() as file:
        try:
            # Without room of its own, writing through the mapping would end the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size_bytes)
            else:
                block = bytes(1 << 20)
                for start in range(0, size_bytes, len(block)):
                    file.write(block[: size_bytes - start])
                file.flush()
        except OSError as error:
            raise _no_room(size_bytes) from error
        return _mapped(file, shape, dtype)


class FrameCollector:
    """Collects frames whose number is not known beforehand, all of one shape and type."""

    def __init__(self) -> None:
        self._in_memory: list[NDArray[Any]] = []
        self._file: IO[bytes] | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, frame: NDArray[Any]) -> None:
        """Take the next frame.

        Raises:
            InputError: `disk_full`.
        """
        self._count += 1
        if self._file is not None:
            self._write(frame)
            return
        self._in_memory.append(frame)
        if self._count * frame.nbytes > IN_MEMORY_BYTES:
            # Unbuffered: a full disk must show where it is written to, not where it is closed.
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - `close` does
            for kept in self._in_memory:
                self._write(kept)
            # The last one stays, for its shape and type.
            del self._in_memory[:-1]

    def frames(self) -> NDArray[Any]:
        """All frames; the collector is empty afterwards."""
        last = self._in_memory[-1]
        if self._file is not None:
            with self._file as file:
                return _mapped(file, (self._count, *last.shape), last.dtype.type)
        frames = np.empty((self._count, *last.shape), last.dtype)
        # From the end, each copied frame is let go: the clip is never in memory twice.
        while self._in_memory:
            frame = self._in_memory.pop()
            frames[len(self._in_memory)] = frame
        return frames

    def close(self) -> None:
        """Give up what was collected; harmless after `frames`."""
        self._in_memory.clear()
        if self._file is not None:
            self._file.close()

    def _write(self, frame: NDArray[Any]) -> None:
        assert self._file is not None  # noqa: S101 - the caller's part
        try:
            rest = np.ascontiguousarray(frame).data.cast("B")
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise _no_room(self._count * frame.nbytes) from error


def each_frame(frames: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The frames in order, as views that may be written to; few are resident at a time."""
    resident_bytes = 0
    for frame in frames:
        yield frame
        resident_bytes += frame.nbytes
        if resident_bytes > _RESIDENT_BYTES:
            release(frames)
            resident_bytes = 0
    release(frames)


def release(frames: NDArray[Any]) -> None:
    """Let the system take back the memory of mapped frames; their values stay."""
    owner: Any = frames
    while isinstance(owner, np.ndarray):
        owner = owner.base
    mapping = owner.obj if isinstance(owner, memoryview) else owner
    # Windows has no such call, and takes the memory of mapped files when it is short of it.
    if isinstance(mapping, mmap.mmap) and hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)


def value_range(frames: NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest number of a clip; NaN if there is one."""
    lows, highs = zip(*((frame.min(), frame.max()) for frame in each_frame(frames)), strict=True)
    return float(np.min(lows)), float(np.max(highs))


def _mapped(file: IO[bytes], shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    # The mapping keeps the nameless file.
    mapping = mmap.mmap(file.fileno(), 0)
    return np.frombuffer(mapping, dtype).reshape(shape)


def _no_room(size_bytes: int) -> InputError:
    msg = (
        f"expected room for {size_bytes >> 20} MiB of frames in {tempfile.gettempdir()}, found "
        "less; free some, name a folder on another disk with TMPDIR, or take fewer frames"
    )
    return InputError("disk_full", msg)
