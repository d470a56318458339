"""The rasteriser for the processor: exact coverage on the grid of the DW-mesh.

The mesh is never made explicit: the triangles of quad (j, i) follow from the grid. Each frame is

1. `_project`: every vertex to fixed-point pixels, or marked where it cannot be (behind the camera).
2. `_find_hits`: which triangles can cover a pixel's centre at all; few do when seen from the side.
3. `_bound_chunks`: vertical bounds of runs of quads, so that a band of rows skips most of them.
4. `_set_up_crossing`: triangles that cross the near plane, as homogeneous edge functions.
5. `_draw_band`: depth test and triangle id per pixel, one band of rows at a time.
6. `_shade` or `_interpolate`: perspective-correct attributes from unrounded positions.

Coverage is decided in integers, by the top-left rule, so that neighbouring triangles neither
overlap nor leave gaps; bands are independent and drawn in triangle order, so that the result is the
same for any number of threads. Triangles through the near plane use homogeneous edge functions in
float64 instead (Olano and Greer, "Triangle Scan Conversion using 2D Homogeneous Coordinates",
1997).

The kernels release the interpreter's lock and run on a pool of threads.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ex4d.camera import Intrinsics
from ex4d.dwmesh import DWMesh, cap_faces

from . import NEAR_DEPTH, VISIBLE_ALPHA, ConditionFrame, Interpolated

#: Fixed point: 1/256 pixel, sixteen times finer than nvdiffrast's.
_SUBPIXEL_BITS = 8
_ONE_PIXEL = 1 << _SUBPIXEL_BITS
_HALF_PIXEL = _ONE_PIXEL // 2
#: Vertices farther out than this, in pixels, would overflow and are drawn like crossing ones.
_GUARD_PX = float(1 << 20)
#: Rows of a band and quads of a chunk: small enough for the first-level cache.
_BAND_ROWS = 16
_CHUNK_QUADS = 64
#: Offsets within one triangle below which the products of the quick path fit 32 bits.
_QUICK_EXTENT = 8192

_f32 = np.float32
_i32 = np.int32
_i64 = np.int64


class CpuRasteriser:
    """Draws DW-meshes on the processor.

    Args:
        threads: How many to use; all cores where absent.
    """

    name = "cpu"
    version = "1"
    licence = "Apache-2.0"

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads, "raster") if self._threads > 1 else None

    def render(
        self, mesh: DWMesh, cam_to_world: NDArray[np.float64], intrinsics: Intrinsics
    ) -> ConditionFrame:
        """Colour, mask and depth; see `Rasteriser`."""
        columns, rows = mesh.rays()
        matrix = _pixel_from_world(cam_to_world, intrinsics)
        ids = self._visible_triangles(mesh, columns, rows, matrix, intrinsics)
        size = ids.shape
        color = np.empty((*size, 3), np.uint8)
        mask = np.empty(size, np.bool_)
        depth = np.empty(size, np.float32)
        self._over_rows(
            size[0], _shade, ids, mesh.depth, mesh.rgba, columns, rows,
            matrix.astype(np.float32), color, mask, depth,
        )  # fmt: skip
        return ConditionFrame(color, mask, depth)

    def interpolate(
        self, mesh: DWMesh, cam_to_world: NDArray[np.float64], intrinsics: Intrinsics
    ) -> Interpolated:
        """The same before the mask is decided; see `Rasteriser`."""
        columns, rows = mesh.rays()
        matrix = _pixel_from_world(cam_to_world, intrinsics)
        ids = self._visible_triangles(mesh, columns, rows, matrix, intrinsics)
        rgba = np.empty((*ids.shape, 4), np.float32)
        depth = np.empty(ids.shape, np.float32)
        self._over_rows(
            ids.shape[0], _interpolate, ids, mesh.depth, mesh.rgba, columns, rows,
            matrix.astype(np.float32), rgba, depth,
        )  # fmt: skip
        return Interpolated(rgba, depth)

    def _visible_triangles(
        self,
        mesh: DWMesh,
        columns: NDArray[np.float32],
        rows: NDArray[np.float32],
        matrix: NDArray[np.float64],
        intrinsics: Intrinsics,
    ) -> NDArray[np.int32]:
        """Id of the nearest triangle at each pixel's centre, -1 where there is none.

        Triangle 2 (j * width + i) + k is the upper-left (k = 0) or lower-right (k = 1) one of quad
        (j, i); the two caps come after all of them.
        """
        size = mesh.depth.shape
        chunk_count = -(-(size[1] - 1) // _CHUNK_QUADS)
        x = np.empty(size, np.int32)
        y = np.empty(size, np.int32)
        inverse_w = np.empty(size, np.float32)
        hits = np.zeros(size, np.uint8)
        bounds = np.empty((size[0] - 1, chunk_count, 2), np.int32)
        flags = np.empty((size[0] - 1, chunk_count), np.uint8)
        self._over_rows(
            size[0], _project, mesh.depth, columns, rows, matrix.astype(np.float32), x, y, inverse_w
        )
        width_px, height_px = intrinsics.width_px, intrinsics.height_px
        self._over_rows(size[0] - 1, _find_hits, x, y, inverse_w, width_px, height_px, hits)
        self._over_rows(size[0] - 1, _bound_chunks, y, hits, bounds, flags)
        crossing = _crossing_triangles(flags, inverse_w)
        caps = np.array(cap_faces(*size), np.int64)
        crossing_caps = [
            2 * mesh.depth.size + k for k in range(2) if (inverse_w.reshape(-1)[caps[k]] <= 0).any()
        ]
        crossing = np.concatenate([crossing, np.array(crossing_caps, np.int64)])
        edges = np.empty((len(crossing), 3, 3))
        boxes = np.empty((len(crossing), 4), np.int64)
        self._over_rows(
            len(crossing), _set_up_crossing, crossing, mesh.depth, columns, rows, matrix,
            x, y, inverse_w, width_px, height_px, edges, boxes,
        )  # fmt: skip
        seen = (boxes[:, 0] <= boxes[:, 1]) & (boxes[:, 2] <= boxes[:, 3])
        nearness = np.empty((height_px, width_px), np.float32)
        ids = np.empty((height_px, width_px), np.int32)
        self._over_bands(
            height_px, _draw_band, x, y, inverse_w, hits, bounds, flags, caps,
            crossing[seen], edges[seen], boxes[seen], nearness, ids,
        )  # fmt: skip
        return ids

    def _over_rows(self, row_count: int, kernel: Callable[..., None], *arguments: object) -> None:
        """Run `kernel(*arguments, first, end)` over all rows, a share per thread."""
        if self._pool is None or row_count < 2 * self._threads:
            kernel(*arguments, 0, row_count)
            return
        shares = self._threads * 2
        ends = [row_count * share // shares for share in range(shares + 1)]
        self._wait(
            [
                self._pool.submit(kernel, *arguments, ends[share], ends[share + 1])
                for share in range(shares)
            ]
        )

    def _over_bands(self, row_count: int, kernel: Callable[..., None], *arguments: object) -> None:
        """Run `kernel(*arguments, first, step)` so that every band is drawn by one thread."""
        if self._pool is None:
            kernel(*arguments, 0, 1)
            return
        # More shares than threads, since bands differ in how much they show.
        shares = min(self._threads * 4, -(-row_count // _BAND_ROWS))
        self._wait(
            [self._pool.submit(kernel, *arguments, share, shares) for share in range(shares)]
        )

    @staticmethod
    def _wait(futures: list) -> None:  # pyright: ignore[reportMissingTypeArgument, reportUnknownParameterType]
        for future in futures:
            future.result()


def _pixel_from_world(
    cam_to_world: NDArray[np.float64], intrinsics: Intrinsics
) -> NDArray[np.float64]:
    """(3, 4): from world points to homogeneous pixels, whose last coordinate is the z-depth."""
    return intrinsics.matrix() @ np.linalg.inv(np.asarray(cam_to_world, np.float64))[:3]


# The kernels are compiled: their arguments are typed by what the class above passes.
# ruff: noqa: PLR0913


@njit(inline="always")
def _corners(triangle, height, width):
    """Row and column of a triangle's three vertices, caps included."""
    quad = triangle >> 1
    if quad >= height * width:
        # The caps: top right, top left, bottom right; bottom right, top left, bottom left.
        last_row, last_column = height - 1, width - 1
        if triangle & 1:
            return last_row, last_column, 0, 0, last_row, 0
        return 0, last_column, 0, 0, last_row, last_column
    j = quad // width
    i = quad - j * width
    k = triangle & 1
    return j + k, i + k, j, i + 1, j + 1, i


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def _project(depth, columns, rows, matrix, x, y, inverse_w, first, end):
    """Fixed-point pixels and 1/w of every vertex; 1/w is 0 where the vertex is out of bounds."""
    guard = _f32(_GUARD_PX * _ONE_PIXEL)
    near, zero, half, one = _f32(NEAR_DEPTH), _f32(0), _f32(0.5), _f32(1)
    scale = _f32(_ONE_PIXEL)
    for j in range(first, end):
        ray_y = rows[j]
        along_x = matrix[0, 1] * ray_y + matrix[0, 2]
        along_y = matrix[1, 1] * ray_y + matrix[1, 2]
        along_w = matrix[2, 1] * ray_y + matrix[2, 2]
        for i in range(depth.shape[1]):
            d, ray_x = depth[j, i], columns[i]
            w = d * (matrix[2, 0] * ray_x + along_w) + matrix[2, 3]
            usable = w > near
            inverse = one / (w if usable else one)
            px = (d * (matrix[0, 0] * ray_x + along_x) + matrix[0, 3]) * inverse * scale
            py = (d * (matrix[1, 0] * ray_x + along_y) + matrix[1, 3]) * inverse * scale
            usable = usable & (abs(px) < guard) & (abs(py) < guard)
            x[j, i] = _i32(math.floor((px if usable else zero) + half))
            y[j, i] = _i32(math.floor((py if usable else zero) + half))
            inverse_w[j, i] = inverse if usable else zero


