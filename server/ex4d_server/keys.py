"""Who the server is and whom it knows: CURVE keys on disk, or in memory for a local server.

In the folder `keys`: `server.json` holds the server's pair, `authorised/<user>.keys` one line for
each key of a user: the public key in Z85, a space, and a remark. Only public keys of users are
ever stored.
"""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog
import zmq

from ex4d.errors import InputError
from ex4d.protocol.documents import is_portable
from ex4d.protocol.keys import key_to_bytes

from .config import private_folder, write_private

_log = structlog.get_logger(__name__)

#: User names become folder names, on every operating system.
_USER = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class ServerKeys(NamedTuple):
    """A CURVE pair in Z85."""

    public_key: str
    secret_key: str


class KeyRing(Protocol):
    """The keys that the server knows."""

    def user_of(self, public_key: str) -> str | None:
        """Whose key (Z85) this is; None if nobody's."""
        ...

    def refresh(self) -> None:
        """Take over what changed since the last call."""
        ...

    def users(self) -> frozenset[str]:
        """Everybody who has a key."""
        ...


class MemoryKeys:
    """A fixed set of keys that is written nowhere.

    Args:
        users: User by public key (Z85).
    """

    def __init__(self, users: dict[str, str]) -> None:
        self._users = {check_key(key): check_user(user) for key, user in users.items()}

    def user_of(self, public_key: str) -> str | None:
        """Whose key this is; None if nobody's."""
        return self._users.get(public_key)

    def refresh(self) -> None:
        """Nothing ever changes."""

    def users(self) -> frozenset[str]:
        """Everybody who has a key."""
        return frozenset(self._users.values())


class FolderKeys:
    """The folder of authorised keys, shared between the running server and `ex4d keys`.

    Args:
        data: The server's data folder.
    """

    def __init__(self, data: Path) -> None:
        self._folder = private_folder(private_folder(data / "keys") / "authorised")
        self._signature: tuple[tuple[str, int, int], ...] = ()
        self._users: dict[str, str] = {}
        self._unread_problem = ""
        self.refresh()

    def user_of(self, public_key: str) -> str | None:
        """Whose key this is; None if nobody's."""
        return self._users.get(public_key)

    def users(self) -> frozenset[str]:
        """Everybody who has a key."""
        return frozenset(self._users.values())

    def refresh(self) -> None:
        """Read the folder again if a file in it changed.

        `ex4d keys` may remove a file at any moment, and connections of strangers may leave no
        descriptor to read one with: what cannot be read stays as it was and is read again at the
        next call. Others' keys that were revoked are gone all the same.
        """
        try:
            stats = [(path, path.stat()) for path in sorted(self._folder.glob("*.keys"))]
        except OSError as error:
            self._tell_unread(error)
            return
        signature = tuple((path.name, stat.st_mtime_ns, stat.st_size) for path, stat in stats)
        if signature == self._signature:
            return
        users: dict[str, str] = {}
        unread: OSError | None = None
        for path, _ in stats:
            try:
                user = check_user(path.stem)
                users |= dict.fromkeys(self._read(user), user)
            # Bytes that are no text are a ValueError.
            except (InputError, ValueError) as error:
                # One damaged file must not lock out the other users, nor stop the server.
                _log.error("keys_unreadable", file=path.name, problem=str(error))
            except OSError as error:
                unread = error
                users |= {key: user for key, user in self._users.items() if user == path.stem}
        self._users = users
        self._tell_unread(unread)
        if unread is None:
            self._signature = signature

    def _tell_unread(self, error: OSError | None) -> None:
        """Log what could not be read, once: `refresh` is called several times a second."""
        problem = "" if error is None else str(error.strerror)
        if problem and problem != self._unread_problem:
            _log.warning("keys_not_read", problem=problem)
        self._unread_problem = problem

    def authorise(self, user: str, public_key: str, remark: str = "") -> None:
        """Let a key in as `user`; harmless when it is already.

        Args:
            user: Name of the user; everything a user stores belongs to all of the user's keys.
            public_key: Client's public key in Z85.
            remark: Who or what holds the key, for people.

        Raises:
            InputError: `user_name`, `key_invalid`, or `key_taken` if it is another user's.
        """
        check_user(user)
        check_key(public_key)
        self.refresh()
        owner = self.user_of(public_key)
        if owner == user:
            return
        if owner is not None:
            msg = f"expected a key that is not known yet, found one of {owner}; revoke it there"
            raise InputError("key_taken", msg)
        today = datetime.now(UTC).date().isoformat()
        # The remark comes from a client: keep it on its line.
        words = "".join(character for character in remark if character.isprintable())
        lines = [*self._lines(user), f"{public_key} {today} {words}".rstrip()]
        write_private(self._path(user), "\n".join(lines) + "\n")
        self.refresh()

    def revoke(self, user: str) -> None:
        """Forget all keys of a user; a running server closes their sessions.

        Raises:
            InputError: `user_unknown` if there are none.
        """
        try:
            self._path(check_user(user)).unlink()
        except FileNotFoundError:
            msg = f"expected a user with keys, found none called {user}; see `ex4d keys list`"
            raise InputError("user_unknown", msg) from None
        self.refresh()

    def listing(self) -> list[tuple[str, str]]:
        """Every user and key line, for people."""
        users = sorted(path.stem for path in self._folder.glob("*.keys"))
        return [(user, line) for user in users for line in self._lines(user)]

    def _path(self, user: str) -> Path:
        return self._folder / f"{user}.keys"

    def _lines(self, user: str) -> list[str]:
        try:
            text = self._path(user).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return [line for line in text.splitlines() if line.strip()]

    def _read(self, user: str) -> list[str]:
        return [check_key(line.split()[0]) for line in self._lines(user)]


def load_server_keys(data: Path) -> ServerKeys:
    """The server's own pair, made at the first call.

    Args:
        data: The server's data folder.

    Raises:
        InputError: `server_key` if the file is damaged.
    """
    path = private_folder(data / "keys") / "server.json"
    if not path.exists():
        pair = make_server_keys()
        write_private(path, json.dumps(pair._asdict()))
        return pair
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return ServerKeys(check_key(plain["public_key"]), check_key(plain["secret_key"]))
    except (ValueError, KeyError, TypeError, InputError):
        msg = (
            f"expected the server's keys in {path}, found something else; restore the file, or "
            "remove it and pair every client again"
        )
        raise InputError("server_key", msg) from None


def make_server_keys() -> ServerKeys:
    """A new pair."""
    public_key, secret_key = zmq.curve_keypair()
    return ServerKeys(public_key.decode("ascii"), secret_key.decode("ascii"))


def check_user(user: str) -> str:
    """Return a user's name if it can be one.

    Raises:
        InputError: `user_name`.
    """
    if not (_USER.fullmatch(user) and is_portable(user)):
        msg = (
            "expected a name of 1 to 32 lower-case letters, digits, - and _ that starts with a "
            f"letter or digit and is no device of Windows, found {user!r}"
        )
        raise InputError("user_name", msg)
    return user


def check_key(key: str) -> str:
    """Return a CURVE key in Z85 if it is one.

    Raises:
        InputError: `key_invalid`.
    """
    key_to_bytes(key)
    return key
