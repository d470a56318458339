"""The rasteriser for the processor: exact coverage on the grid of the DW-mesh.

The mesh is never made explicit: the triangles of quad (j, i) follow from the grid. Each frame is

1. `_project`: every vertex to fixed-point pixels, or marked where it cannot be (behind the camera).
2. `_judge_quads`: which triangles cover a pixel's centre at all; those with a single one, which are
   most, are decided there. Vertical bounds of runs of quads let a band of rows skip most of them.
3. `_set_up_crossing`: triangles that cross the near plane, as homogeneous edge functions.
4. `_draw_band`: depth test per pixel, a band of rows at a time, on a key of nearness and triangle.
5. `_shade` or `_interpolate`: perspective-correct attributes from unrounded positions.

Coverage is decided in integers, by the top-left rule, so that neighbouring triangles neither
overlap nor leave gaps; the largest key wins whatever the order, so that the result is the same for
any number of threads. Triangles through the near plane use homogeneous edge functions in
float64 instead (Olano and Greer, "Triangle Scan Conversion using 2D Homogeneous Coordinates",
1997).

"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ex4d.camera import Intrinsics
from ex4d.dwmesh import DWMesh, cap_faces
from ex4d.threads import ALL_CORES, Threads

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
#: What `_judge` says of a triangle where it is not a pixel: may cover several centres; draws
#: nothing; crosses the near plane or the guard band. What is above `_NOTHING` has to be drawn.
_SEVERAL, _NOTHING, _CROSSES = -1, -2, -3
#: In place of 1/w, for vertices that are not on the screen.
_OUTSIDE, _BEHIND = 0.0, -1.0
#: Boxes wider than this are gone through by the ends of each row.
_SPAN_PIXELS = 4
#: Added before a fraction is cut off, this rounds up, unless it is rounding error.
_ALMOST_ONE = 1.0 - 1e-6
#: A key is the bits of 1/w, which sort like 1/w, over this minus the triangle's id; 0 is no hit.
_LAST_ID = 0x7FFFFFFF

_f32 = np.float32
_i32 = np.int32
_i64 = np.int64


class CpuRasteriser:
    """Draws DW-meshes on the processor.

    Args:
        threads: What the kernels run on.
    """

    name = "cpu"
    version = "1"
    licence = "Apache-2.0"

    def __init__(self, threads: Threads = ALL_CORES) -> None:
        self._threads = threads

    def render(
        self, mesh: DWMesh, cam_to_world: NDArray[np.float64], intrinsics: Intrinsics
    ) -> ConditionFrame:
        """Colour, mask and depth; see `Rasteriser`."""
        columns, rows = mesh.rays()
        matrix = _pixel_from_world(cam_to_world, intrinsics)
        keys = self._visible_triangles(mesh, columns, rows, matrix, intrinsics)
        size = keys.shape
        color = np.empty((*size, 3), np.uint8)
        mask = np.empty(size, np.bool_)
        depth = np.empty(size, np.float32)
        self._threads.over_rows(
            size[0], _shade, keys, mesh.depth, mesh.packed(), columns, rows,
            matrix.astype(np.float32), mesh.rules.is_reference, color, mask, depth,
        )  # fmt: skip
        return ConditionFrame(color, mask, depth)

    def interpolate(
        self, mesh: DWMesh, cam_to_world: NDArray[np.float64], intrinsics: Intrinsics
    ) -> Interpolated:
        """The same before the mask is decided; see `Rasteriser`."""
        columns, rows = mesh.rays()
        matrix = _pixel_from_world(cam_to_world, intrinsics)
        keys = self._visible_triangles(mesh, columns, rows, matrix, intrinsics)
        rgba = np.empty((*keys.shape, 4), np.float32)
        depth = np.empty(keys.shape, np.float32)
        self._threads.over_rows(
            keys.shape[0], _interpolate, keys, mesh.depth, mesh.packed(), columns, rows,
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
    ) -> NDArray[np.int64]:
        """Key of the nearest triangle at each pixel's centre, 0 where there is none.

        Triangle 2 (j * width + i) + k is the upper-left (k = 0) or lower-right (k = 1) one of quad
        (j, i); the two caps come after all of them.
        """
        size = mesh.depth.shape
        chunk_count = -(-(size[1] - 1) // _CHUNK_QUADS)
        x = np.empty(size, np.int32)
        y = np.empty(size, np.int32)
        inverse_w = np.empty(size, np.float32)
        codes = np.empty((size[0] - 1, 2, size[1] - 1), np.int64)
        bounds = np.empty((size[0] - 1, chunk_count, 2), np.int32)
        flags = np.empty((size[0] - 1, chunk_count), np.uint8)
        self._threads.over_rows(
            size[0], _project, mesh.depth, columns, rows, matrix.astype(np.float32), x, y, inverse_w
        )
        width_px, height_px = intrinsics.width_px, intrinsics.height_px
        self._threads.over_rows(
            size[0] - 1, _judge_quads, x, y, inverse_w, width_px, height_px, codes, bounds, flags
        )
        crossing = _crossing_triangles(flags, codes)
        caps = np.array(cap_faces(*size), np.int64)
        crossing_caps = [
            2 * mesh.depth.size + k for k in range(2) if (inverse_w.reshape(-1)[caps[k]] <= 0).any()
        ]
        crossing = np.concatenate([crossing, np.array(crossing_caps, np.int64)])
        edges = np.empty((len(crossing), 3, 3))
        boxes = np.empty((len(crossing), 4), np.int64)
        self._threads.over_rows(
            len(crossing), _set_up_crossing, crossing, mesh.depth, columns, rows, matrix,
            x, y, inverse_w, width_px, height_px, edges, boxes,
        )  # fmt: skip
        seen = (boxes[:, 0] <= boxes[:, 1]) & (boxes[:, 2] <= boxes[:, 3])
        keys = np.empty(height_px * width_px, np.int64)
        self._threads.over_bands(
            -(-height_px // _BAND_ROWS), _draw_band, x, y, inverse_w, codes, bounds, flags, caps,
            crossing[seen], edges[seen], boxes[seen], width_px, height_px, keys,
        )  # fmt: skip
        return keys.reshape(height_px, width_px)


def _pixel_from_world(
    cam_to_world: NDArray[np.float64], intrinsics: Intrinsics
) -> NDArray[np.float64]:
    """(3, 4): from world points to homogeneous pixels, whose last coordinate is the z-depth."""
    return intrinsics.matrix() @ np.linalg.inv(np.asarray(cam_to_world, np.float64))[:3]


# The kernels are compiled: their arguments are typed by what the class above passes.
# ruff: noqa: PLR0913


@njit(inline="always")
def _corners(triangle, height, width, per_width):
    """Row and column of a triangle's three vertices, caps included; `per_width` is 1 / width."""
    quad = triangle >> 1
    if quad >= height * width:
        # The caps: top right, top left, bottom right; bottom right, top left, bottom left.
        last_row, last_column = height - 1, width - 1
        if triangle & 1:
            return last_row, last_column, 0, 0, last_row, 0
        return 0, last_column, 0, 0, last_row, last_column
    # Exact, since the half keeps the quotient away from whole numbers; dividing takes far longer.
    j = _i32((quad + 0.5) * per_width)
    i = quad - j * width
    k = triangle & 1
    return j + k, i + k, j, i + 1, j + 1, i


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def _project(depth, columns, rows, matrix, x, y, inverse_w, first, end):
    """Fixed-point pixels and 1/w of every vertex, or `_OUTSIDE` the guard band, or `_BEHIND`."""
    guard = _f32(_GUARD_PX * _ONE_PIXEL)
    near, zero, half, one = _f32(NEAR_DEPTH), _f32(0), _f32(0.5), _f32(1)
    outside, behind = _f32(_OUTSIDE), _f32(_BEHIND)
    scale = _f32(_ONE_PIXEL)
    for j in range(first, end):
        ray_y = rows[j]
        along_x = matrix[0, 1] * ray_y + matrix[0, 2]
        along_y = matrix[1, 1] * ray_y + matrix[1, 2]
        along_w = matrix[2, 1] * ray_y + matrix[2, 2]
        for i in range(depth.shape[1]):
            d, ray_x = depth[j, i], columns[i]
            w = d * (matrix[2, 0] * ray_x + along_w) + matrix[2, 3]
            in_front = w > near
            inverse = one / (w if in_front else one)
            px = (d * (matrix[0, 0] * ray_x + along_x) + matrix[0, 3]) * inverse * scale
            py = (d * (matrix[1, 0] * ray_x + along_y) + matrix[1, 3]) * inverse * scale
            usable = in_front & (abs(px) < guard) & (abs(py) < guard)
            x[j, i] = _i32(math.floor((px if usable else zero) + half))
            y[j, i] = _i32(math.floor((py if usable else zero) + half))
            inverse_w[j, i] = inverse if usable else (outside if in_front else behind)


