# SPDX-License-Identifier: GPL-3.0-or-later
"""The DW-mesh as Blender holds it: a mesh of constant topology and a file of its moving points.

The border, which the mesh rules push behind everything, is a mesh of its own: the *surround*. It
shows nothing of the video, and from beside the shot it stands in front of what the video did see;
as a separate object it can be hidden.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

from . import axes
from ._vendor.errors import InputError
from ._vendor.protocol.documents import PinholeIntrinsics

#: `POINTCACHE2`, version, number of points, first frame, sampling, number of frames.
_POINT_CACHE_HEADER = struct.Struct("<12siiffi")
#: The smallest picture that has a pixel on all four sides of an inner quad.
_MIN_SIDE_PX = 4


@dataclass(frozen=True)
class PixelMesh:
    """A mesh whose vertices are pixels."""

    #: Pixel of each vertex, (V,) int32.
    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    #: (F, 3) int32, counter-clockwise as the source camera sees them.
    faces: NDArray[np.int32]

    def rays(self, intrinsics: PinholeIntrinsics) -> NDArray[np.float32]:
        """Where each vertex lies at a depth of 1: (V, 3) float32 in the shot's axes."""
        rays = np.ones((len(self.rows), 3), dtype=np.float32)
        rays[:, 0] = (self.columns + 0.5 - intrinsics.cx_px) / intrinsics.fx_px
        rays[:, 1] = (self.rows + 0.5 - intrinsics.cy_px) / intrinsics.fy_px
        return axes.points_in_shot(rays)

    def corner_uvs(self, width_px: int, height_px: int) -> NDArray[np.float32]:
        """Texture coordinates of the corners of all faces: (3 F, 2) float32, pixel centres."""
        uvs = np.empty((len(self.rows), 2), dtype=np.float32)
        uvs[:, 0] = (self.columns + 0.5) / width_px
        uvs[:, 1] = 1.0 - (self.rows + 0.5) / height_px
        return uvs[self.faces.ravel()]


def inner_mesh(width_px: int, height_px: int, step_px: int) -> PixelMesh:
    """The mesh inside the border.

    Args:
        width_px: Of the clip.
        height_px: Of the clip.
        step_px: Every how many pixels there is a vertex; the last row and column always have.

    Raises:
        InputError: `scene_small` if there is nothing inside the border.
    """
    if min(width_px, height_px) < _MIN_SIDE_PX:
        message = (
            f"expected a clip of at least {_MIN_SIDE_PX} x {_MIN_SIDE_PX} pixels, found "
            f"{width_px} x {height_px}; use a larger one"
        )
        raise InputError("scene_small", message)
    rows = _every(step_px, 1, height_px - 2)
    columns = _every(step_px, 1, width_px - 2)
    grid_rows, grid_columns = np.meshgrid(rows, columns, indexing="ij")
    return PixelMesh(grid_rows.ravel(), grid_columns.ravel(), _grid_faces(len(rows), len(columns)))


def surround_mesh(width_px: int, height_px: int) -> PixelMesh:
    """The faces that touch the border, and the two caps that close the mesh behind."""
    faces = _grid_faces(height_px, width_px)
    rows, columns = np.divmod(faces, np.int32(width_px))
    is_border = (rows == 0) | (rows == height_px - 1) | (columns == 0) | (columns == width_px - 1)
    top_left, top_right = 0, width_px - 1
    bottom_left, bottom_right = (height_px - 1) * width_px, height_px * width_px - 1
    caps = np.array(
        [[top_right, top_left, bottom_right], [bottom_right, top_left, bottom_left]],
        dtype=np.int32,
    )
    kept = np.concatenate([faces[is_border.any(axis=1)], caps])
    pixels, compact = np.unique(kept, return_inverse=True)
    rows, columns = np.divmod(pixels, np.int32(width_px))
    return PixelMesh(rows, columns, compact.reshape(-1, 3).astype(np.int32))


def _every(step: int, first: int, last: int) -> NDArray[np.int32]:
    return np.unique(np.append(np.arange(first, last, step), last)).astype(np.int32)


def _grid_faces(row_count: int, column_count: int) -> NDArray[np.int32]:
    """Two triangles a quad, cut from bottom left to top right as the DW-mesh does."""
    vertices = np.arange(row_count * column_count, dtype=np.int32)
    vertices = vertices.reshape(row_count, column_count)
    top_left, top_right = vertices[:-1, :-1], vertices[:-1, 1:]
    bottom_left, bottom_right = vertices[1:, :-1], vertices[1:, 1:]
    upper = np.stack([top_left, bottom_left, top_right], axis=-1)
    lower = np.stack([bottom_left, bottom_right, top_right], axis=-1)
    return np.stack([upper, lower], axis=2).reshape(-1, 3)


def create_mesh(name: str, faces: NDArray[np.int32], points: NDArray[np.float32]) -> bpy.types.Mesh:
    """Make mesh data in Blender, to be completed by `complete_mesh`: each takes its time.

    Args:
        name: Of the data-block.
        faces: (F, 3) int32.
        points: (V, 3) float32, the points of the first frame.
    """
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(points))
    mesh.loops.add(faces.size)
    mesh.polygons.add(len(faces))
    # The attributes take whole arrays a hundred times faster than `loops` and `vertices` do.
    mesh.attributes["position"].data.foreach_set("vector", points.ravel())
    mesh.attributes[".corner_vert"].data.foreach_set("value", faces.ravel())
    starts = np.arange(0, faces.size, 3, dtype=np.int32)
    mesh.polygons.foreach_set("loop_start", starts)
    return mesh


def complete_mesh(mesh: bpy.types.Mesh, corner_uvs: NDArray[np.float32]) -> None:
    """Add edges and texture coordinates, (3 F, 2) float32."""
    mesh.update(calc_edges=True)
    layer = mesh.uv_layers.new(name="UVMap", do_init=False)
    layer.uv.foreach_set("vector", corner_uvs.ravel())


class PointCacheWriter:
    """Writes a PC2 file frame by frame; it appears under its name when it is whole.

    Args:
        path: The file.
        point_count: Points of each frame.
        frame_count: Frames that will be written.
    """

    def __init__(self, path: Path, point_count: int, frame_count: int) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".part")
        self._file = self._partial.open("wb")
        self._file.write(
            _POINT_CACHE_HEADER.pack(b"POINTCACHE2\0", 1, point_count, 0.0, 1.0, frame_count)
        )

    def write(self, points: NDArray[np.float32]) -> None:
        """Append a frame: (V, 3) float32."""
        self._file.write(np.ascontiguousarray(points).data)

    def finish(self) -> None:
        """Give the file its name."""
        self._file.close()
        self._partial.replace(self._path)

    def discard(self) -> None:
        """Leave nothing behind; after `finish` this does nothing."""
        self._file.close()
        self._partial.unlink(missing_ok=True)


def add_point_cache(
    mesh_object: bpy.types.Object, path: str, frame_start: int
) -> bpy.types.MeshCacheModifier:
    """Have an object play a point cache, without the extension too.

    Args:
        mesh_object: Its mesh has as many vertices as the cache has points.
        path: As Blender stores it, `//` for relative.
        frame_start: Frame of Blender's scene that shows the first frame of the cache.
    """
    modifier = mesh_object.modifiers.new("Point Cache", "MESH_CACHE")
    modifier.cache_format = "PC2"
    modifier.filepath = path
    modifier.frame_start = frame_start
    # Vertices of two frames are not the same points of the world: nothing lies between them.
    modifier.interpolation = "NONE"
    return modifier
