# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON documents of scenes and takes, which may come from elsewhere: read with a limit."""

from pathlib import Path
from typing import TypeVar

import msgspec

from ._vendor.errors import InputError

Document = TypeVar("Document", bound=msgspec.Struct)


def read_document(path: Path, *, max_bytes: int, code: str) -> bytes:
    """What a document's file holds.

    Args:
        path: The file.
        max_bytes: How long it may be.
        code: Of the error.

    Raises:
        InputError: If there is none, or a longer one.
    """
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        message = (
            f"expected {path.name} in {path.parent}, found none that can be read: "
            f"{error.strerror}; copy the folder again"
        )
        raise InputError(code, message) from error
    if len(content) > max_bytes:
        message = (
            f"expected at most {max_bytes} bytes of {path.name} in {path.parent}, found more; "
            "copy the folder again"
        )
        raise InputError(code, message)
    return content


def decode_document(content: bytes, kind: type[Document], *, where: str, code: str) -> Document:
    """The document itself.

    Args:
        content: Its text.
        kind: What it shall be.
        where: What holds it, for people.
        code: Of the error.

    Raises:
        InputError: If it is something else.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    # Bytes that are no text are a ValueError of their own; lists in lists have no end.
    except (ValueError, RecursionError) as error:
        message = f"expected a {kind.__name__} in {where}, found none that can be read: {error}"
        raise InputError(code, message) from error
