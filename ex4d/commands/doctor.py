"""`ex4d doctor`: what this machine can run, what is missing, and the command that adds it."""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

#: A take of 49 frames with its condition needs about 0.1 GB; leave room for several.
_ENOUGH_DISK_GB = 5.0


#: The ex4d engine's takes of 512 x 512, 49 frames, on a card that keeps up so many operations a
#: second of bfloat16 products (docs/performance.md).
_TAKE_S = {"exact": 40.0, "fast": 30.0}
_TAKE_RATE = 664e12


class Finding(NamedTuple):
    """One line of the report."""

    state: Literal["ok", "missing", "note"]
    what: str
    detail: str
    #: The command or the step that mends it; empty where nothing is needed.
    remedy: str = ""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `doctor`."""
    parser = subparsers.add_parser(
        "doctor", help="what this machine can run, and what is missing", description=__doc__
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; the status is 1 if something that every user needs is missing."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    styles = {"ok": "green", "missing": "red", "note": "yellow"}
    findings = list(examine())
    for finding in findings:
        row = Table.grid(padding=(0, 1))
        row.add_column(justify="right", width=8)
        row.add_column(overflow="fold")
        state = Text(finding.state, style=styles[finding.state])
        row.add_row(state, Text(f"{finding.what}: {finding.detail}"))
        if finding.remedy:
            row.add_row("", Text(f"-> {finding.remedy}"))
        console.print(row)
    return int(any(finding.state == "missing" for finding in findings))


def examine() -> Iterator[Finding]:
    """Look at this machine, part by part."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok", "Python", python)
    yield _cores()
    for package in ("numpy", "numba", "av", "opencv-python-headless", "openexr"):
        yield _package(package, f"pip install {package}")
    yield _encryption()
    yield _disk(Path.cwd())
    yield from _graphics_card()
    yield _models()
    yield from _estimators()
    yield _blender()


def _package(name: str, remedy: str) -> Finding:
    try:
        return Finding("ok", name, version(name))
    except PackageNotFoundError:
        return Finding("missing", name, "not installed", remedy)


def _cores() -> Finding:
    return Finding("ok", "processor", f"{os.cpu_count()} cores, used by the cpu rasteriser")


def _encryption() -> Finding:
    try:
        import zmq
    except ImportError:
        return Finding("missing", "pyzmq", "not installed", "pip install pyzmq")
    if not zmq.has("curve"):
        remedy = "pip install --force-reinstall pyzmq (its own wheels have it)"
        return Finding("missing", "CURVE", "this libzmq has no encryption", remedy)
    return Finding("ok", "pyzmq", f"{zmq.__version__} with CURVE, libzmq {zmq.zmq_version()}")


def _disk(folder: Path) -> Finding:
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < _ENOUGH_DISK_GB:
        remedy = f"free some space: {_ENOUGH_DISK_GB:.0f} GB hold several takes"
        return Finding("note", "disk", f"{free_gb:.1f} GB free here", remedy)
    return Finding("ok", "disk", f"{free_gb:.0f} GB free here")


def _graphics_card() -> Iterator[Finding]:
    if find_spec("torch") is None:
        yield Finding(
            "note",
            "torch",
            "not installed: the preview engine works, the ex4d engine does not",
            "pip install 'ex4d[cuda,diffusion]'",
        )
        return
    import torch  # pyright: ignore[reportMissingImports] - not part of the development environment

    if not torch.cuda.is_available():
        detail = f"{torch.__version__}, no CUDA device: the preview engine works"
        yield Finding("note", "CUDA", detail, "run the server on a machine with an NVIDIA card")
        return
    card = torch.cuda.get_device_properties(0)
    yield Finding("ok", "CUDA", f"{card.name}, {card.total_memory / 1e9:.0f} GB")
    if torch.cuda.device_count() > 1:
        text = f"{torch.cuda.device_count()}: guidance uses two of a kind that hold the whole model"
        yield Finding("ok", "cards", text)
    from ex4d.diffusion.wan.fp8 import has_products
    from ex4d.diffusion.wan.memory import main_memory_bytes

    has_fp8 = has_products(torch.device("cuda"))
    try:
        rate = _product_rate(torch)
    except torch.OutOfMemoryError:
        remedy = "run doctor again when no job holds the card"
        yield Finding("note", "modes", "not measured: the card is full", remedy)
    else:
        yield from mode_findings(card.total_memory, main_memory_bytes(), rate, has_fp8=has_fp8)
    yield from _rasteriser()


