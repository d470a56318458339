"""Published models: their files, sizes and licences, and the folder that they lie in.

This module loads no torch: the server and `ex4d doctor` ask it.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ex4d.errors import InputError

#: Names the models folder.
MODELS_VARIABLE = "EX4D_MODELS"
DOWNLOAD_COMMAND = "ex4d models download"

_SAMPLE_BYTES = 64 << 10
_SAMPLES = 64
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class PublishedFile:
    """A file as its makers publish it.

    Attributes:
        repository: On the Hugging Face hub.
        name: Path in the repository.
        folder: Where it lies in the models folder.
        size_gb: About how large it is, in 10^9 bytes.
    """

    repository: str
    name: str
    folder: str
    size_gb: float

    @property
    def relative_path(self) -> Path:
        """Where it lies in the models folder."""
        return Path(self.folder) / self.name


@dataclass(frozen=True)
class PublishedModel:
    """A model as its makers publish it.

    Attributes:
        name: What `ex4d models` calls it.
        files: All that it needs.
        licence: Of the weights.
        for_research_only: Whether the licence forbids production, so that it must be accepted.
    """

    name: str
    files: tuple[PublishedFile, ...]
    licence: str
    for_research_only: bool = False

    @property
    def download_command(self) -> str:
        """The command that fetches it."""
        accepted = " --accept-research-licence" if self.for_research_only else ""
        return f"{DOWNLOAD_COMMAND} {self.name}{accepted}"

    def missing_files(self, folder: Path) -> list[PublishedFile]:
        """Files of it that the models folder lacks."""
        return [file for file in self.files if not (folder / file.relative_path).is_file()]

    def state(self, folder: Path) -> tuple[tuple[int, ...], ...]:
        """Size and times of change of each file, empty for a missing one.

        It differs once a file was replaced, and nothing is read for it; `weights_identity` also
        tells whether what is in them is another.
        """
        states: list[tuple[int, ...]] = []
        for file in self.files:
            try:
                stat = (folder / file.relative_path).stat()
                # A replaced file may have the size and the time of the one before.
                states.append((stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
            except OSError:
                states.append(())
        return tuple(states)

    def require(self, folder: Path) -> None:
        """Refuse to go on without its files.

        Raises:
            InputError: `model_missing`, with the command that fetches them, their size and licence.
        """
        missing = self.missing_files(folder)
        if missing:
            raise model_missing(
                (file.relative_path for file in missing),
                f"run `{self.download_command}`, which fetches what is missing: about "
                f"{_size_text(missing)} (licence: {self.licence}), or name another folder with "
                f"{MODELS_VARIABLE}",
            )


def models_folder() -> Path:
    """The folder named by EX4D_MODELS, or else the user's own."""
    named = os.environ.get(MODELS_VARIABLE)
    if named:
        return Path(named)
    from platformdirs import user_data_path

    return user_data_path("ex4d", appauthor=False) / "models"


def model_missing(paths: Iterable[Path], remedy: str) -> InputError:
    """The error `model_missing`: which files there are not, and what to do."""
    missing = list(paths)
    names = ", ".join(path.name for path in missing[:_NAMES_SHOWN])
    rest = len(missing) - _NAMES_SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    msg = f"expected the model's files in the models folder, found no {names}{more}; {remedy}"
    return InputError("model_missing", msg)


def check_research_licence(model: PublishedModel, *, is_accepted: bool) -> None:
    """Refuse a model for research alone until its licence was accepted.

    Raises:
        InputError: `licence_not_accepted`, with the licence.
    """
    if model.for_research_only and not is_accepted:
        msg = (
            f"expected the licence of {model.name} to be accepted, found that it was not: "
            f"{model.licence}; add --accept-research-licence if that is what you do"
        )
        raise InputError("licence_not_accepted", msg)


def weights_identity(*paths: Path) -> str:
    """16 hexadecimal digits that differ between files of different weights.

    They come from the size and 64 samples over the length of each file: of tens of gigabytes,
    reading all would take longer than the work that the identity saves.
    """
    digests = [_sampled(path) for path in paths]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def _sampled(path: Path) -> str:
    size_bytes = path.stat().st_size
    digest = hashlib.sha256(str(size_bytes).encode())
    with path.open("rb") as file:
        for index in range(_SAMPLES):
            file.seek(max(0, size_bytes - _SAMPLE_BYTES) * index // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def _size_text(files: Iterable[PublishedFile]) -> str:
    size_gb = sum(file.size_gb for file in files)
    return f"{size_gb:.0f} GB" if size_gb >= 1 else f"{1000 * size_gb:.0f} MB"
