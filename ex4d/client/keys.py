"""A client's identity: the CURVE pair that a server knows it by."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from ..errors import InputError
from ..protocol.keys import key_to_bytes


@dataclass(frozen=True)
class KeyPair:
    """A CURVE pair in Z85.

    Raises:
        InputError: `key_invalid`.
    """

    public_key: str
    secret_key: str = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse what libzmq would not take."""
        key_to_bytes(self.public_key)
        key_to_bytes(self.secret_key)

    @classmethod
    def generate(cls) -> "KeyPair":
        """A new pair."""
        public_key, secret_key = zmq.curve_keypair()
        return cls(public_key.decode("ascii"), secret_key.decode("ascii"))

    @classmethod
    def load(cls, path: Path) -> "KeyPair":
        """Read a pair that `save` wrote.

        Raises:
            InputError: `identity_missing` or `identity_invalid`.
        """
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            pair = cls(plain["public_key"], plain["secret_key"])
            # Two keys that do not belong together would fail later, at the server, unexplained.
            fits = zmq.curve_public(pair.secret_key.encode("ascii")).decode() == pair.public_key
        except FileNotFoundError:
            message = f"expected this computer's key pair in {path}, found no file; make a new pair"
            raise InputError("identity_missing", message) from None
        except (ValueError, KeyError, TypeError, InputError):
            fits = False
            pair = None
        if pair is None or not fits:
            message = (
                f"expected this computer's key pair in {path}, found something else; delete the "
                "file and pair with your servers again"
            )
            raise InputError("identity_invalid", message)
        return pair

    @classmethod
    def load_or_create(cls, path: Path) -> "KeyPair":
        """Read the pair, or make it the first time.

        Raises:
            InputError: `identity_invalid`.
        """
        if not path.exists():
            cls.generate().save(path)
        return cls.load(path)

    def save(self, path: Path) -> None:
        """Write the pair into a file that only its owner can read.

        Args:
            path: The file, replaced if there; its folder is made private if it is new.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = json.dumps({"public_key": self.public_key, "secret_key": self.secret_key})
        temporary = path.with_name(f"{path.name}.part")
        temporary.unlink(missing_ok=True)
        # The mode is given at creation: there is no moment at which others could read the key.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
