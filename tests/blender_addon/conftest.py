"""Blender as a Python module with the real, built extension in it, apart from the user's own.

Tests marked `bpy` are skipped where Blender is not importable. EX4D_ADDON_ZIP names a built zip;
otherwise one is built, once a run.
"""

import importlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import extension
import pytest

ROOT = Path(__file__).parents[2]
HAS_BLENDER = importlib.util.find_spec("bpy") is not None

if HAS_BLENDER:
    # Blender reads this when it is imported, which must not touch the user's own settings.
    _resources = tempfile.TemporaryDirectory(prefix="ex4d_blender_")
    os.environ["BLENDER_USER_RESOURCES"] = _resources.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs Blender where there is none."""
    if not HAS_BLENDER:
        for item in items:
            if item.get_closest_marker("bpy"):
                item.add_marker(pytest.mark.skip(reason="Blender is not importable here"))


@pytest.fixture(scope="session")
def addon_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extension for this computer."""
    if "EX4D_ADDON_ZIP" in os.environ:
        return Path(os.environ["EX4D_ADDON_ZIP"]).resolve()
    system = {"Linux": "linux", "Windows": "windows", "Darwin": "macos"}[platform.system()]
    processor = "arm64" if platform.machine().lower() in ("arm64", "aarch64") else "x64"
    output = tmp_path_factory.mktemp("zip")
    command = [sys.executable, str(ROOT / "build_addon.py"), "--output", str(output)]
    subprocess.run([*command, "--platform", f"{system}-{processor}"], check=True)
    return next(output.glob("*.zip"))


@pytest.fixture(scope="session")
def addon(addon_zip: Path) -> Iterator[Callable[[str], ModuleType]]:
    """The installed and enabled extension: call with a module's name, for example `pump`."""
    extension.install(addon_zip)
    yield lambda name: importlib.import_module(f"{extension.PACKAGE}.{name}")
    extension.uninstall()


@pytest.fixture
def empty_file(addon: Callable[[str], ModuleType]) -> Iterator[None]:
    """A file without objects, and the extension as if Blender had just started."""
    import bpy

    bpy.ops.wm.read_homefile(use_empty=True)
    yield
    addon("pump").stop()
    addon("runtime").unregister()
    shutil.rmtree(addon("paths").private_folder() / "jobs", ignore_errors=True)


@pytest.fixture
def fake_server(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Call with the seconds that each frame of a take lasts: starts a server, returns its link."""
    processes: list[subprocess.Popen[str]] = []

    def start(frame_s: str) -> str:
        command = [os.environ["EX4D_EXECUTABLE"], "serve", "--port", "0", "--pair", "anna"]
        command += ["--data", str(tmp_path / "server"), "--executor", "fake"]
        process = subprocess.Popen(
            [*command, "--fake-frame-s", frame_s], stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        return next(line for line in process.stdout or () if line.startswith("ex4d://"))

    yield start
    for process in processes:
        process.terminate()
        process.communicate(timeout=20)