@njit(inline="always")
def _can_hit(ax, ay, bx, by, cx, cy, width, height):
    """1 if a triangle may cover a pixel's centre, in int32 without branches; else 0.

    Exact where its bounding box holds a single centre and it is small; elsewhere it may say 1 for
    a triangle that then covers nothing.
    """
    before, half, bits = _i32(_HALF_PIXEL - 1), _i32(_HALF_PIXEL), _i32(_SUBPIXEL_BITS)
    limit = _i32(4096)
    left = (min(ax, bx, cx) + before) >> bits
    right = (max(ax, bx, cx) - half) >> bits
    top = (min(ay, by, cy) + before) >> bits
    bottom = (max(ay, by, cy) - half) >> bits
    inside = (
        _i32(left <= right)
        & _i32(top <= bottom)
        & _i32(right >= _i32(0))
        & _i32(bottom >= _i32(0))
        & _i32(left < width)
        & _i32(top < height)
    )
    single = _i32(left == right) & _i32(top == bottom)
    ox, oy = (left << bits) + half, (top << bits) + half
    # Clamped so that the products fit; a triangle this large is never rejected wrongly, since its
    # edges then keep their signs.
    ax, ay = max(min(ax - ox, limit), -limit), max(min(ay - oy, limit), -limit)
    bx, by = max(min(bx - ox, limit), -limit), max(min(by - oy, limit), -limit)
    cx, cy = max(min(cx - ox, limit), -limit), max(min(cy - oy, limit), -limit)
    ab, bc, ca = ax * by - ay * bx, bx * cy - by * cx, cx * ay - cy * ax
    negative = (ab | bc | ca) < 0
    positive = (ab > 0) | (bc > 0) | (ca > 0)
    return inside & (_i32(1) - (single & _i32(negative & positive)))


