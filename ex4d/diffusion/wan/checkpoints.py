# pyright: reportMissingImports=false
"""Tensors in files: their shapes without reading them, their values one at a time, and writing.

Nothing is unpickled: `.pth` and `.ckpt` files are read with `weights_only`.
"""

import json
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from ex4d.errors import InputError

Shape = tuple[int, ...]

#: What `torch.load` raises where it refuses to unpickle something else than tensors.
_RefusedError = torch.serialization.pickle.UnpicklingError

_NAMES_SHOWN = 5
_SAFETENSORS_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def tensor_shapes(path: Path) -> dict[str, Shape]:
    """The shape of each tensor in a file, without reading their values.

    Raises:
        InputError: `checkpoint_damaged` if the file is not whole.
    """
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with _damage_named(path), safe_open(str(path), framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    return {name: tuple(value.shape) for name, value in _load(path, "meta").items()}


def tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of each tensor in a file, on the CPU, as stored; one at a time.

    Raises:
        InputError: `checkpoint_damaged` if the file is not whole.
    """
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with _damage_named(path), safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                yield name, file.get_tensor(name)
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
        size_bytes = dtype.itemsize * int(torch.Size(shape).numel())
        kind = _SAFETENSORS_TYPES[dtype]
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
    from safetensors import SafetensorError

    try:
        yield
    # torch raises RuntimeError for a damaged archive.
    except (OSError, EOFError, ValueError, RuntimeError, _RefusedError, SafetensorError) as error:
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
