"""Folders that appear whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give the block a temporary folder and name it `folder` when the block ends well.

    The temporary folder lies beside the final one, so that naming it is a single rename. If the
    block fails, nothing stays behind and what was there before is untouched.

    Args:
        folder: Where the result shall be; absent or an empty folder.

    Raises:
        InputError: `folder_exists` if `folder` holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"expected {folder} not to exist yet, found files there; choose another folder"
        raise InputError("folder_exists", msg)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary
        # mkdtemp makes private folders; results follow the user's own setting.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
