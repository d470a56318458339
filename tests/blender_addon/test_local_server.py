"""The child process that Blender starts, tried with small programs in the place of `ex4d`."""

import errno
import os
import sys
import time

import pytest

pytestmark = [
    pytest.mark.bpy,
    pytest.mark.skipif(sys.platform == "win32", reason="a script is no program on Windows"),
]

KEY = "k" * 40
GOOD = """
line = sys.stdin.readline()
assert json.loads(line) == {"client_public_key": KEY, "user": "local"}, line
print(json.dumps({"endpoint": "127.0.0.1:4567", "server_public_key": "s" * 40}), flush=True)
print("listening", file=sys.stderr, flush=True)
"""
UNTIL_INPUT_ENDS = "sys.stdin.read()\n"


@pytest.fixture
def start(addon, tmp_path):
    """Start a program made of the given Python lines; it is ended after the test."""
    module = addon("local_server")
    started = []

    def start(lines):
        program = tmp_path / "ex4d"
        head = f"#!{sys.executable}\nimport json, sys, time\nKEY = {KEY!r}\n"
        program.write_text(head + lines)
        program.chmod(0o755)
        server = module.LocalServer(program, KEY, tmp_path / "log" / "server.log")
        started.append(server)
        return server

    yield start
    for server in started:
        server.close()


def poll_until(server, *states, timeout_s=20.0):
    deadline_s = time.monotonic() + timeout_s
    while server.state.value not in states:
        assert time.monotonic() < deadline_s, server.state
        server.poll()
        time.sleep(0.005)


def test_hands_the_key_over_and_learns_where_the_server_listens(start):
    server = start(GOOD + UNTIL_INPUT_ENDS)
    poll_until(server, "ready")
    assert server.port == 4567
    assert server.server_public_key == "s" * 40


def test_child_ends_when_its_input_ends(start):
    server = start(GOOD + UNTIL_INPUT_ENDS)
    poll_until(server, "ready")
    server.stop()
    poll_until(server, "stopped")
    assert server.problem is None


def test_deaf_child_is_killed_after_its_grace(start, addon, monkeypatch):
    monkeypatch.setattr(addon("local_server"), "GRACE_S", 0.2)
    server = start(GOOD + "time.sleep(600)\n")
    poll_until(server, "ready")
    server.stop()
    poll_until(server, "stopped")


def test_closing_leaves_no_process(start):
    server = start(GOOD + UNTIL_INPUT_ENDS)
    poll_until(server, "ready")
    process_id = server._process.pid
    server.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("sys.exit('no such model')", ["ended with code 1", "no such model"]),
        ("print('hello', flush=True)\nsys.stdin.read()", ["where it listens", "hello"]),
        ("print('x' * 9000, flush=True)\nsys.stdin.read()", ["where it listens", "long text"]),
        (
            "print(json.dumps({'endpoint': '10.0.0.1:1', 'server_public_key': ''}), flush=True)",
            ["not this computer's"],
        ),
    ],
    ids=["ends", "no-json", "too-long", "elsewhere"],
)
def test_failure_says_why(start, lines, words):
    server = start(lines)
    poll_until(server, "failed")
    for word in words:
        assert word in server.problem.message


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EINVAL], ids=["POSIX", "Windows"])
def test_child_that_ended_before_it_was_told_anything_says_why(start, monkeypatch, number):
    server = start("sys.exit('too old')")

    class BrokenPipe:
        def write(self, line):
            raise OSError(number, os.strerror(number))

        def close(self):
            """Nothing was opened."""

    server._end_input()
    monkeypatch.setattr(server._process, "stdin", BrokenPipe())
    server._send(b"line")
    poll_until(server, "failed")
    assert "too old" in server.problem.message


def test_silent_child_fails_after_the_timeout(start, addon, monkeypatch):
    monkeypatch.setattr(addon("local_server"), "START_TIMEOUT_S", 0.3)
    server = start(UNTIL_INPUT_ENDS)
    poll_until(server, "failed")
    assert "found nothing" in server.problem.message


def test_crash_while_running_shows_the_end_of_the_log(start):
    server = start(GOOD + "time.sleep(0.2)\nsys.exit('out of memory')")
    poll_until(server, "ready")
    poll_until(server, "failed")
    assert "out of memory" in server.problem.message


def test_poll_never_waits(start):
    server = start("time.sleep(600)")
    longest_s = 0.0
    for _ in range(50):
        begin_s = time.perf_counter()
        server.poll()
        longest_s = max(longest_s, time.perf_counter() - begin_s)
    assert longest_s < 0.1
    server._process.kill()


def test_missing_program_says_where_to_choose_it(addon, tmp_path):
    module = addon("local_server")
    # The class comes from the extension's own copy of `ex4d.errors`.
    with pytest.raises(Exception, match="preferences") as caught:
        module.LocalServer(tmp_path / "nothing", KEY, tmp_path / "server.log")
    assert caught.value.code == "server_executable"
