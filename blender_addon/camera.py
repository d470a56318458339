# SPDX-License-Identifier: GPL-3.0-or-later
"""From an animated Blender camera to a trajectory: what Blender would render, frame by frame."""

from collections.abc import Iterator
from contextlib import contextmanager

import bpy
import numpy as np
from mathutils import Matrix

from . import axes, camera_binding, shots
from ._vendor.errors import InputError
from ._vendor.protocol.documents import CameraPose, TrajectoryDocument

#: How far two lengths may differ, and an angle from 90 degrees (as a cosine), to pass as rounding.
_TOLERANCE = 1e-3


def sample_trajectory(
    context: bpy.types.Context,
    shot: bpy.types.Object,
    camera: bpy.types.Object | None = None,
    *,
    frame_start: int | None = None,
    frame_end: int | None = None,
    frame_step: int = 1,
    width_px: int | None = None,
    height_px: int | None = None,
) -> TrajectoryDocument:
    """Sample the camera frame by frame as Blender evaluates it: animation, constraints, parents.

    The picture is framed as Blender would frame it at a resolution of `width_px` x `height_px`
    with the pixel aspect of the scene. Before the clip's first frame and after its last one, the
    trajectory looks at that frame, as playback does.

    Args:
        context: Its scene is stepped through the frames and put back.
        shot: The shot's object; may be placed, turned and scaled evenly.
        camera: Where absent, the one of each frame: `camera_binding.camera_at`. Past the range of
            the take, where another shot's may follow, the last one stays.
        frame_start: First frame; `shots.take_frames` where absent.
        frame_end: Last frame; both must be given to replace it.
        frame_step: Every how many frames there is a pose.
        width_px: Of the output; the clip's size where it or the height is absent.
        height_px: As above.

    Raises:
        InputError: `camera_missing`, `camera_type`, `camera_skewed`, `shot_skewed` or
            `range_empty`.
    """
    properties = shot.ex4d_shot
    scene = context.scene
    # A view layer learns of new objects when it is next evaluated.
    context.view_layer.update()
    if width_px is None or height_px is None:
        width_px, height_px = int(properties.width_px), int(properties.height_px)
    if frame_start is None or frame_end is None:
        frame_start, frame_end = shots.take_frames(context, shot)
    if camera is None:
        cameras = _cameras_by_frame(context, shot, frame_start, frame_end)
    else:
        cameras = [required_camera(context, shot, camera)] * (frame_end - frame_start + 1)
    frames = range(frame_start, frame_end + 1, frame_step)
    poses: list[CameraPose] = []
    with frame_and_camera_kept(scene):
        for frame, seen_through in zip(frames, cameras[::frame_step], strict=True):
            scene.frame_set(frame)
            poses.append(evaluated_pose(context, shot, seen_through, width_px, height_px))
    return TrajectoryDocument(width_px=width_px, height_px=height_px, poses=tuple(poses))


@contextmanager
def frame_and_camera_kept(scene: bpy.types.Scene) -> Iterator[None]:
    """Show the scene's present frame again at the end, through the camera that it has now.

    Markers switch the camera on each frame that is set, the present one included, and not back to
    one that no marker binds.
    """
    frame, subframe, active_camera = scene.frame_current, scene.frame_subframe, scene.camera
    try:
        yield
    finally:
        scene.frame_set(frame, subframe=subframe)
        scene.camera = active_camera


def show_frame_again(scene: bpy.types.Scene) -> None:
    """Evaluate the present frame anew, after keys have changed."""
    with frame_and_camera_kept(scene):
        pass


def _cameras_by_frame(
    context: bpy.types.Context, shot: bpy.types.Object, frame_start: int, frame_end: int
) -> list[bpy.types.Object]:
    found: list[bpy.types.Object] = []
    for stretch in camera_binding.stretches(context.scene, shot, frame_start, frame_end):
        camera = stretch.camera
        if found and camera_binding.is_of_another_shot(camera, shot):
            camera = found[-1]
        found += [required_camera(context, shot, camera)] * (stretch.last - stretch.first + 1)
    return found


def required_camera(
    context: bpy.types.Context, shot: bpy.types.Object, camera: bpy.types.Object | None
) -> bpy.types.Object:
    """The camera, if a take can see through it.

    Raises:
        InputError: `camera_missing` or `camera_type`.
    """
    if camera is None or context.view_layer.objects.get(camera.name) != camera:
        found = "none" if camera is None else f"{camera.name} outside it"
        message = (
            f"expected a camera for {shot.name} in the view layer, found {found}; choose one in "
            "the panel, or bind one to the markers"
        )
        raise InputError("camera_missing", message)
    if camera.type != "CAMERA":
        message = f"expected a camera, found {camera.name} bound by a marker; bind a camera"
        raise InputError("camera_type", message)
    return camera


