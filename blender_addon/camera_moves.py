# SPDX-License-Identifier: GPL-3.0-or-later
"""Camera moves as F-curves: few keys that an artist can edit, close to the exact path."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import bpy
import numpy as np
from mathutils import Matrix
from numpy.typing import NDArray

from . import axes, camera_binding, compat
from ._vendor import moves
from ._vendor.errors import Ex4dError, InputError
from ._vendor.protocol.documents import MAX_FRAMES
from .camera import show_frame_again
from .shots import NeedsShot, active_shot

#: How far the keyed path may be from the exact one: places against the radius, angles in radians,
#: focal lengths against the first. One number, since each displaces the picture about as much.
TOLERANCE = 5e-4
#: As Blender's menus have them: identifier, label, description.
MOVE_ITEMS = tuple((name, move.label, move.description) for name, move in moves.MOVES.items())


@dataclass(frozen=True)
class Ease:
    """How the speed changes along a move, whose path stays the same."""

    label: str
    description: str
    #: Share of the time -> share of the way, both from 0 to 1. Cubics at most, so that where the
    #: path allows it two keys hold them exactly.
    share_of_way: Callable[[float], float]
    #: Whether the camera stands still where the move begins, and where it ends.
    starts_at_rest: bool = False
    ends_at_rest: bool = False


EASES = {
    "NONE": Ease("None", "At the same speed from the first frame to the last", lambda time: time),
    "EASE_IN": Ease(
        "Ease In",
        "Starts from rest and gathers speed to the end",
        lambda time: time * time,
        starts_at_rest=True,
    ),
    "EASE_OUT": Ease(
        "Ease Out",
        "Starts at full speed and slows down to rest",
        lambda time: time * (2.0 - time),
        ends_at_rest=True,
    ),
    "EASE_IN_OUT": Ease(
        "Ease In and Out",
        "Starts from rest and comes to rest",
        lambda time: time * time * (3.0 - 2.0 * time),
        starts_at_rest=True,
        ends_at_rest=True,
    ),
}
_EASE_ITEMS = tuple((name, ease.label, ease.description) for name, ease in EASES.items())


@dataclass(frozen=True)
class Channels:
    """Animated properties of one data-block over consecutive frames."""

    #: The camera's object or data.
    owner: bpy.types.ID
    #: (data path, index) of each column.
    properties: tuple[tuple[str, int], ...]
    #: (frames, columns) float64.
    values: NDArray[np.float64]
    #: Largest error that is allowed in each column.
    tolerances: NDArray[np.float64]


def write_move(
    shot: bpy.types.Object,
    name: str,
    *,
    frame_start: int,
    frame_count: int,
    strength: float = 1.0,
    ease: str = "NONE",
    camera: bpy.types.Object | None = None,
) -> int:
    """Key a camera of the shot along a move; keys before and after it stay.

    Args:
        shot: The shot's object; the camera must hang from it directly.
        name: A key of `moves.MOVES`.
        frame_start: Frame of the move's first pose, the source camera's.
        frame_count: Frames of the move, both ends included.
        strength: How far the move goes against its default; the reference's moves know only 1.
        ease: A key of `EASES`.
        camera: The shot's own where absent.

    Returns:
        Number of keys of the camera's place and rotation.

    Raises:
        InputError: `move_unknown`, `move_amount`, or of `checked_camera`.
    """
    properties = shot.ex4d_shot
    keyed, source = checked_camera(shot, camera or properties.camera), properties.source_camera
    amount = moves.find(name).default_amount * strength
    pace, last = EASES[ease], frame_count - 1
    # The pace changes, not the path: an eased orbit stays on its circle.
    places = [last * pace.share_of_way(index / max(last, 1)) for index in range(frame_count)]
    right, up = properties.pivot_offset
    poses = [
        moves.pose(name, place, frame_count, properties.radius, amount, pivot_offset=(right, -up))
        for place in places
    ]
    # The rest pose may have been moved away by hand: the move is relative to the source camera.
    parent_inverse = keyed.matrix_parent_inverse.inverted()
    path = [parent_inverse @ axes.camera_in_shot(_cam_to_world(pose)) for pose in poses]
    lenses_mm = [source.data.lens * pose.focal_scale for pose in poses]
    return write_path(
        keyed,
        path,
        frame_start,
        lenses_mm,
        radius=properties.radius,
        rests=(pace.starts_at_rest, pace.ends_at_rest),
    )


def write_path(
    camera: bpy.types.Object,
    path: list[Matrix],
    frame_start: int,
    lenses_mm: list[float],
    *,
    radius: float,
    rests: tuple[bool, bool] = (False, False),
) -> int:
    """Key a camera along a path, its lens only where that changes.

    Args:
        camera: The camera.
        path: The camera's own transform, 4x4, at each of consecutive frames.
        frame_start: Frame of the first.
        lenses_mm: Focal length at each.
        radius: Distance of the pivot in the camera's units, which scales the tolerance.
        rests: Whether nothing moves at the first frame, and at the last.

    Returns:
        Number of keys of the camera's place and rotation.
    """
    channels = _transform_channels(camera, path, radius)
    key_count = _write_channels(channels, frame_start, rests)
    if np.ptp(lenses_mm) > 0:
        values = np.array(lenses_mm)[:, None]
        tolerance = np.array([TOLERANCE * lenses_mm[0]])
        lens = Channels(camera.data, (("lens", 0),), values, tolerance)
        _write_channels(lens, frame_start, rests)
    return key_count


def checked_camera(shot: bpy.types.Object, camera: bpy.types.Object | None) -> bpy.types.Object:
    """The same camera, if it can be keyed relative to its shot.

    Raises:
        InputError: `camera_missing`, `camera_type`, `camera_elsewhere` or `camera_driven`.
    """
    if camera is None or shot.ex4d_shot.source_camera is None:
        message = f"expected {shot.name} to have its cameras, found one deleted; import it again"
        raise InputError("camera_missing", message)
    if camera.type != "CAMERA":
        message = f"expected a camera, found {camera.name} bound by a marker; bind a camera"
        raise InputError("camera_type", message)
    if camera.parent != shot or camera.parent_type != "OBJECT":
        message = (
            f"expected {camera.name} to be a child of {shot.name}, whose place the move is "
            "relative to; parent it to the shot, or have panel and markers choose the shot's own"
        )
        raise InputError("camera_elsewhere", message)
    for owner, paths in ((camera, ("location", "rotation")), (camera.data, ("lens",))):
        if owner.animation_data is not None:
            for driver in owner.animation_data.drivers:
                if driver.data_path.startswith(paths):
                    message = (
                        f"expected {owner.name} to be free to animate, found a driver on "
                        f"{driver.data_path}; remove it"
                    )
                    raise InputError("camera_driven", message)
    return camera


def _cam_to_world(pose: moves.Pose) -> Matrix:
    """The 4x4 matrix of a pose: its axes and its place are the columns."""
    columns = ((*pose.right, 0.0), (*pose.down, 0.0), (*pose.forward, 0.0), (*pose.position, 1.0))
    return Matrix(columns).transposed()


def _transform_channels(camera: bpy.types.Object, path: list[Matrix], radius: float) -> Channels:
    """Location and rotation along a path, in the camera's own rotation mode."""
    if camera.rotation_mode == "AXIS_ANGLE":
        # Its axis jumps where the angle passes zero.
        camera.rotation_mode = "QUATERNION"
    if camera.rotation_mode == "QUATERNION":
        rotation_path = "rotation_quaternion"
    else:
        rotation_path = "rotation_euler"
    rows: list[list[float]] = []
    previous = None
    for matrix in path:
        if rotation_path == "rotation_quaternion":
            rotation = matrix.to_quaternion()
            # Both signs are the same rotation, but not the same way there.
            if previous is not None and rotation.dot(previous) < 0:
                rotation.negate()
        elif previous is None:
            rotation = matrix.to_euler(camera.rotation_mode)
        else:
            rotation = matrix.to_euler(camera.rotation_mode, previous)
        previous = rotation
        rows.append([*matrix.translation, *rotation])
    values = np.array(rows, dtype=np.float64)
    locations = [("location", index) for index in range(3)]
    rotations = [(rotation_path, index) for index in range(values.shape[1] - 3)]
    tolerances = np.full(values.shape[1], TOLERANCE)
    tolerances[:3] *= radius
    return Channels(camera, (*locations, *rotations), values, tolerances)


