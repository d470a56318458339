"""The rasteriser against an exact one, and where nothing can be exact: that it survives."""

import exact_raster
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ex4d import moves
from ex4d.camera import Intrinsics, move
from ex4d.dwmesh import REFERENCE_RULES, DWMesh, build_dwmesh, default_rules
from ex4d.protocol.documents import MeshRules
from ex4d.raster import VISIBLE_ALPHA, create_rasteriser
from ex4d.raster.cpu import CpuRasteriser
from ex4d.threads import Threads

RASTERISER = CpuRasteriser()


OUR_RULES = default_rules(6.0)


def bumpy_mesh(
    width_px: int, height_px: int, seed: int = 0, rules: MeshRules = OUR_RULES, **camera: float
) -> DWMesh:
    """A floor, a box in front of it, and a little noise."""
    rng = np.random.default_rng(seed)
    depth = np.linspace(6.0, 3.0, height_px)[:, None] + rng.normal(0, 0.01, (height_px, width_px))
    depth[height_px // 4 : height_px // 2, width_px // 3 : 2 * width_px // 3] = 2.0
    rgb = rng.integers(0, 256, (height_px, width_px, 3), np.uint8)
    intrinsics = Intrinsics.from_focal(width_px, height_px, 0.9 * width_px)
    intrinsics = intrinsics.shifted(camera.get("x_px", 0.0), camera.get("y_px", 0.0))
    return build_dwmesh(depth.astype(np.float32), rgb, intrinsics, rules)


VIEWS = [
    *((name, 1.0) for name in moves.MOVES if name != "30"),
    ("orbit_left", 0.5),
    ("90", 0.6),
    ("zoom_in", 0.3),
]


@pytest.mark.parametrize(("name", "progress"), VIEWS, ids=str)
def test_agrees_with_the_exact_rasteriser(name: str, progress: float) -> None:
    mesh = bumpy_mesh(24, 18)
    camera = Intrinsics(30, 22, 27.0, 25.0, 13.2, 12.1)
    trajectory = move(name, frame_count=49, radius=2.5, intrinsics=camera)
    index = round(48 * progress)
    drawn = RASTERISER.interpolate(
        mesh, trajectory.cam_to_world[index], trajectory.intrinsics(index)
    )
    rgba, depth, margin = exact_raster.interpolate(
        mesh, trajectory.cam_to_world[index], trajectory.intrinsics(index)
    )
    sure = margin > 0
    assert sure.mean() > 0.5
    assert np.array_equal(drawn.hit[sure], np.isfinite(depth)[sure])
    hit = sure & drawn.hit
    close = np.abs(drawn.depth[hit] / depth[hit] - 1) < 1e-3
    # Where two surfaces meet, float32 and 1/256 pixel may choose the other one.
    assert close.mean() > 0.99
    assert np.abs(drawn.rgba[hit] - rgba[hit])[close].max() < 2.0


def test_a_full_turn_inside_the_mesh_leaves_no_pixel_open() -> None:
    """Watertight: from the source's place every ray forward ends on the mesh."""
    mesh = bumpy_mesh(33, 65)
    camera = Intrinsics.from_focal(40, 40, 300.0)
    for name in ("pan_left", "pan_right", "tilt_up", "tilt_down"):
        trajectory = move(name, frame_count=9, radius=2.5, intrinsics=camera, amount=20.0)
        for index in range(4):
            drawn = RASTERISER.interpolate(mesh, trajectory.cam_to_world[index], camera)
            assert drawn.hit.all(), (name, index)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_nothing(threads: int) -> None:
    mesh = bumpy_mesh(97, 101)
    camera = Intrinsics.from_focal(160, 90, 120.0)
    pose = move("90", frame_count=49, radius=2.5, intrinsics=camera).cam_to_world[40]
    expected = RASTERISER.render(mesh, pose, camera)
    frame = CpuRasteriser(Threads(threads)).render(mesh, pose, camera)
    assert np.array_equal(frame.color, expected.color)
    assert np.array_equal(frame.mask, expected.mask)
    assert np.array_equal(frame.depth, expected.depth)


@pytest.mark.parametrize("rules", [OUR_RULES, REFERENCE_RULES], ids=["ours", "reference"])
def test_render_is_interpolate_with_the_mask_decided(rules: MeshRules) -> None:
    mesh = bumpy_mesh(64, 48, rules=rules)
    camera = Intrinsics.from_focal(64, 48, 60.0)
    pose = move("60", frame_count=49, radius=2.5, intrinsics=camera).cam_to_world[30]
    frame = RASTERISER.render(mesh, pose, camera)
    drawn = RASTERISER.interpolate(mesh, pose, camera)
    alpha = drawn.rgba[..., 3:]
    assert np.mean(frame.mask == (alpha[..., 0] > VISIBLE_ALPHA)) > 0.999
    assert (frame.color[~frame.mask] == 0).all()
    both = frame.mask & (alpha[..., 0] > VISIBLE_ALPHA)
    assert (alpha[both] < 250.0).any()
    # Only the reference's colours darken towards occluded vertices, which are black.
    gain = 1.0 if rules is REFERENCE_RULES else 255.0 / alpha[both]
    expected = np.minimum(gain * drawn.rgba[both][:, :3], 255.0)
    assert np.abs(frame.color[both] - expected).max() <= 0.51
    assert np.allclose(frame.depth, drawn.depth, rtol=1e-5)


def test_the_source_view_shows_the_source() -> None:
    """Also for a principal point off the centre: pixels stay where they are."""
    mesh = bumpy_mesh(64, 48, x_px=5.0, y_px=-3.0)
    frame = RASTERISER.render(mesh, np.eye(4), mesh.intrinsics)
    seen = ~mesh.occluded()
    # A vertex lies on the pixel's very centre, where up to six faces meet.
    inner = seen[1:-1, 1:-1] & frame.mask[1:-1, 1:-1]
    assert inner.sum() > 0.9 * seen.sum()
    difference = np.abs(frame.color.astype(int) - mesh.rgba[..., :3])[1:-1, 1:-1][inner]
    assert np.percentile(difference, 99) <= 1
    assert np.allclose(frame.depth[1:-1, 1:-1][inner], mesh.depth[1:-1, 1:-1][inner], rtol=1e-4)


@pytest.mark.parametrize(
    "values",
    [np.nan, np.inf, -1.0, 0.0, 1e30, 1e-30],
    ids=["nan", "infinite", "negative", "zero", "huge", "tiny"],
)
def test_survives_any_depth(values: float) -> None:
    mesh = bumpy_mesh(40, 30)
    mesh.depth[5:9, 3:30] = values
    camera = Intrinsics.from_focal(50, 40, 40.0)
    for name in ("90", "zoom_in", "orbit_up"):
        pose = move(name, frame_count=9, radius=2.5, intrinsics=camera).cam_to_world[6]
        frame = RASTERISER.render(mesh, pose, camera)
        assert frame.color.shape == (40, 50, 3)
        assert not np.isnan(frame.depth[frame.mask]).any() or np.isnan(values)


@given(
    size=st.tuples(st.integers(2, 20), st.integers(2, 20)),
    output=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    angles_deg=st.tuples(*[st.floats(-180, 180)] * 3),
    position=st.tuples(*[st.floats(-8, 8)] * 3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_any_camera_gives_a_picture(size, output, angles_deg, position, seed) -> None:
    mesh = bumpy_mesh(*size, seed=seed)
    camera = Intrinsics.from_focal(*output, 20.0)
    pose = np.eye(4)
    for axis, angle_deg in enumerate(angles_deg):
        cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
        turn = np.eye(4)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[a, a] = turn[b, b] = cos
        turn[a, b], turn[b, a] = -sin, sin
        pose = pose @ turn
    pose[:3, 3] = position
    frame = RASTERISER.render(mesh, pose, camera)
    assert (frame.depth > 0).all()
    assert (frame.color[~frame.mask] == 0).all()
    assert np.isfinite(frame.depth[frame.mask]).all()


def test_the_default_rasteriser_is_one_that_says_its_licence() -> None:
    rasteriser = create_rasteriser()
    assert rasteriser.name == "cpu"
    assert rasteriser.licence == "Apache-2.0"
