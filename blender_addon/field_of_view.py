# SPDX-License-Identifier: GPL-3.0-or-later
"""Another field of view for an imported shot, without depth being made again.

Depth stays; only the rays spread. In the shot's axes (x right, y away from the source camera, z up)
a focal length `zoom` times as long brings every point to (x / zoom, y, z / zoom): a scale of the
mesh objects, which also holds for every frame of their point caches.
"""

import hashlib
import math
from pathlib import Path

import bpy
import msgspec

from . import camera_binding, compat
from ._vendor.errors import InputError
from ._vendor.protocol.documents import PinholeIntrinsics
from .scene_files import CACHE_FOLDER, DOCUMENT_NAME, SceneFiles

MIN_RAD, MAX_RAD = math.radians(0.1), math.radians(175.0)


def long_side_rad(intrinsics: PinholeIntrinsics) -> float:
    """The angle along the longer side, in radians."""
    spread = max(intrinsics.width_px / intrinsics.fx_px, intrinsics.height_px / intrinsics.fy_px)
    return 2 * math.atan(spread / 2)


def zoom_of(shot: bpy.types.PropertyGroup) -> float:
    """How many times as long the shot's focal length is as that of the scene's files.

    1 for shots that were imported before they knew their field of view.
    """
    if shot.scene_field_of_view <= 0:
        return 1.0
    return math.tan(shot.scene_field_of_view / 2) / math.tan(shot.field_of_view / 2)


def zoomed(intrinsics: PinholeIntrinsics, zoom: float) -> PinholeIntrinsics:
    """The same with a focal length that many times as long."""
    return msgspec.structs.replace(
        intrinsics, fx_px=intrinsics.fx_px * zoom, fy_px=intrinsics.fy_px * zoom
    )


def apply(shot: bpy.types.PropertyGroup) -> None:
    """Bring mesh, pivot and cameras to the field of view that the shot's properties ask for."""
    zoom = zoom_of(shot)
    for mesh_object in (shot.mesh, shot.proxy, shot.surround):
        if mesh_object is not None:
            mesh_object.scale = (1 / zoom, 1.0, 1 / zoom)
    change = zoom / shot.applied_zoom
    shot.applied_zoom = zoom
    # The pivot stays on what it was set on.
    shot.pivot_offset = [value / change for value in shot.pivot_offset]
    cameras = (*camera_binding.hanging_cameras(shot.id_data), shot.source_camera, shot.camera)
    lenses = {camera.data for camera in cameras if camera is not None}
    for lens in lenses:
        lens.lens *= change
        for curve in compat.fcurves_of(lens):
            if curve.data_path == "lens":
                _scale_keys(curve, change)


def _scale_keys(curve: bpy.types.FCurve, change: float) -> None:
    for key in curve.keyframe_points:
        # Moving a point moves its handles along, so they are set after it.
        left, right = key.handle_left.y, key.handle_right.y
        key.co.y *= change
        key.handle_left.y, key.handle_right.y = left * change, right * change
    curve.update()


def changed_document(folder: Path, sha256: str) -> Path:
    """Where the document of a changed field of view lies that has this hash."""
    return folder / CACHE_FOLDER / f"scene_{sha256[:16]}.json"


def scene_document_file(shot: bpy.types.PropertyGroup, folder: Path) -> Path:
    """The `scene.json` that a take of the shot is made with.

    A changed field of view gets a document of its own beside the scene's caches, named by its
    content; depth and frames stay the same files, so that the server gets nothing else anew.

    Raises:
        InputError: `scene_invalid` if the scene's own document cannot be read, or `scene_folder`
            if nothing can be written to its folder.
    """
    zoom = zoom_of(shot)
    if zoom == 1.0:
        return folder / DOCUMENT_NAME
    document = SceneFiles(folder).document
    replace = msgspec.structs.replace
    changed = replace(
        document,
        intrinsics=zoomed(document.intrinsics, zoom),
        depth=replace(document.depth, focal_source="user"),
    )
    text = msgspec.json.format(msgspec.json.encode(changed), indent=1)
    path = changed_document(folder, hashlib.sha256(text).hexdigest())
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text)
    except OSError as error:
        message = f"expected to write {path}, found: {error.strerror}; permit it"
        raise InputError("scene_folder", message) from error
    return path
