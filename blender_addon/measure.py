# SPDX-License-Identifier: GPL-3.0-or-later
"""A distance that the artist knows gives a shot its scale."""

import bpy
from mathutils import Vector

from . import camera_binding, picking
from ._vendor.errors import InputError
from .ops_connection import OperatorBase
from .shots import NeedsShot, active_shot


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
        # What hangs from the shot comes along, but lengths of lenses, which copies share, do not.
        for data in {camera.data for camera in camera_binding.hanging_cameras(shot)}:
            data.clip_start *= factor
            data.clip_end *= factor
            data.display_size *= factor


class EX4D_OT_measure(picking.PicksOnMesh, NeedsShot, bpy.types.Operator):
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
        return self.begin_picking(context, "First point")

    def picked(self, context: bpy.types.Context, point: Vector) -> set[str]:
        """Ask for the second point, then for the distance."""
        self._points.append(point)
        if len(self._points) == 1:
            self.ask_for("Second point")
            return {"RUNNING_MODAL"}
        self.end_picking(context)
        first, second = self._points
        bpy.ops.ex4d.scale_to_distance("INVOKE_DEFAULT", first=first, second=second)
        return {"FINISHED"}


register, unregister = bpy.utils.register_classes_factory(
    (EX4D_OT_scale_to_distance, EX4D_OT_measure)
)