@njit
def _bits(value):
    """The bits of a float32 that is not negative; they sort as it does."""
    return _i64(np.float32(value).view(np.int32))


@njit(inline="always")
def _owns_edge(dx, dy):
    """Whether a centre exactly on an edge belongs to the triangle (top-left rule).

    `dx`, `dy` is how the edge's function changes with x and y; it grows towards the inside.
    """
    return (dx > 0) | ((dx == 0) & (dy > 0))


@njit(inline="always")
def _judge(ax, ay, aw, bx, by, bw, cx, cy, cw, width, height):
    """What a triangle covers, without branches, so that rows of triangles become vector code.

    Returns:
        In the upper 32 bits the pixel whose centre it covers, if that is the only one in its box,
        or one of `_NOTHING`, `_SEVERAL`, `_CROSSES`; in the lower ones the bits of 1/w there.
    """
    # Sums are cut back to 32 bits one by one, since the compiler widens them all.
    before, half, bits = _i32(_HALF_PIXEL - 1), _i32(_HALF_PIXEL), _i32(_SUBPIXEL_BITS)
    zero, zero_px, one_px = _i32(0), _f32(0), _f32(1)
    left = _i32(_i32(min(ax, bx, cx) + before) >> bits)
    right = _i32(_i32(max(ax, bx, cx) - half) >> bits)
    top = _i32(_i32(min(ay, by, cy) + before) >> bits)
    bottom = _i32(_i32(max(ay, by, cy) - half) >> bits)
    inside = (
        (left <= right)
        & (top <= bottom)
        & (right >= zero)
        & (bottom >= zero)
        & (left < width)
        & (top < height)
    )
    single = (left == right) & (top == bottom)
    # Relative to the centre. In a box with a single one nothing is as far as two pixels: products
    # and sums are whole numbers below 2 ** 24, which float32 holds exactly.
    ox, oy = _i32((left << bits) + half), _i32((top << bits) + half)
    pax, pay = _f32(_i32(ax - ox)), _f32(_i32(ay - oy))
    pbx, pby = _f32(_i32(bx - ox)), _f32(_i32(by - oy))
    pcx, pcy = _f32(_i32(cx - ox)), _f32(_i32(cy - oy))
    ea, eb, ec = pbx * pcy - pby * pcx, pcx * pay - pcy * pax, pax * pby - pay * pbx
    area = ea + eb + ec
    side = one_px if area > zero_px else -one_px
    on_a = _is_inside(side * ea, side * (pby - pcy), side * (pcx - pbx))
    on_b = _is_inside(side * eb, side * (pcy - pay), side * (pax - pcx))
    on_c = _is_inside(side * ec, side * (pay - pby), side * (pbx - pax))
    is_pixel = inside & single & on_a & on_b & on_c & (area != zero_px)
    inverse = (ea * aw + eb * bw + ec * cw) / (area if area != zero_px else one_px)
    nearness = inverse if is_pixel else zero_px
    code = _i32(_i32(top * width) + left) if is_pixel else _i32(_NOTHING)
    code = _i32(_SEVERAL) if inside & ~single else code
    usable = (aw > zero_px) & (bw > zero_px) & (cw > zero_px)
    hidden = (aw < zero_px) & (bw < zero_px) & (cw < zero_px)
    code = code if usable else (_i32(_NOTHING) if hidden else _i32(_CROSSES))
    return (_i64(code) << _i64(32)) | _bits(nearness)


