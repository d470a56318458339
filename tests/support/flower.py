"""The flower clip: a real shot with the reference's own results, where it can be had."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ORBIT_RADIUS = 2.7401
FOCAL_PX = 500.0


def flower_folder() -> Path | None:
    """EX4D_FLOWER, or `../shared/data/flower` beside the repository; None where neither is."""
    given = os.environ.get("EX4D_FLOWER")
    folder = Path(given) if given else Path(__file__).parents[3] / "shared" / "data" / "flower"
    return folder if (folder / "input.mp4").is_file() else None


def compare(
    color: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    true_color: NDArray[np.uint8],
    true_mask: NDArray[np.bool_],
) -> tuple[float, float]:
    """Mean IoU of the masks, and mean PSNR in dB where both are on, over all frames but the first.

    Colours are (frames, height, width, 3), masks (frames, height, width).
    """
    overlaps, ratios_db = [], []
    for index in range(1, len(color)):
        both = mask[index] & true_mask[index]
        overlaps.append(both.sum() / (mask[index] | true_mask[index]).sum())
        error = color[index][both].astype(np.float64) - true_color[index][both]
        ratios_db.append(10 * np.log10(255**2 / np.mean(error**2)))
    return float(np.mean(overlaps)), float(np.mean(ratios_db))
