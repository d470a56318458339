"""Golden arrays: numbers that the reference code produced.

They lie in tests/golden; EX4D_GOLDEN names another folder of the same layout. A missing file is
skipped by name; if there is none at all, the tests fail.
"""

import os
from pathlib import Path

import pytest

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
