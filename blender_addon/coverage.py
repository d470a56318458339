# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of each frame of a take the video never saw, estimated before anything is sent.

A coarse copy of the mesh is drawn with numpy into a small picture, in slices of a few milliseconds.
The walls around the video are left out: what they would show was never seen either.
"""

import math
import struct
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

from . import field_of_view, material, pictures
from ._vendor.errors import Ex4dError, InputError
from ._vendor.protocol.documents import CameraPose, TrajectoryDocument
from .imports import UNFORESEEN
from .scene_files import CACHE_FOLDER
from .scene_import import marked_file

#: Vertices along the longer side of the coarse mesh, and pixels along that of the picture.
GRID_SIDE = 96
PICTURE_SIDE_PX = 64
#: Pairs of a triangle and a pixel that are tested at once: about 2 ms.
_MAX_PAIRS = 4_000
#: What a slice takes at most where the clip has 512 x 512 pixels.
SLICE_S = 0.006
#: How much farther the far end of a marked quad must be to count as a stretched face.
_STRETCHED = 1.1
_HEADER = struct.Struct("<12siiffi")


@dataclass(frozen=True)
class Coverage:
    """What is known of a camera path before it is sent."""

    #: Of the entries of `unseen`, on the timeline.
    frames: range
    #: Share of each frame that the video never saw, 0..1.
    unseen: tuple[float, ...]
    #: Frames whose camera lies behind the surface that the video saw.
    behind: tuple[int, ...]
    #: `ops_coverage.path_signature` of the path that this was measured of.
    signature: str

    @property
    def worst_frame(self) -> int:
        """The frame with the largest share."""
        return self.frames[int(np.argmax(self.unseen))]


@dataclass(eq=False)
class CoverageCheck:
    """A measurement under way."""

    scene_uid: int
    shot_uid: int
    steps: Generator[float, None, Coverage]
    #: Of the whole, 0..1.
    fraction: float = 0.0
    result: Coverage | None = None
    error: Ex4dError | None = None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to do."""
        return self.result is not None or self.error is not None

    def step(self) -> None:
        """Do one slice."""
        # Failed until proven otherwise, as an import is.
        self.error = UNFORESEEN
        try:
            self.fraction = next(self.steps)
            self.error = None
        except StopIteration as end:
            self.result, self.error = end.value, None
        except Ex4dError as error:
            self.error = error
        except OSError as error:
            self.error = InputError("file", str(error))


