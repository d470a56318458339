"""The clock of the benchmarks."""

import time
from collections.abc import Callable

REPEATS = 5


def best_s(function: Callable[[], object]) -> float:
    """Seconds of the best of five calls."""
    times_s = []
    for _ in range(REPEATS):
        start_s = time.perf_counter()
        function()
        times_s.append(time.perf_counter() - start_s)
    return min(times_s)
