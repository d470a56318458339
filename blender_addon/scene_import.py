# SPDX-License-Identifier: GPL-3.0-or-later
"""A finished scene becomes objects: in small steps, so that Blender stays usable meanwhile.

First everything that playback needs is written to the folder `blender` inside the scene's: point
caches and the marked frames, frame by frame. Blender's data changes only in the last steps, since
undo and other edits may come between any two steps.
"""

import shutil
import zlib
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix
from numpy.typing import NDArray

from . import axes, dwmesh, field_of_view, material, pictures, shot_ids
from ._vendor.errors import InputError
from ._vendor.protocol.documents import PinholeIntrinsics
from .scene_files import CACHE_FOLDER, SceneFiles, stored_path

#: Of Blender's full-frame cameras, in millimetres.
_SENSOR_MM = 36.0
#: Blender's own limit.
_MIN_LENS_MM = 1.0


@dataclass(frozen=True)
class _Part:
    """One of the mesh objects of a shot."""

    #: `Mesh`, `Proxy` or `Surround`.
    label: str
    pixels: dwmesh.PixelMesh
    #: File in the cache folder.
    cache_name: str


def import_scene(
    _context: bpy.types.Context,
    folder: Path,
    *,
    proxy_step: int = 2,
    frame_start: int | None = None,
) -> Generator[float, None, bpy.types.Object]:
    """Import a finished scene step by step.

    Nothing of the scene's own settings changes. Dropping the generator before its end leaves
    Blender's data as it was.

    Args:
        _context: The generator asks `bpy.context` at each step, since contexts do not last.
        folder: The scene's.
        proxy_step: Every how many pixels the proxy has a vertex; 1 for no proxy.
        frame_start: Frame that shows the clip's first; the scene's first frame where absent.

    Yields:
        Share of the work that is done, 0..1.

    Returns:
        The shot: an empty that everything hangs from.

    Raises:
        InputError: `scene_invalid`, `scene_small`, `image_invalid` or `lens_wide`.
        OSError: If the scene's folder cannot be written to.
    """
    scene = SceneFiles(folder)
    intrinsics = scene.document.intrinsics
    parts = _parts(intrinsics, proxy_step)
    lens_mm = _lens_mm(intrinsics)
    frame_count = scene.document.frame_count
    # Building the objects takes about as long as two frames.
    total = frame_count + 2
    yield 0.0
    first_points: list[NDArray[np.float32]] = []
    for index, points in enumerate(_write_cache(scene, parts)):
        if index == 0:
            first_points = points
        yield (index + 1) / total
    mesh_uids: list[int] = []
    try:
        for part, points in zip(parts, first_points, strict=True):
            name = f"{scene.document.name} {part.label}"
            mesh_uids.append(dwmesh.create_mesh(name, part.pixels.faces, points).session_uid)
            yield (frame_count + 1) / total
        for part, mesh_uid in zip(parts, mesh_uids, strict=True):
            uvs = part.pixels.corner_uvs(intrinsics.width_px, intrinsics.height_px)
            dwmesh.complete_mesh(_find_meshes([mesh_uid])[0], uvs)
            yield (frame_count + 1.5) / total
        builder = _ShotBuilder(bpy.context.scene, scene, frame_start)
        for part, mesh in zip(parts, _find_meshes(mesh_uids), strict=True):
            builder.add_part(part, mesh)
        builder.add_cameras(lens_mm)
        return builder.finish()
    finally:
        # Undo between two steps may have taken some away already.
        for mesh in [mesh for mesh in bpy.data.meshes if mesh.session_uid in mesh_uids]:
            if mesh.users == 0:
                bpy.data.meshes.remove(mesh)


def _parts(intrinsics: PinholeIntrinsics, proxy_step: int) -> list[_Part]:
    width_px, height_px = intrinsics.width_px, intrinsics.height_px
    parts = [
        _Part("Mesh", dwmesh.inner_mesh(width_px, height_px, 1), "mesh.pc2"),
        _Part("Surround", dwmesh.surround_mesh(width_px, height_px), "surround.pc2"),
    ]
    if proxy_step > 1:
        pixels = dwmesh.inner_mesh(width_px, height_px, proxy_step)
        parts.append(_Part("Proxy", pixels, f"proxy_{proxy_step}.pc2"))
    return parts


