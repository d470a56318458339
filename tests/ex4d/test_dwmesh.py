"""The DW-mesh: its shape, what it marks as occluded, and its file."""

import numpy as np
import pytest

from ex4d.camera import Intrinsics
from ex4d.dwmesh import REFERENCE_RULES, build_dwmesh, default_rules, write_ply
from ex4d.errors import InputError

SIZES = [(2, 2), (3, 2), (2, 5), (33, 65), (96, 64)]


def wall(width_px: int, height_px: int, depth: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """A wall at one depth, in one colour."""
    return (
        np.full((height_px, width_px), depth, np.float32),
        np.full((height_px, width_px, 3), 77, np.uint8),
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_edge_is_shared_by_two_faces(size: tuple[int, int]) -> None:
    """Watertight: no edge is open, whatever the size."""
    depth, rgb = wall(*size)
    mesh = build_dwmesh(depth, rgb, Intrinsics.from_focal(*size, 50.0), default_rules(2.0))
    faces = mesh.faces()
    assert len(faces) == 2 * (size[0] - 1) * (size[1] - 1) + 2
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    _, counts = np.unique(edges, axis=0, return_counts=True)
    # The caps join the corners only: the edges along the border belong to one face each.
    border_edges = 2 * (size[0] - 1) + 2 * (size[1] - 1)
    assert (counts == 1).sum() <= border_edges + 4
    assert counts.max() <= 2 or size == (2, 2)


def test_a_vertex_lies_on_the_ray_of_its_pixels_centre() -> None:
    camera = Intrinsics(8, 6, 10.0, 20.0, 3.0, 2.5)
    depth, rgb = wall(8, 6, 4.0)
    points = build_dwmesh(depth, rgb, camera, default_rules(4.0)).vertices().reshape(6, 8, 3)
    x, y, z = points[3, 5]
    assert (x * 10.0 / z + 3.0, y * 20.0 / z + 2.5) == pytest.approx((5.5, 3.5), abs=1e-6)


def test_a_jump_in_depth_is_occluded_and_the_surfaces_beside_it_are_not() -> None:
    depth, rgb = wall(40, 30)
    depth[:, 20:] = 8.0
    mesh = build_dwmesh(depth, rgb, Intrinsics.from_focal(40, 30, 40.0), default_rules(8.0))
    occluded = mesh.occluded()
    assert occluded[2:-2, 19:21].all()
    assert not occluded[2:-2, 2:18].any()
    assert not occluded[2:-2, 22:-2].any()
    assert (mesh.rgba[occluded] == 0).all()
    assert (mesh.rgba[~occluded] == (77, 77, 77, 255)).all()


def test_our_border_lies_behind_everything_and_is_never_seen() -> None:
    depth, rgb = wall(16, 12, 500.0)
    mesh = build_dwmesh(depth, rgb, Intrinsics.from_focal(16, 12, 16.0), default_rules(500.0))
    assert mesh.depth[0].min() > 500.0
    border = np.ones((12, 16), bool)
    border[1:-1, 1:-1] = False
    assert mesh.occluded()[border].all()


def test_the_references_back_plate_counts_as_seen() -> None:
    depth, rgb = wall(16, 12)
    mesh = build_dwmesh(depth, rgb, Intrinsics.from_focal(16, 12, 16.0), REFERENCE_RULES)
    assert mesh.depth[0, 0] == 100.0
    assert not mesh.occluded()[0, 0]


@pytest.mark.parametrize(
    ("depth_size", "rgb_size", "camera_size"),
    [((8, 6), (8, 6), (6, 8)), ((8, 6), (6, 8), (8, 6)), ((1, 6), (1, 6), (1, 6))],
    ids=["camera", "colour", "one column"],
)
def test_sizes_that_do_not_fit_are_refused(
    depth_size: tuple[int, int], rgb_size: tuple[int, int], camera_size: tuple[int, int]
) -> None:
    depth, _ = wall(*depth_size)
    _, rgb = wall(*rgb_size)
    camera = Intrinsics.from_focal(*camera_size, 10.0)
    with pytest.raises(InputError) as error:
        build_dwmesh(depth, rgb, camera, default_rules(2.0))
    assert error.value.code == "mesh_size"


def test_the_ply_file_holds_the_mesh(tmp_path) -> None:
    depth, rgb = wall(5, 4)
    mesh = build_dwmesh(depth, rgb, Intrinsics.from_focal(5, 4, 5.0), default_rules(2.0))
    write_ply(tmp_path / "deep" / "mesh.ply", mesh)
    data = (tmp_path / "deep" / "mesh.ply").read_bytes()
    header, body = data.split(b"end_header\n", 1)
    assert b"element vertex 20" in header
    assert b"element face 26" in header
    vertex = np.dtype([("position", "<f4", 3), ("color", "u1", 4)])
    vertices = np.frombuffer(body, vertex, 20)
    assert np.array_equal(vertices["position"], mesh.vertices())
    assert np.array_equal(vertices["color"], mesh.rgba.reshape(-1, 4))
    face = np.dtype([("count", "u1"), ("index", "<i4", 3)])
    assert np.array_equal(np.frombuffer(body, face, offset=20 * 16)["index"], mesh.faces())