@njit(inline="always")
def _is_inside(value, dx, dy):
    """Whether an edge's function says inside, its edge included where it is owned."""
    return (value > 0) | ((value == 0) & _owns_edge(dx, dy))


@njit(nogil=True, cache=True, error_model="numpy")
def _judge_quads(x, y, inverse_w, width_px, height_px, codes, bounds, flags, first, end):
    """`_judge` of the triangles of some rows, and what chunks of them have in common.

    `codes`, (rows, 2, quads), has the upper-left ones first. Per chunk of quads: the lowest and
    highest y of what is drawn in `bounds`; bit 0 if any is, bit 1 if any crosses in `flags`.
    """
    width, height = _i32(width_px), _i32(height_px)
    for j in range(first, end):
        # Views of rows: indices into them are proven in range. One row is written in each loop, or
        # the compiler would need more checks for overlap than it makes: so both are vector code.
        xa, xb, ya, yb, wa, wb = x[j], x[j + 1], y[j], y[j + 1], inverse_w[j], inverse_w[j + 1]
        row = codes[j, 0]
        for i in range(x.shape[1] - 1):
            row[i] = _judge(
                xa[i], ya[i], wa[i], xa[i + 1], ya[i + 1], wa[i + 1], xb[i], yb[i], wb[i],
                width, height,
            )  # fmt: skip
        row = codes[j, 1]
        for i in range(x.shape[1] - 1):
            row[i] = _judge(
                xb[i + 1], yb[i + 1], wb[i + 1], xa[i + 1], ya[i + 1], wa[i + 1], xb[i], yb[i],
                wb[i], width, height,
            )  # fmt: skip
        for chunk in range(bounds.shape[1]):
            run = slice(chunk * _CHUNK_QUADS, (chunk + 1) * _CHUNK_QUADS)
            bounds[j, chunk, 0], bounds[j, chunk, 1], flags[j, chunk] = _bound_chunk(
                codes[j, 0, run], codes[j, 1, run], ya[run.start :], yb[run.start :]
            )


