# SPDX-License-Identifier: GPL-3.0-or-later
"""A server of one's own: a child process that Blender starts, talks to by pipe and ends with.

The child gets one JSON line on its standard input, which stays open: its end tells the child that
Blender is gone, however Blender went. The child answers with one JSON line on its standard output,
which is read without ever waiting. Its log goes to a file.
"""

import json
import os
import subprocess
import sys
import time
from enum import Enum
from pathlib import Path
from typing import IO

from ._vendor.errors import InputError

START_TIMEOUT_S = 60.0
#: How long the child may take to end by itself after its input has ended.
GRACE_S = 5.0
MAX_GREETING_BYTES = 4096
MAX_LOG_TAIL_BYTES = 2000


class ServerState(Enum):
    """What the child is doing."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class LocalServer:
    """One run of `ex4d serve --local`. Call `poll` regularly; nothing here waits but `close`.

    Args:
        executable: The `ex4d` program.
        client_public_key: Z85 key of the only client that the server will accept.
        log_path: File that receives the server's log; replaced.

    Raises:
        InputError: `server_executable` if the program cannot be started.
    """

    def __init__(self, executable: Path, client_public_key: str, log_path: Path) -> None:
        self.state = ServerState.STARTING
        #: Why the state is FAILED.
        self.problem: InputError | None = None
        self.port = 0
        self.server_public_key = ""
        self.log_path = log_path
        self._greeting = b""
        self._deadline_s = time.monotonic() + START_TIMEOUT_S
        log_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log_path.open("wb") as log:
                self._process = subprocess.Popen(
                    [str(executable), "serve", "--local"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    bufsize=0,
                    # No console window, and no Ctrl-C that was meant for Blender.
                    creationflags=_NO_WINDOW,
                    start_new_session=sys.platform != "win32",
                )
        except OSError as error:
            message = (
                f"expected to start the ex4d program {executable}, found: {error.strerror}; choose "
                "it as Program, under Server or in the extension's preferences"
            )
            raise InputError("server_executable", message) from error
        handover = json.dumps({"client_public_key": client_public_key, "user": "local"})
        self._send(handover.encode("ascii") + b"\n")

    def poll(self) -> bool:
        """Read what the child said and whether it lives; true if the state changed."""
        before = self.state
        if self.state is ServerState.STARTING:
            self._read_greeting()
        if self.state is ServerState.STOPPING and time.monotonic() > self._deadline_s:
            self._process.kill()
        if self._process.poll() is not None and self.state not in _ENDED:
            self._release()
            if self.state is ServerState.STOPPING:
                self.state = ServerState.STOPPED
            else:
                self._fail(f"the local server ended with code {self._process.returncode}")
        return self.state is not before

    def stop(self) -> None:
        """Ask the child to end; `poll` sees to it that it does."""
        if self.state in (ServerState.STARTING, ServerState.READY):
            self.state = ServerState.STOPPING
            self._deadline_s = time.monotonic() + GRACE_S
            self._end_input()

    def close(self) -> None:
        """End the child now, waiting briefly, as when the extension is disabled."""
        if self.state in _ENDED:
            return
        self._end_input()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._release()
        self.state = ServerState.STOPPED

    def log_tail(self) -> str:
        """The last lines of the log."""
        with self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - MAX_LOG_TAIL_BYTES))
            return log.read().decode("utf-8", errors="replace").strip()

    def _read_greeting(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was opened as a pipe
        self._greeting += read_available(self._process.stdout, MAX_GREETING_BYTES)
        line, newline, _ = self._greeting.partition(b"\n")
        if not newline:
            if len(self._greeting) >= MAX_GREETING_BYTES:
                self._reject("found a long text")
            elif time.monotonic() > self._deadline_s:
                self._reject(f"found nothing within {START_TIMEOUT_S:.0f} s")
            return
        try:
            greeting = json.loads(line)
            host, _, port = greeting["endpoint"].rpartition(":")
            self.port = int(port)
            self.server_public_key = str(greeting["server_public_key"])
        except (ValueError, KeyError, TypeError, AttributeError):
            self._reject(f"found {line[:200]!r}")
            return
        if host != "127.0.0.1":
            self._reject(f"found the address {host!r}, which is not this computer's")
            return
        self.state = ServerState.READY

    def _reject(self, found: str) -> None:
        self._process.kill()
        self._process.wait()
        self._release()
        self._fail(f"expected the local server to say where it listens, {found}")

    def _fail(self, what: str) -> None:
        self.state = ServerState.FAILED
        tail = self.log_tail() or "(the log is empty)"
        message = f"{what}; the end of its log, {self.log_path}, says:\n{tail}"
        self.problem = InputError("server_ended", message)

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it was opened as a pipe
        try:
            self._process.stdin.write(line)
        except OSError:
            # A broken pipe, which Windows calls an invalid argument: the child has ended already.
            # `poll` will tell, with the end of its log.
            return

    def _end_input(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _release(self) -> None:
        self._end_input()
        if self._process.stdout is not None:
            self._process.stdout.close()


_ENDED = (ServerState.STOPPED, ServerState.FAILED)


_NO_WINDOW = subprocess.CREATE_NO_WINDOW if sys.platform == "win32" else 0


def read_available(pipe: IO[bytes], limit_bytes: int) -> bytes:
    """Read what a pipe holds at this moment, perhaps nothing, without waiting.

    On Windows a pipe cannot be made non-blocking before Python 3.12 and `select` knows sockets
    alone, so the pipe is asked how much it holds.
    """
    if sys.platform == "win32":
        available = min(_windows_pipe_bytes(pipe.fileno()), limit_bytes)
        return os.read(pipe.fileno(), available) if available else b""
    os.set_blocking(pipe.fileno(), False)
    try:
        return os.read(pipe.fileno(), limit_bytes)
    except BlockingIOError:
        return b""


def _windows_pipe_bytes(descriptor: int) -> int:
    import ctypes
    import msvcrt

    available = ctypes.c_ulong(0)
    handle = ctypes.c_void_p(msvcrt.get_osfhandle(descriptor))  # type: ignore[attr-defined]
    peek = ctypes.windll.kernel32.PeekNamedPipe  # type: ignore[attr-defined]
    # False: the other end is closed. The child has ended, which `poll` notices by itself.
    peeked = peek(handle, None, 0, None, ctypes.byref(available), None)
    return available.value if peeked else 0
