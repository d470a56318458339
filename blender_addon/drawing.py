# SPDX-License-Identifier: GPL-3.0-or-later
"""The DW-mesh from another camera in a small picture, drawn with numpy in slices.

What the server draws, by its rules, at fewer pixels: of each pixel's centre it says the same. Most
quads of the mesh lie between the centres of such a picture and are set aside before they become
triangles, which are then filled row by row.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ._vendor.protocol.documents import CameraPose, PinholeIntrinsics

#: Vertices that are projected at once: about 2 ms.
_BLOCK_VERTICES = 16_000
#: Rows of triangles, and pixels of such rows, that are worked on at once: about 2 ms.
_MAX_SPANS = 3_000
_MAX_HITS = 6_000
#: As the server's: `ex4d.raster.NEAR_DEPTH` and the share of `ex4d.raster.VISIBLE_ALPHA`.
_NEAR_DEPTH = 1e-3
_VISIBLE = 125 / 255
#: Share of its size by which a triangle is larger than it is: rounding must leave no gaps, and of
#: two that overlap either is right.
_MARGIN = 1e-4


_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class Surface:
    """A frame's DW-mesh: a vertex a pixel."""

    #: z-depth, the border pushed back: (height, width) float32.
    depth: NDArray[np.float32]
    #: Which vertices are occluded: (height, width).
    occluded: NDArray[np.bool_]
    intrinsics: PinholeIntrinsics


@dataclass(frozen=True)
class Drawing:
    """The mesh in a small picture."""

    #: 1 / z-depth of what is nearest; 0 where there is nothing: (height, width).
    inverse_depth: NDArray[np.float64]
    #: Whether the video saw it: (height, width).
    seen: NDArray[np.bool_]