@dataclass(frozen=True)
class CoarseMesh:
    """Every few vertices of a shot's mesh; points are read from the file that Blender plays."""

    folder: Path
    width_px: int
    height_px: int
    frame_count: int
    #: See `field_of_view.zoom_of`.
    zoom: float = 1.0
    rows: NDArray[np.int64] = field(init=False, compare=False)
    columns: NDArray[np.int64] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        step = max(1, math.ceil(max(self.width_px, self.height_px) / GRID_SIDE))
        for name, side_px in (("rows", self.height_px), ("columns", self.width_px)):
            places = np.unique(np.append(np.arange(1, side_px - 2, step), side_px - 2))
            object.__setattr__(self, name, places)

    def points(self, index: int) -> NDArray[np.float64]:
        """Vertices of frame `index` in the scene's axes: (rows, columns, 3).

        Raises:
            InputError: `cache_invalid` if the file is not this scene's.
        """
        path = self.folder / CACHE_FOLDER / "mesh.pc2"
        count = (self.width_px - 2) * (self.height_px - 2)
        expected_bytes = _HEADER.size + self.frame_count * count * 12
        if not path.is_file() or path.stat().st_size != expected_bytes:
            message = f"expected {expected_bytes} bytes of points in {path}, found others; import "
            raise InputError("cache_invalid", message + "the scene again")
        shape = (self.height_px - 2, self.width_px - 2, 3)
        offset = _HEADER.size + index * count * 12
        frame = np.memmap(path, "<f4", "r", offset, shape)
        points = frame[np.ix_(self.rows - 1, self.columns - 1)].astype(np.float64)
        # The inverse of `axes.points_in_shot`.
        x, y = points[..., 0] / self.zoom, -points[..., 2] / self.zoom
        return np.stack([x, y, points[..., 1]], axis=-1)

    def picture(self, index: int) -> Iterator[NDArray[np.uint8]]:
        """Frame `index` with what was never seen marked, the next lines at a time.

        Raises:
            InputError: `image_invalid` if the file is damaged or gone.
        """
        path = marked_file(self.folder, index)
        return pictures.read_png_blocks(path, self.width_px, self.height_px)

    def marked(self, flags: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Share of the pixels around each vertex that are marked: (rows, columns).

        Args:
            flags: Which pixels are marked: (height, width).
        """
        inner = flags[:-1, :-1].astype(np.float32)
        sums = np.add.reduceat(np.add.reduceat(inner, self.rows, axis=0), self.columns, axis=1)
        sizes = np.outer(
            np.diff(self.rows, append=self.height_px - 1),
            np.diff(self.columns, append=self.width_px - 1),
        )
        return sums / sizes


def measure(
    mesh: CoarseMesh,
    trajectory: TrajectoryDocument,
    frames: range,
    signature: str,
) -> Generator[float, None, Coverage]:
    """Measure a whole path, a slice at a time.

    Args:
        mesh: Of the shot.
        trajectory: The camera's path.
        frames: Of the trajectory's poses, on the timeline.
        signature: Kept in the result.

    Yields:
        Share of the work that is done, 0..1.

    Raises:
        InputError: `cache_invalid` or `image_invalid` if the scene's files are gone.
    """
    yield 0.0
    unseen: list[float] = []
    behind: list[int] = []
    count = len(trajectory.poses)
    for index, pose in enumerate(trajectory.poses):
        frame = _measure_frame(mesh, pose, (trajectory.width_px, trajectory.height_px))
        while True:
            try:
                next(frame)
            except StopIteration as end:
                share, is_inside = end.value
                break
            yield index / count
        unseen.append(share)
        if is_inside:
            behind.append(frames[index])
    return Coverage(frames, tuple(unseen), tuple(behind), signature)


def _measure_frame(
    mesh: CoarseMesh, pose: CameraPose, size_px: tuple[int, int]
) -> Generator[None, None, tuple[float, bool]]:
    """Returns the share that was never seen, and whether the camera lies behind the surface."""
    flags: list[NDArray[np.bool_]] = []
    for lines in mesh.picture(pose.source_time):
        flags.append(material.is_marked(lines))
        yield
    marked = mesh.marked(np.concatenate(flags))
    yield
    points = mesh.points(pose.source_time)
    is_inside = is_behind(points, pose)
    seen = seen_quads(points, marked)
    yield
    drawing = yield from draw(points, seen, pose, size_px, PICTURE_SIDE_PX)
    return 1.0 - float(drawing.seen.mean()), is_inside


def is_behind(points: NDArray[np.float64], pose: CameraPose) -> bool:
    """Whether a camera lies behind the surface, as the source camera sees it.

    Args:
        points: (rows, columns, 3) in the scene's axes, the source camera at the origin.
        pose: The camera's.
    """
    x, y, z = pose.cam_to_world[3], pose.cam_to_world[7], pose.cam_to_world[11]
    if z <= 0:
        return False
    across = points[0, :, 0] / points[0, :, 2]
    down = points[:, 0, 1] / points[:, 0, 2]
    if not (across[0] <= x / z <= across[-1] and down[0] <= y / z <= down[-1]):
        return False
    row, column = np.abs(down - y / z).argmin(), np.abs(across - x / z).argmin()
    return bool(z > points[row, column, 2])


@dataclass(frozen=True)
class Drawing:
    """The mesh in a small picture."""

    #: 1 / z-depth of what is nearest; 0 where there is nothing: (height, width).
    inverse_depth: NDArray[np.float64]
    #: Whether the video saw it: (height, width).
    seen: NDArray[np.bool_]


def draw(
    points: NDArray[np.float64],
    seen: NDArray[np.bool_],
    pose: CameraPose,
    size_px: tuple[int, int],
    side_px: int,
) -> Generator[None, None, Drawing]:
    """Draw a frame into a small picture.

    Args:
        points: Of the mesh: (rows, columns, 3) in the scene's axes.
        seen: Which quads of it show the video: (rows - 1, columns - 1).
        pose: Of the camera.
        size_px: Width and height that the pose's intrinsics are of.
        side_px: The longer side of the picture.
    """
    scale = side_px / max(size_px)
    width, height = (max(1, round(length_px * scale)) for length_px in size_px)
    matrix = np.array(pose.cam_to_world).reshape(3, 4)
    local = (points - matrix[:, 3]) @ matrix[:, :3]
    depth = np.maximum(local[..., 2], 1e-9)
    screen = np.stack(
        [
            (pose.fx_px * local[..., 0] / depth + pose.cx_px) * (width / size_px[0]),
            (pose.fy_px * local[..., 1] / depth + pose.cy_px) * (height / size_px[1]),
            1.0 / depth,
        ],
        axis=-1,
    )
    triangles = _triangles(screen).reshape(-1, 3, 3)
    yield
    in_front = (_triangles(local[..., 2:]).reshape(-1, 3) > 1e-6).all(axis=1)
    triangles = triangles[in_front]
    is_seen = np.repeat(seen.ravel(), 2)[in_front]
    yield
    nearest = np.zeros(width * height)
    shows_video = np.zeros(width * height, dtype=bool)
    for chosen, pixels, inverse_depth in _hits(triangles, width, height):
        nearer = inverse_depth > nearest[pixels]
        order = np.argsort(inverse_depth[nearer], kind="stable")
        # The last of several values for a pixel stays: the nearest.
        place = pixels[nearer][order]
        nearest[place] = inverse_depth[nearer][order]
        shows_video[place] = is_seen[chosen[nearer][order]]
        yield
    return Drawing(nearest.reshape(height, width), shows_video.reshape(height, width))


def _triangles(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """(quads, 2, 3, n): both triangles of each quad of a (rows, columns, n) grid."""
    top_left, top_right = grid[:-1, :-1], grid[:-1, 1:]
    bottom_left, bottom_right = grid[1:, :-1], grid[1:, 1:]
    upper = np.stack([top_left, bottom_left, top_right], axis=2)
    lower = np.stack([bottom_left, bottom_right, top_right], axis=2)
    return np.stack([upper, lower], axis=2).reshape(-1, 2, 3, grid.shape[-1])


def seen_quads(points: NDArray[np.float64], marked: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which quads show the video: most of their pixels do, and they span no edge of an object."""
    return (_corners(marked).mean(axis=0) < 0.5) & ~stretched_quads(points, marked)


def stretched_quads(points: NDArray[np.float64], marked: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which quads span the edge of an object, where something is marked."""
    depths = _corners(points[..., 2])
    is_far = depths.max(axis=0) > _STRETCHED * depths.min(axis=0)
    return is_far & (_corners(marked).max(axis=0) > 0)


def _corners(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, rows, columns): the corners of each quad of a (rows + 1, columns + 1) grid."""
    return np.stack([grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]])


def _hits(
    triangles: NDArray[np.float64], width: int, height: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Which triangles cover which pixel centres, a slice at a time.

    Args:
        triangles: (T, 3, 3): corners of x, y in pixels and the inverse of depth.
        width: Of the picture.
        height: Of the picture.

    Yields:
        Index of a triangle, index of a pixel and inverse of depth, one each per hit; may be none.
    """
    sides = np.array([width, height])
    corners = triangles[..., :2]
    first = np.clip(np.ceil(corners.min(axis=1) - 0.5), 0, sides).astype(np.int64)
    end = np.clip(np.floor(corners.max(axis=1) - 0.5) + 1, 0, sides).astype(np.int64)
    yield (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    kept, first, spans = _boxes(first, np.maximum(end - first, 0))
    counts = spans[:, 0] * spans[:, 1]
    ends = np.cumsum(counts)
    starts = ends - counts
    place = 0
    while place < len(kept):
        done = ends[place - 1] if place else 0
        stop = max(place + 1, int(np.searchsorted(ends, done + _MAX_PAIRS, "right")))
        boxes = np.repeat(np.arange(place, stop), counts[place:stop])
        pairs = kept[boxes]
        local = np.arange(done, done + len(boxes)) - starts[boxes]
        x = first[boxes, 0] + local % spans[boxes, 0]
        y = first[boxes, 1] + local // spans[boxes, 0]
        a, b, c = (triangles[pairs, corner] for corner in range(3))
        px, py = x + 0.5, y + 0.5
        area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
        area[area == 0] = np.inf
        share_b = (
            (px - a[:, 0]) * (c[:, 1] - a[:, 1]) - (py - a[:, 1]) * (c[:, 0] - a[:, 0])
        ) / area
        share_c = (
            (b[:, 0] - a[:, 0]) * (py - a[:, 1]) - (b[:, 1] - a[:, 1]) * (px - a[:, 0])
        ) / area
        share_a = 1.0 - share_b - share_c
        inside = (share_a >= 0) & (share_b >= 0) & (share_c >= 0) & np.isfinite(area)
        inverse = share_a * a[:, 2] + share_b * b[:, 2] + share_c * c[:, 2]
        yield pairs[inside], (y * width + x)[inside], inverse[inside]
        place = stop


def _boxes(
    first: NDArray[np.int64], spans: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The boxes around triangles that cover pixels, large ones cut into bands of `_MAX_PAIRS`.

    Args:
        first: (T, 2): x and y of each triangle's first pixel.
        spans: (T, 2): How many pixels it has.

    Returns:
        Index of the triangle, first pixel and span of each box.
    """
    counts = spans[:, 0] * spans[:, 1]
    small = np.flatnonzero((counts > 0) & (counts <= _MAX_PAIRS))
    indices, firsts, sizes = [small], [first[small]], [spans[small]]
    for index in np.flatnonzero(counts > _MAX_PAIRS):
        width, height = spans[index]
        tops = np.arange(0, height, max(1, _MAX_PAIRS // width))
        heights = np.diff(tops, append=height)
        indices.append(np.full(len(tops), index))
        firsts.append(first[index] + np.stack([np.zeros_like(tops), tops], axis=-1))
        sizes.append(np.stack([np.full_like(tops, width), heights], axis=-1))
    return np.concatenate(indices), np.concatenate(firsts), np.concatenate(sizes)


def mesh_of(shot: bpy.types.Object) -> CoarseMesh:
    """The coarse mesh of a shot."""
    clip = shot.ex4d_shot
    zoom = field_of_view.zoom_of(clip)
    return CoarseMesh(Path(clip.folder), clip.width_px, clip.height_px, clip.frame_count, zoom)
