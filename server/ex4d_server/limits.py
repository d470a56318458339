"""What single users may have, where that differs from everybody's.

`keys/limits.json` in the data folder: a table by user's name, written by `ex4d keys limit` beside
the running server. A user whose keys are revoked keeps the limits, for when new keys come.
"""

from pathlib import Path
from typing import Annotated

import msgspec
import structlog

from ex4d.errors import InputError

from .config import GIB, private_folder, write_private
from .keys import check_user

_log = structlog.get_logger(__name__)

#: The most that the protocol can name: a PiB.
MAX_BYTES = 1 << 50
#: Unfinished jobs that anybody may be allowed: each costs memory and a turn.
MOST_UNFINISHED = 1000
_MAX_FILE_BYTES = 4 << 20


class UserLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one user may have; None: what everybody may."""

    #: Files stored, in bytes.
    user_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_BYTES)] | None = None
    #: Jobs that wait or run.
    unfinished_jobs: Annotated[int, msgspec.Meta(ge=1, le=MOST_UNFINISHED)] | None = None

    def __str__(self) -> str:
        words: list[str] = []
        if self.user_bytes is not None:
            words.append(f"stores at most {self.user_bytes / GIB:g} GiB")
        if self.unfinished_jobs is not None:
            words.append(f"has at most {self.unfinished_jobs} unfinished jobs")
        return " and ".join(words)


_NONE = UserLimits()


class LimitsFile:
    """The limits of named users.

    Args:
        data: The server's data folder; None: nobody has limits of their own.

    Raises:
        InputError: `limits_unreadable`.
    """

    def __init__(self, data: Path | None) -> None:
        self._path = None if data is None else private_folder(data / "keys") / "limits.json"
        self._signature: tuple[int, int] | None = None
        self._limits: dict[str, UserLimits] = {}
        self._problem = ""
        self._load()

    def of(self, user: str) -> UserLimits:
        """What a user may have."""
        return self._limits.get(user, _NONE)

    def listing(self) -> dict[str, UserLimits]:
        """Everybody who has limits of their own, by name."""
        return dict(sorted(self._limits.items()))

    def set(self, user: str, limits: UserLimits) -> None:
        """Change a user's limits; a running server keeps to them within a second.

        Raises:
            InputError: `user_name`.
        """
        assert self._path is not None  # noqa: S101 - the caller's part
        others = {name: known for name, known in self._limits.items() if name != check_user(user)}
        table = others if limits == _NONE else {**others, user: limits}
        write_private(self._path, msgspec.json.format(msgspec.json.encode(table)).decode())
        self._load()

    def refresh(self) -> None:
        """Read the file again if it changed; one that cannot be read changes nothing."""
        try:
            self._load()
        except InputError as error:
            # Told once: for want of a descriptor it is tried again several times a second.
            if error.message != self._problem:
                _log.error("limits_unreadable", problem=error.message)
            self._problem = error.message
        else:
            self._problem = ""

    def _load(self) -> None:
        if self._path is None:
            return
        try:
            stat = self._path.stat()
            signature = (stat.st_mtime_ns, stat.st_size)
            if signature == self._signature:
                return
            with self._path.open("rb") as file:
                text = file.read(_MAX_FILE_BYTES)
            # Noted first: what cannot be decoded is not read again at every turn.
            self._signature = signature
            self._limits = msgspec.json.decode(text, type=dict[str, UserLimits])
        except FileNotFoundError:
            self._signature, self._limits = None, {}
        # Bytes that are no text are a ValueError of their own.
        except (OSError, ValueError) as error:
            msg = (
                f"expected the limits of users in {self._path}, found something else ({error}); "
                "restore the file, or remove it and set them again with `ex4d keys limit`"
            )
            raise InputError("limits_unreadable", msg) from error
