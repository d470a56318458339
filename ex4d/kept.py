"""Parts of long work that are finished, so that another attempt goes on where one ended.

They lie in a folder that whoever starts the work names (`Task.kept_folder`) and removes when the
result is whole. Nothing depends on them: what is missing, damaged or does not fit is made again.
"""

import hashlib
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .arrays import open_array
from .errors import InputError
from .framestore import each_frame
from .task import Task

#: What stays free on the disk: parts are a comfort, and others need the room.
RESERVE_BYTES = 4 << 30


class KeptParts:
    """The finished parts of one piece of work, by stage and number.

    Args:
        folder: Where they are, in a folder of their own; None: nothing is kept.
        identity: Names the work, everything that its result depends on included.
    """

    def __init__(self, folder: Path | None, identity: str = "") -> None:
        self._folder = None if folder is None else folder / identity

    @classmethod
    def of(cls, task: Task, frames: NDArray[np.uint8], *settings: object) -> "KeptParts":
        """What earlier attempts at this work left, and this one leaves.

        Args:
            task: Says where; asked about every frame whether to stop.
            frames: (frames, height, width, 3), what the work is done on.
            settings: Everything else that the result depends on, the weights' identity included;
                the version of this package is added.
        """
        if task.kept_folder is None:
            return NOTHING_KEPT
        return cls(task.kept_folder, identity_of(frames, (__version__, *settings), task=task))

    @property
    def is_kept(self) -> bool:
        """Whether anything is."""
        return self._folder is not None

    def load(self, stage: str, number: int, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
        """A part of this shape; None where there is none."""
        if self._folder is None:
            return None
        path = self._path(stage, number)
        try:
            with open_array(path, "") as reader:
                if reader.shape != shape or reader.dtype != np.float32:
                    return None
                return np.stack([reader.next_entry() for _ in range(shape[0])]).astype(np.float32)
        except (InputError, OSError):
            return None

    def save(self, stage: str, number: int, values: NDArray[np.float32]) -> None:
        """Keep a part, if there is room for it and it is numbers; it is whole or not there."""
        if self._folder is None or not np.isfinite(values).all():
            return
        path = self._path(stage, number)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if shutil.disk_usage(path.parent).free < RESERVE_BYTES + values.nbytes:
                return
            with temporary.open("wb") as file:
                np.save(file, values, allow_pickle=False)
            temporary.replace(path)
        except OSError:
            # The work itself must not fail for want of what it can do without.
            temporary.unlink(missing_ok=True)

    def _path(self, stage: str, number: int) -> Path:
        assert self._folder is not None  # noqa: S101 - the callers' part
        return self._folder / f"{stage}-{number:05d}.npy"


NOTHING_KEPT = KeptParts(None)
"""Of work that begins anew each time."""


def identity_of(frames: NDArray[np.uint8], settings: Iterable[object], *, task: Task) -> str:
    """32 hexadecimal digits that differ where frames or settings do.

    Args:
        frames: (frames, height, width, 3).
        settings: Everything else that the result depends on.
        task: Asked about every frame whether to stop.
    """
    digest = hashlib.sha256(repr((frames.shape, *settings)).encode())
    for frame in each_frame(frames):
        task.check()
        digest.update(np.ascontiguousarray(frame).data)
    return digest.hexdigest()[:32]
