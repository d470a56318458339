"""Health and metrics over HTTP, on loopback alone and only where asked for.

`/health` answers 200 where the server is well, with a line about jobs that it could not read, and
503 where its disk is full; `/metrics` answers in Prometheus' text format. Neither names users, jobs
or files.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from ex4d.errors import InputError

_log = structlog.get_logger(__name__)

_HOST = "127.0.0.1"
_REQUEST_BYTES = 8192
_PATIENCE_S = 5.0
#: Connections that are answered at once; others are closed.
_CONNECTIONS = 16
_PREFIX = "ex4d_"


class Metric(NamedTuple):
    """A number that describes the server."""

    name: str
    kind: str
    words: str
    value: float


class Health(NamedTuple):
    """Whether the server is well."""

    is_well: bool
    #: Jobs whose row in the journal could not be decoded.
    jobs_set_aside: int


class MetricsServer:
    """Answers `/health` and `/metrics`.

    Args:
        measure: Takes all measures, in the event loop; must be quick.
        judge: Says how the server is; must be quick too.
    """

    def __init__(self, measure: Callable[[], list[Metric]], judge: Callable[[], Health]) -> None:
        self._measure = measure
        self._judge = judge
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self, port: int) -> None:
        """Listen.

        Args:
            port: TCP port; 0: any free one.

        Raises:
            InputError: `address_in_use`.
        """
        try:
            self._server = await asyncio.start_server(
                self._serve, _HOST, port, limit=_REQUEST_BYTES
            )
        except (OSError, OverflowError) as error:
            msg = f"expected --metrics-port {port} to be free, found: {error}; choose another"
            raise InputError("address_in_use", msg) from error
        _log.info("metrics", bind=_HOST, port=self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Listen no more."""
        if self._server:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= _CONNECTIONS:
                async with asyncio.timeout(_PATIENCE_S):
                    request = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(request))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # Whoever asks like this does not wait for an answer.
            pass
        finally:
            self._open -= 1
            writer.close()

    def _answer(self, request: bytes) -> bytes:
        words = request.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or words[0] != b"GET":
            return _response("405 Method Not Allowed", "expected GET\n")
        if words[1] == b"/health":
            health = self._judge()
            if health.is_well:
                count = health.jobs_set_aside
                return _response("200 OK", f"ok\njobs_set_aside {count}\n" if count else "ok\n")
            return _response("503 Service Unavailable", "disk_full\n")
        if words[1] == b"/metrics":
            return _response("200 OK", format_metrics(self._measure()))
        return _response("404 Not Found", "expected /health or /metrics\n")


def format_metrics(metrics: list[Metric]) -> str:
    """Prometheus' text format, version 0.0.4."""
    return "".join(
        f"# HELP {_PREFIX}{metric.name} {metric.words}\n"
        f"# TYPE {_PREFIX}{metric.name} {metric.kind}\n"
        f"{_PREFIX}{metric.name} {metric.value:.17g}\n"
        for metric in metrics
    )


def resident_bytes() -> float:
    """Main memory of this process; NaN where the system does not tell."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024.0
    except OSError:
        pass
    return float("nan")


def _response(status: str, body: str) -> bytes:
    content = body.encode("utf-8")
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + content
