# SPDX-License-Identifier: GPL-3.0-or-later
"""Points of a shot's mesh, clicked in a 3D view."""

import contextlib
from typing import ClassVar

import bpy
from bpy_extras import view3d_utils
from mathutils import Vector

from .shots import active_shot


class _Prompt:
    """What the status bar of a workspace asks for."""

    #: Not of the operators: Blender 4.2 as a Python module crashes at its exit where a base of a
    #: class that it knows annotates what is no property.
    newest: ClassVar["_Prompt | None"] = None

    def __init__(self, workspace: bpy.types.WorkSpace) -> None:
        self._workspace = workspace

    def ask(self, what: str) -> None:
        hint = f"{what}: click on the mesh; Esc or right click to cancel"
        self._workspace.status_text_set(hint)

    def end(self) -> None:
        # The workspace may have been deleted.
        with contextlib.suppress(ReferenceError):
            self._workspace.status_text_set(None)


class PicksOnMesh:
    """What modal operators share that take clicks on the mesh; all else is left to Blender.

    Of several, the newest gets the clicks; it ends the others.
    """

    def begin_picking(self, context: bpy.types.Context, what: str) -> set[str]:
        """Wait for clicks; what `invoke` returns."""
        if _Prompt.newest is not None:
            _Prompt.newest.end()
        # The workspace may be another by the time that it ends.
        self._prompt = _Prompt.newest = _Prompt(context.workspace)
        self.ask_for(what)
        context.window.cursor_modal_set("CROSSHAIR")
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def ask_for(self, what: str) -> None:
        """Say in the status bar what the next click is for."""
        self._prompt.ask(what)

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Take clicks on the mesh in a 3D view."""
        if self._prompt is not _Prompt.newest:
            return {"CANCELLED"}
        if event.type in {"ESC", "RIGHTMOUSE"}:
            self.end_picking(context)
            return {"CANCELLED"}
        if event.type != "LEFTMOUSE" or event.value != "PRESS":
            return {"PASS_THROUGH"}
        region = _view_at(context, event.mouse_x, event.mouse_y)
        if region is None:
            return {"PASS_THROUGH"}
        point = _picked_point(context, event.mouse_x, event.mouse_y, region)
        return {"RUNNING_MODAL"} if point is None else self.picked(context, point)

    def picked(self, context: bpy.types.Context, point: Vector) -> set[str]:
        """Go on with a point in the world; what `modal` returns. Calls `end_picking` at the end."""
        raise NotImplementedError

    def cancel(self, context: bpy.types.Context) -> None:
        """Put everything back when Blender ends it."""
        self.end_picking(context)

    def end_picking(self, context: bpy.types.Context) -> None:
        """Give status bar and pointer back, where a newer one does not have them."""
        if self._prompt is not _Prompt.newest:
            return
        self._prompt.end()
        _Prompt.newest = None
        context.window.cursor_modal_restore()


def _view_at(context: bpy.types.Context, mouse_x: int, mouse_y: int) -> bpy.types.Region | None:
    """The 3D view under the pointer, one of four in a quad view; None over all else."""
    for area in context.screen.areas:
        if area.type == "VIEW_3D":
            under = [
                region
                for region in area.regions
                if region.x <= mouse_x < region.x + region.width
                and region.y <= mouse_y < region.y + region.height
            ]
            # Others lie over the main region.
            if [region.type for region in under] == ["WINDOW"]:
                return under[0]
    return None


def _picked_point(
    context: bpy.types.Context, mouse_x: int, mouse_y: int, region: bpy.types.Region
) -> Vector | None:
    """The point of the active shot's mesh under the pointer, in the world; None beside it."""
    shot = active_shot(context)
    view = region.data
    if shot is None or not isinstance(view, bpy.types.RegionView3D):
        return None
    place = (mouse_x - region.x, mouse_y - region.y)
    origin = view3d_utils.region_2d_to_origin_3d(region, view, place)
    direction = view3d_utils.region_2d_to_vector_3d(region, view, place)
    return point_on_ray(context, shot, origin, direction)


def point_on_ray(
    context: bpy.types.Context, shot: bpy.types.Object, origin: Vector, direction: Vector
) -> Vector | None:
    """Where a ray first meets the shot's mesh as shown; all in the world."""
    depsgraph = context.evaluated_depsgraph_get()
    hit, point, _, _, found, _ = context.scene.ray_cast(depsgraph, origin, direction)
    properties = shot.ex4d_shot
    parts = (properties.mesh, properties.proxy)
    return point if hit and found is not None and found.original in parts else None
