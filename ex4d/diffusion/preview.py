"""The `preview` engine: a shot without any model, in seconds, for aiming the camera.

What the source did not see at one moment it may have seen at another: when things move, they
uncover what is behind them. So once a clip a *backdrop* is made in the source's own picture:

1. Per pixel the farthest surface that the clip shows there for some time, with its colour.
2. What still stands in front of its surroundings is taken out by a morphological opening of
   disparity, which leaves planes alone, and the gap is filled from what surrounds it.
3. The picture is continued beyond its borders.

Its DW-mesh, drawn behind the condition of every frame, fills the holes. What is invented is
invented once and then only re-projected: it cannot flicker. What even the backdrop leaves open is
filled by pull-push interpolation (Gortler et al., "The Lumigraph", 1996), and so are the narrow
gaps along outlines, from the condition itself: there the backdrop would draw dark lines.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from ex4d.diffusion import View
from ex4d.dwmesh import DWMesh, default_rules
from ex4d.protocol.documents import PreviewSettings, UsedPart
from ex4d.raster import ConditionFrame, Rasteriser
from ex4d.scene import Scene
from ex4d.task import Task

#: Frames looked at for the backdrop: enough for what uncovers, few enough for any clip.
_MAX_FRAMES = 49
#: The backdrop is what lies deeper than this share of a pixel's moments.
_BACKDROP_QUANTILE = 0.1
#: Disparities this close to each other, relatively, are the same surface.
_SAME_SURFACE = 0.05
#: Things up to this wide, as a share of the picture's longer side, are taken out of the backdrop.
_FOREGROUND_SIDE = 0.5
#: How much the opening must take off for a pixel to count as in front of its surroundings.
_FOREGROUND_RISE = 0.08
#: The opening is done at about this size: its cost grows with the window.
_OPENING_SIDE_PX = 160
#: The backdrop goes on beyond each border by this share of the side.
_MARGIN = 0.6
#: Gaps up to this wide, as a share of the picture's longer side, are closed from both sides.
_NARROW_GAP = 0.012


class PreviewEngine:
    """Fills from other moments of the clip, then by interpolation; see the module.

    Args:
        settings: Its seed changes nothing: nothing here is random.
        rasteriser: Draws the backdrop.
    """

    name = "preview"
    version = "1"
    licence = "Apache-2.0"
    weights: tuple[UsedPart, ...] = ()
    looks_at_scene = True

    def __init__(self, settings: PreviewSettings, rasteriser: Rasteriser) -> None:
        self.settings = settings
        self._rasteriser = rasteriser

    def check(self, frame_count: int, width_px: int, height_px: int) -> tuple[str, ...]:
        """Anything can be made; see `Engine`."""
        return ()

    def generate(
        self, condition: Iterable[ConditionFrame], view: View | None, *, task: Task
    ) -> Iterator[NDArray[np.uint8]]:
        """The frames; see `Engine`."""
        if view is None:
            raise ValueError("expected scene and camera for the engine preview, found none")
        scene, trajectory = view
        backdrop = build_backdrop(scene, task=task)
        for index, frame in enumerate(condition):
            behind = self._rasteriser.render(
                backdrop, trajectory.cam_to_world[index], trajectory.intrinsics(index)
            )
            background = behind.color
            if not behind.mask.all():
                # From the backdrop alone: the foreground's colours end at its outline.
                filled = pull_push(background.astype(np.float32), behind.mask.astype(np.float32))
                background = np.clip(filled + 0.5, 0, 255).astype(np.uint8)
            seen = frame.mask
            narrow = _narrow_gaps(seen)
            if narrow.any():
                closed = pull_push(frame.color.astype(np.float32), seen.astype(np.float32))
                background = np.where(
                    narrow[..., None], (closed + 0.5).astype(np.uint8), background
                )
            task.check()
            yield np.where(seen[..., None], frame.color, background)


def _narrow_gaps(seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(height, width) bool: unseen pixels that a morphological closing of the mask takes in."""
    window_px = max(3, round(_NARROW_GAP * max(seen.shape)) | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (window_px, window_px))
    closed = cv2.morphologyEx(seen.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    return (closed > 0) & ~seen


def build_backdrop(scene: Scene, *, task: Task) -> DWMesh:
    """The mesh of what lies behind everything, larger than the picture on all sides.

    Args:
        scene: The clip.
        task: Told about every frame, stage `backdrop`.
    """
    disparity, color = _farthest_surface(scene, task)
    foreground = _foreground(disparity)
    known = (~foreground).astype(np.float32)
    layers = np.dstack([color, disparity])
    height_px, width_px = disparity.shape
    margin_y_px, margin_x_px = round(height_px * _MARGIN), round(width_px * _MARGIN)
    margins_px = ((margin_y_px, margin_y_px), (margin_x_px, margin_x_px))
    layers = np.pad(layers, (*margins_px, (0, 0)))
    known = np.pad(known, margins_px)
    filled = np.where(known[..., None] > 0, layers, pull_push(layers, known))
    depth = np.reciprocal(filled[..., 3])
    rgba = np.full((*depth.shape, 4), 255, np.uint8)
    rgba[..., :3] = np.clip(filled[..., :3] + 0.5, 0, 255)
    camera = scene.intrinsics
    larger = replace(
        camera.shifted(margin_x_px, margin_y_px), width_px=depth.shape[1], height_px=depth.shape[0]
    )
    return DWMesh(depth, rgba, larger, default_rules(float(depth.max())))


def _farthest_surface(scene: Scene, task: Task) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Per pixel the disparity (height, width) and colour (height, width, 3) of what lies behind."""
    indices = np.unique(np.linspace(0, len(scene) - 1, min(len(scene), _MAX_FRAMES)).astype(int))
    total = 2 * len(indices)
    disparities = np.empty((len(indices), *scene.depth(0).shape), np.float32)
    for place, index in enumerate(indices):
        disparities[place] = 1.0 / scene.depth(int(index))
        # The vertices of stretched faces lie between two surfaces.
        disparities[place][scene.occluded(int(index))] = np.inf
        task.step("backdrop", place + 1, total)
    rank = int(_BACKDROP_QUANTILE * (len(indices) - 1))
    farthest = np.partition(disparities, rank, axis=0)[rank]
    always_between = ~np.isfinite(farthest)
    farthest[always_between] = 0
    color = np.zeros((*farthest.shape, 3), np.float32)
    weight = np.zeros(farthest.shape, np.float32)
    for place, index in enumerate(indices):
        same = np.abs(disparities[place] - farthest) <= _SAME_SURFACE * farthest
        color[same] += scene.frame(int(index))[same]
        weight += same
        task.step("backdrop", len(indices) + place + 1, total)
    known = (weight > 0) & ~always_between
    color[known] /= weight[known, None]
    layers = np.dstack([color, farthest])
    layers = np.where(known[..., None], layers, pull_push(layers, known.astype(np.float32)))
    return np.ascontiguousarray(layers[..., 3]), np.ascontiguousarray(layers[..., :3])


def _foreground(disparity: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(height, width) bool: what stands in front of its surroundings."""
    height_px, width_px = disparity.shape
    scale = min(1.0, _OPENING_SIDE_PX / max(height_px, width_px))
    size = (max(2, round(width_px * scale)), max(2, round(height_px * scale)))
    small = cv2.resize(disparity, size, interpolation=cv2.INTER_AREA)
    window_px = max(3, round(_FOREGROUND_SIDE * max(size)) | 1)
    # Beyond the border nothing may count as near, or every plane would be cut off there.
    pad = window_px // 2
    small = cv2.copyMakeBorder(small, pad, pad, pad, pad, cv2.BORDER_REFLECT_101)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (window_px, window_px))
    opened = cv2.morphologyEx(small, cv2.MORPH_OPEN, kernel)[pad:-pad, pad:-pad]
    opened = cv2.resize(opened, (width_px, height_px), interpolation=cv2.INTER_LINEAR)
    rises = disparity > opened * (1.0 + _FOREGROUND_RISE)
    # A pixel more, so that no fringe of the foreground's colour is left.
    return cv2.dilate(rises.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0


def pull_push(values: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fill unknown pixels smoothly from known ones, near ones first.

    Args:
        values: (height, width, channels) float32; anything where unknown.
        known: (height, width) float32: how much each value counts, 0 for unknown.

    Returns:
        (height, width, channels) float32: the values where known fully, blends elsewhere. All zero
        if nothing is known.
    """
    height_px, width_px = known.shape
    if max(height_px, width_px) == 1:
        return values * (known[..., None] > 0)
    half = ((width_px + 1) // 2, (height_px + 1) // 2)
    weights = cv2.resize(known, half, interpolation=cv2.INTER_AREA)
    sums = cv2.resize(values * known[..., None], half, interpolation=cv2.INTER_AREA)
    sums = sums.reshape(*weights.shape, -1)
    coarse = sums / np.maximum(weights, np.float32(1e-12))[..., None]
    coarse = pull_push(
        coarse.astype(np.float32, copy=False), np.minimum(weights * 4, 1).astype(np.float32)
    )
    fine = cv2.resize(coarse, (width_px, height_px), interpolation=cv2.INTER_LINEAR)
    fine = fine.reshape(values.shape).astype(np.float32, copy=False)
    fine += (values - fine) * known[..., None]
    return fine
