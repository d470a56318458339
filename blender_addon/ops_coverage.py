# SPDX-License-Identifier: GPL-3.0-or-later
"""Check Coverage: a curve of what the video never saw, markers at the worst frames, warnings."""

import hashlib
import math
from collections.abc import Callable

import bpy
import numpy as np

from . import camera_binding, compat, coverage, coverage_result, lead_in, ops_jobs, runtime
from ._vendor.errors import InputError
from .coverage_result import MOSTLY
from .ops_connection import StartOperator
from .shots import NeedsShot, active_shot, required_shot, sampled_frames, take_frames
from .sidebar import Sidebar
from .sliced_work import SlicedWork
from .wording import draw_text

#: EX-4D was trained on turns of up to this (arXiv 2506.05554).
TRAINED_ANGLE_RAD = math.pi / 2
#: What sets one noise modifier apart from another.
_NOISE = ("strength", "scale", "phase", "offset")
#: What a camera's picture depends on beside its place and its lens.
_VIEW = ("type", "shift_x", "shift_y", "sensor_fit", "sensor_width", "sensor_height")


def path_signature(context: bpy.types.Context, shot: bpy.types.Object) -> str:
    """Changes with the cameras' keys, place, lens, range or size; cheap enough for drawing."""
    scene = context.scene
    stretches = camera_binding.stretches(scene, shot, scene.frame_start, scene.frame_end)
    digest = hashlib.blake2b(digest_size=16)
    for stretch in stretches:
        digest.update(repr(stretch[:2]).encode())
        if stretch.camera is not None:
            _add_camera(digest, stretch.camera)
    chosen, clip, render = scene.ex4d_generate, shot.ex4d_shot, scene.render
    size = (chosen.engine, chosen.size, chosen.width_px, chosen.height_px, chosen.length)
    range_of_scene = (scene.frame_start, scene.frame_end, scene.frame_step)
    frames = (*range_of_scene, clip.frame_start, clip.frame_count)
    view = (
        *(render.resolution_x, render.resolution_y, render.resolution_percentage),
        *(render.pixel_aspect_x, render.pixel_aspect_y, clip.field_of_view),
    )
    digest.update(repr((view, size, frames, clip.folder)).encode())
    return digest.hexdigest()


def _add_camera(digest: "hashlib.blake2b", camera: bpy.types.Object) -> None:
    animated = set()
    for owner in (camera, camera.data):
        for curve in compat.fcurves_of(owner):
            animated.add((curve.data_path, curve.array_index))
            points = np.empty(len(curve.keyframe_points) * 2, dtype=np.float32)
            for name in ("co", "handle_left", "handle_right"):
                curve.keyframe_points.foreach_get(name, points)
                digest.update(points.tobytes())
            modifiers = [
                [getattr(item, name, None) for name in ("type", "mute", "influence", *_NOISE)]
                for item in curve.modifiers
            ]
            digest.update(f"{curve.data_path}{curve.array_index}{curve.mute}{modifiers}".encode())
    fixed = [
        value
        for name in ("location", "rotation_euler", "rotation_quaternion")
        for index, value in enumerate(getattr(camera, name))
        if (name, index) not in animated
    ]
    data = camera.data
    lens = None if ("lens", 0) in animated else getattr(data, "lens", None)
    view = [getattr(data, name, None) for name in _VIEW]
    digest.update(repr((camera.name, camera.rotation_mode, fixed, lens, view)).encode())


def path_angle_rad(shot: bpy.types.Object, stretches: list[camera_binding.Stretch]) -> float:
    """The largest angle between the cameras' views and the source's, from a few frames' keys."""
    clip = shot.ex4d_shot
    source = lead_in.state_at(clip.source_camera, clip.frame_start).matrix.to_quaternion()
    angles = []
    for stretch in stretches:
        for frame in np.linspace(stretch.first, stretch.last, 13):
            rotation = lead_in.state_at(stretch.camera, float(frame)).matrix.to_quaternion()
            forward = (source.inverted() @ rotation).to_matrix()[2][2]
            angles.append(math.acos(min(1.0, max(-1.0, forward))))
    return max(angles)


