# pyright: reportMissingImports=false
"""Tensors in files: their shapes without reading them, their values one at a time, and writing.

Nothing is unpickled: `.pth` and `.ckpt` files are read with `weights_only`.
"""

import json
import math
import os
import struct
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import torch

from ex4d.errors import InputError

Shape = tuple[int, ...]

#: What `torch.load` raises where it refuses to unpickle something else than tensors.
_RefusedError = torch.serialization.pickle.UnpicklingError

_NAMES_SHOWN = 5
#: As the format's own library has it.
_MAX_HEADER_BYTES = 100_000_000
#: So much each thread reads at a time.
_SLICE_BYTES = 16 << 20
_READERS = 8
_SAFETENSORS_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
}
_SAFETENSORS_NAMES = {dtype: name for name, dtype in _SAFETENSORS_TYPES.items()}


def tensor_shapes(path: Path) -> dict[str, Shape]:
    """The shape of each tensor in a file, without reading their values.

    Raises:
        InputError: `checkpoint_damaged` if the file is not whole.
    """
    if path.suffix == ".safetensors":
        with _damage_named(path), path.open("rb") as file:
            return {entry.name: entry.shape for entry in _read_header(file)}
    return {name: tuple(value.shape) for name, value in _load(path, "meta").items()}


def tensors(path: Path, *, is_for_card: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of each tensor in a file, on the CPU, as stored; one at a time.

    Safetensors files are read, not mapped: mapping one that is larger than the machine's memory
    fails.

    Args:
        path: A safetensors file, or what torch saved.
        is_for_card: Whether each value is copied to a CUDA card before the next is asked for. Then
            it may lie in memory that the next but one is read into: fresh memory costs the system
            more than reading into it, and the card takes most from pinned memory.

    Raises:
        InputError: `checkpoint_damaged` if the file is not whole.
    """
    if path.suffix == ".safetensors":
        with _damage_named(path):
            yield from _read_ahead(path, is_for_card=is_for_card)
        return
    yield from _load(path, "cpu").items()


def check_names_and_shapes(
    what: str, expected: Mapping[str, Shape], found: Mapping[str, Shape]
) -> None:
    """Refuse a checkpoint that is not exactly what was expected.

    Args:
        what: The file, for the message.
        expected: Shape by name.
        found: Shape by name.

    Raises:
        InputError: `checkpoint_keys`, naming unknown, missing and misshaped tensors.
    """
    complaints = [
        _listing("unknown", [f"{name} {list(found[name])}" for name in found.keys() - expected]),
        _listing("missing", [f"{name} {list(expected[name])}" for name in expected.keys() - found]),
        _listing(
            "misshaped",
            [
                f"{name} {list(found[name])} instead of {list(shape)}"
                for name, shape in expected.items()
                if name in found and tuple(found[name]) != tuple(shape)
            ],
        ),
    ]
    complaints = [complaint for complaint in complaints if complaint]
    if complaints:
        msg = (
            f"expected in {what} the {len(expected)} tensors of this model, found "
            f"{'; '.join(complaints)}; fetch the file again from where the model is published"
        )
        raise InputError("checkpoint_keys", msg)


def write_safetensors(
    path: Path,
    layout: Mapping[str, tuple[Shape, torch.dtype]],
    values: Iterable[tuple[str, torch.Tensor]],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file tensor by tensor, holding one at a time in memory.

    Args:
        path: The file to write.
        layout: Shape and type of each tensor.
        values: Each tensor of `layout` once, in any order.
        metadata: Goes into the header.

    The format is a little-endian uint64 of the header's size, the header as JSON, then the values:
    https://github.com/huggingface/safetensors#format
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offsets: dict[str, int] = {}
    end = 0
    for name, (shape, dtype) in layout.items():
        offsets[name] = end
        size_bytes = dtype.itemsize * math.prod(shape)
        kind = _SAFETENSORS_NAMES[dtype]
        span = [end, end + size_bytes]
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": span}
        end += size_bytes
    text = json.dumps(header).encode()
    # The values start at a multiple of eight bytes.
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        start = file.tell()
        file.truncate(start + end)
        for name, value in values:
            shape, dtype = layout[name]
            stored = value.to("cpu", dtype).reshape(shape).contiguous()
            file.seek(start + offsets[name])
            file.write(stored.flatten().view(torch.uint8).numpy().data)


class _Entry(NamedTuple):
    """Where a safetensors file holds a tensor; bytes count from the end of the header."""

    name: str
    shape: Shape
    dtype: torch.dtype
    begin: int
    end: int


def _read_header(file: IO[bytes]) -> list[_Entry]:
    """The tensors of a safetensors file; leaves the file where the values start.

    Raises:
        ValueError: If it is none, or not as long as it says.
    """
    size_bytes = os.fstat(file.fileno()).st_size
    prefix = file.read(8)
    if len(prefix) < 8 or (header_bytes := struct.unpack("<Q", prefix)[0]) > min(
        size_bytes - 8, _MAX_HEADER_BYTES
    ):
        raise ValueError("its header is cut off")
    header = json.loads(file.read(header_bytes))
    if not isinstance(header, dict):
        raise ValueError("its header is none")  # noqa: TRY004 - of the file, not of an argument
    values_bytes = size_bytes - 8 - header_bytes
    entries = []
    for name, fields in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype = _SAFETENSORS_TYPES[fields["dtype"]]
            shape = tuple(int(side) for side in fields["shape"])
            begin, end = (int(offset) for offset in fields["data_offsets"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"its header says nothing that is known of {name[:64]}") from error
        if min(shape, default=0) < 0 or end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"its header contradicts itself about {name[:64]}")
        if not 0 <= begin <= end <= values_bytes:
            raise ValueError(f"it ends before {name[:64]} does")
        entries.append(_Entry(name, shape, dtype, begin, end))
    if max((entry.end for entry in entries), default=0) != values_bytes:
        raise ValueError("it is longer than its header says")
    return entries


def _read_ahead(path: Path, *, is_for_card: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Read a safetensors file in the order in which it lies on disk, the next while one is used.

    Reading goes on while the caller moves a tensor to the card, in slices by several threads, since
    one thread alone is held up by the page faults of fresh memory.
    """
    with path.open("rb") as file:
        entries = sorted(_read_header(file), key=lambda entry: entry.begin)
        start = file.tell()
    used_again: list[torch.Tensor] = []
    if is_for_card:
        largest_bytes = max((entry.end - entry.begin for entry in entries), default=0)
        used_again = [
            torch.empty(largest_bytes, dtype=torch.uint8, pin_memory=True) for _ in range(2)
        ]

    def read_slice(into: memoryview, offset: int) -> None:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            while into:
                count = file.readinto(into)
                if not count:
                    raise EOFError("it became shorter while it was read")
                into = into[count:]

    def begin(index: int) -> tuple[_Entry, torch.Tensor, list[Future[None]]]:
        entry = entries[index]
        size_bytes = entry.end - entry.begin
        if used_again:
            data = used_again[index % 2][:size_bytes]
        else:
            data = torch.empty(size_bytes, dtype=torch.uint8)
        view = memoryview(data.numpy())
        slices = [
            pool.submit(read_slice, view[at : at + _SLICE_BYTES], start + entry.begin + at)
            for at in range(0, len(view), _SLICE_BYTES)
        ]
        return entry, data, slices

    with ThreadPoolExecutor(min(os.cpu_count() or 1, _READERS), "read") as pool:
        pending = deque([begin(0)] if entries else [])
        for index in range(len(entries)):
            if index + 1 < len(entries):
                pending.append(begin(index + 1))
            entry, data, slices = pending.popleft()
            for part in slices:
                part.result()
            yield entry.name, data.view(entry.dtype).reshape(entry.shape)


def _load(path: Path, device: str) -> dict[str, torch.Tensor]:
    """All tensors of a file that torch saved; their values are read when they are used."""
    with _damage_named(path):
        is_archive = zipfile.is_zipfile(path)
        plain = torch.load(
            path,
            map_location=device,
            weights_only=True,
            mmap=is_archive and device != "meta",
        )
        # Some trainers wrap the tensors in one more dictionary.
        if isinstance(plain, dict) and set(plain) == {"model_state"}:
            plain = plain["model_state"]
        if not isinstance(plain, dict) or not all(
            isinstance(name, str) and isinstance(value, torch.Tensor)
            for name, value in plain.items()
        ):
            raise ValueError("it holds something else than named tensors")
        return plain


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    # torch raises RuntimeError for a damaged archive.
    except (OSError, EOFError, ValueError, RuntimeError, _RefusedError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        size_bytes = path.stat().st_size if path.exists() else 0
        msg = (
            f"expected a whole checkpoint in {path.name}, found one of {size_bytes} bytes that "
            f"cannot be read ({reason[:200]}); fetch it again, it may have been cut short"
        )
        raise InputError("checkpoint_damaged", msg) from error


def _listing(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(sorted(names)[:_NAMES_SHOWN])
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{len(names)} {kind}: {shown}{more}"
