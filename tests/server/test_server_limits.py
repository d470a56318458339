"""Limits of single users: less or more than everybody may have."""

import errno
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from ex4d_server.blobs import BlobStore
from ex4d_server.config import GIB, Quotas
from ex4d_server.limits import LimitsFile, UserLimits
from raw_client import RawClient, file_ref, new_id, random_bytes, render_job
from server_process import ServerProcess, make_key_pair

from ex4d.errors import InputError
from ex4d.protocol.messages import BlobOffer, BlobWant, JobSubmit, ReconstructJob

SECOND_S = 1.0
Connect = Callable[..., RawClient]
OwnServer = Callable[..., ServerProcess]


def test_limits_are_kept_and_seen_by_whoever_has_the_folder(tmp_path: Path) -> None:
    running, command = LimitsFile(tmp_path), LimitsFile(tmp_path)
    assert running.of("anna") == UserLimits()
    command.set("anna", UserLimits(user_bytes=5 * GIB))
    command.set("ben", UserLimits(unfinished_jobs=3))
    running.refresh()
    assert running.of("anna") == UserLimits(user_bytes=5 * GIB)
    assert LimitsFile(tmp_path).listing() == running.listing()
    command.set("anna", UserLimits())
    running.refresh()
    assert list(running.listing()) == ["ben"]
    if sys.platform != "win32":
        path = tmp_path / "keys" / "limits.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(InputError, match="lower-case"):
        command.set("../anna", UserLimits(unfinished_jobs=1))


@pytest.mark.parametrize(
    "text",
    [
        '{"anna\xe9": {}}',
        "",
        "[]",
        json.dumps({"anna": {"user_bytes": 0}}),
        json.dumps({"anna": {"user_bytes": 1.5}}),
        json.dumps({"anna": {"user_bytes": (1 << 50) + 1}}),
        json.dumps({"anna": {"unfinished_jobs": 1001}}),
        json.dumps({"anna": {"quota": 1}}),
        "[" * 100_000,
    ],
    ids=["no text", "empty", "list", "zero", "fraction", "huge", "many", "unknown", "nested"],
)
def test_damaged_file_lifts_no_limit(tmp_path: Path, text: str) -> None:
    limits = LimitsFile(tmp_path)
    limits.set("anna", UserLimits(user_bytes=1000))
    # As an editor writes that does not know of UTF-8.
    (tmp_path / "keys" / "limits.json").write_bytes(text.encode("latin-1"))
    limits.refresh()
    assert limits.of("anna") == UserLimits(user_bytes=1000)
    with pytest.raises(InputError) as caught:
        LimitsFile(tmp_path)
    assert caught.value.code == "limits_unreadable"
    assert "ex4d keys limit" in caught.value.message


def test_file_without_a_descriptor_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, command = LimitsFile(tmp_path), LimitsFile(tmp_path)
    command.set("anna", UserLimits(unfinished_jobs=3))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        running.refresh()
        assert running.of("anna") == UserLimits()
    # Nothing has changed since, but that it can be read.
    running.refresh()
    assert running.of("anna") == UserLimits(unfinished_jobs=3)


def test_one_users_quota_is_not_the_others(tmp_path: Path) -> None:
    limits = LimitsFile(tmp_path)
    limits.set("anna", UserLimits(user_bytes=100))
    limits.set("carl", UserLimits(user_bytes=5000))
    blobs = BlobStore(tmp_path / "blobs", Quotas(user_bytes=1000), limits)
    assert [blobs.left_bytes(user) for user in ("anna", "ben", "carl")] == [100, 1000, 5000]
    files = [file_ref("x", random_bytes(2000))]
    blobs.reserve("carl", files)
    for user in ("anna", "ben"):
        with pytest.raises(InputError) as caught:
            blobs.reserve(user, files)
        assert caught.value.code == "quota_exceeded"
    limits.set("carl", UserLimits(user_bytes=1))
    assert blobs.left_bytes("carl") == 0, "what is stored stays"


def test_room_for_results_is_made_of_old_files_but_the_jobs_own(tmp_path: Path) -> None:
    content, other = random_bytes(3 << 20), random_bytes(3 << 20)
    blobs = BlobStore(tmp_path / "blobs", Quotas(user_bytes=6 << 20))
    keys: list[tuple[str, str]] = []
    for data in (content, other):
        path = tmp_path / "result"
        path.write_bytes(data)
        key, size_bytes = blobs.take_file("anna", path)
        blobs.adopt_part(key, size_bytes)
        keys.append(key)
    with pytest.raises(InputError) as caught:
        blobs.check_room_for_results("anna", keys[:1])
    assert caught.value.code == "quota_exceeded", "none of them is old"
    for path in (tmp_path / "blobs").rglob("*"):
        os.utime(path, (1, 1))
    blobs = BlobStore(tmp_path / "blobs", Quotas(user_bytes=6 << 20))
    blobs.check_room_for_results("anna", keys[:1])
    assert [blobs.size_of(key) is None for key in keys] == [False, True]


