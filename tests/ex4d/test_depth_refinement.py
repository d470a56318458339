"""Refinement of estimated depth: each step does what it says, and the whole betters a clip."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ex4d.bench.depth_quality import measure
from ex4d.bench.scenes import degraded, true_scene
from ex4d.cli import main
from ex4d.clip import write_video
from ex4d.depth.refinement import hold_still, refine, send_sky_back, snap_edges
from ex4d.dwmesh import build_dwmesh, default_rules
from ex4d.errors import CancelledError
from ex4d.scene import Scene
from ex4d.task import Task

HEIGHT_PX, WIDTH_PX = 48, 64


def noisy(color: NDArray[np.integer], seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(0, 2, color.shape)
    return np.clip(color + noise, 0, 255).astype(np.uint8)


def test_edges_snap_to_the_picture() -> None:
    """A ramp of five pixels over an edge becomes a step, at the edge of the picture."""
    true = np.where(np.arange(WIDTH_PX) < 30, 0.5, 0.1).astype(np.float32)
    smeared = np.convolve(np.pad(true, 2, mode="edge"), np.ones(5) / 5, "valid")
    inverse = np.tile(smeared.astype(np.float32), (1, HEIGHT_PX, 1))
    picture = np.tile(np.where(true > 0.3, 200, 60)[:, None], (1, HEIGHT_PX, 1, 3))
    # The network's edge lies a pixel beside the picture's.
    inverse = np.roll(inverse, 1, axis=2)
    inverse[..., :1] = 0.5
    uncertain = snap_edges(inverse, noisy(picture), spread=0.4, task=Task())
    assert uncertain is not None
    assert np.abs(inverse[0, 6:-6] - true).max() < 0.05


def test_sharp_edges_and_slopes_are_left_alone() -> None:
    step = np.tile(np.where(np.arange(WIDTH_PX) < 30, 0.5, 0.1), (2, HEIGHT_PX, 1))
    slope = np.tile(np.linspace(0.05, 0.5, HEIGHT_PX)[:, None], (2, 1, WIDTH_PX))
    picture = noisy(np.full((2, HEIGHT_PX, WIDTH_PX, 3), 128))
    for values in (step, slope):
        inverse = values.astype(np.float32)
        before = inverse.copy()
        assert snap_edges(inverse, picture, spread=0.4, task=Task()) is None
        np.testing.assert_array_equal(inverse, before)


def flickering_clip(*, camera_px: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Inverse depth with another scale and shift each frame, of a picture that moves so far."""
    random = np.random.default_rng(1)
    texture = random.integers(0, 256, (HEIGHT_PX // 4, WIDTH_PX // 4, 3)).repeat(4, 0).repeat(4, 1)
    true = np.tile(np.linspace(0.1, 0.5, WIDTH_PX), (HEIGHT_PX, 1))
    frames = np.stack([noisy(np.roll(texture, camera_px * t, axis=1), t) for t in range(9)])
    scales = 1 + 0.05 * random.standard_normal((9, 1, 1))
    shifts = 0.01 * random.standard_normal((9, 1, 1))
    return (true * scales + shifts).astype(np.float32), frames


def test_flicker_goes_where_the_camera_stands() -> None:
    inverse, frames = flickering_clip(camera_px=0)
    assert inverse.std(axis=0).max() > 0.01
    assert hold_still(inverse, frames, task=Task())
    assert inverse.std(axis=0).max() < 1e-3
    moving, frames = flickering_clip(camera_px=3)
    before = moving.copy()
    assert not hold_still(moving, frames, task=Task())
    np.testing.assert_array_equal(moving, before)


def test_what_moves_keeps_its_depth() -> None:
    inverse, frames = flickering_clip(camera_px=0)
    for index in range(len(frames)):
        frames[index, 10:22, 4 + 6 * index : 10 + 6 * index] = (250, 20, 20)
        inverse[index, 10:22, 4 + 6 * index : 10 + 6 * index] = 0.9
    assert hold_still(inverse, frames, task=Task())
    for index in range(len(frames)):
        assert np.abs(inverse[index, 12:20, 6 + 6 * index : 9 + 6 * index] - 0.9).max() < 0.15


def test_sky_goes_behind_all() -> None:
    inverse = np.full((3, HEIGHT_PX, WIDTH_PX), 0.3, np.float32)
    inverse[:, :20] = np.random.default_rng(0).uniform(1e-4, 6e-3, (3, 20, WIDTH_PX))
    picture = np.full((3, HEIGHT_PX, WIDTH_PX, 3), 200, np.uint8)
    picture[:, 20:] = 60
    assert send_sky_back(inverse, picture, low=1e-4, high=0.3)
    assert (inverse[:, :17] == np.float32(1e-4)).all()
    assert (inverse[:, 20:] == np.float32(0.3)).all()
    # A wall that is as plain is not so far.
    wall = np.full((3, HEIGHT_PX, WIDTH_PX), 0.3, np.float32)
    wall[:, :20] = 0.05
    assert not send_sky_back(wall, picture, low=1e-4, high=0.3)


def test_true_depth_is_left_alone() -> None:
    scene = true_scene("room")
    depth = scene.depth[:5].copy()
    assert refine(depth, scene.frames[:5], task=Task()).steps == ()
    np.testing.assert_allclose(depth, scene.depth[:5], rtol=1e-6)


def test_refined_beats_degraded() -> None:
    scene = true_scene("figures")
    depth = degraded(scene.depth)
    before = measure(scene, depth)
    result = refine(depth, scene.frames, task=Task())
    assert "edges" in result.steps
    after = measure(scene, depth)
    for angle, figures in after.items():
        assert figures.precision > before[angle].precision + 0.05
        assert figures.psnr_db > before[angle].psnr_db + 4


@pytest.mark.parametrize("frame_count", [1, 2])
def test_short_clips(frame_count: int) -> None:
    depth = np.full((frame_count, 16, 16), 3, np.float32)
    assert refine(depth, np.zeros((frame_count, 16, 16, 3), np.uint8), task=Task()).steps == ()
    np.testing.assert_allclose(depth, 3, rtol=1e-6)


def test_can_be_cancelled() -> None:
    inverse, frames = flickering_clip(camera_px=0)
    with pytest.raises(CancelledError):
        refine(np.reciprocal(inverse), frames, task=Task(is_cancelled=lambda: True))


def test_uncertain_pixels_are_occluded() -> None:
    scene = true_scene("room")
    uncertain = np.zeros(scene.depth[0].shape, np.bool_)
    uncertain[90:100, 100:120] = True
    args = scene.depth[0], scene.frames[0], scene.intrinsics, default_rules(10.0)
    assert build_dwmesh(*args, uncertain=uncertain).occluded()[uncertain].all()
    assert not build_dwmesh(*args).occluded()[uncertain].all()


@pytest.mark.parametrize(("option", "expected"), [("--refine", ("edges",)), ("--no-refine", ())])
def test_recon_refines_if_asked(tmp_path: Path, option: str, expected: tuple[str, ...]) -> None:
    scene = true_scene("figures")
    depth = degraded(scene.depth[:2])
    write_video(tmp_path / "clip.mp4", scene.frames[:2], Fraction(25))
    np.savez(tmp_path / "depth.npz", depth=depth)
    arguments = ["recon", "--input_video", str(tmp_path / "clip.mp4"), "--cam", "30", option]
    arguments += ["--depth", str(tmp_path / "depth.npz"), "--depth_kind", "metric"]
    assert main([*arguments, "--output_dir", str(tmp_path / "out")]) == 0
    result = Scene(tmp_path / "out" / "scene")
    assert result.document.depth.refinement == expected
    assert np.allclose(result.depth(0), depth[0], rtol=1e-5) == (option == "--no-refine")


def test_a_flash_leaves_the_rest_of_the_clip_to_be_refined() -> None:
    rng = np.random.default_rng(3)
    still = rng.integers(0, 128, (96, 128, 3), np.uint8)
    frames = np.repeat(still[None], 9, axis=0)
    frames[2] += 100
    inverse = np.repeat(rng.uniform(0.2, 1.0, (1, 96, 128)).astype(np.float32), 9, axis=0)
    inverse *= np.linspace(0.9, 1.1, 9, dtype=np.float32)[:, None, None]
    flash = inverse[2].copy()
    assert hold_still(inverse, frames, task=Task())
    np.testing.assert_array_equal(inverse[2], flash)
    assert np.ptp(np.delete(inverse, 2, axis=0), axis=0).max() < 1e-3