@njit(nogil=True, cache=True, error_model="numpy")
def _find_hits(x, y, inverse_w, width_px, height_px, hits, first, end):
    """Per quad: bits 0 and 1 where a triangle may cover a centre, bit 2 where one crosses."""
    width, height = _i32(width_px), _i32(height_px)
    zero, one, two = _f32(0), _i32(1), _i32(2)
    for j in range(first, end):
        # Views of rows: indices into them are proven in range, and the loop becomes vector code.
        xa, xb, ya, yb, wa, wb = x[j], x[j + 1], y[j], y[j + 1], inverse_w[j], inverse_w[j + 1]
        row = hits[j]
        for i in range(x.shape[1] - 1):
            bx, by, cx, cy = xa[i + 1], ya[i + 1], xb[i], yb[i]
            shared = _i32(wa[i + 1] > zero) & _i32(wb[i] > zero)
            upper_safe = shared & _i32(wa[i] > zero)
            lower_safe = shared & _i32(wb[i + 1] > zero)
            upper = upper_safe & _can_hit(xa[i], ya[i], bx, by, cx, cy, width, height)
            lower = lower_safe & _can_hit(xb[i + 1], yb[i + 1], bx, by, cx, cy, width, height)
            crosses = one - (upper_safe & lower_safe)
            row[i] = np.uint8(upper | (lower << one) | (crosses << two))


