"""The reference's camera paths; `EX4D_GOLDEN=<dir> pytest tests/golden -k recon` takes others."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from ex4d.camera import Intrinsics, move, reference_extrinsics

FOLDER = Path(os.environ.get("EX4D_GOLDEN", Path(__file__).parent))
FILE_NAME = "trajectories.npz"


def cases() -> list[tuple[Path, str]]:
    """Every path of every file: `cam<degrees>_n<frames>`, with `_saved` where it is negated."""
    found = []
    for path in sorted(FOLDER.rglob(FILE_NAME)):
        with np.load(path) as arrays:
            names = [name for name in arrays.files if re.fullmatch(r"cam\d+_n\d+(_saved)?", name)]
        found += [(path, name) for name in names]
    return found


@pytest.mark.parametrize(("path", "name"), cases(), ids=lambda value: Path(value).name)
def test_recon_trajectory(path: Path, name: str) -> None:
    degrees, frame_count = re.findall(r"\d+", name)
    with np.load(path) as arrays:
        expected = arrays[name]
        radius = float(arrays["depth_min"])
    camera = Intrinsics.from_focal(64, 48, 500.0)
    trajectory = move(degrees, frame_count=int(frame_count), radius=radius, intrinsics=camera)
    extrinsics = reference_extrinsics(trajectory)
    if not name.endswith("_saved"):
        # The reference computes with the opposite sign and negates in place before it saves.
        extrinsics[:, :3] *= -1
    np.testing.assert_allclose(extrinsics, expected, atol=1e-5)


def test_recon_trajectories_are_there() -> None:
    if not cases() and any(FOLDER.rglob("*.npz")):
        pytest.skip(f"{FILE_NAME} is not in {FOLDER}")
    assert cases(), f"no golden file at all in {FOLDER}"
