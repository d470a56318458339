"""A take on disk: the shot, the condition it was made from, and how to make it again."""

from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from .condition import ConditionFrame
from .errors import InputError
from .folders import whole_folder
from .images import read_png, write_png
from .protocol.documents import TakeDocument
from .task import Task

DOCUMENT_NAME = "take.json"
_MAX_DOCUMENT_BYTES = 16 << 20


def frame_name(index: int) -> str:
    """File name of output frame `index`, counted from 0; files are numbered from 0001."""
    return f"{index + 1:04d}.png"


class Take:
    """A take in a folder, opened for reading.

    Args:
        folder: What `write_take` made.

    Raises:
        InputError: `take_invalid` if the document is missing or not one of this version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / DOCUMENT_NAME
        try:
            with path.open("rb") as file:
                text = file.read(_MAX_DOCUMENT_BYTES)
            self.document = msgspec.json.decode(text, type=TakeDocument)
        # Bytes that are no text are a ValueError of their own.
        except (OSError, ValueError) as error:
            msg = f"expected a take in {folder}, found none that can be read: {error}"
            raise InputError("take_invalid", msg) from error

    def __len__(self) -> int:
        return self.document.frame_count

    def frame(self, index: int) -> NDArray[np.uint8]:
        """The shot's frame `index`: (height, width, 3) uint8 sRGB."""
        return read_png(self.folder / "frames" / frame_name(index))

    def color(self, index: int) -> NDArray[np.uint8]:
        """The condition's colour: (height, width, 3) uint8 sRGB, black where nothing was seen."""
        return read_png(self.folder / "color" / frame_name(index))

    def mask(self, index: int) -> NDArray[np.bool_]:
        """Where the source saw something: (height, width) bool."""
        return read_png(self.folder / "mask" / frame_name(index)) > 127


def write_take(
    folder: Path,
    document: TakeDocument,
    frames: Iterable[tuple[NDArray[np.uint8], ConditionFrame]],
    *,
    task: Task,
) -> Take:
    """Write a take; the folder appears when it is whole.

    Args:
        folder: Where the take shall be.
        document: Its facts; coverage included.
        frames: Per output frame the shot, (height, width, 3) uint8 sRGB, and its condition.
        task: Told about every frame, stage `writing`.

    Raises:
        InputError: `folder_exists` if the folder holds something already.
    """
    with whole_folder(folder) as temporary:
        for name in ("frames", "color", "mask"):
            (temporary / name).mkdir()
        for index, (frame, condition) in enumerate(frames):
            name = frame_name(index)
            write_png(temporary / "frames" / name, frame)
            write_png(temporary / "color" / name, condition.color)
            write_png(temporary / "mask" / name, condition.mask.astype(np.uint8) * 255)
            task.step("writing", index + 1, document.frame_count)
        plain = msgspec.to_builtins(document)
        if not document.notes:
            # Readers of protocol 1.0 know no notes and refuse what they do not know.
            del plain["notes"]
        text = msgspec.json.format(msgspec.json.encode(plain), indent=1)
        (temporary / DOCUMENT_NAME).write_bytes(text)
    return Take(folder)