@njit(nogil=True, cache=True, error_model="numpy")
def _bound_chunks(y, hits, bounds, flags, first, end):
    """Per chunk of quads: lowest and highest y of those that may hit, and the OR of their bits."""
    lowest, highest = _i32(-(2**31)), _i32(2**31 - 1)
    quads = hits.shape[1] - 1
    for j in range(first, end):
        for chunk in range(bounds.shape[1]):
            low, high, bits = highest, lowest, _i32(0)
            for i in range(chunk * _CHUNK_QUADS, min(quads, (chunk + 1) * _CHUNK_QUADS)):
                bits |= _i32(hits[j, i])
                on = (hits[j, i] & 3) != 0
                above = min(y[j, i], y[j, i + 1], y[j + 1, i], y[j + 1, i + 1])
                below = max(y[j, i], y[j, i + 1], y[j + 1, i], y[j + 1, i + 1])
                low = min(low, above if on else highest)
                high = max(high, below if on else lowest)
            bounds[j, chunk, 0], bounds[j, chunk, 1] = low, high
            flags[j, chunk] = np.uint8(bits)


@njit(nogil=True, cache=True, error_model="numpy")
def _crossing_triangles(flags, inverse_w):
    """Ids of the triangles with both usable and unusable vertices, or with unusable ones alone.

    The latter may still be visible: outside the guard band, but not behind the camera.
    """
    height, width = inverse_w.shape
    count = 0
    for counting in (True, False):
        found = np.empty(count, np.int64)
        count = 0
        for j in range(height - 1):
            for chunk in range(flags.shape[1]):
                if flags[j, chunk] & 4 == 0:
                    continue
                end = min(width - 1, (chunk + 1) * _CHUNK_QUADS)
                for i in range(chunk * _CHUNK_QUADS, end):
                    shared = inverse_w[j, i + 1] > 0 and inverse_w[j + 1, i] > 0
                    for k in range(2):
                        if not (shared and inverse_w[j + k, i + k] > 0):
                            if not counting:
                                found[count] = 2 * (j * width + i) + k
                            count += 1
    return found


