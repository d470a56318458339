# SPDX-License-Identifier: GPL-3.0-or-later
"""A shot finds its scene's folder again after it was moved."""

from pathlib import Path

import bpy

from . import pump, runtime
from ._vendor.errors import InputError
from .ops_connection import OperatorBase
from .scene_files import CACHE_FOLDER, SceneFiles, stored_path
from .scene_import import marked_file
from .shots import NeedsShot, active_shot


class EX4D_OT_find_scene_folder(NeedsShot, OperatorBase):
    """Tell the shot where its scene's folder, with scene.json, lies now"""

    bl_idname = "ex4d.find_scene_folder"
    bl_label = "Find Scene Folder"
    bl_options = {"REGISTER", "UNDO"}

    directory: bpy.props.StringProperty(
        name="Folder", description="Where the scene lies now, with scene.json", subtype="DIR_PATH"
    )
    filter_folder: bpy.props.BoolProperty(default=True, options={"HIDDEN"})

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """Let the user choose the folder."""
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Look into the folder and link the shot to it."""
        shot = active_shot(context)
        if shot is None:
            return {"CANCELLED"}
        folder = Path(bpy.path.abspath(self.directory))
        return self.reported(lambda: relink(shot, folder))


def relink(shot: bpy.types.Object, folder: Path) -> None:
    """Link a shot to its scene's folder; nothing changes where it is the wrong one.

    Raises:
        InputError: `scene_invalid`, `scene_other` if it holds another scene, or `cache_missing`.
    """
    properties = shot.ex4d_shot
    document = SceneFiles(folder).document
    intrinsics = document.intrinsics
    found = (document.frame_count, intrinsics.width_px, intrinsics.height_px)
    expected = (properties.frame_count, properties.width_px, properties.height_px)
    if found != expected:
        message = (
            f"expected the scene of {shot.name}, {expected[0]} frames of {expected[1]} x "
            f"{expected[2]} px, found {found[0]} of {found[1]} x {found[2]} px; choose another"
        )
        raise InputError("scene_other", message)
    caches: list[tuple[bpy.types.MeshCacheModifier, Path]] = []
    for mesh_object in (properties.mesh, properties.proxy, properties.surround):
        if mesh_object is not None:
            for modifier in mesh_object.modifiers:
                if modifier.type == "MESH_CACHE":
                    # Blender's `//` and a path of Windows both end in the file's name.
                    name = modifier.filepath.replace("\\", "/").rsplit("/", 1)[-1]
                    caches.append((modifier, folder / CACHE_FOLDER / name))
    marked = marked_file(folder, 0)
    for path in (marked, *(path for _, path in caches)):
        if not path.is_file():
            message = f"expected {path} beside the scene, found none; import the scene again"
            raise InputError("cache_missing", message)
    for modifier, path in caches:
        modifier.filepath = stored_path(path)
    for image, path in (
        (properties.clip_image, folder / "frames" / "0001.png"),
        (properties.marked_image, marked),
    ):
        if image is not None:
            image.filepath = stored_path(path)
            image.reload()
    current = runtime.peek()
    if current is not None:
        # The marks just linked are those of the import's field of view.
        current.repainter.look()
        pump.wake()


register, unregister = bpy.utils.register_classes_factory((EX4D_OT_find_scene_folder,))