@njit
def _bound_chunk(upper, lower, ya, yb):
    """Lowest and highest y of what is drawn, and the flags; see `_judge_quads`."""
    # A pixel's code has 1/w in the lower half, hence more than its upper half alone.
    nothing, crosses = _i64(_NOTHING) << _i64(32), _i64(_CROSSES) << _i64(32)
    lowest, highest = _i32(-(2**31)), _i32(2**31 - 1)
    low, high, bits = highest, lowest, _i32(0)
    for i in range(len(upper)):
        drawn = max(upper[i], lower[i]) > nothing
        crossing = min(upper[i], lower[i]) == crosses
        bits |= _i32(drawn) | (_i32(crossing) << _i32(1))
        low = min(low, min(ya[i], ya[i + 1], yb[i], yb[i + 1]) if drawn else highest)
        high = max(high, max(ya[i], ya[i + 1], yb[i], yb[i + 1]) if drawn else lowest)
    return low, high, np.uint8(bits)


@njit(nogil=True, cache=True, error_model="numpy")
def _crossing_triangles(flags, codes):
    """Ids of the triangles with both usable and unusable vertices, or with unusable ones alone.

    The latter may still be visible: outside the guard band, but not behind the camera.
    """
    crosses = _i64(_CROSSES) << _i64(32)
    quads = codes.shape[2]
    count = 0
    for counting in (True, False):
        found = np.empty(count, np.int64)
        count = 0
        for j in range(codes.shape[0]):
            for chunk in range(flags.shape[1]):
                if flags[j, chunk] & 2 == 0:
                    continue
                for i in range(chunk * _CHUNK_QUADS, min(quads, (chunk + 1) * _CHUNK_QUADS)):
                    for k in range(2):
                        if codes[j, k, i] == crosses:
                            if not counting:
                                found[count] = 2 * (j * (quads + 1) + i) + k
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
        corners = _corners(triangles[n], height, width, 1.0 / width)
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
def _key(nearness, triangle):
    """What is compared at a pixel: the nearest wins, and of equally near ones the lowest id."""
    return (_bits(nearness) << _i64(32)) | (_i64(_LAST_ID) - _i64(triangle))


