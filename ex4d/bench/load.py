# pyright: reportMissingImports=false
"""Loading the transformer from a converted file, against plainly reading that file.

The file has the real model's names, shapes and types, and random values. It is read once from the
page cache and once from the disk, each time first plainly and then as the engine loads it.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from ex4d.diffusion.wan import loading
from ex4d.diffusion.wan.files import converted_layout
from ex4d.diffusion.wan.fp8 import quantised_shapes
from ex4d.diffusion.wan.fused import quantise_rows
from ex4d.weights.checkpoints import write_safetensors

from .generate import Architecture, empty_dit

_READ_BYTES = 16 << 20
_READERS = 8


def run(*, folder: Path | None, blocks: int, fp8: bool, quantise: bool) -> None:
    """Print how fast the model loads.

    Args:
        folder: Where the file is written for the time of the run; a temporary folder where absent.
        blocks: Of the transformer, 0.7 GB each; the real one has 40.
        fp8: Whether the file holds large layers in 8 bits.
        quantise: Put those of a file in 16 bits into 8 on their way, as the mode `fast` does.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="ex4d-load-", dir=folder) as temporary:
        files = converted_layout(Path(temporary), is_quantised=fp8)
        (path,) = files.dit
        files.config.parent.mkdir()
        files.config.write_text(json.dumps({"num_heads": 40, "eps": 1e-6}), encoding="utf-8")
        size_bytes = _write(path, Architecture(layers=blocks), is_quantised=fp8)

        def load() -> None:
            loading.load_dit(files, [], device=device, dtype=torch.bfloat16, quantise=quantise)
            if device.type == "cuda":
                torch.cuda.synchronize()

        if device.type == "cuda":
            # Starting CUDA and compiling the kernel are not loading.
            quantise_rows(torch.ones(1, 5120, dtype=torch.bfloat16, device=device))
            torch.empty(1, pin_memory=True)
        print(f"{blocks} blocks, {size_bytes / 1e9:.1f} GB, to {device.type}")
        for source, prepare in (("page cache", lambda: None), ("disk", lambda: _forget(path))):
            rates = {}
            for name, call in {
                "one thread reading": lambda: _read(path, 1),
                f"{_READERS} threads reading": lambda: _read(path, _READERS),
                "loading": load,
            }.items():
                prepare()
                rates[name] = size_bytes / _seconds(call)
            plain = rates["one thread reading"]
            print(source)
            for name, rate in rates.items():
                print(f"  {name}: {rate / 1e9:.2f} GB/s, {rate / plain:.0%} of one thread")


def _write(path: Path, architecture: Architecture, *, is_quantised: bool) -> int:
    state = empty_dit(architecture).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    if is_quantised:
        shapes = quantised_shapes(shapes)
    layout = {
        name: (shape, loading.stored_type(name, torch.bfloat16, is_quantised=is_quantised))
        for name, shape in shapes.items()
    }
    largest = max(math.prod(shape) for shape in shapes.values())
    noise = torch.randn(largest, dtype=torch.float32).to(torch.bfloat16)

    def values() -> Iterator[tuple[str, torch.Tensor]]:
        for name, shape in shapes.items():
            yield name, noise[: math.prod(shape)].reshape(shape)

    write_safetensors(path, layout, values(), {"format": "pt"})
    return path.stat().st_size


def _forget(path: Path) -> None:
    """Have the system drop what it keeps of a file in memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(path: Path, threads: int) -> None:
    """Read a file and keep nothing."""
    size_bytes = path.stat().st_size

    def read_share(thread: int) -> None:
        buffer = memoryview(bytearray(_READ_BYTES))
        with path.open("rb", buffering=0) as file:
            for offset in range(thread * _READ_BYTES, size_bytes, threads * _READ_BYTES):
                file.seek(offset)
                left = min(_READ_BYTES, size_bytes - offset)
                while left:
                    left -= file.readinto(buffer[:left])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read_share, range(threads)))


def _seconds(call: Callable[[], None]) -> float:
    start_s = time.perf_counter()
    call()
    return time.perf_counter() - start_s
