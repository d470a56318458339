"""Meshes and pictures against what the reference code made.

EX4D_GOLDEN=<dir> pytest tests/golden -k recon   runs them on any other set of this layout.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from golden import golden_files, required, sibling

from ex4d.camera import Intrinsics
from ex4d.dwmesh import REFERENCE_RULES, DWMesh, build_dwmesh
from ex4d.raster import VISIBLE_ALPHA
from ex4d.raster.cpu import CpuRasteriser

#: A scene whose angles lie this close to the limit may differ in a face or two.
CLOSE_CALL_DEG = 1e-3
VERTICES_OF_TWO_FACES = 6


def camera_of(arrays: np.lib.npyio.NpzFile) -> Intrinsics:
    height_px, width_px = arrays["depth"].shape
    matrix = arrays["K"].astype(np.float64)
    return Intrinsics(width_px, height_px, matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])


def mesh_of(arrays: np.lib.npyio.NpzFile) -> DWMesh:
    # Half a pixel on the source: the reference lifts integer coordinates.
    source = camera_of(arrays).shifted(0.5, 0.5)
    return build_dwmesh(arrays["depth"], arrays["rgb"], source, REFERENCE_RULES)


@pytest.mark.parametrize("path", golden_files("recon/mesh_*.npz"))
def test_mesh(path: Path | None) -> None:
    with np.load(required(path)) as arrays:
        mesh = mesh_of(arrays)
        assert np.abs(mesh.vertices() - arrays["vertices"]).max() <= 1e-5
        assert np.array_equal(mesh.faces(), arrays["faces"])
        differing = (mesh.rgba.reshape(-1, 4) != arrays["colors"]).any(axis=1).sum()
        margin_deg = np.abs(arrays["min_angle_deg"] - REFERENCE_RULES.min_angle_deg).min()
        allowed = VERTICES_OF_TWO_FACES if margin_deg < CLOSE_CALL_DEG else 0
        assert differing <= allowed


@pytest.mark.parametrize("path", golden_files("recon/mesh_*.npz"))
def test_mesh_without_the_half_pixel_differs(path: Path | None) -> None:
    with np.load(required(path)) as arrays:
        mesh = build_dwmesh(arrays["depth"], arrays["rgb"], camera_of(arrays), REFERENCE_RULES)
        assert np.abs(mesh.vertices() - arrays["vertices"]).max() > 1e-3


@pytest.mark.parametrize("path", golden_files("recon/nvdr_*.npz"))
def test_pictures(path: Path | None) -> None:
    mesh_path = sibling(required(path), required(path).name.replace("nvdr_", "mesh_"))
    rasteriser = CpuRasteriser()
    with np.load(required(path)) as truth, np.load(mesh_path) as arrays:
        frames = sorted(
            int(match[1]) for name in truth.files if (match := re.fullmatch(r"tri_180_(\d+)", name))
        )
        assert frames
        mask_agreements = []
        for frame in frames:
            # The reference's own matrices: rows 0..2 of the saved ones have the other sign, and
            # the reference's x axis points left.
            world_to_cam = np.diag([-1.0, 1.0, 1.0, 1.0]) @ arrays["extrinsics_180"][frame]
            drawn = rasteriser.interpolate(
                mesh_of(arrays), np.linalg.inv(world_to_cam), camera_of(arrays)
            )
            rgba = truth[f"interp_180_{frame}"]
            assert np.mean(drawn.hit == (truth[f"tri_180_{frame}"] >= 0)) >= 0.998
            seen = drawn.rgba[..., 3] > VISIBLE_ALPHA
            mask_agreements.append(np.mean(seen == (rgba[..., 3] > VISIBLE_ALPHA)))
            assert np.median(np.abs(drawn.rgba - rgba)) <= 0.05
        assert min(mask_agreements) >= 0.996
        assert np.mean(mask_agreements) >= 0.999
