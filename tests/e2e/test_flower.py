"""A real shot along the reference's own camera, against what the reference rendered.

The clip is not part of the repository; see `flower.py`.
"""

from pathlib import Path

import numpy as np
import pytest
from blender_program import addon_zip, blender, needs_blender
from flower import FOCAL_PX, ORBIT_RADIUS, compare, flower_folder
from numpy.typing import NDArray

from ex4d.cli import main
from ex4d.clip import read_clip
from ex4d.demo.play import Shot, play

FOLDER = flower_folder()
pytestmark = [
    pytest.mark.flower,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(FOLDER is None, reason="no flower clip: EX4D_FLOWER names none"),
]

LEAST_OVERLAP = 0.915
LEAST_PSNR_DB = 28.0


def read_mask(path: Path) -> NDArray[np.bool_]:
    return read_clip(path).frames[..., 0] > 127


def assert_agrees(color: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
    assert FOLDER is not None
    overlap, psnr_db = compare(
        color,
        mask,
        read_clip(FOLDER / "render_180.mp4").frames,
        read_mask(FOLDER / "mask_180.mp4"),
    )
    assert overlap >= LEAST_OVERLAP
    assert psnr_db >= LEAST_PSNR_DB


def test_command_line(tmp_path: Path) -> None:
    assert FOLDER is not None
    arguments = ["--input_video", str(FOLDER / "input.mp4"), "--depth", str(FOLDER / "depth.npz")]
    arguments += ["--depth_kind", "depth", "--cam", "180", "--radius", str(ORBIT_RADIUS)]
    assert main(["recon", *arguments, "--output_dir", str(tmp_path), "--save_mesh"]) == 0
    assert_agrees(
        read_clip(tmp_path / "color_180.mp4").frames, read_mask(tmp_path / "mask_180.mp4")
    )
    with np.load(tmp_path / "camera_180.npz") as ours, np.load(FOLDER / "camera_180.npz") as theirs:
        assert np.abs(ours["extrinsics"] - theirs["extrinsics"]).max() < 1e-4
        assert np.array_equal(ours["intrinsics"], theirs["intrinsics"])
    assert (tmp_path / "DW-Mesh.ply").read_bytes().startswith(b"ply\n")


@needs_blender
def test_blender(tmp_path: Path) -> None:
    assert FOLDER is not None
    shot = Shot(
        clip=FOLDER / "input.mp4",
        depth=FOLDER / "depth.npz",
        depth_kind="depth",
        focal_px=FOCAL_PX,
        radius=ORBIT_RADIUS,
        move="180",
        strength=1.0,
        title="flower",
    )
    take = play(
        shot, blender=blender(), addon=addon_zip(), folder=tmp_path, with_picture=False
    ).take
    indices = range(len(take))
    assert_agrees(
        np.stack([take.color(index) for index in indices]),
        np.stack([take.mask(index) for index in indices]),
    )
