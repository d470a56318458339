"""NumPy files from elsewhere, read entry by entry: nothing is unpickled, nothing allocated unseen.

`numpy.load` allocates what a file's header asks for before it looks at the data. Here the header is
shown first, and then one entry along the first axis at a time is read, so that a small file that
unpacks to a large array costs no more memory than one entry.
"""

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from .errors import InputError

#: What the readers below raise on a file that is not what its name says.
_DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    # An encrypted member, or a compression that this Python lacks.
    RuntimeError,
    # A header that is no Python literal.
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class ArrayReader:
    """An array of real numbers in a file, whose entries are read in order.

    Attributes:
        shape: Of the whole array.
        dtype: Of its numbers; a real one.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path
        version = npy_format.read_magic(file)
        read_header = (
            npy_format.read_array_header_1_0
            if version == (1, 0)
            else npy_format.read_array_header_2_0
        )
        self.shape, in_columns, self.dtype = read_header(file)
        # Reading a negative number of bytes would read all there are.
        if self.dtype.kind not in "fui" or not self.shape or min(self.shape) < 0:
            msg = (
                f"expected an array of real numbers in {path.name}, found {self.dtype} of shape "
                f"{self.shape}; save it as numbers"
            )
            raise InputError("array_invalid", msg)
        if in_columns:
            msg = (
                f"expected {path.name} in row-major order, found column-major; "
                "save it with numpy.ascontiguousarray"
            )
            raise InputError("array_invalid", msg)

    def next_entry(self) -> NDArray[np.generic]:
        """The next entry along the first axis, of `shape[1:]`; read-only.

        Raises:
            InputError: `array_invalid` if the file is damaged or ends before it.
        """
        size_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        with _damage_named(self._path):
            data = self._file.read(size_bytes)
        if len(data) != size_bytes:
            msg = f"expected {size_bytes} more bytes in {self._path.name}, found {len(data)}"
            raise InputError("array_invalid", msg + "; copy the file again")
        return np.frombuffer(data, self.dtype).reshape(self.shape[1:])

    def skip_entries(self, count: int) -> None:
        """Go on `count` entries further."""
        for _ in range(count):
            self.next_entry()

    def all_entries(self) -> NDArray[np.generic]:
        """All entries; only for arrays whose `shape` was found to be small."""
        return np.stack([self.next_entry() for _ in range(self.shape[0])])


@contextmanager
def open_array(path: Path, name: str) -> Iterator[ArrayReader]:
    """Open the array of an `.npy` file, or one of an `.npz` archive.

    Args:
        path: The file; what it is, is told by its first bytes.
        name: The array's name in an archive; ignored in an archive of a single array.

    Raises:
        InputError: `array_invalid` if there is no such array of real numbers.
    """
    with ExitStack() as stack:
        with _damage_named(path):
            file: IO[bytes] = stack.enter_context(path.open("rb"))
            if zipfile.is_zipfile(file):
                archive = stack.enter_context(zipfile.ZipFile(file))
                file = stack.enter_context(archive.open(_member_name(archive, name, path)))
            else:
                file.seek(0)
            reader = ArrayReader(file, path)
        yield reader


def _member_name(archive: zipfile.ZipFile, name: str, path: Path) -> str:
    names = archive.namelist()
    if f"{name}.npy" in names:
        return f"{name}.npy"
    if len(names) == 1:
        return names[0]
    found = ", ".join(sorted(names)[:10]) or "none"
    msg = f"expected an array called {name} in {path.name}, found {found}; rename the array"
    raise InputError("array_invalid", msg)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        msg = (
            f"expected a NumPy file in {path.name}, found one that cannot be read: {error}; "
            "save it again with numpy.save or numpy.savez"
        )
        raise InputError("array_invalid", msg) from error
