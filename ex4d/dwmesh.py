"""The depth-watertight mesh (DW-mesh) of one frame.

A vertex per pixel, two triangles per quad of pixels. The outermost pixels are pushed far behind
everything else and two cap triangles join the four corners, so that the mesh encloses the camera
and any ray ends on it. Faces that span a jump in depth become long and thin: their vertices are
*occluded*, which marks what the source never saw (EX-4D, arXiv 2506.05554, section 3).

The vertex of the pixel in column i, row j lies at ((i + 0.5 - cx) / fx, (j + 0.5 - cy) / fy, 1)
times its depth: pixel centres are at +0.5. The reference lifts integer coordinates instead; source
intrinsics with cx + 0.5 and cy + 0.5 reproduce it.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .camera import Intrinsics
from .errors import InputError
from .protocol.documents import MeshRules
from .threads import ALL_CORES

#: What the reference does: its border may lie in front of a sky, and its back plate counts as seen.
REFERENCE_RULES = MeshRules(min_angle_deg=2.5, border_depth=100.0, back_plate="reference")
#: A little under EX-4D's 2.5: on the sample, seen from 30 to 90 degrees, it shows more of what the
#: source saw and no more of what it did not (`ex4d bench geometry`).
_MIN_ANGLE_DEG = 2.2
#: The border goes this much behind the farthest surface: far enough never to cross it.
_BORDER_FACTOR = 10.0


def default_rules(farthest_depth: float) -> MeshRules:
    """Rules for a clip whose farthest surface lies at `farthest_depth`, in scene units."""
    return MeshRules(min_angle_deg=_MIN_ANGLE_DEG, border_depth=_BORDER_FACTOR * farthest_depth)


@dataclass(frozen=True)
class DWMesh:
    """The mesh of one frame, as a grid: its triangles follow from the size alone.

    Attributes:
        depth: (height, width) float32 z-depth per vertex, border pushed back.
        rgba: (height, width, 4) uint8 per vertex; all 0 where the vertex is occluded.
        intrinsics: Of the source frame.
        rules: How the mesh was made.
    """

    depth: NDArray[np.float32]
    rgba: NDArray[np.uint8]
    intrinsics: Intrinsics
    rules: MeshRules

    def rays(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Per column x (width,), per row y (height,) of the ray at depth 1, float32."""
        camera = self.intrinsics
        columns = (np.arange(camera.width_px) + 0.5 - camera.cx_px) / camera.fx_px
        rows = (np.arange(camera.height_px) + 0.5 - camera.cy_px) / camera.fy_px
        return columns.astype(np.float32), rows.astype(np.float32)

    def occluded(self) -> NDArray[np.bool_]:
        """(height, width) bool: vertices of stretched faces, which the source never saw right."""
        return self.rgba[..., 3] == 0

    def packed(self) -> NDArray[np.uint32]:
        """(height, width) uint32: a view of `rgba`, red in the lowest byte."""
        return self.rgba.view("<u4")[..., 0]

    def vertices(self) -> NDArray[np.float32]:
        """(height * width, 3) float32 positions, row by row."""
        columns, rows = self.rays()
        grid = np.empty((*self.depth.shape, 3), np.float32)
        grid[..., 0] = self.depth * columns
        grid[..., 1] = self.depth * rows[:, None]
        grid[..., 2] = self.depth
        return grid.reshape(-1, 3)

    def faces(self) -> NDArray[np.int32]:
        """(faces, 3) int32 vertex indices: upper-left triangles, lower-right ones, two caps."""
        height_px, width_px = self.depth.shape
        index = np.arange(height_px * width_px, dtype=np.int32).reshape(height_px, width_px)
        top_left, top_right = index[:-1, :-1].ravel(), index[:-1, 1:].ravel()
        bottom_left, bottom_right = index[1:, :-1].ravel(), index[1:, 1:].ravel()
        caps = np.array(cap_faces(height_px, width_px), np.int32)
        return np.concatenate(
            [
                np.column_stack([bottom_left, top_left, top_right]),
                np.column_stack([bottom_left, top_right, bottom_right]),
                caps,
            ]
        )


