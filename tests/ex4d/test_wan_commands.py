"""The reference's two commands with the ex4d engine, on the small golden model."""

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from engine_tests import GOLDEN_MODELS, needs_engine

needs_engine()

from ex4d.cli import main
from ex4d.clip import read_clip, write_video

FRAMES, HEIGHT_PX, WIDTH_PX = 5, 48, 64


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `ex4d recon` makes of a square before a wall, as arguments of `ex4d generate`."""
    monkeypatch.setenv("EX4D_MODELS", str(GOLDEN_MODELS))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    frames = np.full((FRAMES, HEIGHT_PX, WIDTH_PX, 3), 90, np.uint8)
    depth = np.full((FRAMES, HEIGHT_PX, WIDTH_PX), 6.0, np.float32)
    frames[:, 12:36, 20:40] = (220, 40, 30)
    depth[:, 12:36, 20:40] = 2.0
    write_video(tmp_path / "clip.mp4", frames, Fraction(25))
    np.save(tmp_path / "depth.npy", depth)
    recon = ["recon", "--input_video", str(tmp_path / "clip.mp4"), "--focal_px", "60"]
    recon += ["--depth", str(tmp_path / "depth.npy"), "--depth_kind", "depth", "--cam", "30"]
    assert main([*recon, "--output_dir", str(tmp_path / "recon")]) == 0
    return [
        *("--color_video", str(tmp_path / "recon" / "color_30.mp4")),
        *("--mask_video", str(tmp_path / "recon" / "mask_30.mp4")),
        *("--output_video", str(tmp_path / "output.mp4")),
    ]


def test_generate(videos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The two videos are enough, as for the reference.
    shutil.rmtree(tmp_path / "recon" / "scene")
    (tmp_path / "recon" / "camera_30.npz").unlink()
    assert main(["generate", *videos, "--engine", "ex4d", "--steps", "2", "--seed", "5"]) == 0
    output = capsys.readouterr().out
    assert "made by the engine `ex4d`" in output
    assert "note: made at 64 x 48, 5 frames" in output
    clip = read_clip(tmp_path / "output.mp4")
    assert clip.frames.shape == (FRAMES, HEIGHT_PX, WIDTH_PX, 3)
    assert clip.frame_rate == 25
    assert clip.frames.std() > 1


def test_generate_refuses_a_lora_that_is_not_there(
    videos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", *videos, "--engine", "ex4d", "--lora", "unheard-of"]) == 1
    assert "[lora_missing]" in capsys.readouterr().err
    assert not (tmp_path / "output.mp4").exists()
