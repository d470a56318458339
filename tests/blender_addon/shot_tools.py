"""What the tests of shots share."""

from collections.abc import Generator

import numpy as np


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