def test_nothing_is_removed_where_that_would_not_make_room_enough(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs", Quotas())
    for _ in range(3):
        (tmp_path / "result").write_bytes(random_bytes(1 << 20))
        blobs.adopt_part(*blobs.take_file("anna", tmp_path / "result"))
    for path in (tmp_path / "blobs").rglob("*"):
        os.utime(path, (1, 1))
    limits = LimitsFile(tmp_path)
    limits.set("anna", UserLimits(user_bytes=1 << 19))
    blobs = BlobStore(tmp_path / "blobs", Quotas(), limits)
    with pytest.raises(InputError) as caught:
        blobs.check_room_for_results("anna", [])
    assert caught.value.code == "quota_exceeded"
    assert blobs.stored_bytes() == 3 << 20


def test_running_server_keeps_to_new_limits(own_server: OwnServer, connect: Connect) -> None:
    server = own_server("--fake-frame-s", "0.5")
    anna, ben = connect(server, server.authorise("anna")), connect(server, server.authorise("ben"))
    everybody_bytes = anna.hello().quota_left_bytes
    ben.hello()
    server.keys("limit", "anna", "--quota-gib", "0.001", "--jobs", "2")
    time.sleep(SECOND_S)
    assert anna.hello().quota_left_bytes == int(0.001 * GIB)
    assert ben.hello().quota_left_bytes == everybody_bytes
    offer = BlobOffer(request_id=new_id(), blobs=(file_ref("x", random_bytes(2 << 20)),))
    assert anna.ask_error(offer) == "quota_exceeded"
    assert ben.ask(offer, BlobWant).needs
    content = random_bytes(100)
    job = render_job([file_ref("scene.json", content)])
    for client in (anna, ben):
        client.upload([content])
        client.submit(job)
        client.submit(job)
    assert anna.ask_error(JobSubmit(request_id=new_id(), job=job)) == "queue_full"
    ben.submit(job)
    server.keys("limit", "anna", "--none")
    time.sleep(SECOND_S)
    anna.submit(job)
    assert anna.ask(offer, BlobWant).needs


def test_who_has_no_room_starts_no_job(own_server: OwnServer, connect: Connect) -> None:
    """Results may go beyond the quota once, and no further."""
    server = own_server("--fake-frame-s", "0")
    anna = connect(server, server.authorise("anna"))
    anna.hello()
    content = random_bytes(2 << 20)
    anna.upload([content])
    job = ReconstructJob(files=(file_ref("clip.mp4", content),), clip="clip.mp4", name="x")
    first = new_id()
    job_id = anna.submit(job, first)
    assert anna.wait_for_end(job_id).state == "done"
    server.keys("limit", "anna", "--quota-gib", "0.001")
    time.sleep(SECOND_S)
    other = msgspec.structs.replace(job, name="y")
    assert anna.ask_error(JobSubmit(request_id=new_id(), job=other)) == "quota_exceeded"
    assert anna.submit(job, first) == job_id, "what was taken on before stays"


def test_jobs_that_wait_keep_to_the_quota_too(own_server: OwnServer, connect: Connect) -> None:
    server = own_server("--fake-frame-s", "0.5")
    anna = connect(server, server.authorise("anna"))
    anna.hello()
    content = random_bytes(2 << 20)
    anna.upload([content])
    files = (file_ref("clip.mp4", content),)
    jobs = [
        anna.submit(ReconstructJob(files=files, clip="clip.mp4", name=str(number)))
        for number in range(12)
    ]
    server.keys("limit", "anna", "--quota-gib", "0.001")
    ends = [anna.wait_for_end(job) for job in jobs]
    assert ends[0].state == "done", "its turn had come before"
    assert (ends[-1].state, ends[-1].error_code) == ("failed", "quota_exceeded")


def test_command_shows_what_it_set(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data")
    server.keys("authorise", "anna", make_key_pair().public_key)
    server.keys("limit", "anna", "--quota-gib", "20")
    server.keys("limit", "anna", "--jobs", "5")
    wanted = "anna stores at most 20 GiB and has at most 5 unfinished jobs"
    assert wanted in server.keys("list").splitlines()
    server.keys("revoke", "anna")
    assert server.keys("list").splitlines() == [wanted], "for when new keys come"
    server.keys("limit", "anna", "--none")
    assert server.keys("list") == ""


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--none", "--jobs", "3"),
        ("--jobs", "0"),
        ("--jobs", "1001"),
        ("--quota-gib", "nan"),
        ("--quota-gib", "-1"),
        ("--quota-gib", "1048577"),
    ],
)
def test_limits_that_are_none_are_refused(tmp_path: Path, options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "ex4d", "keys", "--data", str(tmp_path), "limit", "anna"]
    result = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=30, check=False
    )
    assert result.returncode != 0
    assert "expected" in result.stderr
    assert not (tmp_path / "keys" / "limits.json").exists()
