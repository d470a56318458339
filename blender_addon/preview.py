# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving previews of takes in the making, in front of the shot's camera; never part of a file."""

import time

import bpy
import numpy as np
from numpy.typing import NDArray

from . import camera_pictures, scene_jobs
from ._vendor.client import Preview
from .jobs import Job, JobBoard, Stage
from .redraw import redraw_views

FRAMES_PER_S = 8.0


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
            camera_pictures.remove_all()
            self._shown.clear()
        beat = int(time.monotonic() * FRAMES_PER_S)
        changed = False
        for shot_name, (job, preview) in wanted.items():
            picture = (preview, beat % preview.frame_count)
            image = camera_pictures.find(shot_name)
            if image is not None and tuple(image.size) != (preview.width_px, preview.height_px):
                camera_pictures.remove([image])
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


def _image_name(shot_name: str) -> str:
    return f"EX-4D Preview {shot_name}"


def _make_image(job: Job, preview: Preview) -> bpy.types.Image:
    """Make the image of a shot and hang it in front of the shot's camera."""
    shot_name = job.record.shot_name
    image = bpy.data.images.new(_image_name(shot_name), preview.width_px, preview.height_px)
    image[camera_pictures.MARK] = shot_name
    scene = scene_jobs.find_scene(job.scene_uid)
    shot = None if scene is None else scene.objects.get(shot_name)
    if scene is not None and shot is not None and shot.ex4d_shot.camera is not None:
        camera_pictures.hang(image, shot.ex4d_shot.camera.data, scene.render)
    return image
