"""The arrows between the packages, the licences of their files, and what importing them costs."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "numpy", "numba", "cv2", "av", "OpenEXR", "bpy"}


def imported_modules(path: Path) -> set[str]:
    """Top-level names that a file imports absolutely, wherever in the file it does so."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def sources(folder: str) -> list[Path]:
    """Tracked ones: `_vendor` holds copies of others."""
    found = sorted(path for path in (ROOT / folder).rglob("*.py") if "_vendor" not in path.parts)
    assert found, f"no sources in {folder}"
    return found


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("ex4d", {"ex4d_server", "blender_addon"}),
        ("ex4d/protocol", {"zmq", "ex4d", *HEAVY}),
        ("ex4d/client", {"ex4d", "threading", *HEAVY}),
        ("server", {"bpy", "blender_addon"}),
        ("blender_addon", {"ex4d", "ex4d_server", "torch", "threading", "pip"}),
    ],
)
def test_no_arrow_points_back(folder: str, forbidden: set[str]) -> None:
    for path in sources(folder):
        # The script of the demo is run by Blender, never imported by the package.
        allowed = {"bpy"} if path.name == "in_blender.py" else set()
        assert not imported_modules(path) & (forbidden - allowed), path


def test_only_blender_scripts_import_bpy_in_ex4d() -> None:
    users = {path.name for path in sources("ex4d") if "bpy" in imported_modules(path)}
    assert users <= {"in_blender.py"}


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("ex4d", HEAVY | {"zmq", "msgspec"}),
        ("ex4d.protocol.messages", HEAVY | {"zmq"}),
        ("ex4d.client", HEAVY),
        ("ex4d.diffusion.wan.files", HEAVY),
        ("ex4d.weights.files", HEAVY),
        ("ex4d.cli", HEAVY | {"zmq", "rich"}),
        ("ex4d_server.commands", HEAVY | {"zmq", "structlog"}),
    ],
)
def test_importing_loads_nothing_heavy(module: str, forbidden: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )
    assert not loaded & forbidden


def test_help_is_quick() -> None:
    """Best of five, since the first run of a fresh machine reads the disk."""
    times_s = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "ex4d", "--help"], capture_output=True, check=True)
        times_s.append(time.perf_counter() - start)
    assert min(times_s) < 0.3


@pytest.mark.parametrize("path", sources("blender_addon"), ids=lambda path: path.name)
def test_the_extension_says_its_licence(path: Path) -> None:
    assert path.read_text().startswith("# SPDX-License-Identifier: GPL-3.0-or-later\n")


@pytest.mark.parametrize("path", sources("ex4d") + sources("server"), ids=str)
def test_nothing_unpickles(path: Path) -> None:
    text = path.read_text()
    assert not imported_modules(path) & {"pickle", "cloudpickle", "dill", "shelve"}
    assert not re.search(r"allow_pickle\s*=\s*True|weights_only\s*=\s*False", text)
