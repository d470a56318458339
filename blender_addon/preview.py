# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving previews of takes in the making, in front of the shot's camera; never part of a file.

All that is made here carries a mark, so that it is found and removed whatever undo, redo or a file
brings back. Nothing refers to Blender's data between two calls: undo would pull it away.
"""

import time

import bpy
import numpy as np
from numpy.typing import NDArray

from . import camera, scene_jobs
from ._vendor.client import Preview
from .jobs import Job, JobBoard, Stage
from .redraw import redraw_views

FRAMES_PER_S = 8.0
#: Custom property of our images: the name of the shot.
MARK = "ex4d_preview"
#: Custom property of cameras whose background images were switched on here.
SWITCHED = "ex4d_preview_switched"


class PreviewPlayer:
    """Plays the newest preview of each shot in a loop."""

    def __init__(self) -> None:
        #: What each shot shows: the preview, and which frame of it.
        self._shown: dict[str, tuple[Preview, int]] = {}

    def advance(self, jobs: JobBoard) -> None:
        """Show the frames that are due; remove what has none any more."""
        wanted = {job.record.shot_name: (job, preview) for job, preview in _previews(jobs)}
        if self._shown.keys() - wanted.keys():
            # Those of other shots come back right below.
            remove_all()
            self._shown.clear()
        beat = int(time.monotonic() * FRAMES_PER_S)
        changed = False
        for shot_name, (job, preview) in wanted.items():
            picture = (preview, beat % preview.frame_count)
            image = _find_image(shot_name)
            if image is not None and tuple(image.size) != (preview.width_px, preview.height_px):
                _remove([image])
                image = None
            if image is None:
                image = _make_image(job, preview)
            elif self._shown.get(shot_name) == picture:
                continue
            image.pixels.foreach_set(frame_pixels(*picture).ravel())
            image.update()
            self._shown[shot_name] = picture
            changed = True
        if changed:
            redraw_views("WINDOW")


def frame_pixels(preview: Preview, index: int) -> NDArray[np.float32]:
    """(height, width, 4) float32 in 0..1, the bottom row first as Blender has it."""
    shape = (preview.height_px, preview.width_px, 3)
    count = preview.height_px * preview.width_px * 3
    rgb = np.frombuffer(preview.pixels, np.uint8, count, index * count).reshape(shape)
    rgba = np.ones((*shape[:2], 4), np.float32)
    np.divide(rgb[::-1], np.float32(255), out=rgba[..., :3])
    return rgba


def remove_all() -> None:
    """Leave nothing of any preview in the open file."""
    _remove([image for image in bpy.data.images if MARK in image and image.library is None])


def _previews(jobs: JobBoard) -> list[tuple[Job, Preview]]:
    """Jobs that run and have a preview that shall be shown, with it."""
    found: list[tuple[Job, Preview]] = []
    for job in jobs:
        shot_name, remote = job.record.shot_name, job.remote
        if not shot_name or job.stage is not Stage.ACTIVE or remote is None:
            continue
        scene = scene_jobs.find_scene(job.scene_uid)
        if (
            remote.preview is not None
            and scene is not None
            and scene.ex4d_generate.show_preview
            and shot_name in scene.objects
        ):
            found.append((job, remote.preview))
    return found


def _find_image(shot_name: str) -> bpy.types.Image | None:
    image = bpy.data.images.get(_image_name(shot_name))
    if image is not None and image.get(MARK) == shot_name:
        return image
    # Renamed, or the name was taken or is too long.
    return next((image for image in bpy.data.images if image.get(MARK) == shot_name), None)


def _image_name(shot_name: str) -> str:
    return f"EX-4D Preview {shot_name}"


def _make_image(job: Job, preview: Preview) -> bpy.types.Image:
    """Make the image of a shot and hang it in front of the shot's camera."""
    shot_name = job.record.shot_name
    image = bpy.data.images.new(_image_name(shot_name), preview.width_px, preview.height_px)
    image[MARK] = shot_name
    scene = scene_jobs.find_scene(job.scene_uid)
    shot = None if scene is None else scene.objects.get(shot_name)
    if scene is not None and shot is not None and shot.ex4d_shot.camera is not None:
        _hang(image, shot.ex4d_shot.camera.data, scene.render)
    return image


def _hang(
    image: bpy.types.Image, camera_data: bpy.types.Camera, render: bpy.types.RenderSettings
) -> None:
    """Show an image through a camera, where that changes nothing else."""
    if camera_data.library is not None or camera_data.override_library is not None:
        # What belongs to another file is not changed.
        return
    if not camera_data.show_background_images:
        if any(slot.show_background_image for slot in camera_data.background_images):
            # The user has switched these off together; they would come into view.
            return
        camera_data.show_background_images = True
        camera_data[SWITCHED] = True
    slot = camera_data.background_images.new()
    slot.image = image
    slot.alpha = 1.0
    # Behind, the scene itself would hide it.
    slot.display_depth = "FRONT"
    slot.frame_method = "FIT"
    slot.show_expanded = False
    width_px, height_px = image.size
    image.display_aspect = (render.pixel_aspect_x, render.pixel_aspect_y)
    slot.scale = fit_scale(camera_data, render, width_px, height_px)


def fit_scale(
    camera_data: bpy.types.Camera,
    render: bpy.types.RenderSettings,
    width_px: int,
    height_px: int,
) -> float:
    """How much larger than fitted into the camera's frame a take lies right upon the scene.

    A take of another aspect than the render's sees less than the frame, or more.

    Args:
        camera_data: The camera of both.
        render: Size and pixel aspect of the frame.
        width_px: Of the take, or in the same proportion to its height.
        height_px: As above.
    """
    frame_width_px, frame_height_px = render.resolution_x, render.resolution_y
    view_width = width_px / camera.fitted_side_px(camera_data, render, width_px, height_px)
    frame_view_width = frame_width_px / camera.fitted_side_px(
        camera_data, render, frame_width_px, frame_height_px
    )
    # Of the frame's width, what the picture covers when it is fitted into the frame.
    fitted_width = min(1.0, width_px * frame_height_px / (height_px * frame_width_px))
    return view_width / frame_view_width / fitted_width


def _remove(images: list[bpy.types.Image]) -> None:
    """Remove images of ours and what shows them."""
    if not images:
        return
    for camera_data in bpy.data.cameras:
        if camera_data.library is not None:
            continue
        slots = camera_data.background_images
        for slot in [slot for slot in slots if slot.image in images]:
            slots.remove(slot)
        if SWITCHED in camera_data and not any(slot.image and MARK in slot.image for slot in slots):
            del camera_data[SWITCHED]
            # Otherwise the user has added some in the meantime.
            if not any(slot.show_background_image for slot in slots):
                camera_data.show_background_images = False
    for image in images:
        bpy.data.images.remove(image)


def register() -> None:
    """Nothing to do before the first preview."""


def unregister() -> None:
    """Remove what is shown."""
    remove_all()
