"""Mask and colour from the side by true depth, by depth as a network tells it, and by that refined.

Mask precision: of the pixels that the condition shows, how many the source truly sees. Recall: of
those that it truly sees, how many the condition shows. Right: of the same, how many it shows in
their colour: smeared edges raise recall, not this. PSNR: of the colours where both agree.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ex4d.depth.refinement import refine
from ex4d.dwmesh import build_dwmesh, default_rules
from ex4d.raster import create_rasteriser
from ex4d.task import Task

from .sample import psnr_db
from .scenes import SCENE_NAMES, TrueScene, degraded, true_scene

#: A colour is right if no channel is farther off, in levels of 255.
_RIGHT_LEVELS = 25


class Figures(NamedTuple):
    """How well the conditions of a scene at one azimuth agree with the truth."""

    precision: float
    recall: float
    right: float
    psnr_db: float


def measure(
    scene: TrueScene,
    depth: NDArray[np.float32],
    uncertain: NDArray[np.bool_] | None = None,
) -> dict[int, Figures]:
    """Render the conditions of a scene and compare them.

    Args:
        scene: The truth.
        depth: (frames, height, width) z-depth to judge.
        uncertain: (frames, height, width) bool: what counts as occluded whatever its faces say.

    Returns:
        Per azimuth in degrees.
    """
    rules, rasteriser = default_rules(float(depth.max())), create_rasteriser()
    figures = {}
    for angle, views in scene.views.items():
        shown = seen = both = 0
        colors, truths = [], []
        for view in views:
            mesh = build_dwmesh(
                depth[view.index],
                scene.frames[view.index],
                scene.intrinsics,
                rules,
                uncertain=None if uncertain is None else uncertain[view.index],
            )
            frame = rasteriser.render(mesh, view.cam_to_world, scene.intrinsics)
            agreed = frame.mask & view.seen
            shown, seen = shown + int(frame.mask.sum()), seen + int(view.seen.sum())
            both += int(agreed.sum())
            colors.append(frame.color[agreed])
            truths.append(view.color[agreed])
        color, truth = np.concatenate(colors), np.concatenate(truths)
        difference = np.abs(color.astype(np.int16) - truth).max(axis=-1)
        figures[angle] = Figures(
            both / shown,
            both / seen,
            float((difference <= _RIGHT_LEVELS).sum() / seen),
            psnr_db(color, truth),
        )
    return figures


def run() -> None:
    """Print a table per scene."""
    for name in SCENE_NAMES:
        scene = true_scene(name)
        print(f"{name:24}{'azimuth':>8}{'precision':>11}{'recall':>9}{'right':>9}{'PSNR':>9}")
        estimated = degraded(scene.depth)
        _print("true depth", measure(scene, scene.depth))
        _print("as by a network", measure(scene, estimated))
        result = refine(estimated, scene.frames, task=Task())
        _print("refined", measure(scene, estimated))
        _print("doubtful occluded", measure(scene, estimated, result.uncertain))
        print(f"  used: {', '.join(result.steps) or 'nothing'}")


def _print(title: str, figures: dict[int, Figures]) -> None:
    for angle, figure in figures.items():
        print(
            f"  {title:22}{angle:7}°{figure.precision:11.4f}{figure.recall:9.4f}{figure.right:9.4f}"
            f"{figure.psnr_db:6.2f} dB"
        )
