# SPDX-License-Identifier: GPL-3.0-or-later
"""The way from the source camera into the artist's path: the EX-4D model continues a whole frame.

The lead-in is ordinary keys over the first frames of a take, which slide from the source camera
into the path that is there, and meet it where they end.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import bpy
import numpy as np
from mathutils import Euler, Matrix, Quaternion, Vector

from . import camera_binding, camera_moves, compat
from ._vendor.errors import Ex4dError, InputError
from .camera import show_frame_again
from .shots import NeedsShot, active_shot, take_frames

#: A camera shows the source's own view if that moves no pixel farther; as the server has it.
SAME_VIEW_PX = 0.1
DEFAULT_FRAMES = 8


@dataclass(frozen=True)
class CameraState:
    """A camera at one frame."""

    #: Relative to the shot.
    matrix: Matrix
    lens_mm: float


def is_plain(shot: bpy.types.Object, camera: bpy.types.Object | None) -> bool:
    """Whether a camera's F-curves alone say where it is: no constraints, drivers or rigs."""
    if camera is None or camera.type != "CAMERA":
        return False
    if camera.parent != shot or camera.parent_type != "OBJECT":
        return False
    if any(not constraint.mute for constraint in camera.constraints):
        return False
    return not any(
        owner.animation_data is not None
        and (_moves_it(owner.animation_data.drivers) or len(owner.animation_data.nla_tracks))
        for owner in (camera, camera.data)
    )


def _moves_it(drivers: bpy.types.bpy_prop_collection) -> bool:
    # A take behind the camera may have one, which changes nothing else.
    return any(not curve.data_path.startswith("background_images") for curve in drivers)


def state_at(camera: bpy.types.Object, frame: float) -> CameraState:
    """Where a camera hangs and what lens it has at a frame, from its F-curves alone.

    Nothing is evaluated, so that panels may ask; right where `is_plain` holds.
    """
    location = Vector(camera.location)
    euler = Euler(camera.rotation_euler, camera.rotation_euler.order)
    quaternion = Quaternion(camera.rotation_quaternion)
    axis_angle = list(camera.rotation_axis_angle)
    channels = {
        "location": location,
        "rotation_euler": euler,
        "rotation_quaternion": quaternion,
        "rotation_axis_angle": axis_angle,
    }
    for curve in compat.fcurves_of(camera):
        if curve.data_path in channels and not curve.mute:
            channels[curve.data_path][curve.array_index] = curve.evaluate(frame)
    if camera.rotation_mode == "QUATERNION":
        rotation = quaternion.normalized()
    elif camera.rotation_mode == "AXIS_ANGLE":
        rotation = Quaternion(axis_angle[1:], axis_angle[0])
    else:
        rotation = euler.to_quaternion()
    lens_mm = camera.data.lens
    for curve in compat.fcurves_of(camera.data):
        if curve.data_path == "lens" and not curve.mute:
            lens_mm = curve.evaluate(frame)
    basis = Matrix.LocRotScale(location, rotation, None)
    return CameraState(camera.matrix_parent_inverse @ basis, lens_mm)


def offset_px(shot: bpy.types.Object, state: CameraState) -> float:
    """How far a camera moves the pixels of the source's view, about; 0 at the source camera.

    As the server computes it, but for the distance of what is nearest, for which the pivot's is
    taken.
    """
    clip = shot.ex4d_shot
    source = state_at(clip.source_camera, clip.frame_start)
    between = source.matrix.inverted() @ state.matrix
    focal_px = state.lens_mm / clip.source_camera.data.sensor_width * clip.width_px
    turned = np.abs(np.array(between.to_3x3()) - np.eye(3)).max()
    moved = max(abs(value) for value in between.translation) / clip.radius
    widened = max(0.0, source.lens_mm / state.lens_mm - 1.0) * clip.width_px / 2
    return float(max(turned * focal_px, moved * focal_px, widened))


def starts_elsewhere(context: bpy.types.Context, shot: bpy.types.Object) -> bool:
    """Whether the take's first frame is known not to be the source's own view."""
    try:
        first, _ = take_frames(context, shot)
    except InputError:
        return False
    camera = camera_binding.camera_at(context.scene, shot, first)
    if shot.ex4d_shot.source_camera is None or not is_plain(shot, camera):
        return False
    return offset_px(shot, state_at(camera, first)) > SAME_VIEW_PX


