"""Camera paths against those that the reference code made."""

import re
from pathlib import Path

import numpy as np
import pytest
from golden import GOLDEN, golden_files, required

from ex4d.camera import Intrinsics, move, reference_extrinsics

CAMERA = Intrinsics.from_focal(64, 48, 500.0)


def extrinsics_of(degrees: str, frame_count: int, radius: float) -> np.ndarray:
    trajectory = move(degrees, frame_count=frame_count, radius=radius, intrinsics=CAMERA)
    return reference_extrinsics(trajectory)


def with_rows_negated(extrinsics: np.ndarray) -> np.ndarray:
    """The reference computes with the opposite sign and negates in place before it saves."""
    return extrinsics * np.array([-1, -1, -1, 1], np.float32)[:, None]


def test_paths() -> None:
    path = GOLDEN / "recon" / "trajectories.npz"
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    with np.load(path) as arrays:
        radius = float(arrays["depth_min"])
        names = [name for name in arrays.files if re.fullmatch(r"cam\d+_n\d+(_saved)?", name)]
        assert names
        for name in names:
            degrees, frame_count = re.findall(r"\d+", name)
            extrinsics = extrinsics_of(degrees, int(frame_count), radius)
            if not name.endswith("_saved"):
                extrinsics = with_rows_negated(extrinsics)
            np.testing.assert_allclose(extrinsics, arrays[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("path", golden_files("recon/mesh_*.npz"))
def test_path_and_radius_of_a_scene(path: Path | None) -> None:
    """The reference's radius: nearest depth but for the border, and 0.15 more."""
    with np.load(required(path)) as arrays:
        radius = float(arrays["depth_min"])
        assert radius == pytest.approx(float(arrays["depth"][1:-1, 1:-1].min()) + 0.15, abs=1e-6)
        expected = arrays["extrinsics_180"]
        extrinsics = extrinsics_of("180", len(expected), radius)
        np.testing.assert_allclose(with_rows_negated(extrinsics), expected, atol=1e-5)
