# SPDX-License-Identifier: GPL-3.0-or-later
"""The condition of the current frame over the camera view: what the engine is given of it.

Estimated as coverage is, on a coarse mesh, in slices; the server draws the full one. While a newer
picture is drawn, and during playback, none shows: an old one would lie.
"""

import time
from collections.abc import Generator
from dataclasses import dataclass

import bpy
import numpy as np
from numpy.typing import NDArray

from . import camera, camera_binding, camera_pictures, coverage, material
from ._vendor.errors import Ex4dError, InputError
from ._vendor.protocol.documents import CameraPose
from .imports import UNFORESEEN, in_scene
from .redraw import redraw_views
from .shots import active_shot, scene_step, skipped_frames

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
    shot_name: str
    camera_name: str
    mesh: coverage.CoarseMesh
    pose: CameraPose
    size_px: tuple[int, int]
    #: Of the picture before the camera: see `camera_pictures.fit_scale`.
    scale: float


class ConditionPlayer:
    """Keeps the picture that a scene asks for at its present frame."""

    def __init__(self) -> None:
        self._view: View | None = None
        self._drawing: Generator[None, None, NDArray[np.float32]] | None = None
        #: Of `_view`, once it is drawn.
        self._pixels: NDArray[np.float32] | None = None
        #: Why there is no picture.
        self.error: Ex4dError | None = None

    @property
    def is_drawing(self) -> bool:
        """Whether there is something to do."""
        return self._drawing is not None

    def advance(self, deadline_s: float) -> bool:
        """Do what fits into the time; true if the panels must be drawn again.

        Args:
            deadline_s: Of `time.perf_counter`.
        """
        error = self.error
        view, problem = _wanted_view()
        if view != self._view:
            self._begin(view)
        if view is None and _words(problem) != _words(self.error):
            self.error = problem
        is_first = True
        while self._drawing is not None and (
            is_first or time.perf_counter() < deadline_s - coverage.SLICE_S
        ):
            # One at least: on a busy machine there would never be time.
            is_first = False
            self._step(self._drawing)
        if view is not None and self._pixels is not None and _find() is None:
            # New, or an undo step or saving took it away.
            _show(view, self._pixels)
        return self.error is not error

    def _begin(self, view: View | None) -> None:
        _remove()
        self._view, self._pixels, self.error = view, None, None
        self._drawing = None if view is None else draw(view)

    def _step(self, drawing: Generator[None, None, NDArray[np.float32]]) -> None:
        self._drawing = None
        # As in `coverage.CoverageCheck.step`.
        self.error = UNFORESEEN
        try:
            next(drawing)
            self._drawing, self.error = drawing, None
        except StopIteration as end:
            self._pixels, self.error = end.value, None
        except Ex4dError as error:
            self.error = error
        except OSError as error:
            self.error = InputError("file", str(error))


def _words(error: Ex4dError | None) -> str:
    return "" if error is None else error.message


def draw(view: View) -> Generator[None, None, NDArray[np.float32]]:
    """Draw a picture; returns (height, width, 4) float32 in 0..1, the bottom row first.

    Raises:
        InputError: `cache_invalid` or `image_invalid` if the scene's files are gone.
    """
    mesh, pose = view.mesh, view.pose
    blocks: list[NDArray[np.uint8]] = []
    flags: list[NDArray[np.bool_]] = []
    for lines in mesh.picture(pose.source_time):
        blocks.append(lines)
        flags.append(material.is_marked(lines))
        yield
    picture = np.concatenate(blocks)
    marked = mesh.marked(np.concatenate(flags))
    yield
    points = mesh.points(pose.source_time)
    # The marks of single pixels come with their colours.
    whole = ~coverage.stretched_quads(points, marked)
    yield
    drawing = yield from coverage.draw(points, whole, pose, view.size_px, SIDE_PX)
    height = len(drawing.seen)
    rgba = np.ones((*drawing.seen.shape, 4), np.float32)
    for top in range(0, height, _BAND_ROWS):
        band = slice(top, min(top + _BAND_ROWS, height))
        rgba[height - band.stop : height - top, :, :3] = _band(
            mesh, points, picture, view, drawing, band
        )[::-1]
        yield
    return rgba


def _band(
    mesh: coverage.CoarseMesh,
    points: NDArray[np.float64],
    picture: NDArray[np.uint8],
    view: View,
    drawing: coverage.Drawing,
    band: slice,
) -> NDArray[np.float32]:
    """Colours of some rows: each pixel's surface point, looked up in the video."""
    pose, (height, width) = view.pose, drawing.seen.shape
    matrix = np.array(pose.cam_to_world).reshape(3, 4)
    rows, columns = np.mgrid[band, :width]
    x = (columns + 0.5) * (view.size_px[0] / width)
    y = (rows + 0.5) * (view.size_px[1] / height)
    rays = np.stack(
        [(x - pose.cx_px) / pose.fx_px, (y - pose.cy_px) / pose.fy_px, np.ones_like(x)], axis=-1
    )
    depth = 1.0 / np.maximum(drawing.inverse_depth[band], 1e-9)
    surface = (rays * depth[..., None]) @ matrix[:, :3].T + matrix[:, 3]
    z = np.maximum(surface[..., 2], 1e-9)
    # The vertices of the mesh are pixels of the video.
    across, down = points[0, :, 0] / points[0, :, 2], points[:, 0, 1] / points[:, 0, 2]
    column = np.rint(np.interp(surface[..., 0] / z, across, mesh.columns)).astype(np.int64)
    row = np.rint(np.interp(surface[..., 1] / z, down, mesh.rows)).astype(np.int64)
    colors = np.where(drawing.seen[band][..., None], picture[row, column], material.MARK)
    return colors.astype(np.float32) / np.float32(255)


def is_shown_anywhere() -> bool:
    """Whether a scene of the open file asks for its condition."""
    return any(scene.ex4d_generate.show_condition for scene in bpy.data.scenes)


def _wanted_view() -> tuple[View | None, Ex4dError | None]:
    """What the first scene in a window that asks for it shows now; if nothing, why not."""
    windows = list(bpy.context.window_manager.windows)
    if any(window.screen.is_animation_playing for window in windows):
        return None, None
    asking = [scene for scene in bpy.data.scenes if scene.ex4d_generate.show_condition]
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
        shot_name=shot.name,
        camera_name=viewer.name,
        mesh=coverage.mesh_of(shot),
        pose=camera.evaluated_pose(context, shot, viewer, *size_px),
        size_px=size_px,
        scale=camera_pictures.fit_scale(viewer.data, render, *size_px),
    )


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
