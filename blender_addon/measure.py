# SPDX-License-Identifier: GPL-3.0-or-later
"""A distance that the artist knows gives a shot its scale."""

import bpy
from bpy_extras import view3d_utils
from mathutils import Vector

from ._vendor.errors import InputError
from .ops_connection import OperatorBase
from .shots import NeedsShot, active_shot

_HINT = "{}: click on the mesh; Esc or right click to cancel"


class EX4D_OT_scale_to_distance(NeedsShot, OperatorBase):
    """Scale the whole shot so that two points lie as far apart as they do in the world"""

    bl_idname = "ex4d.scale_to_distance"
    bl_label = "Scale to Distance"
    bl_options = {"REGISTER", "UNDO"}

    first: bpy.props.FloatVectorProperty(name="First Point", subtype="XYZ", options={"HIDDEN"})
    second: bpy.props.FloatVectorProperty(name="Second Point", subtype="XYZ", options={"HIDDEN"})
    distance: bpy.props.FloatProperty(
        name="Distance",
        description="How far apart the two points are in the world",
        subtype="DISTANCE",
        min=1e-4,
        max=1e6,
        default=1.0,
    )

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """Ask for the distance."""
        self.distance = (Vector(self.first) - Vector(self.second)).length
        return context.window_manager.invoke_props_dialog(self)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Scale the shot."""
        return self.reported(lambda: self._scale(context))

    def _scale(self, context: bpy.types.Context) -> None:
        shot = active_shot(context)
        length = (Vector(self.first) - Vector(self.second)).length
        if shot is None or length < 1e-9:
            message = "expected two points apart from each other, found one; measure again"
            raise InputError("measure_points", message)
        factor = self.distance / length
        shot.scale = shot.scale * factor
        properties = shot.ex4d_shot
        for camera in {properties.source_camera, properties.camera}:
            if camera is not None and shot in _ancestors(camera):
                # What hangs from the shot comes along, but a camera's own lengths do not.
                camera.data.clip_start *= factor
                camera.data.clip_end *= factor
                camera.data.display_size *= factor


def _ancestors(found: bpy.types.Object) -> list[bpy.types.Object]:
    ancestors: list[bpy.types.Object] = []
    while found.parent is not None:
        found = found.parent
        ancestors.append(found)
    return ancestors


class EX4D_OT_measure(NeedsShot, bpy.types.Operator):
    """Click two points of the mesh and say how far apart they are; the whole shot is scaled"""

    bl_idname = "ex4d.measure"
    bl_label = "Measure"
    # No UNDO: the scaling makes the undo step.
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only with a shot, in the 3D view."""
        if not super().poll(context):
            return False
        if context.area is None or context.area.type != "VIEW_3D":
            cls.poll_message_set("Use it in the 3D view")
            return False
        return True

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """Wait for the first click."""
        self._points: list[Vector] = []
        context.workspace.status_text_set(_HINT.format("First point"))
        context.window.cursor_modal_set("CROSSHAIR")
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Take clicks on the mesh; leave all else to Blender."""
        if event.type in {"ESC", "RIGHTMOUSE"}:
            self._end(context)
            return {"CANCELLED"}
        if event.type != "LEFTMOUSE" or event.value != "PRESS":
            return {"PASS_THROUGH"}
        area = _view_at(context, event.mouse_x, event.mouse_y)
        if area is None:
            return {"PASS_THROUGH"}
        point = picked_point(context, event.mouse_x, event.mouse_y, area)
        if point is None:
            return {"RUNNING_MODAL"}
        self._points.append(point)
        if len(self._points) == 1:
            context.workspace.status_text_set(_HINT.format("Second point"))
            return {"RUNNING_MODAL"}
        self._end(context)
        first, second = self._points
        bpy.ops.ex4d.scale_to_distance("INVOKE_DEFAULT", first=first, second=second)
        return {"FINISHED"}

    def cancel(self, context: bpy.types.Context) -> None:
        """Put everything back when Blender ends it."""
        self._end(context)

    def _end(self, context: bpy.types.Context) -> None:
        context.workspace.status_text_set(None)
        context.window.cursor_modal_restore()


def _view_at(context: bpy.types.Context, mouse_x: int, mouse_y: int) -> bpy.types.Area | None:
    """The 3D view under the pointer; None over its sidebar, another editor or a menu."""
    for area in context.screen.areas:
        if area.type == "VIEW_3D":
            under = {
                region.type
                for region in area.regions
                if region.x <= mouse_x < region.x + region.width
                and region.y <= mouse_y < region.y + region.height
            }
            # Others lie over the main region.
            if under == {"WINDOW"}:
                return area
    return None


def picked_point(
    context: bpy.types.Context, mouse_x: int, mouse_y: int, area: bpy.types.Area
) -> Vector | None:
    """The point of the active shot's mesh under the pointer, in the world; None beside it."""
    shot = active_shot(context)
    region = next((region for region in area.regions if region.type == "WINDOW"), None)
    if shot is None or region is None:
        return None
    place = (mouse_x - region.x, mouse_y - region.y)
    view = area.spaces.active.region_3d
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


register, unregister = bpy.utils.register_classes_factory(
    (EX4D_OT_scale_to_distance, EX4D_OT_measure)
)
