"""CURVE keys as text: Z85, ZeroMQ's own form, and hexadecimal digits, which are safe in a URL."""

from ..errors import InputError

KEY_BYTES = 32
KEY_CHARACTERS = 40

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}


def key_to_bytes(key: str) -> bytes:
    """Read a key in Z85.

    Args:
        key: 40 characters.

    Returns:
        The key's 32 bytes.

    Raises:
        InputError: `key_invalid`; the text is not repeated, since it may be a secret.
    """
    if len(key) != KEY_CHARACTERS or not _VALUES.keys() >= set(key):
        raise _invalid()
    raw = bytearray()
    for start in range(0, KEY_CHARACTERS, 5):
        number = 0
        for character in key[start : start + 5]:
            number = number * 85 + _VALUES[character]
        if number >= 2**32:
            raise _invalid()
        raw += number.to_bytes(4, "big")
    return bytes(raw)


def key_from_bytes(raw: bytes) -> str:
    """Write a key of 32 bytes in Z85.

    Raises:
        InputError: `key_invalid` if the length is another.
    """
    if len(raw) != KEY_BYTES:
        raise _invalid()
    characters: list[str] = []
    for start in range(0, KEY_BYTES, 4):
        number = int.from_bytes(raw[start : start + 4], "big")
        characters += (_ALPHABET[number // 85**power % 85] for power in (4, 3, 2, 1, 0))
    return "".join(characters)


def _invalid() -> InputError:
    message = (
        f"expected a key of {KEY_CHARACTERS} Z85 characters, found something else; copy the whole "
        "key"
    )
    return InputError("key_invalid", message)
