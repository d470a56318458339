# SPDX-License-Identifier: GPL-3.0-or-later
"""Which vertices of the DW-mesh are occluded, by the rules of `ex4d.dwmesh`, in slices.

The server says so for the field of view that a scene came with. By another one the quads are wider
or narrower, and other faces are stretched.
"""

import math
from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from ._vendor.protocol.documents import MeshRules, PinholeIntrinsics

#: Vertices that are judged at once: about 2 ms.
_BLOCK_VERTICES = 16_000


def occluded_vertices(
    depth: NDArray[np.float32], intrinsics: PinholeIntrinsics, rules: MeshRules
) -> Generator[None, None, NDArray[np.bool_]]:
    """Find the vertices of stretched faces.

    Args:
        depth: z-depth, the border pushed back: (height, width) float32.
        intrinsics: By which depth is lifted.
        rules: What counts as stretched.

    Returns:
        (height, width) bool.
    """
    height, width = depth.shape
    across = (np.arange(width) + 0.5 - intrinsics.cx_px) / intrinsics.fx_px
    down = (np.arange(height) + 0.5 - intrinsics.cy_px) / intrinsics.fy_px
    limit = np.float32(math.cos(math.radians(rules.min_angle_deg)) ** 2)
    occluded = np.zeros((height, width), dtype=np.bool_)
    step = max(1, _BLOCK_VERTICES // width)
    for first in range(0, height - 1, step):
        rows = slice(first, min(first + step + 1, height))
        _mark(_lifted(depth[rows], across, down[rows]), limit, occluded[rows])
        yield
    if rules.is_reference:
        # The caps that close the back, judged like other faces.
        ends = np.ix_([0, -1], [0, -1])
        points = _lifted(depth[ends], across[[0, -1]], down[[0, -1]])
        corners = occluded[ends]
        (top_left, top_right), (bottom_left, bottom_right) = np.moveaxis(points, 0, -1)
        if _is_stretched(top_right, top_left, bottom_right, limit):
            corners |= [[True, True], [False, True]]
        if _is_stretched(bottom_right, top_left, bottom_left, limit):
            corners |= [[True, False], [True, True]]
        occluded[ends] = corners
    else:
        occluded[[0, -1]] = True
        occluded[:, [0, -1]] = True
    return occluded


def _lifted(
    depth: NDArray[np.float32], across: NDArray[np.float64], down: NDArray[np.float64]
) -> NDArray[np.float32]:
    """The vertices: (3, rows, columns)."""
    x, y = across.astype(np.float32), down.astype(np.float32)[:, None]
    return np.stack([depth * x, depth * y, depth])


def _mark(points: NDArray[np.float32], limit: np.float32, occluded: NDArray[np.bool_]) -> None:
    """Mark the corners of the stretched faces between these vertices."""
    top_left, top_right = points[:, :-1, :-1], points[:, :-1, 1:]
    bottom_left, bottom_right = points[:, 1:, :-1], points[:, 1:, 1:]
    upper = _is_stretched(top_left, top_right, bottom_left, limit)
    lower = _is_stretched(top_right, bottom_left, bottom_right, limit)
    either = upper | lower
    occluded[:-1, :-1] |= upper
    occluded[1:, 1:] |= lower
    occluded[:-1, 1:] |= either
    occluded[1:, :-1] |= either


def _is_stretched(
    a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32], limit: np.float32
) -> NDArray[np.bool_]:
    """Whether the smallest angle of each triangle is under the limit, by squared cosines.

    Args:
        a: A corner of each: (3, ...), as the other two.
        b: Another one.
        c: The third.
        limit: The squared cosine of the smallest angle that is not stretched.
    """
    ab, ac, bc = b - a, c - a, c - b
    to_b, to_c, across = _dot(ab, ab), _dot(ac, ac), _dot(bc, bc)
    at_a, at_b, at_c = _dot(ab, ac), -_dot(ab, bc), _dot(ac, bc)
    return (
        ((at_a > 0) & (at_a * at_a > limit * to_b * to_c))
        | ((at_b > 0) & (at_b * at_b > limit * to_b * across))
        | ((at_c > 0) & (at_c * at_c > limit * to_c * across))
    )


def _dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
