# SPDX-License-Identifier: GPL-3.0-or-later
"""This computer's key pair: made once, kept in a file that only its owner can read.

The file lies in the extension's own folder and never in Blender's preferences, which people share.
"""

import json
import os
from pathlib import Path

import zmq

from ._vendor.client import KeyPair
from ._vendor.errors import InputError

FILE_NAME = "identity.json"


def load_or_create(folder: Path) -> KeyPair:
    """Read the key pair, or make it the first time.

    Raises:
        InputError: `identity_invalid` if the file exists and holds no key pair.
    """
    path = folder / FILE_NAME
    if not path.exists():
        _create(path)
    keys = _read(path)
    if keys is None:
        message = (
            f"expected this computer's key pair in {path}, found something else; delete the file "
            "and pair with your servers again"
        )
        raise InputError("identity_invalid", message)
    return keys


def _read(path: Path) -> KeyPair | None:
    """Read a key pair; None if the file holds none, or two keys that do not belong together."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        keys = KeyPair(public_key=stored["public_key"], secret_key=stored["secret_key"])
        public_key = zmq.curve_public(keys.secret_key.encode())
    except (ValueError, KeyError, TypeError, AttributeError, zmq.ZMQError):
        return None
    return keys if public_key == keys.public_key.encode() else None


def _create(path: Path) -> None:
    public_key, secret_key = (key.decode("ascii") for key in zmq.curve_keypair())
    text = json.dumps({"public_key": public_key, "secret_key": secret_key})
    temporary = path.with_suffix(".part")
    temporary.unlink(missing_ok=True)
    # The mode is given at creation: there is no moment at which others could read the key.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)