@njit(nogil=True, cache=True, error_model="numpy")
def _set_up_crossing(
    triangles, depth, columns, rows, matrix, x, y, inverse_w, width_px, height_px, edges, boxes,
    first, end,
):  # fmt: skip
    """Homogeneous edge functions and the pixel box of triangles through the near plane.

    `edges[n, k]` times (px, py, 1) is barycentric coordinate k over w: positive inside, and the
    three add up to 1/w. A box with its first column after its last is a triangle out of sight.
    """
    height, width = depth.shape
    points = np.empty((3, 3))
    for n in range(first, end):
        boxes[n] = (1, 0, 1, 0)
        corners = _corners(triangles[n], height, width)
        in_front = 0
        for k in range(3):
            j, i = corners[2 * k], corners[2 * k + 1]
            d = np.float64(depth[j, i])
            world_x, world_y = d * columns[i], d * rows[j]
            for row in range(3):
                points[k, row] = (
                    matrix[row, 0] * world_x
                    + matrix[row, 1] * world_y
                    + matrix[row, 2] * d
                    + matrix[row, 3]
                )
            if inverse_w[j, i] > 0:
                # The rounded position that its neighbours use, or gaps would open between them.
                points[k, 0] = x[j, i] / _ONE_PIXEL * points[k, 2]
                points[k, 1] = y[j, i] / _ONE_PIXEL * points[k, 2]
            in_front += points[k, 2] > NEAR_DEPTH
        if in_front == 0:
            continue
        left, right, top, bottom = _clipped_box(points)
        if not (right >= 0.5 and bottom >= 0.5 and left <= width_px and top <= height_px):
            continue
        for k in range(3):
            a, b = points[(k + 1) % 3], points[(k + 2) % 3]
            edges[n, k, 0] = a[1] * b[2] - a[2] * b[1]
            edges[n, k, 1] = a[2] * b[0] - a[0] * b[2]
            edges[n, k, 2] = a[0] * b[1] - a[1] * b[0]
        determinant = (
            points[0, 0] * edges[n, 0, 0]
            + points[0, 1] * edges[n, 0, 1]
            + points[0, 2] * edges[n, 0, 2]
        )
        if determinant == 0 or not math.isfinite(determinant):
            continue
        edges[n] /= determinant
        boxes[n, 0] = max(0, math.floor(max(left, -1.0)))
        boxes[n, 1] = min(width_px - 1, math.ceil(min(right, width_px + 1.0)))
        boxes[n, 2] = max(0, math.floor(max(top, -1.0)))
        boxes[n, 3] = min(height_px - 1, math.ceil(min(bottom, height_px + 1.0)))


@njit(inline="always")
def _clipped_box(points):
    """Pixel bounds of the part of a triangle in front of the near plane."""
    left, right, top, bottom = 1e30, -1e30, 1e30, -1e30
    for k in range(3):
        a, b = points[k], points[(k + 1) % 3]
        if a[2] > NEAR_DEPTH:
            px, py = a[0] / a[2], a[1] / a[2]
            left, right, top, bottom = min(left, px), max(right, px), min(top, py), max(bottom, py)
        if (a[2] > NEAR_DEPTH) != (b[2] > NEAR_DEPTH):
            part = (NEAR_DEPTH - a[2]) / (b[2] - a[2])
            px = (a[0] + part * (b[0] - a[0])) / NEAR_DEPTH
            py = (a[1] + part * (b[1] - a[1])) / NEAR_DEPTH
            left, right, top, bottom = min(left, px), max(right, px), min(top, py), max(bottom, py)
    return left, right, top, bottom


@njit(inline="always")
def _owns_edge(dx, dy):
    """Whether a centre exactly on an edge belongs to the triangle (top-left rule).

    `dx`, `dy` is how the edge's function changes with x and y; it grows towards the inside.
    """
    return dx > 0 or (dx == 0 and dy > 0)