def _write_cache(scene: SceneFiles, parts: list[_Part]) -> Iterator[list[NDArray[np.float32]]]:
    """Write the marked frames and the point caches; yields each frame's points of each part."""
    document = scene.document
    folder = scene.folder / CACHE_FOLDER
    marked_folder = folder / "marked"
    marked_folder.mkdir(parents=True, exist_ok=True)
    for painted in folder.glob("marked_*"):
        # By other fields of view, perhaps of other depth.
        shutil.rmtree(painted, ignore_errors=True)
    rays = [part.pixels.rays(document.intrinsics) for part in parts]
    with ExitStack() as stack:
        writers: list[dwmesh.PointCacheWriter] = []
        for part in parts:
            writer = dwmesh.PointCacheWriter(
                folder / part.cache_name, len(part.pixels.rows), document.frame_count
            )
            stack.callback(writer.discard)
            writers.append(writer)
        for index in range(document.frame_count):
            depth = scene.depth(index)
            all_points: list[NDArray[np.float32]] = []
            for part, part_rays, writer in zip(parts, rays, writers, strict=True):
                points = part_rays * depth[part.pixels.rows, part.pixels.columns, None]
                writer.write(points)
                all_points.append(points)
            frame, occluded = scene.frame(index), scene.occluded(index)
            picture = material.mark(frame, occluded)
            path = marked_file(scene.folder, index)
            pictures.write_png(path, picture)
            hidden = frame[material.is_marked(picture)]
            hidden_file(path).write_bytes(zlib.compress(hidden.tobytes(), level=1))
            yield all_points
        for writer in writers:
            writer.finish()


def marked_file(folder: Path, index: int, zoom: float = 1.0) -> Path:
    """Where frame `index` lies with what was never seen painted over.

    Args:
        folder: The scene's.
        index: Counted from 0.
        zoom: Of the field of view that the marks are for: see `field_of_view.zoom_of`.
    """
    name = "marked" if zoom == 1.0 else f"marked_{zoom:.6f}"
    return folder / CACHE_FOLDER / name / f"{index + 1:04d}.png"


def hidden_file(marked: Path) -> Path:
    """Where the colours lie that a marked picture of the import hides."""
    return marked.with_suffix(".hidden")


def _find_meshes(session_uids: list[int]) -> list[bpy.types.Mesh]:
    """Look meshes up again: references to Blender's data do not outlive a step."""
    found = {mesh.session_uid: mesh for mesh in bpy.data.meshes}
    if not found.keys() >= set(session_uids):
        message = "expected the new meshes to be there still, found them undone; import again"
        raise InputError("import_undone", message)
    return [found[uid] for uid in session_uids]


def _lens_mm(intrinsics: PinholeIntrinsics) -> float:
    lens_mm = intrinsics.fx_px / intrinsics.width_px * _SENSOR_MM
    if lens_mm < _MIN_LENS_MM:
        message = (
            f"expected a focal length of at least {_MIN_LENS_MM / _SENSOR_MM:.3f} times the "
            f"clip's width, found {intrinsics.fx_px / intrinsics.width_px:.3f}; check the lens"
        )
        raise InputError("lens_wide", message)
    return lens_mm


