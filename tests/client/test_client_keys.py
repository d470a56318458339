"""The identity on disk."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from ex4d.client import KeyPair
from ex4d.errors import InputError


def test_is_made_once_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "identity.json"
    keys = KeyPair.load_or_create(path)
    assert KeyPair.load_or_create(path) == keys
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
def test_is_private_whatever_was_there(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    path.write_text("old")
    path.chmod(0o644)
    before = os.umask(0)
    try:
        KeyPair.generate().save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_leftover_of_a_killed_program_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "identity.json.part").write_text("half")
    keys = KeyPair.load_or_create(tmp_path / "identity.json")
    assert KeyPair.load(tmp_path / "identity.json") == keys


def test_pairs_differ() -> None:
    assert KeyPair.generate() != KeyPair.generate()


def test_secret_is_not_shown() -> None:
    keys = KeyPair.generate()
    assert keys.secret_key not in repr(keys)
    assert keys.public_key in repr(keys)


def damaged() -> dict[str, str]:
    first, second = KeyPair.generate(), KeyPair.generate()
    return {
        "empty": "",
        "not_json": "{",
        "list": "[]",
        "no_secret": json.dumps({"public_key": first.public_key}),
        "number": json.dumps({"public_key": 1, "secret_key": 2}),
        "short": json.dumps({"public_key": "abc", "secret_key": "def"}),
        "of_two_pairs": json.dumps(
            {"public_key": first.public_key, "secret_key": second.secret_key}
        ),
    }


@pytest.mark.parametrize("text", damaged().values(), ids=damaged())
def test_damaged_identity_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "identity.json"
    path.write_text(text)
    with pytest.raises(InputError, match="delete the file") as caught:
        KeyPair.load_or_create(path)
    assert caught.value.code == "identity_invalid"
    assert path.read_text() == text


def test_binary_rubbish_is_refused(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError) as caught:
        KeyPair.load(tmp_path / "identity.json")
    assert caught.value.code == "identity_invalid"


def test_missing_identity_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        KeyPair.load(tmp_path / "identity.json")
    assert caught.value.code == "identity_missing"