def _write_channels(channels: Channels, frame_start: int, rests: tuple[bool, bool]) -> int:
    """Key all channels of an owner at the same frames; returns how many."""
    slopes = _slopes(channels.values)
    # Where a camera stands still, the change over the next frames would say otherwise.
    slopes[[place for place, rest in zip((0, -1), rests, strict=True) if rest]] = 0.0
    keys = choose_keys(channels.values, slopes, channels.tolerances)
    frame_end = frame_start + len(channels.values) - 1
    for column, (data_path, index) in enumerate(channels.properties):
        curve = compat.ensure_fcurve(channels.owner, data_path, index)
        _clear_keys(curve, frame_start, frame_end)
        _add_keys(curve, frame_start, keys, channels.values[:, column], slopes[:, column])
    return len(keys)


def choose_keys(
    values: NDArray[np.float64], slopes: NDArray[np.float64], tolerances: NDArray[np.float64]
) -> list[int]:
    """Choose the frames whose keys keep smooth curves through them close to all values.

    A key is added where the error is largest, until none is too large.

    Args:
        values: (frames, columns).
        slopes: Their change per frame, the same shape.
        tolerances: Largest error allowed in each column.

    Returns:
        Indices in ascending order, the first and the last frame among them.
    """
    keys = sorted({0, len(values) - 1})
    errors = np.zeros(len(values))
    stale = list(itertools.pairwise(keys))
    while True:
        for first, last in stale:
            curve = _hermite(values, slopes, first, last)
            errors[first : last + 1] = (np.abs(curve - values[first : last + 1]) / tolerances).max(
                axis=1
            )
        worst = int(errors.argmax())
        if errors[worst] <= 1.0:
            return keys
        place = next(place for place, key in enumerate(keys) if key > worst)
        keys.insert(place, worst)
        stale = [(keys[place - 1], worst), (worst, keys[place + 1])]