def _rasteriser() -> Iterator[Finding]:
    """Why a machine with a CUDA card does not draw by nvdiffrast."""
    remedies = {
        "nvdiffrast": "build it from its public source with the CUDA toolkit",
        "triton": "install Triton, which PyTorch for Linux brings along",
    }
    for package, remedy in remedies.items():
        if find_spec(package) is None:
            detail = f"no {package}: the cpu rasteriser is used (nvdiffrast is non-commercial)"
            yield Finding("note", "nvdiffrast", detail, remedy)


def mode_findings(
    card_bytes: float,
    main_bytes: float,
    product_rate: float,
    *,
    has_fp8: bool,
) -> Iterator[Finding]:
    """Which modes of the ex4d engine fit a card, and about how long a take will need.

    Args:
        card_bytes: The card's memory.
        main_bytes: The machine's.
        product_rate: Operations a second of bfloat16 matrix products on the card.
        has_fp8: Whether it multiplies in 8 bits.
    """
    from ex4d import trained
    from ex4d.diffusion.wan import memory
    from ex4d.errors import InputError

    for mode, take_s in _TAKE_S.items():
        name = f"mode {mode}"
        is_quantised = mode == "fast"
        if is_quantised and not has_fp8:
            yield Finding("note", name, "this card does not multiply in 8 bits", "choose exact")
            continue
        try:
            cap_bytes = memory.plan(
                memory.WAN_14B,
                trained.TOKENS,
                is_quantised=is_quantised,
                card_bytes=card_bytes,
                main_bytes=main_bytes,
            )
        except InputError as error:
            expected, _, remedy = error.message.rpartition("; ")
            yield Finding("note", name, expected, remedy)
            continue
        expected_s = take_s * _TAKE_RATE / product_rate
        text = f"fits; about {expected_s:.0f} s for 512 x 512, 49 frames"
        if cap_bytes is not None:
            text = "fits with weights streamed from main memory, as quickly as its bus allows"
        yield Finding("ok", name, text)


def _product_rate(torch: Any) -> float:
    """Operations a second of a large matrix product in bfloat16, over a short while."""
    side, count = 8192, 40
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    torch.matmul(a, b)
    torch.cuda.synchronize()
    start_s = time.perf_counter()
    for _ in range(count):
        torch.matmul(a, b)
    torch.cuda.synchronize()
    return 2 * side**3 * count / (time.perf_counter() - start_s)


def _models() -> Finding:
    from ex4d.diffusion.wan.files import all_models
    from ex4d.errors import InputError
    from ex4d.weights.files import models_folder

    folder = models_folder()
    try:
        found = all_models(folder)
    except InputError as error:
        expected, _, remedy = error.message.rpartition("; ")
        return Finding("note", "ex4d engine", expected, remedy)
    sizes = []
    for files in found:
        size_gb = sum(path.stat().st_size for path in files.all_paths()) / 1e9
        kind = "published" if files.adapter is not None else files.config.parent.name
        sizes.append(f"{kind} weights, {size_gb:.1f} GB")
    remedy = ""
    if found[-1].is_quantised:
        remedy = (
            "they serve the mode fast alone; `ex4d models download` fetches those of the others"
        )
    elif found[-1].adapter is not None:
        remedy = "run `ex4d models convert` once for a quicker start"
    return Finding("ok", "ex4d engine", f"{'; '.join(sizes)}; in {folder}", remedy)


def _estimators() -> Iterator[Finding]:
    from ex4d.depth.models import DEPTH_MODELS
    from ex4d.errors import InputError
    from ex4d.weights.files import models_folder

    folder = models_folder()
    for model in DEPTH_MODELS:
        what = f"depth by {model.name}"
        try:
            model.require(folder)
        except InputError as error:
            expected, _, remedy = error.message.partition("; ")
            yield Finding("note", what, expected, remedy)
        else:
            size_gb = sum((folder / f.relative_path).stat().st_size for f in model.files) / 1e9
            yield Finding("ok", what, f"{size_gb:.1f} GB ({model.licence})")


def _blender() -> Finding:
    path = shutil.which("blender")
    if path is None:
        remedy = "install Blender 4.2 or newer on the artist's machine, then the extension's zip"
        return Finding("note", "Blender", "not on the PATH (not needed on a server)", remedy)
    return Finding("ok", "Blender", path)
