"""Mask and colour from the side by true depth, by depth as a network tells it, and by that refined.

Mask precision: of the pixels that the condition shows, how many the source truly sees. Recall: of
those that it truly sees, how many the condition shows. PSNR: of the colours where both agree.

Recall alone does not tell better depth from worse: a DW-mesh hides what lies behind an edge seen
from the side, so true depth has the least of it, and smeared edges, which cover the hole with
stretched colours, the most. What tells is:

- Agreement: of shown pixels those that are truly seen and in their colour, and of truly seen pixels
  those that are shown in their colour; the harmonic mean of both. Neither showing less nor covering
  more at random raises it.
- Filled PSNR: of the colours of all pixels that true depth's own mesh shows, which is all that such
  a mesh can; where this one shows nothing they are filled from around.

Refined depth gains where both rise.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ex4d.depth.refinement import refine
from ex4d.diffusion.preview import pull_push
from ex4d.dwmesh import build_dwmesh, default_rules
from ex4d.raster import ConditionFrame, create_rasteriser
from ex4d.task import Task

from .sample import psnr_db
from .scenes import HELD_OUT_NAMES, SCENE_NAMES, TrueScene, degraded, true_scene

#: A colour is right if no channel is farther off, in levels of 255.
_RIGHT_LEVELS = 25


class Figures(NamedTuple):
    """How well the conditions of a scene at one azimuth agree with the truth."""

    precision: float
    recall: float
    psnr_db: float
    agreement: float
    filled_psnr_db: float

    def gains_over(self, other: "Figures") -> bool:
        """Whether both of what tells better depth from worse are larger."""
        return self.agreement > other.agreement and self.filled_psnr_db > other.filled_psnr_db


def measure(scene: TrueScene, depth: NDArray[np.float32]) -> dict[int, Figures]:
    """Render the conditions of a scene and compare them.

    Args:
        scene: The truth.
        depth: (frames, height, width) z-depth to judge.

    Returns:
        Per azimuth in degrees.
    """
    figures = {}
    for angle, views in scene.views.items():
        shown = seen = both = right = 0
        colors, truths, filled, filled_truths = [], [], [], []
        for view, frame, best in zip(
            views, _conditions(scene, depth, angle), _conditions(scene, scene.depth, angle),
            strict=True,
        ):  # fmt: skip
            agreed = frame.mask & view.seen
            difference = np.abs(frame.color.astype(np.int16) - view.color).max(axis=-1)
            shown, seen = shown + int(frame.mask.sum()), seen + int(view.seen.sum())
            both += int(agreed.sum())
            right += int((agreed & (difference <= _RIGHT_LEVELS)).sum())
            colors.append(frame.color[agreed])
            truths.append(view.color[agreed])
            whole = pull_push(frame.color.astype(np.float32), frame.mask.astype(np.float32))
            can_be_shown = best.mask & view.seen
            filled.append(np.clip(whole[can_be_shown] + 0.5, 0, 255).astype(np.uint8))
            filled_truths.append(view.color[can_be_shown])
        figures[angle] = Figures(
            both / shown,
            both / seen,
            psnr_db(np.concatenate(colors), np.concatenate(truths)),
            2 * right / (shown + seen),
            psnr_db(np.concatenate(filled), np.concatenate(filled_truths)),
        )
    return figures


def _conditions(
    scene: TrueScene, depth: NDArray[np.float32], angle_deg: int
) -> list[ConditionFrame]:
    rules, rasteriser = default_rules(float(depth.max())), create_rasteriser()
    return [
        rasteriser.render(
            build_dwmesh(depth[view.index], scene.frames[view.index], scene.intrinsics, rules),
            view.cam_to_world,
            scene.intrinsics,
        )
        for view in scene.views[angle_deg]
    ]


def run() -> None:
    """Print a table per scene, with three degradations.

    By the second one was looked for what loses; by the third nothing was chosen. The scenes that
    nothing was chosen by come last.
    """
    print(f"{'':34}{'precision':>11}{'recall':>9}{'PSNR':>9}{'agreement':>12}{'filled':>9}")
    for name in (*SCENE_NAMES, *HELD_OUT_NAMES):
        scene = true_scene(name)
        print(f"{name}{', held out' if name in HELD_OUT_NAMES else ''}")
        _print("true depth", measure(scene, scene.depth))
        _compare("as by a network", scene, degraded(scene.depth))
        milder = degraded(scene.depth, seed=7, reduction=4, noise=0.006)
        _compare("with less noise, coarser", scene, milder)
        harder = degraded(scene.depth, seed=23, reduction=5, noise=0.015)
        _compare("coarser and noisier still", scene, harder)


def _compare(title: str, scene: TrueScene, estimated: NDArray[np.float32]) -> None:
    before = measure(scene, estimated)
    _print(title, before)
    steps = refine(estimated, scene.frames, task=Task())
    after = measure(scene, estimated)
    _print(f"refined: {', '.join(steps) or 'nothing'}", after)
    losses = [angle for angle, figures in after.items() if not figures.gains_over(before[angle])]
    if steps:
        print("  gains" + (f", but not at {losses}" if losses else " at every azimuth"))


def _print(title: str, figures: dict[int, Figures]) -> None:
    for angle, figure in figures.items():
        print(
            f"  {title:27}{angle:4}°{figure.precision:11.3f}{figure.recall:9.3f}"
            f"{figure.psnr_db:9.2f}{figure.agreement:12.3f}{figure.filled_psnr_db:9.2f}"
        )