@njit(nogil=True, cache=True, error_model="numpy")
def _draw_triangle(
    x0, y0, w0, x1, y1, w1, x2, y2, w2, triangle, first_row, end_row, nearness, ids
):  # fmt: skip
    """Depth-test one triangle in the rows of a band: int64 fixed point, 1/w per vertex."""
    width = nearness.shape[1]
    left = max((min(x0, x1, x2) + _HALF_PIXEL - 1) >> _SUBPIXEL_BITS, 0)
    right = min((max(x0, x1, x2) - _HALF_PIXEL) >> _SUBPIXEL_BITS, width - 1)
    top = max((min(y0, y1, y2) + _HALF_PIXEL - 1) >> _SUBPIXEL_BITS, first_row)
    bottom = min((max(y0, y1, y2) - _HALF_PIXEL) >> _SUBPIXEL_BITS, end_row - 1)
    if left > right or top > bottom:
        return
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    if area == 0:
        return
    if area < 0:
        x1, x2, y1, y2, w1, w2, area = x2, x1, y2, y1, w2, w1, -area
    # Edge k lies opposite vertex k; its function is positive inside.
    dx0, dy0, dx1, dy1, dx2, dy2 = y1 - y2, x2 - x1, y2 - y0, x0 - x2, y0 - y1, x1 - x0
    px, py = left * _ONE_PIXEL + _HALF_PIXEL, top * _ONE_PIXEL + _HALF_PIXEL
    row0 = dy0 * (py - y1) + dx0 * (px - x1) - (0 if _owns_edge(dx0, dy0) else 1)
    row1 = dy1 * (py - y2) + dx1 * (px - x2) - (0 if _owns_edge(dx1, dy1) else 1)
    row2 = dy2 * (py - y0) + dx2 * (px - x0) - (0 if _owns_edge(dx2, dy2) else 1)
    gain1, gain2 = (w1 - w0) / _f32(area), (w2 - w0) / _f32(area)
    farthest = min(w0, w1, w2)
    for row in range(top, bottom + 1):
        begin, end = _span(row0, dx0, row1, dx1, row2, dx2, right - left)
        e0 = row0 + begin * dx0 * _ONE_PIXEL
        e1 = row1 + begin * dx1 * _ONE_PIXEL
        e2 = row2 + begin * dx2 * _ONE_PIXEL
        for column in range(left + begin, left + end + 1):
            if (e0 | e1 | e2) >= 0:
                inverse = max(w0 + _f32(e1) * gain1 + _f32(e2) * gain2, farthest)
                if inverse > nearness[row, column]:
                    nearness[row, column] = inverse
                    ids[row, column] = triangle
            e0 += dx0 * _ONE_PIXEL
            e1 += dx1 * _ONE_PIXEL
            e2 += dx2 * _ONE_PIXEL
        row0 += dy0 * _ONE_PIXEL
        row1 += dy1 * _ONE_PIXEL
        row2 += dy2 * _ONE_PIXEL


@njit(inline="always")
def _span(row0, dx0, row1, dx1, row2, dx2, last):
    """First and last column that may lie inside, a pixel too wide; long thin faces need it."""
    if last < 4:
        return 0, last
    begin, end = 0.0, float(last)
    for value, slope in ((row0, dx0), (row1, dx1), (row2, dx2)):
        if slope > 0:
            begin = max(begin, -value / (slope * float(_ONE_PIXEL)))
        elif slope < 0:
            end = min(end, -value / (slope * float(_ONE_PIXEL)))
        elif value < 0:
            return 0, -1
    if begin > end + 1.0:
        return 0, -1
    return max(_i64(begin), 0), min(_i64(end + 1.0), last)


@njit(nogil=True, cache=True, error_model="numpy")
def _draw_crossing(triangle, edges, box, first_row, end_row, nearness, ids):
    """Depth-test one triangle through the near plane in the rows of a band."""
    for row in range(max(box[2], first_row), min(box[3], end_row - 1) + 1):
        py = row + 0.5
        for column in range(box[0], box[1] + 1):
            px = column + 0.5
            e0 = edges[0, 0] * px + edges[0, 1] * py + edges[0, 2]
            e1 = edges[1, 0] * px + edges[1, 1] * py + edges[1, 2]
            e2 = edges[2, 0] * px + edges[2, 1] * py + edges[2, 2]
            if e0 < 0 or e1 < 0 or e2 < 0:
                continue
            if (
                (e0 == 0 and not _owns_edge(edges[0, 0], edges[0, 1]))
                or (e1 == 0 and not _owns_edge(edges[1, 0], edges[1, 1]))
                or (e2 == 0 and not _owns_edge(edges[2, 0], edges[2, 1]))
            ):
                continue
            inverse = e0 + e1 + e2
            if 0 < inverse < 1.0 / NEAR_DEPTH and _f32(inverse) > nearness[row, column]:
                nearness[row, column] = _f32(inverse)
                ids[row, column] = triangle


