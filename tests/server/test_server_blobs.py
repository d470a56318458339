"""The blob store by itself: room, age, faults of the disk."""

import errno
import hashlib
import os
import time
from pathlib import Path

import pytest
from ex4d_server import blobs as blobs_module
from ex4d_server.blobs import BlobStore
from ex4d_server.config import Quotas
from raw_client import file_ref, random_bytes

from ex4d.errors import InputError, TransferError

DAY_S = 86400.0


def key_of(content: bytes, user: str = "anna") -> tuple[str, str]:
    return user, hashlib.sha256(content).hexdigest()


def store(blobs: BlobStore, content: bytes, user: str = "anna") -> tuple[str, str]:
    """Upload a blob in one go."""
    key = key_of(content, user)
    blobs.reserve(user, [file_ref("x", content)])
    writer = blobs.open_part(key, len(content))
    writer.write([memoryview(content)[writer.written_bytes :]])
    writer.finish()
    blobs.adopt_part(key, len(content))
    return key


def make_old(folder: Path, key: tuple[str, str], age_s: float) -> None:
    for path in folder.rglob(f"{key[1]}*"):
        os.utime(path, (time.time() - age_s,) * 2)


def test_blobs_are_found_again(tmp_path: Path) -> None:
    content = random_bytes(1000)
    key = store(BlobStore(tmp_path, Quotas()), content)
    again = BlobStore(tmp_path, Quotas(user_bytes=1500))
    assert again.size_of(key) == 1000
    assert again.left_bytes("anna") == 500
    assert again.path_of(key).read_bytes() == content
    assert again.size_of(("ben", key[1])) is None


def test_part_goes_on_and_is_checked_as_a_whole(tmp_path: Path) -> None:
    content = random_bytes(10_000)
    blobs, key = BlobStore(tmp_path, Quotas()), key_of(content)
    blobs.reserve("anna", [file_ref("x", content)])
    writer = blobs.open_part(key, len(content))
    writer.write([memoryview(content)[:4000]])
    writer.close()
    assert BlobStore(tmp_path, Quotas()).shorten_part(key, len(content)) == 4000
    assert store(BlobStore(tmp_path, Quotas()), content) == key


@pytest.mark.parametrize(("stored", "kept"), [(3 << 20, 2 << 20), ((3 << 20) + 5, 2 << 20)])
def test_complete_part_is_shortened_so_that_its_end_is_sent_again(
    tmp_path: Path, stored: int, kept: int
) -> None:
    blobs, key = BlobStore(tmp_path, Quotas()), key_of(b"whatever")
    writer = blobs.open_part(key, stored)
    writer.write([memoryview(bytes(stored))])
    writer.close()
    assert blobs.shorten_part(key, 3 << 20) == kept == blobs.part_bytes(key)


def test_full_disk_keeps_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = random_bytes(10_000)
    blobs, key = BlobStore(tmp_path, Quotas()), key_of(content)
    blobs.reserve("anna", [file_ref("x", content)])
    writer = blobs.open_part(key, len(content))
    real_write, room = os.write, 6000

    def write(descriptor: int, data: memoryview) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = real_write(descriptor, data[:room])
        room -= count
        return count

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(TransferError) as caught:
        writer.write([memoryview(content)])
    assert caught.value.code == "disk_full"
    writer.close()
    blobs.release(key)
    monkeypatch.undo()
    assert blobs.size_of(key) is None
    assert blobs.shorten_part(key, len(content)) == 6000
    assert store(blobs, content) == key


def test_disk_reserve_is_kept(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path, Quotas(disk_reserve_bytes=2**60))
    with pytest.raises(InputError) as caught:
        blobs.reserve("anna", [file_ref("x", b"content")])
    assert caught.value.code == "disk_full"


@pytest.mark.parametrize(
    ("quotas", "code"),
    [
        (Quotas(blob_bytes=99), "blob_too_large"),
        (Quotas(user_bytes=150), "quota_exceeded"),
        (Quotas(total_bytes=250), "disk_full"),
    ],
)
def test_limits(tmp_path: Path, quotas: Quotas, code: str) -> None:
    blobs = BlobStore(tmp_path, quotas)
    store(blobs, random_bytes(90), "anna")
    store(blobs, random_bytes(90), "ben")
    with pytest.raises(InputError) as caught:
        store(blobs, random_bytes(100), "anna")
    assert caught.value.code == code


