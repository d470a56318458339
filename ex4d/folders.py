"""Folders that appear whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError


@contextmanager
def whole_folder(folder: Path, *, replaces: str | None = None) -> Iterator[Path]:
    """Give the block a temporary folder and name it `folder` when the block ends well.

    The temporary folder lies beside the final one, so that naming it is a rename. If the block
    fails, nothing stays behind and what was there before is untouched.

    Args:
        folder: Where the result shall be; absent, an empty folder, or what may be replaced.
        replaces: Name of a file by which an earlier result of the same kind is known, which then
            gives way. Nothing gives way where absent.

    Raises:
        InputError: `folder_exists` if `folder` holds something else already.
    """
    gives_way = replaces is not None and (folder / replaces).is_file()
    if not gives_way:
        check_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary
        # mkdtemp makes private folders; results follow the user's own setting.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if gives_way:
            _replace(folder, temporary)
            return
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_free(folder: Path) -> None:
    """Refuse a folder for results that holds something already.

    Raises:
        InputError: `folder_exists`.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"expected {folder} not to exist yet, found files there; choose another folder"
        raise InputError("folder_exists", msg)


def _replace(folder: Path, new: Path) -> None:
    """Put a new folder in the place of another, which is only removed when that is done."""
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent)) / folder.name
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        old.parent.rmdir()
        raise
    # Not in any other case: where the old one could not go back, it is still there.
    shutil.rmtree(old.parent, ignore_errors=True)
