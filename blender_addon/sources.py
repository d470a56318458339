# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that a clip and its depth consist of, and their names on the server."""

import re
from dataclasses import dataclass
from pathlib import Path

from ._vendor.errors import InputError

#: Files of these kinds, numbered at the end of their name, are one sequence.
SEQUENCE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".exr", ".tif", ".tiff"})


@dataclass(frozen=True)
class Source:
    """A video, a depth file or an image sequence, ready to send."""

    #: Path on the server -> file here, in the order of the frames.
    files: dict[str, Path]

    @property
    def first(self) -> str:
        """Path on the server of the video or of the first image."""
        return next(iter(self.files))

    @property
    def size_bytes(self) -> int:
        """Size of all files together."""
        return sum(path.stat().st_size for path in self.files.values())

    @property
    def description(self) -> str:
        """For people, before anything is sent."""
        paths = list(self.files.values())
        size = f"{self.size_bytes / 1e6:.1f} MB"
        if len(paths) == 1:
            return f"{paths[0].name}, {size}"
        return f"{paths[0].name} to {paths[-1].name}, {len(paths)} files, {size}"


def collect(path: Path, role: str) -> Source:
    """Find the file or the whole image sequence that one path stands for.

    The names of the user's files stay here: the server sees `clip/0001.png` or `clip/clip.mp4`.

    Args:
        path: A file; for a sequence any of its images, which stands for all from the first.
        role: `clip` or `depth`, the folder on the server.

    Raises:
        InputError: `source_missing` if there is no such file.
    """
    if not path.is_file():
        message = f"expected a file for the {role}, found nothing at {path}; choose another"
        raise InputError("source_missing", message)
    suffix = path.suffix.lower()
    numbered = re.fullmatch(r"(.*?)(\d+)", path.stem)
    if suffix not in SEQUENCE_SUFFIXES or numbered is None:
        return Source({f"{role}/{role}{suffix}": path})
    pattern = re.compile(re.escape(numbered[1]) + r"(\d+)" + re.escape(path.suffix))
    images: list[tuple[int, Path]] = []
    for sibling in path.parent.iterdir():
        match = pattern.fullmatch(sibling.name)
        if match is not None:
            images.append((int(match[1]), sibling))
    images.sort()
    return Source({f"{role}/{number:08d}{suffix}": image for number, image in images})