def test_reserved_room_counts(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path, Quotas(user_bytes=100))
    first, second = file_ref("x", random_bytes(60)), file_ref("x", random_bytes(60))
    blobs.reserve("anna", [first])
    with pytest.raises(InputError):
        blobs.reserve("anna", [second])
    blobs.release(("anna", first.sha256))
    blobs.reserve("anna", [second])


def test_least_recently_used_makes_room(tmp_path: Path) -> None:
    contents = [random_bytes(100) for _ in range(4)]
    blobs = BlobStore(tmp_path, Quotas(user_bytes=1000))
    keys = [store(blobs, content) for content in contents[:3]]
    for key, days in zip(keys, (1, 3, 2), strict=True):
        make_old(tmp_path, key, days * DAY_S)
    blobs = BlobStore(tmp_path, Quotas(user_bytes=300))
    store(blobs, contents[3])
    assert [blobs.size_of(key) for key in keys] == [100, None, 100]


def test_pinned_and_young_blobs_stay(tmp_path: Path) -> None:
    old, young = random_bytes(100), random_bytes(100)
    blobs = BlobStore(tmp_path, Quotas())
    keys = [store(blobs, old), store(blobs, young)]
    make_old(tmp_path, keys[0], DAY_S)
    blobs = BlobStore(tmp_path, Quotas(user_bytes=200))
    blobs.pin("job", [keys[0]])
    with pytest.raises(InputError):
        store(blobs, random_bytes(100))
    blobs.unpin("job")
    store(blobs, random_bytes(100))
    assert [blobs.size_of(key) for key in keys] == [None, 100]


def test_one_users_room_is_not_made_at_anothers_cost(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path, Quotas())
    key = store(blobs, random_bytes(100), "ben")
    make_old(tmp_path, key, DAY_S)
    blobs = BlobStore(tmp_path, Quotas(total_bytes=150))
    with pytest.raises(InputError):
        store(blobs, random_bytes(100), "anna")
    assert blobs.size_of(key) == 100


def test_what_nobody_used_for_long_is_removed(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path, Quotas())
    old, used = store(blobs, random_bytes(10)), store(blobs, random_bytes(10))
    for key in (old, used):
        make_old(tmp_path, key, 31 * DAY_S)
    blobs = BlobStore(tmp_path, Quotas())
    blobs.path_of(used)
    blobs.remove_old()
    assert (blobs.size_of(old), blobs.size_of(used)) == (None, 10)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_linked_input_cannot_change_the_blob(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path, Quotas())
    path = blobs.path_of(store(blobs, b"content"))
    assert not path.stat().st_mode & 0o222


def test_blobs_can_be_replaced_and_removed_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which neither removes nor replaces what nobody may write, nor replaces what is open."""
    unlink, replace = Path.unlink, Path.replace
    is_open: set[Path] = set()

    def refuse_protected(path: Path) -> None:
        if path.exists() and not path.stat().st_mode & 0o200:
            raise PermissionError(errno.EACCES, "Access is denied", str(path))

    def windows_unlink(path: Path, missing_ok: bool = False) -> None:
        refuse_protected(path)
        unlink(path, missing_ok)

    def windows_replace(path: Path, target: Path) -> Path:
        refuse_protected(target)
        if target in is_open:
            raise PermissionError(errno.EACCES, "Access is denied", str(target))
        return replace(path, target)

    monkeypatch.setattr(blobs_module, "_IS_WINDOWS", True)
    monkeypatch.setattr(Path, "unlink", windows_unlink)
    monkeypatch.setattr(Path, "replace", windows_replace)
    store = BlobStore(tmp_path / "blobs", Quotas())
    source = tmp_path / "result"

    def take() -> tuple[str, str]:
        source.write_bytes(b"the same")
        key, size_bytes = store.take_file("ada", source)
        store.adopt_part(key, size_bytes)
        assert not source.exists()
        assert store.path_of(key).read_bytes() == b"the same"
        return key

    assert take() == take()
    path = store.path_of(take())
    is_open.add(path)
    store._remove(take())
    assert not path.exists()