class _ShotBuilder:
    """Adds the objects of a shot to a Blender scene."""

    def __init__(
        self, blender_scene: bpy.types.Scene, scene: SceneFiles, frame_start: int | None
    ) -> None:
        document = scene.document
        self._scene = scene
        self._blender_scene = blender_scene
        self._frame_start = blender_scene.frame_start if frame_start is None else frame_start
        self._collection = bpy.data.collections.new(document.name)
        blender_scene.collection.children.link(self._collection)
        self.root = bpy.data.objects.new(document.name, None)
        self.root.empty_display_size = document.nearest_depth_first_frame / 4
        self._collection.objects.link(self.root)
        self._properties = self.root.ex4d_shot
        self._properties.clip_image = self._load(scene.file("frames", 0))
        self._properties.marked_image = self._load(marked_file(scene.folder, 0))
        self._clip_material = material.create_clip_material(
            document.name,
            self._properties.marked_image,
            document.frame_count,
            self._frame_start,
        )
        self._unseen_material = material.create_unseen_material(f"{document.name} Unseen")

    def add_part(self, part: _Part, mesh: bpy.types.Mesh) -> None:
        """Add one of the mesh objects, playing its cache."""
        is_surround = part.label == "Surround"
        mesh.materials.append(self._unseen_material if is_surround else self._clip_material)
        mesh_object = self._add_object(part.label, mesh)
        cache = self._scene.folder / CACHE_FOLDER / part.cache_name
        dwmesh.add_point_cache(mesh_object, stored_path(cache), self._frame_start)
        # Clicks belong to the artist's own objects.
        mesh_object.hide_select = True
        # The switches of the shot show the other two.
        mesh_object.hide_viewport = mesh_object.hide_render = part.label != "Mesh"
        setattr(self._properties, part.label.lower(), mesh_object)

    def add_cameras(self, lens_mm: float) -> None:
        """Add the camera that filmed the clip, and one at the same pose for the artist."""
        source = self._add_camera("Source Camera", lens_mm)
        for name in ("lock_location", "lock_rotation", "lock_scale"):
            setattr(source, name, (True, True, True))
        self._properties.source_camera = source
        self._properties.camera = self._add_camera("Camera", lens_mm)

    def finish(self) -> bpy.types.Object:
        """Note what the shot consists of, and make it the active one of the scene."""
        document = self._scene.document
        properties = self._properties
        properties.frame_count = document.frame_count
        properties.frame_rate = document.frame_rate.numerator / document.frame_rate.denominator
        properties.width_px = document.intrinsics.width_px
        properties.height_px = document.intrinsics.height_px
        # Wide pixels: fewer of them make the same focal length.
        properties.pixel_aspect = document.intrinsics.fy_px / document.intrinsics.fx_px
        properties.is_metric = document.depth.unit == "metres"
        angle_rad = field_of_view.long_side_rad(document.intrinsics)
        properties.scene_field_of_view = properties.field_of_view = angle_rad
        properties.radius = document.nearest_depth_first_frame
        properties.frame_start = self._frame_start
        properties.is_shot = True
        self._blender_scene.ex4d.shot = self.root
        shot_ids.ensure()
        shot_ids.adopt_orphans(self._blender_scene, self.root)
        return self.root

    def _load(self, first_file: Path) -> bpy.types.Image:
        image = material.load_sequence(first_file)
        image.filepath = stored_path(first_file)
        return image

    def _add_camera(self, label: str, lens_mm: float) -> bpy.types.Object:
        document = self._scene.document
        intrinsics = document.intrinsics
        width_px, height_px = intrinsics.width_px, intrinsics.height_px
        data = bpy.data.cameras.new(f"{document.name} {label}")
        data.sensor_fit = "HORIZONTAL"
        data.sensor_width = _SENSOR_MM
        data.lens = lens_mm
        # In widths of the picture; a shift to the right moves the picture to the left.
        data.shift_x = (width_px / 2 - intrinsics.cx_px) / width_px
        tallness = intrinsics.fx_px / intrinsics.fy_px
        data.shift_y = (intrinsics.cy_px - height_px / 2) * tallness / width_px
        data.clip_start = min(0.1, document.nearest_depth / 100)
        data.clip_end = max(1000.0, 10 * document.mesh.border_depth)
        data.display_size = document.nearest_depth_first_frame / 4
        camera = self._add_object(label, data)
        camera.matrix_basis = axes.camera_in_shot(Matrix())
        return camera

    def _add_object(self, label: str, data: bpy.types.ID) -> bpy.types.Object:
        new_object = bpy.data.objects.new(data.name, data)
        new_object.parent = self.root
        self._collection.objects.link(new_object)
        return new_object
