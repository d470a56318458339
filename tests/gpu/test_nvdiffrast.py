"""The CUDA rasteriser against the processor's, which is exact, and against the golden data."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from golden import golden_files, required, sibling

from ex4d.bench.raster import synthetic_frame
from ex4d.camera import Intrinsics, move
from ex4d.dwmesh import REFERENCE_RULES, DWMesh, build_dwmesh, default_rules
from ex4d.raster import VISIBLE_ALPHA, ConditionFrame, create_rasteriser
from ex4d.raster.cpu import CpuRasteriser
from ex4d.raster.nvdiffrast import NvdiffrastRasteriser, is_available

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not is_available(), reason="needs nvdiffrast and a CUDA device"),
]
VIEWS = [("30", 1), ("30", 48), ("60", 40), ("90", 30), ("90", 48), ("180", 12), ("zoom_in", 20)]


@pytest.fixture(scope="module")
def rasteriser() -> NvdiffrastRasteriser:
    found = create_rasteriser("auto")
    assert isinstance(found, NvdiffrastRasteriser)
    assert "non-commercial" in found.licence
    return found


def mesh_of_size(width_px: int, height_px: int) -> DWMesh:
    camera = Intrinsics.from_focal(width_px, height_px, float(width_px))
    depth, rgb = synthetic_frame(width_px, height_px, 0.0)
    return build_dwmesh(depth, rgb, camera, default_rules(float(depth.max())))


@pytest.mark.parametrize("size", [(512, 512), (1024, 576), (330, 250)], ids=str)
@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_agrees_with_the_processors(rasteriser, size, view) -> None:
    mesh = mesh_of_size(*size)
    radius = float(np.median(mesh.depth))
    trajectory = move(view[0], frame_count=49, radius=radius, intrinsics=mesh.intrinsics)
    pose, camera = trajectory.cam_to_world[view[1]], trajectory.intrinsics(view[1])
    found = rasteriser.interpolate(mesh, pose, camera)
    expected = CpuRasteriser().interpolate(mesh, pose, camera)
    assert np.mean(found.hit == expected.hit) >= 0.998
    both = found.hit & expected.hit
    seen = found.rgba[..., 3] > VISIBLE_ALPHA
    expected_seen = expected.rgba[..., 3] > VISIBLE_ALPHA
    same_mask = np.mean(seen == expected_seen)
    both &= seen & expected_seen
    errors = np.abs(found.depth[both] / expected.depth[both] - 1)
    print(
        f"hits {np.mean(found.hit == expected.hit):.5f} mask {same_mask:.5f} depth",
        [round(float(np.mean(errors < limit)), 5) for limit in (1e-4, 1e-3, 2e-3, 5e-3, 1e-2)],
    )
    assert np.mean(errors < 1e-3) >= 0.99
    assert same_mask >= 0.996
    assert np.median(np.abs(found.rgba - expected.rgba)) <= 0.05


def test_render_is_interpolate_with_the_mask_decided(rasteriser) -> None:
    mesh = mesh_of_size(512, 512)
    pose = move("60", frame_count=49, radius=2.5, intrinsics=mesh.intrinsics).cam_to_world[30]
    frame = rasteriser.render(mesh, pose, mesh.intrinsics)
    drawn = rasteriser.interpolate(mesh, pose, mesh.intrinsics)
    assert np.array_equal(frame.mask, drawn.rgba[..., 3] > VISIBLE_ALPHA)
    assert (frame.color[~frame.mask] == 0).all()
    assert np.array_equal(frame.depth, drawn.depth)
    expected = CpuRasteriser().render(mesh, pose, mesh.intrinsics)
    both = frame.mask & expected.mask
    differences = np.abs(frame.color[both].astype(int) - expected.color[both])
    assert np.mean(differences <= 2) >= 0.99


@pytest.mark.parametrize("values", [np.nan, np.inf, -1.0, 0.0, 1e30, 1e-30], ids=str)
def test_survives_any_depth(rasteriser, values: float) -> None:
    mesh = mesh_of_size(64, 48)
    mesh.depth[5:9, 3:30] = values
    for name in ("90", "zoom_in", "orbit_up"):
        path = move(name, frame_count=9, radius=2.5, intrinsics=mesh.intrinsics)
        frame = rasteriser.render(mesh, path.cam_to_world[6], mesh.intrinsics)
        assert frame.color.shape == (48, 64, 3)


@pytest.mark.parametrize("path", golden_files("recon/nvdr_*.npz"))
def test_golden_pictures(rasteriser, path: Path | None) -> None:
    mesh_path = sibling(required(path), required(path).name.replace("nvdr_", "mesh_"))
    with np.load(required(path)) as truth, np.load(mesh_path) as arrays:
        height_px, width_px = arrays["depth"].shape
        matrix = arrays["K"].astype(np.float64)
        camera = Intrinsics(
            width_px, height_px, matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
        )
        # The reference lifts integer coordinates.
        source = camera.shifted(0.5, 0.5)
        mesh = build_dwmesh(arrays["depth"], arrays["rgb"], source, REFERENCE_RULES)
        frames = [int(m[1]) for name in truth.files if (m := re.fullmatch(r"tri_180_(\d+)", name))]
        assert frames
        for frame in frames:
            world_to_cam = np.diag([-1.0, 1.0, 1.0, 1.0]) @ arrays["extrinsics_180"][frame]
            drawn = rasteriser.interpolate(mesh, np.linalg.inv(world_to_cam), camera)
            rgba = truth[f"interp_180_{frame}"]
            seen = drawn.rgba[..., 3] > VISIBLE_ALPHA
            hits = np.mean(drawn.hit == (truth[f"tri_180_{frame}"] >= 0))
            masks = np.mean(seen == (rgba[..., 3] > VISIBLE_ALPHA))
            error = np.median(np.abs(drawn.rgba - rgba))
            print(f"frame {frame}: hits {hits:.5f} mask {masks:.5f} median {error:.4f}")
            assert hits >= 0.998
            assert masks >= 0.996
            assert error <= 0.05


def test_two_milliseconds_a_frame(rasteriser) -> None:
    mesh = mesh_of_size(512, 512)
    paths = {
        (name, index): move(name, frame_count=49, radius=2.5, intrinsics=mesh.intrinsics)
        for name, index in VIEWS
    }

    def draw(name: str, index: int) -> ConditionFrame:
        path = paths[name, index]
        return rasteriser.render(mesh, path.cam_to_world[index], path.intrinsics(index))

    times_ms = {}
    for view in VIEWS:
        samples, kept = [], []
        for _ in range(40):
            start_s = time.perf_counter()
            # Kept, as the frames of a take are.
            kept.append(draw(*view))
            samples.append(time.perf_counter() - start_s)
        times_ms[view] = np.median(samples[5:]) * 1e3
    print("ms a frame:", times_ms)
    for workers in (2, 8):
        with ThreadPoolExecutor(workers) as pool:
            start_s = time.perf_counter()
            list(pool.map(lambda view: draw(*view).coverage, VIEWS * 30))
            in_threads_ms = (time.perf_counter() - start_s) * 1e3 / (len(VIEWS) * 30)
        print(f"{in_threads_ms:.2f} ms a frame asked for by {workers} threads")
    assert np.mean(list(times_ms.values())) <= 2.0
