# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving previews of takes in the making, in front of the shot's camera; never part of a file."""

import time

import bpy
import numpy as np
from numpy.typing import NDArray

from . import camera_binding, camera_pictures, scene_jobs, shot_ids, strips
from ._vendor.client import Preview
from ._vendor.protocol.messages import GenerateJob
from .jobs import Job, JobBoard, Stage
from .redraw import redraw_views

FRAMES_PER_S = 8.0


class PreviewPlayer:
    """Plays the newest preview of each shot in a loop."""

    def __init__(self) -> None:
        #: What each shot shows, by `_mark`: the preview, and which frame of it.
        self._shown: dict[str, tuple[Preview, int]] = {}

    def advance(self, jobs: JobBoard) -> None:
        """Show the frames that are due; remove what has none any more."""
        wanted = {_mark(shot): (job, shot, preview) for job, shot, preview in _previews(jobs)}
        if self._shown.keys() - wanted.keys():
            # Those of other shots come back right below.
            camera_pictures.remove_all()
            self._shown.clear()
        beat = int(time.monotonic() * FRAMES_PER_S)
        changed = False
        for mark, (job, shot, preview) in wanted.items():
            picture = (preview, beat % preview.frame_count)
            image = camera_pictures.find(mark)
            if image is not None and tuple(image.size) != (preview.width_px, preview.height_px):
                camera_pictures.remove([image])
                image = None
            if image is None:
                image = _make_image(job, shot, preview)
            elif self._shown.get(mark) == picture:
                continue
            image.pixels.foreach_set(frame_pixels(*picture).ravel())
            image.update()
            self._shown[mark] = picture
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


def _previews(jobs: JobBoard) -> list[tuple[Job, bpy.types.Object, Preview]]:
    """Jobs that run and have a preview that shall be shown, with their shot and it."""
    found: list[tuple[Job, bpy.types.Object, Preview]] = []
    for job in jobs:
        record, remote = job.record, job.remote
        if not record.shot_name or job.stage is not Stage.ACTIVE or remote is None:
            continue
        scene = scene_jobs.find_scene(job.scene_uid)
        if remote.preview is None or scene is None or not scene.ex4d_generate.show_preview:
            continue
        shot = shot_ids.find(scene.objects, record.shot_id, record.shot_name)
        if shot is not None:
            found.append((job, shot, remote.preview))
    return found


def _mark(shot: bpy.types.Object) -> str:
    # Of an object: a scene that was copied whole has shots with the same ids.
    return str(shot.session_uid)


def _make_image(job: Job, shot: bpy.types.Object, preview: Preview) -> bpy.types.Image:
    """Make the image of a shot and hang it in front of the cameras that the take sees through."""
    name = f"EX-4D Preview {shot.name}"
    image = bpy.data.images.new(name, preview.width_px, preview.height_px)
    image[camera_pictures.MARK] = _mark(shot)
    scene = scene_jobs.find_scene(job.scene_uid)
    request, step = job.record.request, job.record.frame_step
    if scene is not None and isinstance(request, GenerateJob):
        first = strips.first_frame(shot, request.trajectory, step)
        last = first + (len(request.trajectory.poses) - 1) * step
        for camera_data in camera_binding.cameras_between(scene, shot, first, last):
            camera_pictures.hang(image, camera_data, scene.render)
    return image
