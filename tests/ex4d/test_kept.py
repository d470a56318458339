"""Finished parts of long work: whole or not there, and never in the way."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from ex4d import kept
from ex4d.kept import KeptParts, identity_of
from ex4d.task import Task

VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def test_part_is_found_again(tmp_path: Path) -> None:
    KeptParts(tmp_path, "work").save("window", 3, VALUES)
    found = KeptParts(tmp_path, "work").load("window", 3, VALUES.shape)
    assert found is not None
    np.testing.assert_array_equal(found, VALUES)
    assert found.flags.writeable
    for other in (KeptParts(tmp_path, "else"), KeptParts(None)):
        assert other.load("window", 3, VALUES.shape) is None
    assert KeptParts(tmp_path, "work").load("window", 2, VALUES.shape) is None
    KeptParts(None).save("window", 0, VALUES)


@pytest.mark.parametrize("damage", ["shape", "type", "cut", "rubbish", "pickle"])
def test_what_does_not_fit_is_made_again(tmp_path: Path, damage: str) -> None:
    parts = KeptParts(tmp_path, "work")
    parts.save("window", 0, VALUES)
    (path,) = tmp_path.rglob("*.npy")
    match damage:
        case "shape":
            np.save(path, VALUES[:1])
        case "type":
            np.save(path, VALUES.astype(np.float64))
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case "rubbish":
            path.write_bytes(b"rubbish")
        case _:
            np.save(path, np.array([{}, {}], object), allow_pickle=True)
    assert parts.load("window", 0, VALUES.shape) is None
    parts.save("window", 0, VALUES)
    assert parts.load("window", 0, VALUES.shape) is not None


def test_full_disk_keeps_nothing_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = KeptParts(tmp_path, "work")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(kept, "RESERVE_BYTES", usage.free)
    parts.save("window", 0, VALUES)
    assert not list(tmp_path.rglob("*.npy"))
    monkeypatch.undo()

    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", refuse)
    parts.save("window", 0, VALUES)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_identity_tells_frames_and_settings_apart() -> None:
    frames = np.zeros((2, 3, 4, 3), np.uint8)
    names = {identity_of(frames, ("a", 1), task=Task()), identity_of(frames, ("a", 2), task=Task())}
    changed = frames.copy()
    changed[1, 2, 3, 2] = 1
    names |= {
        identity_of(changed, ("a", 1), task=Task()),
        identity_of(frames.reshape(2, 4, 3, 3), ("a", 1), task=Task()),
    }
    assert len(names) == 4
    assert identity_of(frames, ("a", 1), task=Task()) in names
    assert all(len(name) == 32 for name in names)
