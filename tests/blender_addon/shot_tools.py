"""What the tests of shots share."""

import os
import sys
import time
from collections.abc import Generator

import numpy as np
import pytest

needs_server = pytest.mark.skipif(
    sys.platform == "win32" or "EX4D_EXECUTABLE" not in os.environ,
    reason="EX4D_EXECUTABLE names no ex4d program",
)


def exhaust(steps: Generator):
    """Run a generator to its end; returns its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def evaluated_points(mesh_object) -> np.ndarray:
    """(V, 3) positions of an object's vertices as shown at the current frame, without its pose."""
    import bpy

    mesh = mesh_object.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
    points = np.empty(len(mesh.vertices) * 3, dtype=np.float32)
    mesh.attributes["position"].data.foreach_get("vector", points)
    return points.reshape(-1, 3)


def tick_until(addon, is_over, timeout_s=30.0):
    """Let the extension work until something holds."""
    deadline_s = time.monotonic() + timeout_s
    while not is_over():
        assert time.monotonic() < deadline_s
        addon("pump").tick()
        time.sleep(0.002)
