# SPDX-License-Identifier: GPL-3.0-or-later
"""The condition of the current frame over the camera view: what the engine is given of it.

Drawn as coverage is, in slices; the server draws the full one. While a newer picture is drawn, and
while frames pass in playback or in a render, none shows: an old one would lie.
"""

import time
from collections.abc import Generator
from dataclasses import dataclass

import bpy
import numpy as np
from numpy.typing import NDArray

from . import (
    camera,
    camera_binding,
    camera_pictures,
    coverage,
    drawing,
    material,
    scene_jobs,
)
from ._vendor.errors import Ex4dError, InputError
from ._vendor.protocol.documents import CameraPose, PinholeIntrinsics
from .imports import in_scene
from .redraw import redraw_views
from .shots import active_shot, scene_step, skipped_frames, take_frames
from .sliced_work import SlicedWork

#: The longer side of the picture.
SIDE_PX = 256
#: What the picture says of itself; previews have the number of a shot there.
_MARK = "EX-4D condition"
#: Rows of it that are coloured at once: about 2 ms.
_BAND_ROWS = 64


@dataclass(frozen=True)
class View:
    """All that a picture depends on."""

    scene_uid: int
    frame: int
    #: Whether a take begins at this frame.
    is_first: bool
    shot_name: str
    camera_name: str
    mesh: coverage.ShotMesh
    pose: CameraPose
    size_px: tuple[int, int]
    #: Of the picture before the camera: see `camera_pictures.fit_scale`.
    scale: float


class ConditionPlayer:
    """Keeps the picture that a scene asks for at its present frame."""

    def __init__(self) -> None:
        self._view: View | None = None
        #: Of `_view`.
        self._work: SlicedWork[NDArray[np.float32]] | None = None
        #: Why there is no view.
        self._problem: Ex4dError | None = None
        #: Whether `hide_old` hid the picture.
        self._is_hidden = False

    @property
    def is_drawing(self) -> bool:
        """Whether there is something to do."""
        work = self._work
        if work is None:
            return False
        # A picture is new, or an undo step or saving took it away.
        return not work.is_over or (work.result is not None and _find() is None)

    @property
    def error(self) -> Ex4dError | None:
        """Why there is no picture."""
        return self._problem if self._work is None else self._work.error

    def advance(self, deadline_s: float) -> bool:
        """Do what fits into the time; true if the panels must be drawn again.

        Args:
            deadline_s: Of `time.perf_counter`.
        """
        before = self.error
        view, problem = _wanted_view()
        if view != self._view:
            self._begin(view)
        if _words(problem) != _words(self._problem):
            self._problem = problem
        is_first = True
        while self.is_drawing and (is_first or time.perf_counter() < deadline_s - coverage.SLICE_S):
            # One at least: on a busy machine there would never be time.
            is_first = False
            self._step()
        if self._is_hidden:
            self._set_hidden(False)
        return self.error is not before

    def hide_old(self) -> None:
        """Hide the picture where the frame is another; `advance` removes it or shows it again.

        Cheap and harmless enough for every frame that passes: no data comes or goes.
        """
        if self._view is None or self._is_hidden:
            return
        scene = scene_jobs.find_scene(self._view.scene_uid)
        if scene is None or scene.frame_current != self._view.frame:
            self._set_hidden(True)

    def _set_hidden(self, value: bool) -> None:
        self._is_hidden = value
        image = _find()
        if image is not None:
            camera_pictures.set_hidden(image, value)
            redraw_views("WINDOW")

    def _begin(self, view: View | None) -> None:
        _remove()
        self._is_hidden = False
        self._view = view
        self._work = None if view is None else SlicedWork(draw(view))

    def _step(self) -> None:
        """Do a slice of the drawing; the last is to show it."""
        if self._view is None or self._work is None:
            return
        if self._work.result is not None:
            _show(self._view, self._work.result)
        else:
            self._work.step()


def _words(error: Ex4dError | None) -> str:
    return "" if error is None else error.message


def draw(view: View) -> Generator[None, None, NDArray[np.float32]]:
    """Draw a picture; returns (height, width, 4) float32 in 0..1, the bottom row first.

    Raises:
        InputError: `scene_invalid`, `cache_invalid` or `image_invalid` if the scene's files are
            gone.
    """
    is_whole = view.is_first and coverage.is_source_frame(view.mesh, view.pose, view.size_px)
    yield
    surface, picture = yield from view.mesh.surface(view.pose.source_time, is_whole=is_whole)
    if is_whole:
        # From the source's own place a ray's depth does not matter.
        size = drawing.picture_size_px(view.size_px, SIDE_PX)[::-1]
        drawn = drawing.Drawing(np.ones(size), np.ones(size, dtype=np.bool_))
    else:
        drawn = yield from drawing.draw(surface, view.pose, view.size_px, SIDE_PX)
    height = len(drawn.seen)
    rgba = np.ones((*drawn.seen.shape, 4), np.float32)
    for top in range(0, height, _BAND_ROWS):
        band = slice(top, min(top + _BAND_ROWS, height))
        rgba[height - band.stop : height - top, :, :3] = _band(
            surface.intrinsics, picture, view, drawn, band
        )[::-1]
        yield
    return rgba


