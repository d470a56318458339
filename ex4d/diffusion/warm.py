"""Models that stay loaded between jobs, until others are needed or nothing happened for a while."""

import gc
import logging
import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from ex4d.errors import Ex4dError

#: After so long without a job the card is left to others.
DEFAULT_IDLE_S = 600.0

_log = logging.getLogger(__name__)


class WarmModels:
    """Holds the models of the last job; one job at a time may borrow them.

    Args:
        idle_s: How long they are kept after a job; 0: not at all.
    """

    def __init__(self, idle_s: float = DEFAULT_IDLE_S) -> None:
        self._idle_s = idle_s
        self._in_use = threading.Lock()
        self._key: Hashable = None
        self._models: Any = None
        self._timer: threading.Timer | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether models are held."""
        return self._models is not None

    @contextmanager
    def borrow(self, key: Hashable, load: Callable[[], Any]) -> Iterator[Any]:
        """Give the block the models of `key`: those that are held, or newly loaded ones.

        They stay afterwards, unless the block fails by anything but an `Ex4dError`.

        Args:
            key: Tells models apart.
            load: Makes them; what was held before is freed first.
        """
        with self._in_use:
            self._stop_timer()
            try:
                if self._key != key:
                    self._free()
                    self._models, self._key = load(), key
                yield self._models
            except Ex4dError:
                raise
            except BaseException:
                # Nobody knows in what state they are.
                self._free()
                raise
            finally:
                if self._idle_s <= 0:
                    self._free()
                elif self.is_loaded:
                    self._start_timer()

    def free(self) -> None:
        """Let go of the models and give their memory back to the card."""
        with self._in_use:
            self._stop_timer()
            self._free()

    def _free(self) -> None:
        if not self.is_loaded:
            return
        self._models, self._key = None, None
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        _log.info("models freed")

    def _start_timer(self) -> None:
        self._timer = threading.Timer(self._idle_s, self._free_if_idle)
        self._timer.daemon = True
        self._timer.start()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _free_if_idle(self) -> None:
        # A job that has just begun keeps them.
        if self._in_use.acquire(blocking=False):
            try:
                if self._timer is threading.current_thread():
                    self._free()
            finally:
                self._in_use.release()
