# SPDX-License-Identifier: GPL-3.0-or-later
"""Small pictures of takes for panels.

Blender reads them in a thread of its own when they are first drawn, made small, so that no panel
waits for a file.
"""

# Blender 4.5 renamed the classes of strips, so that annotations must not be evaluated.
from __future__ import annotations

import bpy
import bpy.utils.previews  # pyright: ignore[reportMissingImports] - the stubs lack it

#: Where Blender keeps them; a collection that is not removed again makes Blender complain.
_pictures: bpy.utils.previews.ImagePreviewCollection | None = None


def icon_of(take: bpy.types.Strip) -> int:
    """The icon of a take; 0 where Blender has no windows.

    It shows the last frame: the first is the source's own, and so the same for all takes.
    """
    if _pictures is None or not len(take.elements):
        return 0
    last = take.elements[len(take.elements) - 1].filename
    path = bpy.path.abspath(f"{take.directory}{last}")
    found = _pictures.get(path)
    return (found or _pictures.load(path, path, "IMAGE")).icon_id


def clear() -> None:
    """Let go of the pictures of the last file."""
    if _pictures is not None:
        _pictures.clear()


def register() -> None:
    """Make room for them."""
    global _pictures  # noqa: PLW0603 - must be there to draw files before any other state is
    _pictures = bpy.utils.previews.new()


def unregister() -> None:
    """Let go of them."""
    global _pictures  # noqa: PLW0603 - as above
    if _pictures is not None:
        bpy.utils.previews.remove(_pictures)
        _pictures = None
