"""A take on disk: the shot, the condition it was made from, and how to make it again."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .folders import whole_folder
from .images import read_png, write_png
from .protocol.documents import TakeDocument
from .raster import ConditionFrame
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


def write_condition_frame(folder: Path, index: int, frame: ConditionFrame) -> None:
    """Write colour and mask of output frame `index` into `color/` and `mask/` of a folder."""
    name = frame_name(index)
    write_png(folder / "color" / name, frame.color)
    write_png(folder / "mask" / name, frame.mask.astype(np.uint8) * 255)


def write_take(
    folder: Path,
    document: TakeDocument,
    condition: Iterable[ConditionFrame],
    generate: Callable[[Iterable[ConditionFrame]], Iterable[NDArray[np.uint8]]],
    *,
    task: Task,
) -> Take:
    """Write a take as it is made; the folder appears when it is whole.

    Args:
        folder: Where the take shall be.
        document: Its facts; coverage is filled in.
        condition: Of each output frame.
        generate: From that to the shot, as `Engine.generate`; must take all frames.
        task: Asked after every frame whether to stop; whoever makes the frames reports.

    Raises:
        InputError: `folder_exists` if the folder holds something already.
    """
    with whole_folder(folder) as temporary:
        for name in ("frames", "color", "mask"):
            (temporary / name).mkdir()
        coverage: list[float] = []

        def written() -> Iterator[ConditionFrame]:
            for index, frame in enumerate(condition):
                write_condition_frame(temporary, index, frame)
                coverage.append(frame.coverage)
                yield frame

        for index, picture in enumerate(generate(written())):
            write_png(temporary / "frames" / frame_name(index), picture)
            task.check()
        plain = msgspec.to_builtins(msgspec.structs.replace(document, coverage=tuple(coverage)))
        if not document.notes:
            # Readers of protocol 1.0 know no notes and refuse what they do not know.
            del plain["notes"]
        text = msgspec.json.format(msgspec.json.encode(plain), indent=1)
        (temporary / DOCUMENT_NAME).write_bytes(text)
    return Take(folder)
