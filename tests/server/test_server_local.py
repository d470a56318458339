"""`ex4d serve --local`: a server that belongs to the program that started it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from raw_client import RawClient, file_ref, render_job
from server_process import make_key_pair

Connect = Callable[..., RawClient]


class LocalServer:
    """One child, as the add-on starts it."""

    def __init__(self, data: Path, handover: str) -> None:
        command = [sys.executable, "-m", "ex4d", "serve", "--local", "--executor", "fake"]
        self.process = subprocess.Popen(
            [*command, "--data", str(data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin
        assert self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.stdin.write(handover + "\n")
        self.stdin.flush()

    def greeting(self) -> SimpleNamespace:
        plain = json.loads(self.stdout.readline())
        host, _, port = plain["endpoint"].rpartition(":")
        return SimpleNamespace(host=host, port=int(port), public_key=plain["server_public_key"])

    def end(self) -> tuple[int, str, str]:
        """Close its input; status, the rest of its output, its log."""
        output, log = self.process.communicate(timeout=20)
        return self.process.returncode, output, log


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], LocalServer]]:
    servers: list[LocalServer] = []

    def start_one(handover: str) -> LocalServer:
        servers.append(LocalServer(tmp_path / "local", handover))
        return servers[-1]

    yield start_one
    for server in servers:
        server.process.kill()
        server.process.communicate()


def test_serves_its_parent_and_ends_with_it(
    start: Callable[[str], LocalServer], connect: Connect, tmp_path: Path
) -> None:
    keys = make_key_pair()
    server = start(json.dumps({"client_public_key": keys.public_key, "user": "local"}))
    where = server.greeting()
    assert where.host == "127.0.0.1"
    client = connect(where, keys)
    assert client.hello().user == "local"
    client.upload([b"{}"])
    job_id = client.submit(render_job([file_ref("scene.json", b"{}")]))
    assert client.wait_for_end(job_id).state == "done"
    status, output, log = server.end()
    assert (status, output) == (0, ""), log
    assert not psutil.pid_exists(server.process.pid)

    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for key in (*keys, where.public_key):
        assert key.encode() not in stored
        assert key not in log
    assert not (tmp_path / "local" / "keys").exists()


def test_other_keys_are_refused(start: Callable[[str], LocalServer], connect: Connect) -> None:
    server = start(json.dumps({"client_public_key": make_key_pair().public_key, "user": "local"}))
    stranger = connect(server.greeting())
    assert stranger.monitor.poll(5000), "the handshake was not refused"


def test_jobs_outlive_the_parent(start: Callable[[str], LocalServer], connect: Connect) -> None:
    """The next Blender has another key and is still the same user."""
    job_id = ""
    for turn in range(2):
        keys = make_key_pair()
        server = start(json.dumps({"client_public_key": keys.public_key, "user": "local"}))
        client = connect(server.greeting(), keys)
        client.hello()
        if turn == 0:
            client.upload([b"{}"])
            job_id = client.submit(render_job([file_ref("scene.json", b"{}")]))
        client.watch(job_id)
        assert client.wait_for_end(job_id).state == "done"
        server.end()


def test_two_at_once_have_a_folder_each(
    start: Callable[[str], LocalServer], tmp_path: Path
) -> None:
    handover = json.dumps({"client_public_key": make_key_pair().public_key, "user": "local"})
    first = start(handover)
    first.greeting()
    second = start(handover)
    assert second.greeting().port
    assert (tmp_path / "local-2" / "journal.sqlite3").exists()


@pytest.mark.parametrize(
    ("handover", "code"),
    [
        ("", "local_handover"),
        ("[]", "local_handover"),
        ("{}", "local_handover"),
        ('{"client_public_key": "short", "user": "local"}', "key_invalid"),
        ('{"client_public_key": 7', "local_handover"),
    ],
)
def test_bad_handover_is_refused(
    start: Callable[[str], LocalServer], handover: str, code: str
) -> None:
    status, output, log = start(handover).end()
    assert (status, output) == (1, "")
    assert f"[{code}]" in log
