"""Pinhole cameras and trajectories.

Axes are OpenCV's (x right, y down, z forward); the world is the source camera, whose `cam_to_world`
is the identity. The origin of the image is the top-left corner of its top-left pixel, so that pixel
centres lie at +0.5.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from . import moves
from .arrays import open_array
from .errors import InputError
from .protocol.documents import (
    MAX_FRAMES,
    CameraPose,
    PinholeIntrinsics,
    TrajectoryDocument,
)

DEFAULT_FIELD_OF_VIEW_DEG = 60.0
_FILM_LENGTH_MM = 36.0
#: How far from a rotation a pose may be: float32 and a chain of Blender's parents stay well below.
_ROTATION_TOLERANCE = 1e-4
#: From the axes of the reference's saved matrices (x right, y up, looking along -z) to ours.
_CV_FROM_REFERENCE = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera, in pixels of an image of `width_px` x `height_px`."""

    width_px: int
    height_px: int
    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float

    @classmethod
    def from_focal(cls, width_px: int, height_px: int, focal_px: float) -> Self:
        """A centred camera with square pixels and the given focal length."""
        return cls(width_px, height_px, focal_px, focal_px, width_px / 2, height_px / 2)

    @classmethod
    def from_field_of_view(
        cls, width_px: int, height_px: int, field_of_view_deg: float = DEFAULT_FIELD_OF_VIEW_DEG
    ) -> Self:
        """A centred camera that sees the given angle along the image's longer side."""
        half_side_px = max(width_px, height_px) / 2
        focal_px = half_side_px / math.tan(math.radians(field_of_view_deg) / 2)
        return cls.from_focal(width_px, height_px, focal_px)

    @classmethod
    def from_lens(cls, width_px: int, height_px: int, lens_mm: float) -> Self:
        """A centred camera with a lens of a focal length as on 35 mm film, which is 36 mm long."""
        focal_px = lens_mm / _FILM_LENGTH_MM * max(width_px, height_px)
        return cls.from_focal(width_px, height_px, focal_px)

    @classmethod
    def from_document(cls, document: PinholeIntrinsics) -> Self:
        """The camera that a scene's document describes."""
        return cls(
            document.width_px,
            document.height_px,
            document.fx_px,
            document.fy_px,
            document.cx_px,
            document.cy_px,
        )

    def to_document(self) -> PinholeIntrinsics:
        """This camera for a scene's document."""
        return PinholeIntrinsics(
            width_px=self.width_px,
            height_px=self.height_px,
            fx_px=self.fx_px,
            fy_px=self.fy_px,
            cx_px=self.cx_px,
            cy_px=self.cy_px,
        )

    def matrix(self) -> NDArray[np.float64]:
        """The 3x3 matrix from camera space to homogeneous pixels."""
        return np.array(
            [
                [self.fx_px, 0.0, self.cx_px],
                [0.0, self.fy_px, self.cy_px],
                [0.0, 0.0, 1.0],
            ]
        )

    def resized(self, width_px: int, height_px: int) -> Self:
        """The same camera for an image of another size."""
        x_scale, y_scale = width_px / self.width_px, height_px / self.height_px
        return replace(
            self,
            width_px=width_px,
            height_px=height_px,
            fx_px=self.fx_px * x_scale,
            fy_px=self.fy_px * y_scale,
            cx_px=self.cx_px * x_scale,
            cy_px=self.cy_px * y_scale,
        )

    def shifted(self, x_px: float, y_px: float) -> Self:
        """The same camera with its principal point moved right and down."""
        return replace(self, cx_px=self.cx_px + x_px, cy_px=self.cy_px + y_px)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A camera path: one pose per output frame, all of one size.

    Attributes:
        width_px: Width of the output frames.
        height_px: Height of the output frames.
        cam_to_world: (frames, 4, 4) float64.
        intrinsics_px: (frames, 4) float64: fx, fy, cx, cy.
        source_time: (frames,) int64, the scene frame that each output frame looks at.
    """

    width_px: int
    height_px: int
    cam_to_world: NDArray[np.float64]
    intrinsics_px: NDArray[np.float64]
    source_time: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.cam_to_world)

    def intrinsics(self, index: int) -> Intrinsics:
        """The pinhole camera of output frame `index`."""
        fx_px, fy_px, cx_px, cy_px = map(float, self.intrinsics_px[index])
        return Intrinsics(self.width_px, self.height_px, fx_px, fy_px, cx_px, cy_px)

    @classmethod
    def from_document(cls, document: TrajectoryDocument) -> Self:
        """The trajectory that a document describes.

        Raises:
            InputError: `pose_rotation` if a pose holds more than a rotation and a place.
        """
        count = len(document.poses)
        cam_to_world = np.tile(np.eye(4), (count, 1, 1))
        cam_to_world[:, :3] = np.array([pose.cam_to_world for pose in document.poses]).reshape(
            count, 3, 4
        )
        _check_rotations(cam_to_world)
        return cls(
            document.width_px,
            document.height_px,
            cam_to_world,
            np.array([[p.fx_px, p.fy_px, p.cx_px, p.cy_px] for p in document.poses]),
            np.array([pose.source_time for pose in document.poses], np.int64),
        )

    def to_document(self) -> TrajectoryDocument:
        """This trajectory for the wire or a take."""
        return TrajectoryDocument(
            width_px=self.width_px,
            height_px=self.height_px,
            poses=tuple(
                CameraPose(
                    cam_to_world=tuple(map(float, matrix[:3].ravel())),
                    fx_px=float(camera[0]),
                    fy_px=float(camera[1]),
                    cx_px=float(camera[2]),
                    cy_px=float(camera[3]),
                    source_time=int(source_time),
                )
                for matrix, camera, source_time in zip(
                    self.cam_to_world, self.intrinsics_px, self.source_time, strict=True
                )
            ),
        )


def _check_rotations(cam_to_world: NDArray[np.float64]) -> None:
    rotations = cam_to_world[:, :3, :3]
    errors = np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    wrong = (errors > _ROTATION_TOLERANCE) | (np.linalg.det(rotations) < 0)
    if wrong.any():
        index = int(np.argmax(wrong))
        msg = (
            f"expected a rotation in pose {index}, found a matrix with scale, shear or a mirror: "
            f"{rotations[index].tolist()}; remove the scale of the camera"
        )
        raise InputError("pose_rotation", msg)


def move(
    name: str,
    *,
    frame_count: int,
    radius: float,
    intrinsics: Intrinsics,
    amount: float | None = None,
    scene_frame_count: int | None = None,
) -> Trajectory:
    """A named camera move as a trajectory.

    Args:
        name: A key of `moves.MOVES`.
        frame_count: Output frames.
        radius: Distance of the pivot ahead of the source camera, in scene units.
        intrinsics: Of the output frames at the start of the move.
        amount: How far, in the move's own unit; its default where absent.
        scene_frame_count: Frames of the scene; later output frames look at its last one. As many as
            output frames where absent.

    Raises:
        InputError: `move_unknown`, `move_radius`, `move_frames` or `move_amount`.
    """
    if not 1 <= frame_count <= MAX_FRAMES:
        msg = f"expected 1 to {MAX_FRAMES} frames for {name}, found {frame_count}"
        raise InputError("move_frames", msg)
    poses = [moves.pose(name, i, frame_count, radius, amount) for i in range(frame_count)]
    cam_to_world = np.tile(np.eye(4), (frame_count, 1, 1))
    for matrix, pose in zip(cam_to_world, poses, strict=True):
        matrix[:3] = np.column_stack([pose.right, pose.down, pose.forward, pose.position])
    focal_scale = np.array([pose.focal_scale for pose in poses])
    return Trajectory(
        intrinsics.width_px,
        intrinsics.height_px,
        cam_to_world,
        np.column_stack(
            [
                intrinsics.fx_px * focal_scale,
                intrinsics.fy_px * focal_scale,
                np.full(frame_count, intrinsics.cx_px),
                np.full(frame_count, intrinsics.cy_px),
            ]
        ),
        np.minimum(np.arange(frame_count), (scene_frame_count or frame_count) - 1),
    )


def reference_extrinsics(trajectory: Trajectory) -> NDArray[np.float32]:
    """World-to-camera matrices as the reference saves them in its `camera_*.npz`.

    Returns:
        (frames, 4, 4) float32; axes x right, y up, looking along -z. The reference computes them
        with rows 0..2 of the opposite sign and negates them in place before saving.
    """
    world_to_cam = np.linalg.inv(trajectory.cam_to_world)
    return (_CV_FROM_REFERENCE @ world_to_cam).astype(np.float32)


def read_reference_camera(path: Path, width_px: int, height_px: int) -> Trajectory:
    """Read a `camera_*.npz` of the reference.

    Args:
        path: Holds `extrinsics` (frames, 4, 4) and `intrinsics` (3, 3).
        width_px: Width of the frames that the camera belongs to.
        height_px: Their height.

    Raises:
        InputError: `array_invalid`, `camera_file` or `pose_rotation` if it holds something else.
    """
    with open_array(path, "extrinsics") as reader:
        frame_count = reader.shape[0]
        if reader.shape[1:] != (4, 4) or not 1 <= frame_count <= MAX_FRAMES:
            msg = f"expected extrinsics (frames, 4, 4) in {path.name}, found {reader.shape}"
            raise InputError("camera_file", msg)
        extrinsics = reader.all_entries().astype(np.float64)
    with open_array(path, "intrinsics") as reader:
        if reader.shape != (3, 3):
            msg = f"expected intrinsics (3, 3) in {path.name}, found {reader.shape}"
            raise InputError("camera_file", msg)
        matrix = reader.all_entries().astype(np.float64)
    if not (np.isfinite(extrinsics).all() and np.isfinite(matrix).all()):
        raise InputError("camera_file", f"expected finite numbers in {path.name}, found others")
    if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        msg = f"expected focal lengths above 0 in {path.name}, found {matrix.diagonal()[:2]}"
        raise InputError("camera_file", msg)
    world_to_cam = _CV_FROM_REFERENCE @ extrinsics
    _check_rotations(world_to_cam)
    camera = [matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]]
    return Trajectory(
        width_px,
        height_px,
        np.linalg.inv(world_to_cam).astype(np.float64),
        np.tile(np.array(camera), (frame_count, 1)),
        np.arange(frame_count),
    )
