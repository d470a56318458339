"""Compiled kernels on several threads: they release the interpreter's lock."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

#: Shares per thread: more than one, since rows differ in how much they show.
_SHARES = 2


class Threads:
    """Runs a kernel over shares of rows. The result must not depend on how they are shared.

    Args:
        count: How many threads; all cores where absent.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self.count, "kernel") if self.count > 1 else None

    def over_rows(self, row_count: int, kernel: Callable[..., None], *arguments: object) -> None:
        """Run `kernel(*arguments, first, end)` over all rows, in runs of neighbours."""
        shares = min(self.count * _SHARES, row_count // 2)
        if self._pool is None or shares < 2:
            kernel(*arguments, 0, row_count)
            return
        ends = [row_count * share // shares for share in range(shares + 1)]
        self._wait(
            [
                self._pool.submit(kernel, *arguments, ends[share], ends[share + 1])
                for share in range(shares)
            ]
        )

    def over_bands(self, band_count: int, kernel: Callable[..., None], *arguments: object) -> None:
        """Run `kernel(*arguments, first, step)` so that it does every band once."""
        shares = min(self.count * _SHARES, band_count)
        if self._pool is None or shares < 2:
            kernel(*arguments, 0, 1)
            return
        self._wait(
            [self._pool.submit(kernel, *arguments, share, shares) for share in range(shares)]
        )

    @staticmethod
    def _wait(futures: list[Future[None]]) -> None:
        for future in futures:
            future.result()


#: All cores, shared by everything in this process.
ALL_CORES = Threads()