def evaluated_pose(
    context: bpy.types.Context,
    shot: bpy.types.Object,
    camera: bpy.types.Object,
    width_px: int,
    height_px: int,
) -> CameraPose:
    """A camera as Blender evaluates it at the scene's present frame.

    Args:
        context: Its scene says the frame and the pixel aspect.
        shot: The pose is relative to it.
        camera: Of the pose.
        width_px: Of the output.
        height_px: Of the output.

    Raises:
        InputError: `camera_type`, `camera_skewed` or `shot_skewed`.
    """
    depsgraph, scene, clip = context.evaluated_depsgraph_get(), context.scene, shot.ex4d_shot
    evaluated = camera.evaluated_get(depsgraph)
    fx_px, fy_px, cx_px, cy_px = intrinsics_px(evaluated.data, scene.render, width_px, height_px)
    cam_to_world = axes.cam_to_world(_pose_in_shot(evaluated, shot.evaluated_get(depsgraph)))
    source_time = scene.frame_current - clip.frame_start
    return CameraPose(
        cam_to_world=tuple(value for row in cam_to_world[:3] for value in row),
        fx_px=fx_px,
        fy_px=fy_px,
        cx_px=cx_px,
        cy_px=cy_px,
        source_time=min(max(source_time, 0), clip.frame_count - 1),
    )


def intrinsics_px(
    camera: bpy.types.Camera, render: bpy.types.RenderSettings, width_px: int, height_px: int
) -> tuple[float, float, float, float]:
    """Focal lengths and principal point of a Blender camera: fx, fy, cx, cy in pixels.

    The origin is the top-left corner of the image. Only the pixel aspect is taken from `render`.

    Raises:
        InputError: `camera_type` if it is not a perspective camera.
    """
    if camera.type != "PERSP":
        message = (
            f"expected a perspective camera, found {camera.name} of type {camera.type}: takes are "
            "made with straight rays through one point; set the camera's type to Perspective"
        )
        raise InputError("camera_type", message)
    # AUTO takes the sensor's width for the longer side, whichever it is.
    sensor_mm = camera.sensor_height if camera.sensor_fit == "VERTICAL" else camera.sensor_width
    side_px = fitted_side_px(camera, render, width_px, height_px)
    tallness = render.pixel_aspect_y / render.pixel_aspect_x
    fx_px = camera.lens / sensor_mm * side_px
    return (
        fx_px,
        fx_px / tallness,
        width_px / 2 - camera.shift_x * side_px,
        height_px / 2 + camera.shift_y * side_px / tallness,
    )


def fitted_side_px(
    camera: bpy.types.Camera, render: bpy.types.RenderSettings, width_px: int, height_px: int
) -> float:
    """The side of an image that the camera's sensor covers, in widths of a pixel.

    Pixels may not be square; only their aspect is taken from `render`.
    """
    tallness = render.pixel_aspect_y / render.pixel_aspect_x
    is_wide = {
        "AUTO": width_px >= height_px * tallness,
        "HORIZONTAL": True,
        "VERTICAL": False,
    }[camera.sensor_fit]
    return width_px if is_wide else height_px * tallness


def _pose_in_shot(camera: bpy.types.Object, shot: bpy.types.Object) -> Matrix:
    """Pose of a camera relative to the shot, both evaluated, in the shot's own units."""
    if not _is_similarity(shot.matrix_world):
        message = (
            f"expected {shot.name} to be scaled evenly, found it stretched, sheared or mirrored; "
            "give it the same positive scale on all axes, and its parents too"
        )
        raise InputError("shot_skewed", message)
    # The scale of a camera does not change its picture.
    camera_to_world = camera.matrix_world.normalized()
    if not _is_similarity(camera_to_world):
        message = (
            f"expected {camera.name} to have axes at right angles, found it sheared or mirrored "
            "by its parents; scale them evenly"
        )
        raise InputError("camera_skewed", message)
    location, rotation, _ = (shot.matrix_world.inverted() @ camera_to_world).decompose()
    return Matrix.LocRotScale(location, rotation, None)


def _is_similarity(matrix: Matrix) -> bool:
    """Whether a 4x4 matrix turns, moves and scales evenly, and does nothing else."""
    linear = np.array(matrix.to_3x3(), dtype=np.float64)
    lengths = np.linalg.norm(linear, axis=0)
    if lengths.min() <= 0 or lengths.max() > lengths.min() * (1 + _TOLERANCE):
        return False
    unit = linear / lengths
    skew = np.abs(unit.T @ unit - np.eye(3)).max()
    return bool(skew <= _TOLERANCE and np.linalg.det(unit) > 0)