def write_lead_in(
    shot: bpy.types.Object, camera: bpy.types.Object, frame_start: int, frame_count: int
) -> int:
    """Key a camera from the source camera into its own path.

    Keys from `frame_start` on are set anew, since a key amid a curve would bend what follows it;
    the path after the lead-in stays what it was within `camera_moves.TOLERANCE`.

    Args:
        shot: The camera's shot.
        camera: As of `camera_moves.checked_camera`.
        frame_start: Frame of the source's view.
        frame_count: Frames until the path is met.

    Returns:
        Number of keys of the camera's place and rotation.

    Raises:
        InputError: `camera_constrained`.
    """
    clip = shot.ex4d_shot
    if not is_plain(shot, camera):
        message = (
            f"expected {camera.name} to be moved by its own keys, found constraints, drivers or "
            "NLA tracks; bake its action first (Object > Animation > Bake Action)"
        )
        raise InputError("camera_constrained", message)
    origin = state_at(clip.source_camera, clip.frame_start)
    path: list[Matrix] = []
    lenses_mm: list[float] = []
    frames = range(frame_start, max(frame_start + frame_count, _last_key(camera)) + 1)
    # Noise on top of the keys stays on top of them.
    with _without_modifiers(camera):
        states = [state_at(camera, frame) for frame in frames]
    for index, state in enumerate(states):
        share = min(1.0, index / frame_count)
        # Rest at the source, the path's own speed at the end.
        share = share * share * (3.0 - 2.0 * share)
        location, rotation, _ = origin.matrix.decompose()
        end_location, end_rotation, _ = state.matrix.decompose()
        pose = Matrix.LocRotScale(
            location.lerp(end_location, share), rotation.slerp(end_rotation, share), None
        )
        path.append(camera.matrix_parent_inverse.inverted() @ pose)
        lenses_mm.append(origin.lens_mm + (state.lens_mm - origin.lens_mm) * share)
    return camera_moves.write_path(
        camera, path, frame_start, lenses_mm, radius=clip.radius, rests=(True, False)
    )


def _last_key(camera: bpy.types.Object) -> int:
    frames = [
        point.co[0]
        for owner in (camera, camera.data)
        for curve in compat.fcurves_of(owner)
        for point in curve.keyframe_points
    ]
    return round(max(frames, default=0.0))


@contextmanager
def _without_modifiers(camera: bpy.types.Object) -> Iterator[None]:
    modifiers = [
        modifier
        for owner in (camera, camera.data)
        for curve in compat.fcurves_of(owner)
        for modifier in curve.modifiers
        if not modifier.mute
    ]
    for modifier in modifiers:
        modifier.mute = True
    try:
        yield
    finally:
        for modifier in modifiers:
            modifier.mute = False


class EX4D_OT_add_lead_in(NeedsShot, bpy.types.Operator):
    """Key the first frames of the take from the source camera into the camera's path"""

    bl_idname = "ex4d.add_lead_in"
    bl_label = "Add Lead-In"
    bl_options = {"REGISTER", "UNDO"}

    frame_count: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Frames",
        description="How many frames the camera takes from the source's view into its path",
        min=1,
        max=48,
        default=DEFAULT_FRAMES,
    )

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Write the keys and show the current frame again."""
        shot = active_shot(context)
        if shot is None:
            return {"CANCELLED"}
        try:
            first, last = take_frames(context, shot)
            count = min(self.frame_count, last - first)
            if count < 1:
                message = (
                    "expected at least two frames for a lead-in, found one; lengthen the scene's "
                    "range"
                )
                raise InputError("lead_in_short", message)
            camera = camera_binding.camera_at(context.scene, shot, first)
            keyed = camera_moves.checked_camera(shot, camera)
            key_count = write_lead_in(shot, keyed, first, count)
        except Ex4dError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        show_frame_again(context.scene)
        self.report({"INFO"}, f"{key_count} keys from frame {first} to {first + count}")
        return {"FINISHED"}


register, unregister = bpy.utils.register_classes_factory((EX4D_OT_add_lead_in,))