@njit(nogil=True, cache=True, error_model="numpy")
def _draw_band(
    x, y, inverse_w, hits, bounds, flags, caps, crossing, edges, boxes, nearness, ids, first, step
):  # fmt: skip
    """Draw every `step`-th band of rows, from band `first` on."""
    height = nearness.shape[0]
    grid_height, grid_width = x.shape
    bands = (height + _BAND_ROWS - 1) // _BAND_ROWS
    for band in range(first, bands, step):
        first_row = band * _BAND_ROWS
        end_row = min(height, first_row + _BAND_ROWS)
        nearness[first_row:end_row] = 0
        ids[first_row:end_row] = -1
        low = first_row * _ONE_PIXEL + _HALF_PIXEL
        high = (end_row - 1) * _ONE_PIXEL + _HALF_PIXEL
        for j in range(grid_height - 1):
            for chunk in range(bounds.shape[1]):
                if (
                    flags[j, chunk] & 3 == 0
                    or bounds[j, chunk, 1] < low
                    or bounds[j, chunk, 0] > high
                ):
                    continue
                end = min(grid_width - 1, (chunk + 1) * _CHUNK_QUADS)
                for i in range(chunk * _CHUNK_QUADS, end):
                    if hits[j, i] & 3:
                        _draw_quad(x, y, inverse_w, hits, j, i, first_row, end_row, nearness, ids)
        for n in range(len(crossing)):
            _draw_crossing(crossing[n], edges[n], boxes[n], first_row, end_row, nearness, ids)
        for k in range(2):
            _draw_cap(x, y, inverse_w, caps[k], k, first_row, end_row, nearness, ids)


@njit(inline="always")
def _draw_quad(x, y, inverse_w, hits, j, i, first_row, end_row, nearness, ids):
    """Draw the triangles of a quad; most cover a single centre, which is decided in int32."""
    half, before, bits = _i32(_HALF_PIXEL), _i32(_HALF_PIXEL - 1), _i32(_SUBPIXEL_BITS)
    bx, by, bw = x[j, i + 1], y[j, i + 1], inverse_w[j, i + 1]
    cx, cy, cw = x[j + 1, i], y[j + 1, i], inverse_w[j + 1, i]
    for k in range(2):
        if (hits[j, i] >> k) & 1 == 0:
            continue
        triangle = 2 * (j * x.shape[1] + i) + k
        ax, ay, aw = x[j + k, i + k], y[j + k, i + k], inverse_w[j + k, i + k]
        left, right = min(ax, bx, cx), max(ax, bx, cx)
        top, bottom = min(ay, by, cy), max(ay, by, cy)
        column, row = (left + before) >> bits, (top + before) >> bits
        if (
            column == (right - half) >> bits
            and row == (bottom - half) >> bits
            and right - left < _QUICK_EXTENT
            and bottom - top < _QUICK_EXTENT
        ):
            if row < first_row or row >= end_row or column < 0 or column >= nearness.shape[1]:
                continue
            ox, oy = (column << bits) + half, (row << bits) + half
            pax, pay, pbx, pby, pcx, pcy = ax - ox, ay - oy, bx - ox, by - oy, cx - ox, cy - oy
            ea, eb, ec = pbx * pcy - pby * pcx, pcx * pay - pcy * pax, pax * pby - pay * pbx
            if (ea > 0 and eb > 0 and ec > 0) or (ea < 0 and eb < 0 and ec < 0):
                inverse = (_f32(ea) * aw + _f32(eb) * bw + _f32(ec) * cw) / (
                    _f32(ea) + _f32(eb) + _f32(ec)
                )
                if inverse > nearness[row, column]:
                    nearness[row, column] = inverse
                    ids[row, column] = triangle
                continue
            if ea != 0 and eb != 0 and ec != 0:
                continue
        _draw_triangle(
            _i64(ax), _i64(ay), aw, _i64(bx), _i64(by), bw, _i64(cx), _i64(cy), cw,
            triangle, first_row, end_row, nearness, ids,
        )  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy")
def _draw_cap(x, y, inverse_w, cap, k, first_row, end_row, nearness, ids):
    """Draw a cap whose three corners are all usable; others are among the crossing ones."""
    height, width = x.shape
    j, i = cap // width, cap % width
    w0, w1, w2 = inverse_w[j[0], i[0]], inverse_w[j[1], i[1]], inverse_w[j[2], i[2]]
    if w0 > 0 and w1 > 0 and w2 > 0:
        _draw_triangle(
            _i64(x[j[0], i[0]]), _i64(y[j[0], i[0]]), w0,
            _i64(x[j[1], i[1]]), _i64(y[j[1], i[1]]), w1,
            _i64(x[j[2], i[2]]), _i64(y[j[2], i[2]]), w2,
            2 * height * width + k, first_row, end_row, nearness, ids,
        )  # fmt: skip