@njit(inline="always")
def _triangle(key):
    """The id in a key."""
    return _i32(_LAST_ID - (key & _i64(0xFFFFFFFF)))


@njit(inline="always")
def _narrow(begin, end, value, per_slope):
    """The part of a row, in pixels from its start, where `value + slope * pixel` is at least 0.

    `per_slope` is 1 / slope, infinite for 0.
    """
    if per_slope < 0:
        return begin, min(end, -value * per_slope)
    if math.isinf(per_slope):
        return begin, (end if value >= 0 else -2.0)
    return max(begin, -value * per_slope), end


@njit(nogil=True, cache=True, error_model="numpy")
def _draw_triangle(
    x0, y0, w0, x1, y1, w1, x2, y2, w2, triangle, width, first_row, end_row, keys
):  # fmt: skip
    """Depth-test one triangle in the rows of a band: int64 fixed point, 1/w per vertex."""
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
    dx0, dx1, dx2 = dx0 * _ONE_PIXEL, dx1 * _ONE_PIXEL, dx2 * _ONE_PIXEL
    dy0, dy1, dy2 = dy0 * _ONE_PIXEL, dy1 * _ONE_PIXEL, dy2 * _ONE_PIXEL
    last = right - left
    # Where each edge enters or leaves a row, in pixels from its start, and how that moves on.
    low0, high0, step0 = _ends(row0, dx0, dy0)
    low1, high1, step1 = _ends(row1, dx1, dy1)
    low2, high2, step2 = _ends(row2, dx2, dy2)
    for row in range(top, bottom + 1):
        begin, end = _i64(0), last
        if last >= _SPAN_PIXELS:
            # Long thin faces fill little of their box. A hair wider than it should be: what counts
            # is decided exactly below.
            begin = _i64(max(low0, low1, low2, 0.0) + _ALMOST_ONE)
            end = _i64(min(high0, high1, high2, float(last)) + (1.0 - _ALMOST_ONE))
        if begin <= end:
            e0, e1, e2 = row0 + begin * dx0, row1 + begin * dx1, row2 + begin * dx2
            for pixel in range(row * width + left + begin, row * width + left + end + 1):
                if (e0 | e1 | e2) >= 0:
                    nearness = max(w0 + _f32(e1) * gain1 + _f32(e2) * gain2, farthest)
                    keys[pixel] = max(keys[pixel], _key(nearness, triangle))
                e0 += dx0
                e1 += dx1
                e2 += dx2
        row0 += dy0
        row1 += dy1
        row2 += dy2
        low0, low1, low2 = low0 + step0, low1 + step1, low2 + step2
        high0, high1, high2 = high0 + step0, high1 + step1, high2 + step2


@njit(inline="always")
def _ends(value, dx, dy):
    """Where along a row `value + dx * pixel` rises above 0, where it falls below, the change a row.

    Infinite for what it does not do.
    """
    far = 1e30
    at = -value / dx if dx != 0 else 0.0
    return at if dx > 0 else -far, at if dx < 0 else far, -dy / dx if dx != 0 else 0.0


