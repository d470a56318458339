"""What attempts at a job leave behind, so that the next one goes on from there.

A job that lost its worker, was cancelled or failed may be started again: by the server, or by its
user. Depth that was estimated until then is not estimated again (`ex4d.kept`). In the folder `kept`
each user has a folder, whose parts workers write and read; the server only removes.
"""

import shutil
import time
from pathlib import Path

from .blobs import BlobStore
from .config import DAY_S, private_folder

#: What nobody came back for in this time is removed.
KEEP_S = DAY_S


class KeptWork:
    """The folders of all users.

    Args:
        folder: Where they are; on the disk of the blobs.
        blobs: Who has no room left for files keeps nothing here either.
    """

    def __init__(self, folder: Path, blobs: BlobStore) -> None:
        self._folder = private_folder(folder)
        self._blobs = blobs

    def folder_of(self, user: str) -> Path | None:
        """Where attempts of this user may leave something; None: nowhere, for want of room."""
        has_room = self._blobs.left_bytes(user) > 0 and self._blobs.disk_left_bytes() > 0
        return self._folder / user if has_room else None

    def tidy(self, user: str, *, is_done: bool) -> None:
        """An attempt has ended: keep the newest work that is not done, or none.

        A user's second job at the same time may lose what it left by this, and nothing else.

        Args:
            user: Whose it was.
            is_done: Whether the result is whole.
        """
        works = [path for _, path in _by_age(self._folder / user)]
        for path in works if is_done else works[:-1]:
            shutil.rmtree(path, ignore_errors=True)

    def remove_old(self) -> None:
        """Remove what nobody came back for."""
        limit_s = time.time() - KEEP_S
        for user in self._folder.iterdir():
            for used_s, path in _by_age(user):
                if used_s < limit_s:
                    shutil.rmtree(path, ignore_errors=True)


def _by_age(folder: Path) -> list[tuple[float, Path]]:
    """What a folder holds and when something was last put into it, oldest first."""
    try:
        return sorted((path.stat().st_mtime, path) for path in folder.iterdir())
    except OSError:
        # Absent, or a job that ends at this moment is tidying up: next time.
        return []