def _hermite(
    values: NDArray[np.float64], slopes: NDArray[np.float64], first: int, last: int
) -> NDArray[np.float64]:
    """The cubic between two keys at each frame, both included, as Blender will draw it."""
    length = last - first
    t = np.linspace(0.0, 1.0, length + 1)[:, None]
    return (
        (1 + 2 * t) * (1 - t) ** 2 * values[first]
        + t * (1 - t) ** 2 * length * slopes[first]
        + t**2 * (3 - 2 * t) * values[last]
        + t**2 * (t - 1) * length * slopes[last]
    )


def _slopes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Change per frame, to second order also at both ends."""
    if len(values) == 1:
        return np.zeros_like(values)
    return np.gradient(values, axis=0, edge_order=2 if len(values) > 2 else 1)


def _clear_keys(curve: bpy.types.FCurve, frame_start: int, frame_end: int) -> None:
    for point in reversed(curve.keyframe_points):
        if frame_start <= point.co[0] <= frame_end:
            curve.keyframe_points.remove(point, fast=True)


def _add_keys(
    curve: bpy.types.FCurve,
    frame_start: int,
    keys: list[int],
    values: NDArray[np.float64],
    slopes: NDArray[np.float64],
) -> None:
    """Insert keys with handles a third of the way to their neighbours.

    With such handles time runs evenly along each Bezier segment: it is the cubic of `_hermite`.
    """
    for key in keys:
        curve.keyframe_points.insert(frame_start + key, values[key], options={"FAST"})
    curve.update()
    points = {round(point.co[0]): point for point in curve.keyframe_points}
    for place, key in enumerate(keys):
        point = points[frame_start + key]
        before = (key - keys[place - 1]) / 3 if place else 1.0
        after = (keys[place + 1] - key) / 3 if place + 1 < len(keys) else 1.0
        point.interpolation = "BEZIER"
        point.handle_left_type = point.handle_right_type = "ALIGNED"
        frame, value = frame_start + key, values[key]
        point.handle_left = (frame - before, value - before * slopes[key])
        point.handle_right = (frame + after, value + after * slopes[key])


class EX4D_OT_add_move(NeedsShot, bpy.types.Operator):
    """Animate the shot's camera with ordinary keys, starting at the source camera"""

    bl_idname = "ex4d.add_move"
    bl_label = "Add Camera Move"
    bl_options = {"REGISTER", "UNDO", "PRESET"}

    move: bpy.props.EnumProperty(
        name="Move", description="Where the camera goes", items=MOVE_ITEMS, default="orbit_right"
    )  # type: ignore[valid-type]
    strength: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Strength",
        description="How far the move goes; 1 is its usual amount, the only one of EX-4D's own",
        min=0.01,
        soft_max=3.0,
        max=20.0,
        default=1.0,
    )
    start: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Start",
        description="Where the move begins",
        items=(
            ("SHOT", "Start of Shot", "The clip's first frame"),
            ("PLAYHEAD", "Current Frame", "Where the playhead stands"),
        ),
    )
    frame_count: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Frames",
        description="Length of the move; 0: to the end of the clip",
        min=0,
        max=MAX_FRAMES,
    )
    ease: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Ease", description="How the move begins and ends", items=_EASE_ITEMS
    )

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Write the keys and show the current frame again."""
        shot = active_shot(context)
        if shot is None:
            return {"CANCELLED"}
        scene, properties = context.scene, shot.ex4d_shot
        at_playhead = self.start == "PLAYHEAD"
        frame_start = scene.frame_current if at_playhead else properties.frame_start
        frame_count = self.frame_count or properties.frame_end - frame_start + 1
        try:
            if frame_count < 1:
                message = (
                    f"expected the playhead before the clip's end at {properties.frame_end}, found "
                    f"it at {frame_start}; move it or say how many frames the move has"
                )
                raise InputError("move_late", message)
            key_count = write_move(
                shot,
                self.move,
                frame_start=frame_start,
                frame_count=frame_count,
                strength=self.strength,
                ease=self.ease,
                camera=camera_binding.camera_at(scene, shot, frame_start),
            )
        except Ex4dError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        show_frame_again(scene)
        self.report({"INFO"}, f"{key_count} keys from frame {frame_start}")
        return {"FINISHED"}


register, unregister = bpy.utils.register_classes_factory((EX4D_OT_add_move,))