def warnings(context: bpy.types.Context, shot: bpy.types.Object) -> list[str]:
    """What speaks against this camera path, as far as it is known: fast, reads no file."""
    found = []
    try:
        first, last = take_frames(context, shot)
    except InputError:
        return []
    stretches = camera_binding.stretches(context.scene, shot, first, last)
    cameras = [stretch.camera for stretch in stretches]
    if None in (*cameras, shot.ex4d_shot.source_camera):
        return ["The shot's camera was deleted; choose one"]
    if all(lead_in.is_plain(shot, camera) for camera in cameras):
        angle_rad = path_angle_rad(shot, stretches)
        if angle_rad > TRAINED_ANGLE_RAD + 1e-3:
            found.append(f"Turns {math.degrees(angle_rad):.0f} degrees; trained for up to 90")
    found += [
        f"A marker cuts to {camera.name} at {start}: a take is one picture that goes on"
        for start, _, camera in stretches[1:]
        if camera is not None
    ]
    result = current_result(context, shot)
    if result is not None:
        if result.behind:
            found.append(
                f"The camera is inside the mesh in {len(result.behind)} frames, first at "
                f"{result.behind[0]}"
            )
        mostly = sum(share > MOSTLY for share in result.unseen)
        if mostly:
            found.append(
                f"{mostly} of {len(result.unseen)} frames are mostly unseen, most at "
                f"{result.worst_frame}"
            )
    return found


def current_result(context: bpy.types.Context, shot: bpy.types.Object) -> coverage.Coverage | None:
    """The last measurement, if the path is still the one that was measured."""
    current = runtime.peek()
    check = None if current is None else current.coverage
    if check is None or check.shot_uid != shot.session_uid:
        return None
    result = check.work.result
    return result if result and result.signature == path_signature(context, shot) else None


def _is_rigged(context: bpy.types.Context, shot: bpy.types.Object) -> bool:
    scene = context.scene
    stretches = camera_binding.stretches(scene, shot, scene.frame_start, scene.frame_end)
    return not all(lead_in.is_plain(shot, stretch.camera) for stretch in stretches)


class EX4D_OT_check_coverage(NeedsShot, StartOperator):
    """Measure how much of each frame the video never saw, and mark the worst frames"""

    bl_idname = "ex4d.check_coverage"
    bl_label = "Check Coverage"
    # No UNDO: writing the curve, which comes later, makes the undo step.
    bl_options = {"REGISTER"}

    def start(self, context: bpy.types.Context) -> Callable[[], None]:
        """Sample the path and begin; a check that is under way is dropped."""
        shot = required_shot(context)
        trajectory = ops_jobs.take_trajectory(context, shot)
        check = coverage.CoverageCheck(
            context.scene.session_uid,
            shot.session_uid,
            SlicedWork(
                coverage.measure(
                    coverage.mesh_of(shot),
                    trajectory,
                    sampled_frames(context, shot),
                    path_signature(context, shot),
                )
            ),
        )
        runtime.get().coverage = check
        return lambda: _finish(check)


def _finish(check: coverage.CoverageCheck) -> None:
    while not check.work.is_over:
        coverage_result.advance(check)
    if check.work.error is not None:
        raise check.work.error


class EX4D_PT_coverage(Sidebar, bpy.types.Panel):
    """What is known of the path before anything is sent."""

    bl_label = "Before Generate"
    bl_idname = "EX4D_PT_coverage"
    bl_parent_id = "EX4D_PT_generate"

    def draw(self, context: bpy.types.Context) -> None:
        """Draw the measurement or how far it is; the panel above shows its warnings."""
        shot = active_shot(context)
        if shot is None:
            return
        layout = self.layout
        current = runtime.peek()
        check = None if current is None else current.coverage
        if check is not None and check.shot_uid == shot.session_uid:
            self._draw_check(context, shot, check)
        layout.operator("ex4d.check_coverage", icon="HIDE_OFF")
        layout.prop(context.scene.ex4d_generate, "show_condition")
        if current is not None and current.condition.error is not None:
            draw_text(layout, current.condition.error.message, icon="ERROR")

    def _draw_check(self, context, shot, check: coverage.CoverageCheck) -> None:
        layout = self.layout
        work = check.work
        if work.error is not None:
            draw_text(layout, work.error.message, icon="ERROR")
        elif work.result is None:
            layout.progress(factor=work.fraction, text="Measuring")
        elif current_result(context, shot) is None:
            layout.label(text="The path has changed since it was checked", icon="INFO")
        else:
            found = work.result
            layout.label(
                text=f"Unseen: {np.mean(found.unseen):.0%} on average, "
                f"{max(found.unseen):.0%} at {found.worst_frame}"
            )
            if _is_rigged(context, shot):
                draw_text(layout, "The camera is rigged: check again when the rig has changed")


register, unregister = bpy.utils.register_classes_factory(
    (EX4D_OT_check_coverage, EX4D_PT_coverage)
)
