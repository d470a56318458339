"""A real server in a process of its own, for tests.

with ServerProcess(tmp_path) as server:
    client_key = server.authorise("anna")
    ... connect to server.port with server.public_key and client_key ...
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import zmq

START_TIMEOUT_S = 30.0


class KeyPair(NamedTuple):
    """A CURVE pair in Z85."""

    public_key: str
    secret_key: str


def make_key_pair() -> KeyPair:
    public_key, secret_key = zmq.curve_keypair()
    return KeyPair(public_key.decode(), secret_key.decode())


class ServerProcess:
    """`ex4d serve` on a free port of the loopback, restartable on the same port and data.

    Args:
        data: The server's data folder.
        arguments: More arguments of `ex4d serve`, for example `--executor local`; the fake
            executor is used where none says otherwise.
    """

    host = "127.0.0.1"
    program: tuple[str, ...] = (sys.executable, "-m", "ex4d")

    def __init__(self, data: Path, *arguments: str) -> None:
        self.data = data
        self.port = 0
        self.public_key = ""
        self.log_path = data.with_name(f"{data.name}-log.txt")
        self._arguments = (
            arguments if "--executor" in arguments else ("--executor", "fake", *arguments)
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "ServerProcess":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until clients can connect."""
        announcement = self.data / "server.json"
        announcement.unlink(missing_ok=True)
        with self.log_path.open("ab") as log:
            where = ("--data", str(self.data), "--port", str(self.port))
            self._process = subprocess.Popen(
                [*self.program, "serve", *where, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not announcement.exists():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.kill()
                raise RuntimeError(f"the server did not start:\n{self.log_text()}")
            time.sleep(0.02)
        where = json.loads(announcement.read_text())
        self.port, self.public_key = where["port"], where["public_key"]

    def stop(self) -> int:
        """End it as a service manager would; the exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """End it without warning; the exit status."""
        return self._end(signal.SIGKILL)

    def keys(self, *arguments: str) -> str:
        """Run `ex4d keys`; what it printed."""
        command = [*self.program, "keys", "--data", str(self.data), *arguments]
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def authorise(self, user: str) -> KeyPair:
        """A new pair of keys that the server knows as one of `user`."""
        pair = make_key_pair()
        self.keys("authorise", user, pair.public_key)
        return pair

    def pairing_link(self, user: str) -> str:
        """A new `ex4d://` link."""
        return self.keys("pair", user).strip()

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace")

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        if self._process.poll() is None:
            os.kill(self._process.pid, number)
        try:
            return self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
