# SPDX-License-Identifier: GPL-3.0-or-later
"""A scene's folder: what lies in it, checked, and how Blender stores the way to it."""

from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

from . import documents, pictures
from ._vendor.errors import InputError
from ._vendor.protocol.documents import SceneDocument

DOCUMENT_NAME = "scene.json"
#: Folder inside the scene's with what Blender plays.
CACHE_FOLDER = "blender"
_MAX_DOCUMENT_BYTES = 1 << 20
#: Folders of a scene with a file for each frame, and how these end.
SEQUENCES = {"frames": ".png", "depth": ".exr", "occluded": ".png"}


def read_document(folder: Path) -> bytes:
    """What a scene's `scene.json` holds.

    Raises:
        InputError: `scene_invalid` if there is none, or one that is too large.
    """
    return documents.read_document(
        folder / DOCUMENT_NAME, max_bytes=_MAX_DOCUMENT_BYTES, code="scene_invalid"
    )


def decode_document(folder: Path) -> SceneDocument:
    """What a scene's `scene.json` says.

    Raises:
        InputError: `scene_invalid` if there is none, or one that is no scene's.
    """
    return documents.decode_document(
        read_document(folder), SceneDocument, where=str(folder), code="scene_invalid"
    )


class SceneFiles:
    """A scene's folder, checked.

    Args:
        folder: With `scene.json` and all files that it promises.

    Raises:
        InputError: `scene_invalid` if something is missing or wrong.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.document = decode_document(folder)
        for sequence in SEQUENCES:
            for index in range(self.document.frame_count):
                path = self.file(sequence, index)
                if not path.is_file():
                    message = f"expected {path} in the scene, found none; copy the scene again"
                    raise InputError("scene_invalid", message)

    def file(self, sequence: str, index: int) -> Path:
        """File of frame `index`, counted from 0."""
        return self.folder / sequence / f"{index + 1:04d}{SEQUENCES[sequence]}"

    def depth(self, index: int) -> NDArray[np.float32]:
        """z-depth of frame `index`, the border pushed back: (height, width) float32.

        Raises:
            InputError: `image_invalid` or `scene_invalid` if the file is damaged.
        """
        path = self.file("depth", index)
        depth = self._read(path)[..., 0].copy()
        if not (np.isfinite(depth).all() and (depth > 0).all()):
            message = f"expected positive, finite depth in {path}, found other values"
            raise InputError("scene_invalid", message)
        border = self.document.mesh.border_depth
        depth[0, :] = depth[-1, :] = depth[:, 0] = depth[:, -1] = border
        return depth

    def frame(self, index: int) -> NDArray[np.uint8]:
        """Frame `index`: (height, width, 3) uint8 sRGB.

        Raises:
            InputError: `image_invalid` if the file is damaged.
        """
        pixels = self._read(self.file("frames", index))[..., :3]
        return np.rint(pixels * 255).astype(np.uint8)

    def occluded(self, index: int) -> NDArray[np.bool_]:
        """Which vertices of frame `index` are occluded: (height, width).

        Raises:
            InputError: `image_invalid` if the file is damaged.
        """
        return self._read(self.file("occluded", index))[..., 0] > 0.5

    def _read(self, path: Path) -> NDArray[np.float32]:
        intrinsics = self.document.intrinsics
        return pictures.read_pixels(path, intrinsics.width_px, intrinsics.height_px)


def stored_path(path: Path) -> str:
    """A path as the file stores it: relative once the file is saved, where a relative one exists.

    Blender makes absolute paths relative when a file is saved for the first time.
    """
    if not bpy.data.is_saved:
        return str(path)
    try:
        return bpy.path.relpath(str(path))
    except ValueError:
        # Another drive of Windows.
        return str(path)
