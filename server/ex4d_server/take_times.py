"""How long takes have taken on this server, for clients to tell before they send one."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from ex4d.protocol.messages import MAX_TAKE_TIMES, GenerateJob, JobRequest, TakeTimes
from ex4d.protocol.take_time import measured

from .config import write_private

_log = structlog.get_logger(__name__)


class MeasuredTakes:
    """The newest time of each kind and size of take, kept from one run to the next.

    Args:
        path: Its file; what is damaged there is measured anew.
        publish: Told the user whose take was measured, and all times; must be quick.
    """

    def __init__(self, path: Path, publish: Callable[[str, TakeTimes], None]) -> None:
        self._path = path
        self._publish = publish
        self.times = self._load()

    def add(self, user: str, request: JobRequest, time_s: float) -> None:
        """Note how long a job took, if it made a take."""
        if not isinstance(request, GenerateJob):
            return
        newest = measured(request.settings, request.trajectory, time_s)
        others = [
            time
            for time in self.times.times
            if (time.kind, time.work) != (newest.kind, newest.work)
        ]
        self.times = TakeTimes(times=(newest, *others)[:MAX_TAKE_TIMES])
        try:
            write_private(self._path, msgspec.json.encode(self.times).decode())
        except OSError as error:
            # Known until the end of this run, then measured again.
            _log.warning("take_times_not_written", reason=error.strerror)
        self._publish(user, self.times)

    def _load(self) -> TakeTimes:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=TakeTimes)
        except FileNotFoundError:
            pass
        # Bytes that are no text are a ValueError of their own.
        except (OSError, ValueError) as error:
            _log.warning("take_times_not_read", reason=str(error))
        return TakeTimes(times=())
