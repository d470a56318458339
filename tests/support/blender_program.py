"""Blender and the built extension, for tests outside Blender that start it."""

import os
import subprocess
from pathlib import Path

import pytest

needs_blender = pytest.mark.skipif(
    not {"EX4D_BLENDER", "EX4D_ADDON_ZIP"} <= os.environ.keys(),
    reason="EX4D_BLENDER or EX4D_ADDON_ZIP names no Blender or no zip",
)


def blender() -> Path:
    """Blender, or a Python that has it as a module."""
    return Path(os.environ["EX4D_BLENDER"])


def addon_zip() -> Path:
    """The extension for this computer."""
    return Path(os.environ["EX4D_ADDON_ZIP"])


def run_script(script: Path, *arguments: str) -> str:
    """Run a script in Blender without the extension; what it printed."""
    command = [str(blender()), str(script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
