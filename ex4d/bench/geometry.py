"""Mask and colour against truth, by our mesh rules and by the reference's, from the side.

Mask precision: of the pixels that the condition shows, how many the source truly sees. Recall: of
those that it truly sees, how many the condition shows. PSNR: of the colours where both agree.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ex4d.camera import Intrinsics
from ex4d.dwmesh import REFERENCE_RULES, build_dwmesh, default_rules
from ex4d.protocol.documents import MeshRules
from ex4d.raster import create_rasteriser

from .sample import SAMPLE_FOLDER, Sample, load_sample, psnr_db

ANGLES_DEG = (30, 60, 90)
BASELINE_PATH = SAMPLE_FOLDER / "geometry_baseline.json"


class Figures(NamedTuple):
    """How well a condition agrees with the truth."""

    precision: float
    recall: float
    psnr_db: float


def measure(sample: Sample, source: Intrinsics, rules: MeshRules, angle_deg: float) -> Figures:
    """Render the condition at one azimuth and compare it.

    Args:
        sample: The truth.
        source: Intrinsics by which depth is lifted.
        rules: How depth becomes a mesh.
        angle_deg: Azimuth of the orbit; the frame that lies there is taken.
    """
    last = len(sample.trajectory) - 1
    index = round(angle_deg / 90.0 * last)
    mesh = build_dwmesh(sample.depth.values[index], sample.clip.frames[index], source, rules)
    frame = create_rasteriser().render(
        mesh, sample.trajectory.cam_to_world[index], sample.trajectory.intrinsics(index)
    )
    seen = sample.seen[index]
    both = frame.mask & seen
    return Figures(
        float(both.sum() / frame.mask.sum()),
        float(both.sum() / seen.sum()),
        psnr_db(frame.color[both], sample.orbit[index][both]),
    )


def measure_all(sample: Sample) -> dict[str, dict[int, Figures]]:
    """Every rule at every angle: ours, the reference's, and ours moved by half a pixel."""
    ours = default_rules(float(sample.depth.values.max()))
    half_pixel_off = sample.intrinsics.shifted(0.5, 0.5)
    cases = {
        "ours": (sample.intrinsics, ours),
        "reference": (half_pixel_off, REFERENCE_RULES),
        "ours, half a pixel off": (half_pixel_off, ours),
    }
    return {
        name: {angle: measure(sample, source, rules, angle) for angle in ANGLES_DEG}
        for name, (source, rules) in cases.items()
    }


def write_baseline(path: Path = BASELINE_PATH) -> None:
    """Store our figures as what a test guards: run it when they became better."""
    figures = measure_all(load_sample())["ours"]
    table = {str(angle): np.round(figure, 4).tolist() for angle, figure in figures.items()}
    path.write_text(json.dumps(table, indent=1) + "\n")


def run() -> None:
    """Print the table."""
    print(f"{'':24}{'azimuth':>8}{'precision':>11}{'recall':>9}{'PSNR':>9}")
    for name, figures in measure_all(load_sample()).items():
        for angle, figure in figures.items():
            print(
                f"{name:24}{angle:7}°{figure.precision:11.4f}{figure.recall:9.4f}"
                f"{figure.psnr_db:6.2f} dB"
            )