@njit(inline="always")
def _screen_point(depth, columns, rows, matrix, j, i, px, py):
    """A vertex in homogeneous pixels, relative to a pixel's centre: x, y and w."""
    d = depth[j, i]
    x, y = d * columns[i], d * rows[j]
    w = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * d + matrix[2, 3]
    return (
        matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * d + matrix[0, 3] - px * w,
        matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * d + matrix[1, 3] - py * w,
        w,
    )


@njit(inline="always")
def _weights(depth, columns, rows, matrix, corners, px, py):
    """Perspective-correct barycentric coordinates of a pixel's centre, and its z-depth."""
    ja, ia, jb, ib, jc, ic = corners
    ax, ay, aw = _screen_point(depth, columns, rows, matrix, ja, ia, px, py)
    bx, by, bw = _screen_point(depth, columns, rows, matrix, jb, ib, px, py)
    cx, cy, cw = _screen_point(depth, columns, rows, matrix, jc, ic, px, py)
    wa, wb, wc = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
    total = wa + wb + wc
    scale = _f32(1) / (total if total != 0 else _f32(1))
    # The centre was inside by the rounded positions; by the exact ones it may lie a hair outside.
    wa = min(max(wa * scale, _f32(0)), _f32(1))
    wb = min(max(wb * scale, _f32(0)), _f32(1) - wa)
    wc = _f32(1) - wa - wb
    return wa, wb, wc, wa * aw + wb * bw + wc * cw


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _shade(ids, depth, rgba, columns, rows, matrix, color, mask, out_depth, first, end):
    """Colour, mask and depth of the visible triangle at each pixel of some rows."""
    height, width = _i32(depth.shape[0]), _i32(depth.shape[1])
    visible, half = _f32(VISIBLE_ALPHA), _f32(0.5)
    for row in range(first, end):
        for column in range(ids.shape[1]):
            triangle = ids[row, column]
            if triangle < 0:
                out_depth[row, column] = np.inf
                mask[row, column] = False
                color[row, column] = 0
                continue
            corners = _corners(triangle, height, width)
            wa, wb, wc, z = _weights(
                depth, columns, rows, matrix, corners, _f32(column) + half, _f32(row) + half
            )
            ja, ia, jb, ib, jc, ic = corners
            a, b, c = rgba[ja, ia, 3], rgba[jb, ib, 3], rgba[jc, ic, 3]
            seen = wa * _f32(a) + wb * _f32(b) + wc * _f32(c) > visible
            out_depth[row, column] = z
            mask[row, column] = seen
            for k in range(3):
                color[row, column, k] = (
                    np.uint8(
                        wa * _f32(rgba[ja, ia, k])
                        + wb * _f32(rgba[jb, ib, k])
                        + wc * _f32(rgba[jc, ic, k])
                        + half
                    )
                    if seen
                    else np.uint8(0)
                )


@njit(nogil=True, cache=True, error_model="numpy")
def _interpolate(ids, depth, rgba, columns, rows, matrix, out_rgba, out_depth, first, end):
    """Float RGBA and depth of the visible triangle at each pixel of some rows."""
    height, width = _i32(depth.shape[0]), _i32(depth.shape[1])
    half = _f32(0.5)
    for row in range(first, end):
        for column in range(ids.shape[1]):
            triangle = ids[row, column]
            if triangle < 0:
                out_depth[row, column] = np.inf
                out_rgba[row, column] = 0
                continue
            corners = _corners(triangle, height, width)
            wa, wb, wc, z = _weights(
                depth, columns, rows, matrix, corners, _f32(column) + half, _f32(row) + half
            )
            ja, ia, jb, ib, jc, ic = corners
            out_depth[row, column] = z
            for k in range(4):
                out_rgba[row, column, k] = (
                    wa * _f32(rgba[ja, ia, k])
                    + wb * _f32(rgba[jb, ib, k])
                    + wc * _f32(rgba[jc, ic, k])
                )
