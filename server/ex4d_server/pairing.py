"""Single-use tokens that let a new key introduce itself.

A token is a file in `keys/pairing`, named by the token's SHA-256, so that `ex4d keys pair` works
beside a running server and the folder gives no token away. Removing the file spends the token:
of two who try, one succeeds.
"""

import hashlib
import hmac
import json
import secrets
import time
from pathlib import Path

from ex4d.errors import InputError, ProtocolError

from .config import private_folder, write_private
from .keys import FolderKeys, check_user

TOKEN_LIFE_S = 600.0

#: Wrong tokens that may come in a row over all connections, and the time that pays for one more.
_TRIES = 10
_TRY_PERIOD_S = 3.0


class PairingTokens:
    """The tokens that are outstanding.

    Args:
        data: The server's data folder.
    """

    def __init__(self, data: Path) -> None:
        self._folder = private_folder(private_folder(data / "keys") / "pairing")

    def make(self, user: str, life_s: float = TOKEN_LIFE_S) -> str:
        """A new token that makes its bearer's key one of `user`.

        Args:
            user: Whom the token is for.
            life_s: How long it may be used.

        Raises:
            InputError: `user_name`.
        """
        token = secrets.token_urlsafe(24)
        content = json.dumps({"user": check_user(user), "expires_s": time.time() + life_s})
        write_private(self._folder / f"{_digest(token)}.json", content)
        return token

    def any_outstanding(self) -> bool:
        """Whether an unknown key may knock at all; removes expired tokens."""
        return bool(self._outstanding())

    def spend(self, token: str) -> str:
        """The user of a token, which is used up by this.

        Raises:
            ProtocolError: `pairing_refused` if the token is wrong, used or too old: which one is
                not said.
        """
        digest = _digest(token)
        for path, user in self._outstanding():
            if not hmac.compare_digest(path.stem, digest):
                continue
            try:
                path.unlink()
            except FileNotFoundError:
                break
            return user
        msg = (
            "expected a pairing token that is valid, found one that is wrong, used or too old; "
            "ask for a new link (`ex4d keys pair`)"
        )
        raise ProtocolError("pairing_refused", msg)

    def _outstanding(self) -> list[tuple[Path, str]]:
        valid: list[tuple[Path, str]] = []
        for path in self._folder.glob("*.json"):
            try:
                plain = json.loads(path.read_text(encoding="utf-8"))
                user, expires_s = check_user(plain["user"]), float(plain["expires_s"])
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError, InputError):
                user, expires_s = "", 0.0
            if expires_s > time.time():
                valid.append((path, user))
            else:
                path.unlink(missing_ok=True)
        return valid


class Pairing:
    """Turns tokens into authorised keys.

    Args:
        keys: Where new keys go.
        tokens: Which tokens are good.
    """

    def __init__(self, keys: FolderKeys, tokens: PairingTokens) -> None:
        self._keys = keys
        self._tokens = tokens
        # Over all connections: a guesser may bring a new key each time.
        self._tries = float(_TRIES)
        self._updated_s = time.monotonic()

    def is_expected(self) -> bool:
        """Whether unknown keys may knock."""
        return self._tokens.any_outstanding()

    def pair(self, public_key: str, token: str, client_name: str) -> str:
        """Authorise a key.

        Args:
            public_key: The client's key in Z85, as CURVE has proven it.
            token: What the client shows.
            client_name: What it calls itself, for people.

        Returns:
            The user whose key it is now.

        Raises:
            ProtocolError: `pairing_rate` or `pairing_refused`.
        """
        known = self._keys.user_of(public_key)
        self._count_try()
        try:
            user = self._tokens.spend(token)
        except ProtocolError:
            if known is not None:
                # Somebody pasted an old link again: there is nothing left to do.
                return known
            raise
        if known is None:
            self._keys.authorise(user, public_key, remark=client_name)
        return known or user

    def _count_try(self) -> None:
        now_s = time.monotonic()
        self._tries = min(_TRIES, self._tries + (now_s - self._updated_s) / _TRY_PERIOD_S)
        self._updated_s = now_s
        if self._tries < 1.0:
            msg = "expected fewer pairing attempts, found too many; wait a minute and try again"
            raise ProtocolError("pairing_rate", msg)
        self._tries -= 1.0


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("ascii")).hexdigest()