def cap_faces(height_px: int, width_px: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Vertex indices of the two triangles that close the back."""
    top_left, top_right = 0, width_px - 1
    bottom_left, bottom_right = (height_px - 1) * width_px, height_px * width_px - 1
    return (top_right, top_left, bottom_right), (bottom_right, top_left, bottom_left)


def build_dwmesh(
    depth: NDArray[np.float32],
    rgb: NDArray[np.uint8],
    intrinsics: Intrinsics,
    rules: MeshRules,
) -> DWMesh:
    """Make the DW-mesh of one frame.

    Args:
        depth: (height, width) float32 z-depth in scene units.
        rgb: (height, width, 3) uint8 sRGB.
        intrinsics: Of the frame.
        rules: How depth becomes a mesh.

    Raises:
        InputError: `mesh_size` if the three sizes differ or a side is under two pixels.
    """
    height_px, width_px = intrinsics.height_px, intrinsics.width_px
    if depth.shape != (height_px, width_px) or rgb.shape != (height_px, width_px, 3):
        msg = (
            f"expected depth and colour of {width_px} x {height_px} as the camera has, found "
            f"{depth.shape[::-1]} and {rgb.shape[1::-1]}"
        )
        raise InputError("mesh_size", msg)
    if min(height_px, width_px) < 2:
        msg = f"expected at least 2 pixels a side, found {width_px} x {height_px}"
        raise InputError("mesh_size", msg)
    pushed = np.array(depth, np.float32, order="C")
    border = np.float32(rules.border_depth)
    pushed[0] = pushed[-1] = border
    pushed[:, 0] = pushed[:, -1] = border
    mesh = DWMesh(pushed, np.empty((height_px, width_px, 4), np.uint8), intrinsics, rules)
    columns, rows = mesh.rays()
    # Compared squared, so that no angle is ever computed: cos falls as the angle grows.
    max_cos_squared = np.float32(math.cos(math.radians(rules.min_angle_deg)) ** 2)
    colors = np.ascontiguousarray(rgb)
    ALL_CORES.over_rows(
        height_px, _paint, pushed, colors, columns, rows, max_cos_squared, mesh.packed()
    )
    _judge_back(mesh, columns, rows, float(max_cos_squared))
    return mesh


def _judge_back(
    mesh: DWMesh,
    columns: NDArray[np.float32],
    rows: NDArray[np.float32],
    max_cos_squared: float,
) -> None:
    """Decide which corners the caps make occluded, in place."""
    if mesh.rules.back_plate == "occluded":
        mesh.rgba[0] = mesh.rgba[-1] = 0
        mesh.rgba[:, 0] = mesh.rgba[:, -1] = 0
        return
    flat = mesh.rgba.reshape(-1, 4)
    height_px, width_px = mesh.depth.shape
    for face in cap_faces(height_px, width_px):
        corners = [divmod(vertex, width_px) for vertex in face]
        points = [
            float(mesh.depth[j, i]) * np.array([columns[i], rows[j], 1.0]) for j, i in corners
        ]
        (ax, ay, az), (bx, by, bz), (cx, cy, cz) = points
        if _is_stretched(ax, ay, az, bx, by, bz, cx, cy, cz, max_cos_squared):
            flat[list(face)] = 0


@njit(inline="always")
def _is_stretched(ax, ay, az, bx, by, bz, cx, cy, cz, max_cos_squared):  # noqa: PLR0913
    """Whether the smallest angle of triangle abc is under the limit, by squared cosines."""
    abx, aby, abz = bx - ax, by - ay, bz - az
    acx, acy, acz = cx - ax, cy - ay, cz - az
    bcx, bcy, bcz = cx - bx, cy - by, cz - bz
    ab = abx * abx + aby * aby + abz * abz
    ac = acx * acx + acy * acy + acz * acz
    bc = bcx * bcx + bcy * bcy + bcz * bcz
    at_a = abx * acx + aby * acy + abz * acz
    at_b = -(abx * bcx + aby * bcy + abz * bcz)
    at_c = acx * bcx + acy * bcy + acz * bcz
    return (
        ((at_a > 0) & (at_a * at_a > max_cos_squared * ab * ac))
        | ((at_b > 0) & (at_b * at_b > max_cos_squared * ab * bc))
        | ((at_c > 0) & (at_c * at_c > max_cos_squared * ac * bc))
    )


@njit(inline="always")
def _find_stretched(depth, columns, rows, max_cos_squared, j, stretched):
    """Quad i of a row, at i + 1: bit 0 for its upper-left triangle, bit 1 for its lower-right."""
    top, bottom = rows[j], rows[j + 1]
    upper_depth, lower_depth = depth[j], depth[j + 1]
    for i in range(depth.shape[1] - 1):
        left, right = columns[i], columns[i + 1]
        a, b, c, d = upper_depth[i], upper_depth[i + 1], lower_depth[i], lower_depth[i + 1]
        upper = _is_stretched(
            a * left, a * top, a, b * right, b * top, b, c * left, c * bottom, c,
            max_cos_squared,
        )  # fmt: skip
        lower = _is_stretched(
            b * right, b * top, b, c * left, c * bottom, c, d * right, d * bottom, d,
            max_cos_squared,
        )  # fmt: skip
        stretched[i + 1] = np.uint8(upper) | (np.uint8(lower) << 1)


@njit(nogil=True, fastmath=True, cache=True)
def _paint(depth, rgb, columns, rows, max_cos_squared, packed, first, end):
    """Colour the vertices of some rows, or set them to 0 where one of six faces is stretched.

    `packed` is RGBA in one little-endian number a vertex.
    """
    height_px, width_px = depth.shape
    # A quad more on each side, which is never stretched.
    above, below = np.zeros(width_px + 1, np.uint8), np.zeros(width_px + 1, np.uint8)
    if first > 0:
        _find_stretched(depth, columns, rows, max_cos_squared, first - 1, above)
    for j in range(first, end):
        if j < height_px - 1:
            _find_stretched(depth, columns, rows, max_cos_squared, j, below)
        else:
            below[:] = 0
        colors, out = rgb[j], packed[j]
        for i in range(width_px):
            marks = (below[i + 1] & 1) | below[i] | above[i + 1] | (above[i] & 2)
            opaque = (
                np.uint32(colors[i, 0])
                | np.uint32(colors[i, 1]) << np.uint32(8)
                | np.uint32(colors[i, 2]) << np.uint32(16)
                | np.uint32(0xFF000000)
            )
            out[i] = opaque if marks == 0 else np.uint32(0)
        above, below = below, above


def write_ply(path: Path, mesh: DWMesh) -> None:
    """Write a mesh as binary PLY: float32 positions (OpenCV axes), uint8 RGBA, triangles.

    Args:
        path: File to write, replaced if it exists.
        mesh: What to write.
    """
    vertex_type = np.dtype([("position", "<f4", 3), ("color", "u1", 4)])
    vertices = np.empty(mesh.depth.size, vertex_type)
    vertices["position"] = mesh.vertices()
    vertices["color"] = mesh.rgba.reshape(-1, 4)
    triangles = mesh.faces()
    faces = np.empty(len(triangles), np.dtype([("count", "u1"), ("index", "<i4", 3)]))
    faces["count"] = 3
    faces["index"] = triangles
    header = "\n".join(
        [
            "ply",
            "format binary_little_endian 1.0",
            f"element vertex {len(vertices)}",
            *(f"property float {axis}" for axis in "xyz"),
            *(f"property uchar {channel}" for channel in ("red", "green", "blue", "alpha")),
            f"element face {len(faces)}",
            "property list uchar int vertex_indices",
            "end_header\n",
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(header.encode("ascii"))
        vertices.tofile(file)
        faces.tofile(file)
