"""Intrinsics, trajectories, and the camera files of the reference."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from ex4d.camera import (
    Intrinsics,
    Trajectory,
    move,
    read_reference_camera,
    reference_extrinsics,
)
from ex4d.errors import InputError
from ex4d.moves import MOVES
from ex4d.protocol.documents import MAX_FRAMES, TrajectoryDocument

CAMERA = Intrinsics.from_focal(512, 384, 500.0)


def project(trajectory: Trajectory, index: int, point: NDArray[np.float64]) -> NDArray[np.float64]:
    world_to_cam = np.linalg.inv(trajectory.cam_to_world[index])
    camera_point = (world_to_cam @ np.append(point, 1.0))[:3]
    homogeneous = trajectory.intrinsics(index).matrix() @ camera_point
    return homogeneous[:2] / homogeneous[2]


@pytest.mark.parametrize("name", ["30", "60", "90", "180"])
def test_our_projection_is_the_reference_renderer_s(name: str) -> None:
    """The reference projects with w = -z, u = cx + f x / w, v = cy - f y / w."""
    trajectory = move(name, frame_count=49, radius=2.15, intrinsics=CAMERA)
    point = np.array([0.31, -0.17, 2.4])
    for index, extrinsics in enumerate(reference_extrinsics(trajectory).astype(np.float64)):
        x, y, z, _ = extrinsics @ np.append(point, 1.0)
        expected = 256.0 + 500.0 * x / -z, 192.0 - 500.0 * y / -z
        assert project(trajectory, index, point) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", ["180", "orbit_up", "truck_left"])
def test_a_saved_camera_comes_back(name: str, tmp_path: Path) -> None:
    trajectory = move(name, frame_count=9, radius=2.0, intrinsics=CAMERA)
    path = tmp_path / "camera.npz"
    np.savez(path, extrinsics=reference_extrinsics(trajectory), intrinsics=CAMERA.matrix())
    back = read_reference_camera(path, 512, 384)
    np.testing.assert_allclose(back.cam_to_world, trajectory.cam_to_world, atol=1e-6)
    np.testing.assert_array_equal(back.intrinsics_px, trajectory.intrinsics_px)
    np.testing.assert_array_equal(back.source_time, np.arange(9))


EYES = np.tile(np.diag([1.0, -1.0, -1.0, 1.0]), (3, 1, 1))


@pytest.mark.parametrize(
    ("code", "arrays"),
    [
        ("array_invalid", {"poses": EYES, "intrinsics": CAMERA.matrix()}),
        ("array_invalid", {"extrinsics": EYES.astype(object), "intrinsics": CAMERA.matrix()}),
        ("camera_file", {"extrinsics": EYES[:, :3], "intrinsics": CAMERA.matrix()}),
        ("camera_file", {"extrinsics": np.empty((0, 4, 4)), "intrinsics": CAMERA.matrix()}),
        ("camera_file", {"extrinsics": EYES, "intrinsics": np.eye(4)}),
        ("camera_file", {"extrinsics": EYES, "intrinsics": -CAMERA.matrix()}),
        ("pose_rotation", {"extrinsics": EYES * 2.0, "intrinsics": CAMERA.matrix()}),
        ("camera_file", {"extrinsics": EYES * np.nan, "intrinsics": CAMERA.matrix()}),
        ("pose_rotation", {"extrinsics": np.abs(EYES) * EYES[:, :1], "intrinsics": np.eye(3)}),
    ],
    ids=["name", "pickled", "3x4", "empty", "4x4-K", "negative-focal", "scaled", "nan", "mirrored"],
)
def test_camera_files_that_are_refused(
    code: str, arrays: dict[str, NDArray[np.generic]], tmp_path: Path
) -> None:
    path = tmp_path / "camera.npz"
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError) as caught:
        read_reference_camera(path, 512, 384)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("width_px", "height_px"), [(1920, 1080), (1080, 1920), (512, 512)], ids=str
)
def test_the_field_of_view_is_along_the_longer_side(width_px: int, height_px: int) -> None:
    camera = Intrinsics.from_field_of_view(width_px, height_px, 60.0)
    half_side_px = max(width_px, height_px) / 2
    assert 2 * math.degrees(math.atan(half_side_px / camera.fx_px)) == pytest.approx(60.0)
    assert camera.fy_px == camera.fx_px
    assert (camera.cx_px, camera.cy_px) == (width_px / 2, height_px / 2)


def test_resizing_keeps_the_rays() -> None:
    """The same fraction of the image sees along the same direction."""
    camera = Intrinsics(640, 480, 500.0, 510.0, 333.0, 222.0)
    other = camera.resized(320, 360)
    assert (other.width_px, other.height_px) == (320, 360)
    ray = np.linalg.inv(camera.matrix()) @ np.array([100.0, 200.0, 1.0])
    other_ray = np.linalg.inv(other.matrix()) @ np.array([50.0, 150.0, 1.0])
    np.testing.assert_allclose(other_ray, ray)


def test_shifting_moves_the_principal_point_right_and_down() -> None:
    shifted = CAMERA.shifted(0.5, 0.25)
    assert (shifted.cx_px, shifted.cy_px) == (CAMERA.cx_px + 0.5, CAMERA.cy_px + 0.25)
    assert (shifted.fx_px, shifted.width_px) == (CAMERA.fx_px, CAMERA.width_px)


def test_intrinsics_survive_a_document() -> None:
    camera = Intrinsics(640, 480, 500.0, 510.0, 333.0, 222.0)
    assert Intrinsics.from_document(camera.to_document()) == camera


@pytest.mark.parametrize("name", MOVES)
def test_a_trajectory_survives_the_wire_exactly(name: str) -> None:
    trajectory = move(name, frame_count=5, radius=2.5, intrinsics=CAMERA, scene_frame_count=3)
    text = msgspec.json.encode(trajectory.to_document())
    back = Trajectory.from_document(msgspec.json.decode(text, type=TrajectoryDocument))
    assert (back.width_px, back.height_px, len(back)) == (512, 384, 5)
    np.testing.assert_array_equal(back.cam_to_world, trajectory.cam_to_world)
    np.testing.assert_array_equal(back.intrinsics_px, trajectory.intrinsics_px)
    np.testing.assert_array_equal(back.source_time, [0, 1, 2, 2, 2])


def test_the_dolly_zoom_animates_the_focal_length() -> None:
    trajectory = move("dolly_zoom", frame_count=3, radius=2.0, intrinsics=CAMERA, amount=0.5)
    assert [trajectory.intrinsics(i).fx_px for i in range(3)] == pytest.approx([500, 375, 250])
    assert trajectory.intrinsics(2).cx_px == CAMERA.cx_px


@pytest.mark.parametrize(
    "matrix",
    [np.diag([2.0, 2, 2]), np.diag([-1.0, 1, 1]), np.array([[1.0, 0.1, 0], [0, 1, 0], [0, 0, 1]])],
    ids=["scale", "mirror", "shear"],
)
def test_poses_that_are_no_rotation_are_refused(matrix: NDArray[np.float64]) -> None:
    trajectory = move("180", frame_count=3, radius=2.0, intrinsics=CAMERA)
    trajectory.cam_to_world[1, :3, :3] = matrix
    with pytest.raises(InputError, match="pose 1") as caught:
        Trajectory.from_document(trajectory.to_document())
    assert caught.value.code == "pose_rotation"


@pytest.mark.parametrize("frame_count", [0, -1, MAX_FRAMES + 1])
def test_frame_counts_that_are_refused(frame_count: int) -> None:
    with pytest.raises(InputError) as caught:
        move("180", frame_count=frame_count, radius=2.0, intrinsics=CAMERA)
    assert caught.value.code == "move_frames"
