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

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "bl_ext.user_default.ex4d"
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
    import bpy

    result = bpy.ops.extensions.package_install_files(
        filepath=str(addon_zip), repo="user_default", enable_on_install=True
    )
    assert result == {"FINISHED"}
    assert PACKAGE in bpy.context.preferences.addons
    yield lambda name: importlib.import_module(f"{PACKAGE}.{name}")
    modules = [module for name, module in sys.modules.items() if name.startswith(PACKAGE)]
    bpy.ops.extensions.package_uninstall(repo_index=user_repository(), pkg_id="ex4d")
    assert PACKAGE not in bpy.context.preferences.addons
    # Blender 4.2 never lets go of a property's update function. As a Python module it crashes at
    # exit if such a function, through its module, still holds `bpy`.
    for module in modules:
        vars(module).pop("bpy", None)


def user_repository() -> int:
    """Index of the repository that files are installed into."""
    import bpy

    repositories = bpy.context.preferences.extensions.repos
    return next(
        i for i, repository in enumerate(repositories) if repository.module == "user_default"
    )


@pytest.fixture
def empty_file(addon: Callable[[str], ModuleType]) -> Iterator[None]:
    """A file without objects, and the extension as if Blender had just started."""
    import bpy

    bpy.ops.wm.read_homefile(use_empty=True)
    yield
    addon("pump").stop()
    addon("runtime").unregister()
    shutil.rmtree(addon("paths").private_folder() / "jobs", ignore_errors=True)
