# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of each frame of a take the video never saw, estimated before anything is sent.

The mesh is drawn by the server's rules into a small picture, in slices of a few milliseconds.
"""

import struct
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

from . import drawing, field_of_view, marks, material, pictures, scene_files
from ._vendor.errors import InputError
from ._vendor.protocol.documents import (
    CameraPose,
    PinholeIntrinsics,
    TrajectoryDocument,
)
from ._vendor.source_view import is_source_view
from .scene_files import CACHE_FOLDER
from .scene_import import hidden_file, marked_file
from .sliced_work import SlicedWork

#: Pixels along the longer side of the picture.
PICTURE_SIDE_PX = 96
#: What a slice takes at most where the clip has 512 x 512 pixels, with room to spare.
SLICE_S = 0.004
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


@dataclass(frozen=True)
class CoverageCheck:
    """A measurement under way, or over."""

    scene_uid: int
    shot_uid: int
    work: SlicedWork[Coverage]


@dataclass(frozen=True)
class ShotMesh:
    """The mesh of a shot, read from the files that Blender plays."""

    folder: Path
    width_px: int
    height_px: int
    frame_count: int
    #: See `field_of_view.zoom_of`.
    zoom: float = 1.0

    def surface(
        self, index: int, *, is_whole: bool = False
    ) -> Generator[None, None, tuple[drawing.Surface, NDArray[np.uint8]]]:
        """Read frame `index`, a few lines at a time.

        Args:
            index: Counted from 0.
            is_whole: Whether all of it counts as seen.

        Returns:
            The mesh, and its picture: (height, width, 3) uint8 sRGB, marked as `material.mark`
            does; both for the field of view of `zoom`.

        Raises:
            InputError: `scene_invalid`, `cache_invalid` or `image_invalid` if the scene's files are
                damaged or gone.
        """
        document = scene_files.decode_document(self.folder)
        intrinsics = field_of_view.zoomed(document.intrinsics, self.zoom)
        points = self._points(index)
        size = self.height_px, self.width_px
        depth = np.full(size, document.mesh.border_depth, dtype=np.float32)
        occluded = np.empty(size, dtype=np.bool_)
        picture = np.empty((*size, 3), dtype=np.uint8)
        yield
        path = marked_file(self.folder, index)
        first = 0
        for lines in pictures.read_png_blocks(path, self.width_px, self.height_px):
            end = first + len(lines)
            picture[first:end] = lines
            occluded[first:end] = material.is_marked(lines)
            inner = slice(max(first, 1), min(end, self.height_px - 1))
            # Depth goes along the shot's y axis: see `axes.points_in_shot`.
            depth[inner, 1:-1] = points[inner.start - 1 : inner.stop - 1, :, 1]
            first = end
            yield
        if is_whole or self.zoom != 1.0:
            picture[occluded] = _read_colors(hidden_file(path), int(np.count_nonzero(occluded)))
            yield
            if is_whole:
                occluded[:] = False
            else:
                occluded = yield from marks.occluded_vertices(depth, intrinsics, document.mesh)
            picture[occluded] = material.MARK
            yield
        return drawing.Surface(depth, occluded, intrinsics), picture

    def _points(self, index: int) -> NDArray[np.float32]:
        path = self.folder / CACHE_FOLDER / "mesh.pc2"
        shape = (self.height_px - 2, self.width_px - 2, 3)
        frame_bytes = shape[0] * shape[1] * 12
        expected_bytes = _HEADER.size + self.frame_count * frame_bytes
        if not path.is_file() or path.stat().st_size != expected_bytes:
            message = f"expected {expected_bytes} bytes of points in {path}, found others; import "
            raise InputError("cache_invalid", message + "the scene again")
        return np.memmap(path, "<f4", "r", _HEADER.size + index * frame_bytes, shape)


def _read_colors(path: Path, count: int) -> NDArray[np.uint8]:
    """The colours under the marks of a picture: (count, 3) uint8 sRGB."""
    try:
        # A byte more than there may be: the file may come from anybody and unpack to anything.
        unpacked = zlib.decompressobj().decompress(path.read_bytes(), count * 3 + 1)
        return np.frombuffer(unpacked, np.uint8).reshape(count, 3)
    except (OSError, ValueError, zlib.error) as error:
        message = f"expected {count} colours in {path} ({error}); import the scene again"
        raise InputError("cache_invalid", message) from error


def measure(
    mesh: ShotMesh,
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
        InputError: `scene_invalid`, `cache_invalid` or `image_invalid` if the scene's files are
            gone.
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
    if is_source_frame(mesh, trajectory.poses[0], (trajectory.width_px, trajectory.height_px)):
        unseen[0] = 0.0
    return Coverage(frames, tuple(unseen), tuple(behind), signature)


def is_source_frame(mesh: ShotMesh, pose: CameraPose, size_px: tuple[int, int]) -> bool:
    """Whether the engine is given a frame as it was filmed, if it is the first of a take.

    Raises:
        InputError: `scene_invalid` if the scene's document is gone.
    """
    document = scene_files.decode_document(mesh.folder)
    output = PinholeIntrinsics(
        width_px=size_px[0],
        height_px=size_px[1],
        fx_px=pose.fx_px,
        fy_px=pose.fy_px,
        cx_px=pose.cx_px,
        cy_px=pose.cy_px,
    )
    source = field_of_view.zoomed(document.intrinsics, mesh.zoom)
    return is_source_view(source, output, pose.cam_to_world, document.nearest_depth)


def _measure_frame(
    mesh: ShotMesh, pose: CameraPose, size_px: tuple[int, int]
) -> Generator[None, None, tuple[float, bool]]:
    """Returns the share that was never seen, and whether the camera lies behind the surface."""
    surface, _ = yield from mesh.surface(pose.source_time)
    drawn = yield from drawing.draw(surface, pose, size_px, PICTURE_SIDE_PX)
    return 1.0 - float(drawn.seen.mean()), is_behind(surface, pose)


def is_behind(surface: drawing.Surface, pose: CameraPose) -> bool:
    """Whether a camera lies behind the surface, as the source camera sees it."""
    x, y, z = pose.cam_to_world[3], pose.cam_to_world[7], pose.cam_to_world[11]
    if z <= 0:
        return False
    source = surface.intrinsics
    column = int(x / z * source.fx_px + source.cx_px)
    row = int(y / z * source.fy_px + source.cy_px)
    height, width = surface.depth.shape
    # On the border and beyond it, the source camera sees nothing.
    if not (0 < column < width - 1 and 0 < row < height - 1):
        return False
    return bool(z > surface.depth[row, column])


def mesh_of(shot: bpy.types.Object) -> ShotMesh:
    """The mesh of a shot."""
    clip = shot.ex4d_shot
    zoom = field_of_view.zoom_of(clip)
    return ShotMesh(Path(clip.folder), clip.width_px, clip.height_px, clip.frame_count, zoom)
