# SPDX-License-Identifier: GPL-3.0-or-later
"""Which camera a take sees through on each frame: markers on the timeline switch it, as in renders.

Nothing is evaluated or changed, so that panels may ask.
"""

from typing import NamedTuple

import bpy


class Stretch(NamedTuple):
    """Consecutive frames, both ends included, with one camera; None: the shot has lost its own."""

    first: int
    last: int
    camera: bpy.types.Object | None


def bound_camera(scene: bpy.types.Scene, frame: int) -> bpy.types.Object | None:
    """The camera that Blender makes the scene's own on a frame; None where no marker binds one.

    As `BKE_scene_camera_switch_find` has it: the last marker up to the frame, before the first one
    the first; of several on one frame the oldest; cameras that are hidden in renders do not count.
    """
    bound: dict[int, bpy.types.Object] = {}
    for marker in scene.timeline_markers:
        if marker.camera is not None and not marker.camera.hide_render:
            bound.setdefault(marker.frame, marker.camera)
    if not bound:
        return None
    return bound[max((at for at in bound if at <= frame), default=min(bound))]


def camera_at(
    scene: bpy.types.Scene, shot: bpy.types.Object, frame: int
) -> bpy.types.Object | None:
    """The camera of a take on a frame: what a marker binds, otherwise the shot's own."""
    return bound_camera(scene, frame) or shot.ex4d_shot.camera


def stretches(
    scene: bpy.types.Scene, shot: bpy.types.Object, first: int, last: int
) -> list[Stretch]:
    """The frames from `first` to `last` by the camera that a take sees through."""
    cuts = {marker.frame for marker in scene.timeline_markers if first < marker.frame <= last}
    starts = [first, *sorted(cuts)]
    found: list[Stretch] = []
    for start, end in zip(starts, [*(start - 1 for start in starts[1:]), last], strict=True):
        camera = camera_at(scene, shot, start)
        if found and found[-1].camera == camera:
            found[-1] = found[-1]._replace(last=end)
        else:
            found.append(Stretch(start, end, camera))
    return found


def is_of_another_shot(camera: bpy.types.Object | None, shot: bpy.types.Object) -> bool:
    """Whether a camera hangs from a shot, but not from this one."""
    while camera is not None and not camera.ex4d_shot.is_shot:
        camera = camera.parent
    return camera is not None and camera != shot