def _band(
    source: PinholeIntrinsics,
    picture: NDArray[np.uint8],
    view: View,
    drawn: drawing.Drawing,
    band: slice,
) -> NDArray[np.float32]:
    """Colours of some rows: each pixel's surface point, looked up in the video."""
    pose, (height, width) = view.pose, drawn.seen.shape
    matrix = np.array(pose.cam_to_world).reshape(3, 4)
    rows, columns = np.mgrid[band, :width]
    x = (columns + 0.5) * (view.size_px[0] / width)
    y = (rows + 0.5) * (view.size_px[1] / height)
    depth = 1.0 / np.maximum(drawn.inverse_depth[band], 1e-9)
    rays = (x - pose.cx_px) / pose.fx_px * depth, (y - pose.cy_px) / pose.fy_px * depth, depth
    # No matrix product: the threads of a library for them would wait for a busy processor.
    across, down, away = (
        sum((by * ray for by, ray in zip(line, rays, strict=True)), start=offset)
        for (*line, offset) in matrix
    )
    away = np.maximum(away, 1e-9)
    column = across / away * source.fx_px + source.cx_px
    row = down / away * source.fy_px + source.cy_px
    column = np.clip(column, 0, source.width_px - 1).astype(np.int64)
    row = np.clip(row, 0, source.height_px - 1).astype(np.int64)
    colors = np.where(drawn.seen[band][..., None], picture[row, column], material.MARK)
    return colors.astype(np.float32) / np.float32(255)


def switch_off() -> None:
    """Show it in no scene of the open file."""
    for scene in _asking_scenes():
        scene.ex4d_generate.show_condition = False


def is_shown_anywhere() -> bool:
    """Whether a scene of the open file asks for its condition."""
    return bool(_asking_scenes())


def _asking_scenes() -> list[bpy.types.Scene]:
    """Of the open file alone: what is linked cannot be switched off."""
    return [
        scene
        for scene in bpy.data.scenes
        if scene.library is None and scene.ex4d_generate.show_condition
    ]


def _wanted_view() -> tuple[View | None, Ex4dError | None]:
    """What the first scene in a window that asks for it shows now; if nothing, why not."""
    windows = list(bpy.context.window_manager.windows)
    if any(window.screen.is_animation_playing for window in windows):
        return None, None
    asking = _asking_scenes()
    if not asking:
        return None, None
    in_windows = [window.scene for window in windows]
    scene = next((scene for scene in asking if scene in in_windows), asking[0])
    with in_scene(scene.session_uid):
        try:
            return _view(bpy.context), None
        except InputError as error:
            return None, error


def _view(context: bpy.types.Context) -> View | None:
    shot = active_shot(context)
    if shot is None:
        return None
    scene = context.scene
    skipped = skipped_frames(scene, scene.frame_current)
    if skipped:
        frame = scene.frame_current
        message = (
            f"expected a frame that a take shows, found {frame}, which the scene's Step of "
            f"{scene.frame_step} leaves out; go to {frame + skipped - scene_step(scene)} or "
            f"{frame + skipped}"
        )
        raise InputError("frame_left_out", message)
    bound = camera_binding.camera_at(scene, shot, scene.frame_current)
    viewer = camera.required_camera(context, shot, bound)
    refusal = camera_pictures.refusal(viewer.data)
    if refusal is not None:
        raise refusal
    clip, render = shot.ex4d_shot, scene.render
    size_px = scene.ex4d_generate.size_px(clip.width_px, clip.height_px)
    return View(
        scene_uid=scene.session_uid,
        frame=scene.frame_current,
        is_first=scene.frame_current == _first_frame(context, shot),
        shot_name=shot.name,
        camera_name=viewer.name,
        mesh=coverage.mesh_of(shot),
        pose=camera.evaluated_pose(context, shot, viewer, *size_px),
        size_px=size_px,
        scale=camera_pictures.fit_scale(viewer.data, render, *size_px),
    )


def _first_frame(context: bpy.types.Context, shot: bpy.types.Object) -> int | None:
    try:
        return take_frames(context, shot)[0]
    except InputError:
        # The panel tells why there is no take.
        return None


def _find() -> bpy.types.Image | None:
    return camera_pictures.find(_MARK)


def _show(view: View, pixels: NDArray[np.float32]) -> None:
    viewer = bpy.data.objects.get(view.camera_name)
    with in_scene(view.scene_uid):
        render = bpy.context.scene.render
        height, width, _ = pixels.shape
        image = bpy.data.images.new("EX-4D Condition", width, height)
        image[camera_pictures.MARK] = _MARK
        image.pixels.foreach_set(pixels.ravel())
        image.update()
        if viewer is not None:
            camera_pictures.hang(image, viewer.data, render)
    redraw_views("WINDOW")


def _remove() -> None:
    image = _find()
    if image is not None:
        camera_pictures.remove([image])
        redraw_views("WINDOW")
