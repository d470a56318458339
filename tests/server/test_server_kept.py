"""What attempts leave behind on the server: whose, how much, how long."""

import os
import time
from pathlib import Path

import pytest
from ex4d_server.blobs import BlobStore
from ex4d_server.config import Quotas
from ex4d_server.kept import KEEP_S, KeptWork


def left_work(kept: KeptWork, user: str, name: str, age_s: float) -> Path:
    folder = kept.folder_of(user)
    assert folder is not None
    work = folder / name
    work.mkdir(parents=True)
    (work / "00000.npy").write_bytes(b"x")
    os.utime(work, (time.time() - age_s,) * 2)
    return work


@pytest.fixture
def kept(tmp_path: Path) -> KeptWork:
    return KeptWork(tmp_path / "kept", BlobStore(tmp_path / "blobs", Quotas()))


def test_users_keep_their_work_apart(kept: KeptWork, tmp_path: Path) -> None:
    """What one user's workers wrote is nothing that another's would read."""
    assert kept.folder_of("anna") == tmp_path / "kept" / "anna"
    assert kept.folder_of("ben") == tmp_path / "kept" / "ben"


def test_only_the_newest_work_of_a_user_stays(kept: KeptWork) -> None:
    old, new = left_work(kept, "anna", "old", 20), left_work(kept, "anna", "new", 10)
    theirs = left_work(kept, "ben", "old", 30)
    kept.tidy("anna", is_done=False)
    assert [path.exists() for path in (old, new, theirs)] == [False, True, True]
    kept.tidy("anna", is_done=True)
    assert [path.exists() for path in (new, theirs)] == [False, True]
    kept.tidy("carl", is_done=True)


def test_work_that_nobody_came_back_for_is_removed(kept: KeptWork) -> None:
    old, new = left_work(kept, "anna", "a", KEEP_S + 60), left_work(kept, "ben", "a", KEEP_S - 60)
    kept.remove_old()
    assert [path.exists() for path in (old, new)] == [False, True]


def test_what_is_no_work_is_left_alone(kept: KeptWork, tmp_path: Path) -> None:
    """Whatever lies there, the server goes on."""
    stray = tmp_path / "kept" / "stray"
    stray.write_text("x")
    os.utime(stray, (1, 1))
    kept.remove_old()
    kept.tidy("stray", is_done=True)
    assert stray.exists()


def test_who_has_no_room_keeps_nothing(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs", Quotas(user_bytes=0))
    assert KeptWork(tmp_path / "kept", blobs).folder_of("anna") is None
