"""Refinement of estimated depth: each step does what it says, and the whole betters a clip."""

import tracemalloc
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ex4d.bench.depth_quality import measure
from ex4d.bench.scenes import cast_scene, degraded, true_scene
from ex4d.cli import main
from ex4d.clip import write_video
from ex4d.depth.edges import measured_smear_px, snap_edges
from ex4d.depth.refinement import refine, send_sky_back
from ex4d.depth.steadiness import steady, unsteadiness
from ex4d.errors import CancelledError
from ex4d.footage import DepthWish
from ex4d.scene import Scene
from ex4d.task import Task

HEIGHT_PX, WIDTH_PX = 48, 64


def noisy(color: NDArray[np.integer], seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(0, 2, color.shape)
    return np.clip(color + noise, 0, 255).astype(np.uint8)


def smeared(true: NDArray[np.floating]) -> NDArray[np.float32]:
    """A column's values, averaged over five pixels, for a frame."""
    values = np.convolve(np.pad(true, 2, mode="edge"), np.ones(5) / 5, "valid")
    return np.tile(values.astype(np.float32), (1, HEIGHT_PX, 1))


def test_edges_snap_to_the_picture() -> None:
    """A ramp of five pixels over an edge becomes a step, at the edge of the picture."""
    true = np.where(np.arange(WIDTH_PX) < 30, 0.5, 0.1)
    picture = np.tile(np.where(true > 0.3, 200, 60)[:, None], (1, HEIGHT_PX, 1, 3))
    # The network's edge lies a pixel beside the picture's.
    inverse = np.roll(smeared(true), 1, axis=2)
    inverse[..., :1] = 0.5
    assert snap_edges(inverse, noisy(picture), spread=0.4, task=Task())
    assert np.abs(inverse[0, 6:-6] - true).max() < 0.05


def test_slopes_beside_an_edge_stay_slopes() -> None:
    """A tilted plane before a wall keeps its tilt up to the edge: no stairs, nothing level."""
    columns = np.arange(WIDTH_PX)
    true = np.where(columns < 30, 0.5 - 0.006 * columns, 0.08)
    picture = np.tile(np.where(columns < 30, 200, 60)[:, None], (1, HEIGHT_PX, 1, 3))
    inverse = smeared(true)
    assert snap_edges(inverse, noisy(picture), spread=0.4, task=Task())
    # The side's mean would lie 0.03 off at the edge.
    assert np.abs(inverse[0] - true)[8:-8, 4:-4].max() < 0.015


def test_sharp_edges_and_slopes_are_left_alone() -> None:
    step = np.tile(np.where(np.arange(WIDTH_PX) < 30, 0.5, 0.1), (2, HEIGHT_PX, 1))
    slope = np.tile(np.linspace(0.05, 0.5, HEIGHT_PX)[:, None], (2, 1, WIDTH_PX))
    picture = noisy(np.full((2, HEIGHT_PX, WIDTH_PX, 3), 128))
    for values in (step, slope):
        inverse = values.astype(np.float32)
        before = inverse.copy()
        assert not snap_edges(inverse, picture, spread=0.4, task=Task())
        np.testing.assert_array_equal(inverse, before)


@pytest.mark.parametrize("deviation_px", [1.0, 1.5, 2.5])
def test_how_far_edges_are_smeared_is_measured(deviation_px: float) -> None:
    true = np.zeros((1, 160, 240), np.float32) + np.float32(0.1)
    true[0, 40:120, 60:180] = 0.5
    inverse = cv2.GaussianBlur(true[0], (0, 0), deviation_px)[None]
    assert measured_smear_px(inverse, 0.4) == round(2 * deviation_px)
    # Slopes are none.
    inverse += np.linspace(0, 0.3, 240, dtype=np.float32)
    assert abs(measured_smear_px(inverse, 0.4) - 2 * deviation_px) <= 1


def test_stripes_of_a_pixel_have_no_width() -> None:
    """A slope over two pixels does not see them, and nothing is divided by it."""
    stripes = np.tile(np.where(np.arange(160) % 2, 0.5, 0.1).astype(np.float32), (1, 64, 1))
    assert measured_smear_px(stripes, 0.4) == 2


def rod(width_px: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """A rod between two boards before a wall, the same smeared, and the picture."""
    columns = np.arange(160)
    is_near = (columns < 60) | ((columns >= 90) & (columns < 90 + width_px)) | (columns >= 130)
    true = np.tile(np.where(is_near, 0.5, 0.1).astype(np.float32), (1, 64, 1))
    picture = np.tile(np.where(is_near, 200, 60)[:, None], (1, 64, 1, 3))
    return true, cv2.GaussianBlur(true[0], (0, 0), 1.5)[None], noisy(picture)


def test_what_is_too_thin_for_the_estimate_is_left_as_it_is() -> None:
    """What was smeared away is not known: sharpened, it would stand at a depth where nothing is."""
    for width_px, is_left in ((3, True), (14, False)):
        true, smeared_depth, picture = rod(width_px)
        inverse = smeared_depth.copy()
        assert snap_edges(inverse, picture, spread=0.4, task=Task())
        beside = np.s_[0, 8:-8, 86 : 94 + width_px]
        assert np.array_equal(inverse[beside], smeared_depth[beside]) == is_left
        board = np.s_[0, 8:-8, 40:75]
        assert np.abs(inverse - true)[board].max() < 0.05


def test_a_clip_of_thin_things_is_left_alone() -> None:
    is_near = np.arange(160) % 16 < 3
    true = np.tile(np.where(is_near, 0.5, 0.1).astype(np.float32), (64, 1))
    picture = np.tile(np.where(is_near, 200, 60)[:, None], (1, 64, 1, 3))
    inverse = cv2.GaussianBlur(true, (0, 0), 1.5)[None]
    before = inverse.copy()
    assert not snap_edges(inverse, noisy(picture), spread=0.4, task=Task())
    np.testing.assert_array_equal(inverse, before)


@cache
def gains_of_edges(size_px: tuple[int, int], reduction: int) -> dict[int, float]:
    """How much sharp edges raise agreement at each azimuth; one frame of the figures."""
    scene = cast_scene("figures", size_px, [12], [0])
    inverse = 1 / degraded(scene.depth, reduction=reduction)
    before = measure(scene, 1 / inverse)
    assert snap_edges(inverse, scene.frames, spread=float(np.ptp(inverse)), task=Task())
    after = measure(scene, 1 / inverse)
    assert all(after[angle].gains_over(before[angle]) for angle in after)
    return {angle: after[angle].agreement - before[angle].agreement for angle in after}


@pytest.mark.parametrize(("size_px", "reduction"), [((640, 384), 6), ((512, 512), 5)])
def test_gain_does_not_depend_on_the_size_of_the_picture(
    size_px: tuple[int, int], reduction: int
) -> None:
    gains = gains_of_edges(size_px, reduction)
    for angle, gain in gains_of_edges((320, 192), 3).items():
        assert gains[angle] > 0.6 * gain


def panned_clip(
    *, camera_px: int, noise: float = 0.005, flicker: float = 0.05
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """True inverse depth, an estimate of it, and the picture, which moves so far a frame.

    The estimate has noise some pixels wide, and another scale and shift in every frame.
    """
    random = np.random.default_rng(1)
    height_px, width_px, frame_count = 96, 128, 15
    wide_px = width_px + camera_px * frame_count
    texture = cv2.resize(
        random.integers(0, 256, (height_px // 4, wide_px // 4, 3), np.uint8), (wide_px, height_px)
    )
    x, y = np.meshgrid(np.arange(wide_px), np.arange(height_px))
    surface = (0.3 + 0.1 * np.sin(x / 30) + 0.1 * y / height_px).astype(np.float32)

    def views(image: NDArray[Any]) -> NDArray[Any]:
        return np.stack([image[:, camera_px * t :][:, :width_px] for t in range(frame_count)])

    true, frames = views(surface), views(texture)
    per_frame = (frame_count, 1, 1)
    estimate = true * (1 + flicker * random.standard_normal(per_frame))
    estimate += flicker / 5 * random.standard_normal(per_frame)
    blobs = [cv2.GaussianBlur(random.standard_normal(image.shape), (0, 0), 1.5) for image in true]
    estimate += noise / np.std(blobs) * np.array(blobs)
    return true, estimate.astype(np.float32), frames


@pytest.mark.parametrize("camera_px", [0, 3])
def test_noise_and_flicker_go_along_the_motion(camera_px: int) -> None:
    true, inverse, frames = panned_clip(camera_px=camera_px)
    before = np.abs(inverse - true).mean(axis=(1, 2))
    assert steady(inverse, frames, spread=0.3, task=Task())
    after = np.abs(inverse - true).mean(axis=(1, 2))
    # Of 13 frames; fewer at the ends and where the picture leaves.
    assert after[6:9].mean() < 0.2 * before[6:9].mean()
    assert after.mean() < 0.35 * before.mean()


def test_a_camera_that_comes_nearer_is_no_flicker() -> None:
    """What the camera's own motion does to depth stays: a scale that grows steadily."""
    _, inverse, frames = panned_clip(camera_px=0, noise=0.005, flicker=0)
    true = inverse * np.linspace(0.8, 1.2, len(inverse), dtype=np.float32)[:, None, None]
    steadied = true.copy()
    steady(steadied, frames, spread=0.3, task=Task())
    scale = steadied.mean(axis=(1, 2)) / true.mean(axis=(1, 2))
    np.testing.assert_allclose(scale, 1, atol=0.01)


def test_steady_depth_is_left_alone() -> None:
    _, inverse, frames = panned_clip(camera_px=3, noise=0, flicker=0)
    before = inverse.copy()
    assert unsteadiness(inverse, frames) < 0.0005
    assert not steady(inverse, frames, spread=0.3, task=Task())
    np.testing.assert_array_equal(inverse, before)


def test_what_moves_keeps_its_depth() -> None:
    _, inverse, frames = panned_clip(camera_px=0)
    for index in range(len(frames)):
        moved = np.s_[30:54, 4 + 6 * index : 24 + 6 * index]
        frames[index][moved] = (250, 20, 20)
        inverse[index][moved] = 0.9
    assert steady(inverse, frames, spread=0.6, task=Task())
    for index in range(len(frames)):
        inside = inverse[index, 36:48, 10 + 6 * index : 18 + 6 * index]
        assert np.abs(inside - 0.9).max() < 0.15


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
    assert refine(depth, scene.frames[:5], task=Task()) == ()
    np.testing.assert_allclose(depth, scene.depth[:5], rtol=1e-6)


@pytest.mark.parametrize("name", ["figures", "fast camera", "alley", "sky"])
def test_refined_beats_degraded(name: str) -> None:
    scene = true_scene(name)
    # The sky scene lost with edges smeared more widely than the reach was.
    depth = degraded(scene.depth, **({"reduction": 4, "noise": 0.006} if name == "sky" else {}))
    before = measure(scene, depth)
    assert {"steady", "edges"} <= set(refine(depth, scene.frames, task=Task()))
    after = measure(scene, depth)
    for angle, figures in after.items():
        assert figures.precision > before[angle].precision
        assert figures.gains_over(before[angle])


def test_recall_alone_tells_nothing_of_depth_but_agreement_does() -> None:
    """Smeared edges cover at random what a DW-mesh must leave open: true depth has less recall."""
    scene = true_scene("figures")
    true, estimated = measure(scene, scene.depth), measure(scene, degraded(scene.depth))
    for angle, figures in true.items():
        assert figures.recall < estimated[angle].recall
        assert figures.gains_over(estimated[angle])


@pytest.mark.parametrize("frame_count", [1, 2])
def test_short_clips(frame_count: int) -> None:
    depth = np.full((frame_count, 16, 16), 3, np.float32)
    assert refine(depth, np.zeros((frame_count, 16, 16, 3), np.uint8), task=Task()) == ()
    np.testing.assert_allclose(depth, 3, rtol=1e-6)


def test_can_be_cancelled() -> None:
    _, inverse, frames = panned_clip(camera_px=0)
    with pytest.raises(CancelledError):
        refine(np.reciprocal(inverse), frames, task=Task(is_cancelled=lambda: True))


def test_same_result_twice() -> None:
    scene = true_scene("fast camera")
    results = [degraded(scene.depth[:4]) for _ in range(2)]
    for depth in results:
        assert refine(depth, scene.frames[:4], task=Task())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("option", "expected"), [("--refine", ("edges",)), (None, ()), ("--no-refine", ())]
)
def test_recon_refines_files_if_asked(
    tmp_path: Path, option: str | None, expected: tuple[str, ...]
) -> None:
    scene = true_scene("figures")
    depth = degraded(scene.depth[:2])
    write_video(tmp_path / "clip.mp4", scene.frames[:2], Fraction(25))
    np.savez(tmp_path / "depth.npz", depth=depth)
    arguments = ["recon", "--input_video", str(tmp_path / "clip.mp4"), "--cam", "30"]
    arguments += [] if option is None else [option]
    arguments += ["--depth", str(tmp_path / "depth.npz"), "--depth_kind", "metric"]
    assert main([*arguments, "--output_dir", str(tmp_path / "out")]) == 0
    result = Scene(tmp_path / "out" / "scene")
    assert result.document.depth.refinement == expected
    assert np.allclose(result.depth(0), depth[0], rtol=1e-5) == (option != "--refine")


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (DepthWish(), True),
        (DepthWish(spread="calibrated"), True),
        (DepthWish(spread="min_max"), False),
        (DepthWish(path=Path("depth.npz")), False),
        (DepthWish(refines=False), False),
        (DepthWish(path=Path("depth.npz"), refines=True), True),
    ],
    ids=["estimated", "calibrated", "as the reference", "file", "refused", "file, asked for"],
)
def test_estimates_are_refined_unless_told_otherwise(wish: DepthWish, expected: bool) -> None:
    assert wish.is_refined == expected


def test_memory_does_not_grow_with_the_clip() -> None:
    def peak_bytes(frame_count: int) -> int:
        scene = true_scene("room")
        order = np.arange(frame_count) % len(scene.frames)
        depth, frames = degraded(scene.depth)[order], scene.frames[order]
        tracemalloc.start()
        try:
            assert steady(np.reciprocal(depth, out=depth), frames, spread=0.4, task=Task())
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak_bytes(75) < peak_bytes(25) + 1_000_000


def test_a_flash_leaves_the_rest_of_the_clip_to_be_refined() -> None:
    true, inverse, frames = panned_clip(camera_px=0)
    frames[7] = 255 - frames[7] // 4
    flash, before = inverse[7].copy(), np.abs(inverse - true).mean()
    assert steady(inverse, frames, spread=0.3, task=Task())
    np.testing.assert_array_equal(inverse[7], flash)
    assert np.abs(np.delete(inverse - true, 7, axis=0)).mean() < 0.7 * before