@njit(nogil=True, cache=True, error_model="numpy")
def _draw_crossing(triangle, edges, box, width, first_row, end_row, keys):
    """Depth-test one triangle through the near plane in the rows of a band."""
    owns = (
        _owns_edge(edges[0, 0], edges[0, 1]),
        _owns_edge(edges[1, 0], edges[1, 1]),
        _owns_edge(edges[2, 0], edges[2, 1]),
    )
    slope = edges[0, 0] + edges[1, 0] + edges[2, 0]
    left, last = box[0], float(box[1] - box[0])
    for row in range(max(box[2], first_row), min(box[3], end_row - 1) + 1):
        px, py = left + 0.5, row + 0.5
        row0 = edges[0, 0] * px + edges[0, 1] * py + edges[0, 2]
        row1 = edges[1, 0] * px + edges[1, 1] * py + edges[1, 2]
        row2 = edges[2, 0] * px + edges[2, 1] * py + edges[2, 2]
        low, high = _narrow(0.0, last, row0, 1.0 / edges[0, 0])
        low, high = _narrow(low, high, row1, 1.0 / edges[1, 0])
        low, high = _narrow(low, high, row2, 1.0 / edges[2, 0])
        low, high = _narrow(low, high, 1.0 / NEAR_DEPTH - (row0 + row1 + row2), -1.0 / slope)
        # False also for what is no number.
        if not 0.0 <= low <= high <= last:
            continue
        for column in range(_i64(low + _ALMOST_ONE), _i64(high + 1.0 - _ALMOST_ONE) + 1):
            e0 = row0 + column * edges[0, 0]
            e1 = row1 + column * edges[1, 0]
            e2 = row2 + column * edges[2, 0]
            if (
                (e0 > 0 or (e0 == 0 and owns[0]))
                and (e1 > 0 or (e1 == 0 and owns[1]))
                and (e2 > 0 or (e2 == 0 and owns[2]))
            ):
                nearness = e0 + e1 + e2
                if 0 < nearness < 1.0 / NEAR_DEPTH:
                    pixel = row * width + left + column
                    keys[pixel] = max(keys[pixel], _key(_f32(nearness), triangle))


@njit(nogil=True, cache=True, error_model="numpy")
def _draw_band(
    x, y, inverse_w, codes, bounds, flags, caps, crossing, edges, boxes, width, height, keys,
    first, step,
):  # fmt: skip
    """Draw every `step`-th band of rows, from band `first` on."""
    quads = codes.shape[2]
    bands = (height + _BAND_ROWS - 1) // _BAND_ROWS
    for band in range(first, bands, step):
        first_row = band * _BAND_ROWS
        end_row = min(height, first_row + _BAND_ROWS)
        keys[first_row * width : end_row * width] = 0
        low = first_row * _ONE_PIXEL + _HALF_PIXEL
        high = (end_row - 1) * _ONE_PIXEL + _HALF_PIXEL
        for j in range(codes.shape[0]):
            for chunk in range(bounds.shape[1]):
                if (
                    flags[j, chunk] & 1 == 0
                    or bounds[j, chunk, 1] < low
                    or bounds[j, chunk, 0] > high
                ):
                    continue
                first_quad, end_quad = chunk * _CHUNK_QUADS, min(quads, (chunk + 1) * _CHUNK_QUADS)
                for k in range(2):
                    _draw_run(
                        x, y, inverse_w, codes[j, k], j, k, first_quad, end_quad,
                        width, first_row, end_row, keys,
                    )  # fmt: skip
        for n in range(len(crossing)):
            _draw_crossing(crossing[n], edges[n], boxes[n], width, first_row, end_row, keys)
        for k in range(2):
            _draw_cap(x, y, inverse_w, caps[k], k, width, first_row, end_row, keys)


@njit(inline="always")
def _draw_run(
    x, y, inverse_w, codes, j, k, first_quad, end_quad, width, first_row, end_row, keys
):  # fmt: skip
    """Draw the upper-left or lower-right triangles of a run of quads."""
    first_pixel, end_pixel = first_row * width, end_row * width
    several = _i64(_SEVERAL) << _i64(32)
    for i in range(first_quad, end_quad):
        code = codes[i]
        triangle = 2 * (j * x.shape[1] + i) + k
        if code >= 0:
            pixel = code >> _i64(32)
            if first_pixel <= pixel < end_pixel:
                key = (code << _i64(32)) | (_i64(_LAST_ID) - _i64(triangle))
                keys[pixel] = max(keys[pixel], key)
        elif code == several:
            _draw_triangle(
                _i64(x[j + k, i + k]), _i64(y[j + k, i + k]), inverse_w[j + k, i + k],
                _i64(x[j, i + 1]), _i64(y[j, i + 1]), inverse_w[j, i + 1],
                _i64(x[j + 1, i]), _i64(y[j + 1, i]), inverse_w[j + 1, i],
                triangle, width, first_row, end_row, keys,
            )  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy")