def draw(
    surface: Surface, pose: CameraPose, size_px: tuple[int, int], side_px: int
) -> Generator[None, None, Drawing]:
    """Draw a frame into a small picture.

    Args:
        surface: Of the frame that the pose looks at.
        pose: Of the camera.
        size_px: Width and height that the pose's intrinsics are of.
        side_px: The longer side of the picture.
    """
    width, height = picture_size_px(size_px, side_px)
    picture = Drawing(np.zeros((height, width)), np.zeros((height, width), dtype=np.bool_))
    camera = _Camera(surface.intrinsics, pose, size_px, (width, height))
    row_count, column_count = surface.depth.shape
    columns = np.arange(column_count)
    step = max(1, _BLOCK_VERTICES // column_count)
    for first in range(0, row_count - 1, step):
        rows = np.arange(first, min(first + step + 1, row_count))
        yield from _draw_block(surface, camera, rows, columns, picture)
    # The caps behind lie in one plane: one quad.
    ends = np.array([0, row_count - 1]), np.array([0, column_count - 1])
    yield from _draw_block(surface, camera, *ends, picture)
    return picture


def picture_size_px(size_px: tuple[int, int], side_px: int) -> tuple[int, int]:
    """Width and height of a picture in small, whose longer side is given."""
    scale = side_px / max(size_px)
    width, height = (max(1, round(length_px * scale)) for length_px in size_px)
    return width, height


class _Camera:
    """From a vertex's column, row and depth to a place in the picture."""

    def __init__(
        self,
        source: PinholeIntrinsics,
        pose: CameraPose,
        size_px: tuple[int, int],
        picture_px: tuple[int, int],
    ) -> None:
        cam_to_world = np.array(pose.cam_to_world).reshape(3, 4)
        rotation, position = cam_to_world[:, :3], cam_to_world[:, 3]
        lens = np.array(
            [[pose.fx_px, 0.0, pose.cx_px], [0.0, pose.fy_px, pose.cy_px], [0.0, 0.0, 1.0]]
        )
        lens[:2] *= np.array(picture_px)[:, None] / np.array(size_px)[:, None]
        pixel_from_ray = lens @ rotation.T
        self.picture_px = picture_px
        self._source = source
        self._offset = -pixel_from_ray @ position
        self._pixel_from_ray = pixel_from_ray

    def project(
        self,
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        depth: NDArray[np.float32],
    ) -> list[NDArray[np.float32]]:
        """For each vertex, (rows, columns): x w, y w and w; x and y in pixels, w the depth."""
        source = self._source
        across = (columns + 0.5 - source.cx_px) / source.fx_px
        down = (rows + 0.5 - source.cy_px) / source.fy_px
        found: list[NDArray[np.float32]] = []
        for (by_x, by_y, by_z), offset in zip(self._pixel_from_ray, self._offset, strict=True):
            ray = (by_x * across).astype(np.float32) + (by_y * down + by_z)[:, None].astype(
                np.float32
            )
            ray *= depth
            ray += np.float32(offset)
            found.append(ray)
        return found


def _draw_block(
    surface: Surface,
    camera: _Camera,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    picture: Drawing,
) -> Iterator[None]:
    """Draw the quads between some rows and columns of the mesh."""
    place = np.ix_(rows, columns)
    points = camera.project(rows, columns, surface.depth[place])
    quads, first, end = _quads_over_centres(points, camera.picture_px)
    yield
    if not len(quads[0]):
        return
    opaque = ~surface.occluded[place]
    most = max(1, _MAX_SPANS // 2)
    heights = np.cumsum(end[:, 1] - first[:, 1])
    done = 0
    while done < len(heights):
        before = heights[done - 1] if done else 0
        stop = max(done + 1, int(np.searchsorted(heights, before + most, "right")))
        chosen = slice(done, stop)
        triangles = _triangles(points, opaque, quads[0][chosen], quads[1][chosen])
        begins, stops = (np.repeat(side[chosen], 2, axis=0) for side in (first, end))
        yield from _fill(*triangles, begins, stops, picture)
        done = stop


def _quads_over_centres(
    points: list[NDArray[np.float32]], picture_px: tuple[int, int]
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int16], NDArray[np.int16]]:
    """Which quads may cover the centre of a pixel, and of which.

    Returns:
        Row and column of each; x and y of its first pixel, (quads, 2), and past its last.
    """
    depth = points[2]
    is_behind = depth <= _NEAR_DEPTH
    crosses = bool(is_behind.any())
    if crosses:
        depth = np.where(is_behind, np.float32(1), depth)
    firsts: list[NDArray[np.int16]] = []
    ends: list[NDArray[np.int16]] = []
    for scaled, side_px in zip(points[:2], picture_px, strict=True):
        # The first pixel whose centre does not lie before the vertex.
        pixel = np.clip(np.ceil(scaled / depth - np.float32(0.5)), 0, side_px).astype(np.int16)
        low = high = pixel
        if crosses:
            low, high = np.where(is_behind, 0, pixel), np.where(is_behind, side_px, pixel)
        firsts.append(_over_quads(np.minimum, low))
        ends.append(_over_quads(np.maximum, high))
    found = (firsts[0] < ends[0]) & (firsts[1] < ends[1])
    if crosses:
        found &= ~_over_quads(np.logical_and, is_behind)
    rows, columns = np.nonzero(found)
    first, end = (np.stack([side[rows, columns] for side in both], -1) for both in (firsts, ends))
    return (rows, columns), first, end


def _over_quads(function: np.ufunc, grid: NDArray[_Number]) -> NDArray[_Number]:
    """A function of the four corners of each quad: one row and one column less."""
    pairs = function(grid[:-1], grid[1:])
    return function(pairs[:, :-1], pairs[:, 1:])


def _triangles(
    points: list[NDArray[np.float32]],
    opaque: NDArray[np.bool_],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Both triangles of some quads, one after the other.

    Returns:
        x w, y w and w of the corners: (3, 3 corners, 2 quads); which are opaque: (3, 2 quads).
    """
    # Cut from bottom left to top right, as the DW-mesh is.
    below, right = np.array([[1, 0, 0], [1, 0, 1]]), np.array([[0, 0, 1], [0, 1, 1]])
    j = (rows[:, None] + below.T[:, None]).reshape(3, -1)
    i = (columns[:, None] + right.T[:, None]).reshape(3, -1)
    corners = np.stack([component[j, i] for component in points])
    return corners.astype(np.float64), opaque[j, i]


def _fill(
    corners: NDArray[np.float64],
    opaque: NDArray[np.bool_],
    first: NDArray[np.int16],
    end: NDArray[np.int16],
    picture: Drawing,
) -> Iterator[None]:
    """Fill triangles into the picture, where they are the nearest.

    By homogeneous edge functions, for which nothing need be clipped (Olano and Greer, "Triangle
    Scan Conversion using 2D Homogeneous Coordinates", 1997).

    Args:
        corners: As of `_triangles`, like `opaque`.
        opaque: Which corners show the video.
        first: Of the pixels that each may cover: x and y, (n, 2).
        end: Past their last.
        picture: What is drawn into.
    """
    x, y, w = corners
    following, last = [1, 2, 0], [2, 0, 1]
    # Times x, y and 1 of a pixel: a corner's share of what is seen there, over the depth there.
    by_x = y[following] * w[last] - w[following] * y[last]
    by_y = w[following] * x[last] - x[following] * w[last]
    by_1 = x[following] * y[last] - y[following] * x[last]
    twice_volume = x[0] * by_x[0] + y[0] * by_y[0] + w[0] * by_1[0]
    kept = np.flatnonzero(twice_volume)
    triangle, row = _each(first[kept, 1], end[kept, 1])
    triangle = kept[triangle]
    scale = 1 / twice_volume[triangle]
    by_x = by_x[:, triangle] * scale
    rest = (by_y[:, triangle] * (row + 0.5) + by_1[:, triangle]) * scale
    margin_by_x, margin = by_x + _MARGIN * by_x.sum(axis=0), rest + _MARGIN * rest.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        root = -margin / margin_by_x
    is_empty = (margin_by_x == 0) & (margin < 0)
    lowest = np.where(margin_by_x > 0, root, np.where(is_empty, np.inf, -np.inf))
    highest = np.where(margin_by_x < 0, root, np.inf)
    left = np.clip(np.ceil(lowest.max(axis=0) - 0.5), first[triangle, 0], end[triangle, 0])
    right = np.clip(np.floor(highest.min(axis=0) + 0.5), left, end[triangle, 0])
    yield
    covering = np.flatnonzero(right > left)
    lengths = np.cumsum((right - left)[covering])
    done = 0
    while done < len(lengths):
        before = lengths[done - 1] if done else 0
        stop = max(done + 1, int(np.searchsorted(lengths, before + _MAX_HITS, "right")))
        chosen = covering[done:stop]
        span, column = _each(left[chosen], right[chosen])
        span = chosen[span]
        shares = by_x[:, span] * (column + 0.5) + rest[:, span]
        nearness = shares.sum(axis=0)
        seen = (shares * opaque[:, triangle[span]]).sum(axis=0) > _VISIBLE * nearness
        _keep_nearest(picture, row[span], column, nearness, seen)
        done = stop
        yield


def _each(
    first: NDArray[_Number], end: NDArray[_Number]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All whole numbers from `first` to below `end`, and the index of the pair that each is of."""
    whole = first.astype(np.int64)
    counts = end.astype(np.int64) - whole
    index = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    return index, np.arange(len(index)) - starts[index] + whole[index]


def _keep_nearest(
    picture: Drawing,
    y: NDArray[np.int64],
    x: NDArray[np.int64],
    nearness: NDArray[np.float64],
    seen: NDArray[np.bool_],
) -> None:
    nearer = np.flatnonzero((nearness > picture.inverse_depth[y, x]) & (nearness < 1 / _NEAR_DEPTH))
    # The last of several values for a pixel stays: the nearest.
    order = nearer[np.argsort(nearness[nearer], kind="stable")]
    picture.inverse_depth[y[order], x[order]] = nearness[order]
    picture.seen[y[order], x[order]] = seen[order]
