# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes with camera moves: where their pivot lies, and noise on top of them."""

from dataclasses import dataclass

import bpy
from mathutils import Vector

from . import camera_binding, camera_moves, compat, picking
from ._vendor.errors import InputError
from .camera import show_frame_again
from .ops_connection import OperatorBase
from .shots import NeedsShot, active_shot, take_frames

#: Name of the modifiers of ours: a second shake takes the first one's place.
MODIFIER = "EX-4D Shake"
#: Frames over which the noise comes in, so that the take starts at the camera's own place.
_BLEND_IN_FRAMES = 8.0


@dataclass(frozen=True)
class Shake:
    """Noise of a camera; an operator's breath and step, or an engine's tremble."""

    label: str
    description: str
    #: Frames from one swing to the next.
    period_frames: float
    #: Largest turn, in radians, and shift, in multiples of the pivot's distance.
    turn_rad: float
    shift: float


SHAKES = {
    "HANDHELD": Shake("Handheld", "Slow and small, as held by a person", 18.0, 0.008, 0.006),
    "SHAKE": Shake("Shake", "Fast and rough, as in a car", 4.0, 0.015, 0.01),
}
_PRESETS = tuple((name, shake.label, shake.description) for name, shake in SHAKES.items())
_ORIGINS = (
    ("CURSOR", "3D Cursor", "Where the 3D cursor is; Shift + right click sets it on the mesh"),
    ("OBJECT", "Active Object", "Where the active object's origin is"),
    ("POINT", "Point on the Mesh", "Where you click on the mesh in a 3D view"),
)


class _OnShot(NeedsShot, OperatorBase):
    def execute(self, context: bpy.types.Context) -> set[str]:
        """Do it, or report why not."""
        return self.reported(lambda: self.work(context, active_shot(context)))

    def work(self, context: bpy.types.Context, shot: bpy.types.Object) -> None:
        """What it is about."""
        raise NotImplementedError


class EX4D_OT_set_pivot(picking.PicksOnMesh, _OnShot):
    """Choose the point that orbits turn around, and whose distance the other moves go by"""

    bl_idname = "ex4d.set_pivot"
    bl_label = "Set Pivot"
    bl_options = {"REGISTER", "UNDO"}

    origin: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Pivot", description="Where the pivot is", items=_ORIGINS
    )
    point: bpy.props.FloatVectorProperty(  # type: ignore[valid-type]
        name="Point",
        description="In the world; counts for a point on the mesh alone",
        subtype="XYZ",
        options={"HIDDEN", "SKIP_SAVE"},
    )

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """Wait for a click where a point of the mesh is wanted."""
        if self.origin != "POINT":
            return self.execute(context)
        return self.begin_picking(context, "Pivot")

    def picked(self, context: bpy.types.Context, point: Vector) -> set[str]:
        """Take the point."""
        self.end_picking(context)
        self.point = point
        return self.execute(context)

    def work(self, context: bpy.types.Context, shot: bpy.types.Object) -> None:
        """Keep the pivot relative to the source camera, from which moves begin."""
        x, depth, z = shot.matrix_world.inverted() @ self._place(context)
        # The shot's y axis is the source camera's view.
        if depth <= 1e-6:
            message = (
                "expected the pivot ahead of the source camera, found it beside or behind; move it"
            )
            raise InputError("pivot_behind", message)
        shot.ex4d_shot.radius, shot.ex4d_shot.pivot_offset = depth, (x, z)

    def _place(self, context: bpy.types.Context) -> Vector:
        if self.origin == "CURSOR":
            return context.scene.cursor.location
        if self.origin == "OBJECT" and context.active_object is not None:
            return context.active_object.matrix_world.translation
        if self.origin == "POINT" and self.properties.is_property_set("point"):
            return Vector(self.point)
        found = "an active object" if self.origin == "OBJECT" else "a point of the mesh"
        raise InputError("pivot_missing", f"expected {found}, found none; click on one")


class EX4D_OT_add_shake(_OnShot):
    """Add noise on top of the camera's keys, as modifiers of its curves; it starts from rest"""

    bl_idname = "ex4d.add_shake"
    bl_label = "Add Shake"
    bl_options = {"REGISTER", "UNDO"}

    preset: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Kind", description="What the noise is like", items=_PRESETS
    )
    strength: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Strength",
        description="How far the camera swings; 1 is the preset's amount",
        min=0.0,
        soft_max=3.0,
        max=20.0,
        default=1.0,
    )

    def work(self, context: bpy.types.Context, shot: bpy.types.Object) -> None:
        """Write the modifiers and show the current frame again."""
        clip, shake = shot.ex4d_shot, SHAKES[self.preset]
        first, _ = take_frames(context, shot)
        bound = camera_binding.camera_at(context.scene, shot, first)
        camera = camera_moves.checked_camera(shot, bound)
        if camera.rotation_mode == "QUATERNION":
            # Half the angle; w stays, since small turns do not need it.
            turns = [("rotation_quaternion", index, shake.turn_rad / 2) for index in (1, 2, 3)]
        elif camera.rotation_mode == "AXIS_ANGLE":
            message = (
                f"expected Euler angles or a quaternion, found {camera.name} with Axis Angle; "
                "change its rotation mode"
            )
            raise InputError("rotation_mode", message)
        else:
            turns = [("rotation_euler", index, shake.turn_rad) for index in range(3)]
        shifts = [("location", index, shake.shift * clip.radius) for index in range(3)]
        for place, (data_path, index, size) in enumerate((*turns, *shifts)):
            curve = compat.ensure_fcurve(camera, data_path, index)
            if not curve.keyframe_points:
                # Noise adds to keys: without one it would add to 0.
                value = getattr(camera, data_path)[index]
                curve.keyframe_points.insert(first, value)
            for old in [item for item in curve.modifiers if item.name.startswith(MODIFIER)]:
                curve.modifiers.remove(old)
            noise = curve.modifiers.new("NOISE")
            noise.name = MODIFIER
            noise.scale = shake.period_frames
            # Blender's noise goes from -1/2 to 1/2 of its strength.
            noise.strength = 2.0 * size * self.strength
            # Each curve another part of the noise.
            noise.phase = 10.0 + 17.0 * place
            noise.use_restricted_range = True
            noise.frame_start, noise.frame_end = first, 1_000_000.0
            noise.blend_in = _BLEND_IN_FRAMES
        show_frame_again(context.scene)


register, unregister = bpy.utils.register_classes_factory((EX4D_OT_set_pivot, EX4D_OT_add_shake))