def _draw_cap(x, y, inverse_w, cap, k, width, first_row, end_row, keys):
    """Draw a cap whose three corners are all usable; others are among the crossing ones."""
    grid_height, grid_width = x.shape
    j, i = cap // grid_width, cap % grid_width
    w0, w1, w2 = inverse_w[j[0], i[0]], inverse_w[j[1], i[1]], inverse_w[j[2], i[2]]
    if w0 > 0 and w1 > 0 and w2 > 0:
        _draw_triangle(
            _i64(x[j[0], i[0]]), _i64(y[j[0], i[0]]), w0,
            _i64(x[j[1], i[1]]), _i64(y[j[1], i[1]]), w1,
            _i64(x[j[2], i[2]]), _i64(y[j[2], i[2]]), w2,
            2 * grid_height * grid_width + k, width, first_row, end_row, keys,
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


@njit(inline="always")
def _mixed(a, b, c, wa, wb, wc, channel):
    """A channel of three packed colours, mixed."""
    shift, low = np.uint32(8 * channel), np.uint32(255)
    return (
        wa * _f32(_i32((a >> shift) & low))
        + wb * _f32(_i32((b >> shift) & low))
        + wc * _f32(_i32((c >> shift) & low))
    )


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _shade(keys, depth, packed, columns, rows, matrix, darkens, color, mask, out_depth, first, end):
    """Colour, mask and depth of the visible triangle at each pixel of some rows.

    `packed` is RGBA in one little-endian number a vertex. Occluded vertices are black: unless the
    colours shall darken towards them, they are divided by alpha.
    """
    height, width = _i32(depth.shape[0]), _i32(depth.shape[1])
    per_width = 1.0 / width
    visible, half = _f32(VISIBLE_ALPHA), _f32(0.5)
    for row in range(first, end):
        for column in range(keys.shape[1]):
            key = keys[row, column]
            mask[row, column] = False
            color[row, column] = 0
            if key == 0:
                out_depth[row, column] = np.inf
                continue
            corners = _corners(_triangle(key), height, width, per_width)
            wa, wb, wc, out_depth[row, column] = _weights(
                depth, columns, rows, matrix, corners, _f32(column) + half, _f32(row) + half
            )
            ja, ia, jb, ib, jc, ic = corners
            a, b, c = packed[ja, ia], packed[jb, ib], packed[jc, ic]
            alpha = _mixed(a, b, c, wa, wb, wc, 3)
            if alpha > visible:
                mask[row, column] = True
                gain = _f32(1) if darkens else _f32(255) / alpha
                for k in range(3):
                    mixed = gain * _mixed(a, b, c, wa, wb, wc, k)
                    color[row, column, k] = np.uint8(min(mixed, _f32(255)) + half)


@njit(nogil=True, cache=True, error_model="numpy")
def _interpolate(keys, depth, packed, columns, rows, matrix, out_rgba, out_depth, first, end):
    """Float RGBA and depth of the visible triangle at each pixel of some rows."""
    height, width = _i32(depth.shape[0]), _i32(depth.shape[1])
    per_width = 1.0 / width
    half = _f32(0.5)
    for row in range(first, end):
        for column in range(keys.shape[1]):
            key = keys[row, column]
            if key == 0:
                out_depth[row, column] = np.inf
                out_rgba[row, column] = 0
                continue
            corners = _corners(_triangle(key), height, width, per_width)
            wa, wb, wc, out_depth[row, column] = _weights(
                depth, columns, rows, matrix, corners, _f32(column) + half, _f32(row) + half
            )
            ja, ia, jb, ib, jc, ic = corners
            a, b, c = packed[ja, ia], packed[jb, ib], packed[jc, ic]
            for k in range(4):
                out_rgba[row, column, k] = _mixed(a, b, c, wa, wb, wc, k)
