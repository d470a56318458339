"""Golden arrays: numbers that the reference code produced.

They lie in tests/golden; EX4D_GOLDEN names another folder of the same layout. A missing file is
skipped by name; if there is none at all, the tests fail.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from ex4d.diffusion.wan.files import ModelFiles, published_layout

GOLDEN = Path(os.environ.get("EX4D_GOLDEN") or Path(__file__).parents[1] / "golden")


def golden_files(pattern: str) -> list[object]:
    """Parameters for the files that match, or one that fails where none does."""
    files = sorted(GOLDEN.glob(pattern))
    if files:
        return [pytest.param(path, id=path.stem) for path in files]
    return [pytest.param(None, id=f"no {pattern}")]


def required(path: Path | None) -> Path:
    """The file, or the failure that says that there is none."""
    if path is None:
        pytest.fail(f"expected golden files in {GOLDEN}, found none; set EX4D_GOLDEN")
    return path


def sibling(path: Path, name: str) -> Path:
    """A file that belongs to another; skipped by name where it is missing."""
    other = path.with_name(name)
    if not other.is_file():
        pytest.skip(f"{other} is missing")
    return other


def arrays_of(name: str) -> np.lib.npyio.NpzFile:
    """The arrays of a file; skipped by name where it is missing."""
    path = GOLDEN / name
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    return np.load(path)


def models_of() -> ModelFiles:
    """The small model; skipped by name where a file of it is missing."""
    files = published_layout(GOLDEN / "models")
    for path in files.all_paths():
        if not path.is_file():
            pytest.skip(f"{path} is missing")
    return files
