# SPDX-License-Identifier: GPL-3.0-or-later
"""Which camera a take sees through on each frame: markers on the timeline switch it, as in renders.

Nothing is evaluated or changed, so that panels may ask.
"""

import bisect
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
    bound = _bindings(scene)
    if not bound:
        return None
    place = bisect.bisect_right(bound, frame, key=lambda binding: binding[0])
    return bound[max(place - 1, 0)][1]


def camera_at(
    scene: bpy.types.Scene, shot: bpy.types.Object, frame: int
) -> bpy.types.Object | None:
    """The camera of a take on a frame: what a marker binds, otherwise the shot's own."""
    return bound_camera(scene, frame) or shot.ex4d_shot.camera


def stretches(
    scene: bpy.types.Scene, shot: bpy.types.Object, first: int, last: int
) -> list[Stretch]:
    """The frames from `first` to `last` by the camera that a take sees through."""
    found = [Stretch(first, last, camera_at(scene, shot, first))]
    for frame, camera in _bindings(scene):
        if first < frame <= last and camera != found[-1].camera:
            found[-1] = found[-1]._replace(last=frame - 1)
            found.append(Stretch(frame, last, camera))
    return found


def cameras_between(
    scene: bpy.types.Scene, shot: bpy.types.Object, first: int, last: int
) -> list[bpy.types.Camera]:
    """What a take of these frames is seen through, each once; cameras of other shots left out."""
    found = [
        stretch.camera.data
        for stretch in stretches(scene, shot, first, last)
        if stretch.camera is not None
        and stretch.camera.type == "CAMERA"
        and not is_of_another_shot(stretch.camera, shot)
    ]
    return list(dict.fromkeys(found))


def _bindings(scene: bpy.types.Scene) -> list[tuple[int, bpy.types.Object]]:
    """Frames from which on a camera is bound, in order."""
    bound: dict[int, bpy.types.Object] = {}
    for marker in scene.timeline_markers:
        if marker.camera is not None and not marker.camera.hide_render:
            bound.setdefault(marker.frame, marker.camera)
    return sorted(bound.items(), key=lambda binding: binding[0])


def hanging_cameras(shot: bpy.types.Object) -> list[bpy.types.Object]:
    """The cameras among what hangs from a shot, at whatever depth."""
    return [child for child in shot.children_recursive if child.type == "CAMERA"]


def is_of_another_shot(camera: bpy.types.Object | None, shot: bpy.types.Object) -> bool:
    """Whether a camera hangs from another shot, and was not chosen for this one."""
    if camera == shot.ex4d_shot.camera:
        return False
    while camera is not None and not camera.ex4d_shot.is_shot:
        camera = camera.parent
    return camera is not None and camera != shot
