"""The camera moves, each defined once, for the command line, the server and Blender alike.

Axes are OpenCV's (x right, y down, z forward). Every move starts at the source camera: at the
origin, looking along +z, with the pivot ahead at (0, 0, radius). Directions are the camera's own:
`orbit_left` takes the camera to its left.

Only the standard library is imported, since this module also travels inside the extension.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from .errors import InputError

Vector = tuple[float, float, float]

#: Frame count that the EX-4D model was trained with; the reference stretches its angles by the
#: ratio of the clip's frame count to it, whichever way makes them larger.
_TRAINED_FRAMES = 49
#: How much lower the reference's orbits dip, as a share of the radius.
_REFERENCE_DIP = 0.2


class Pose(NamedTuple):
    """A camera: its place, its axes as unit vectors, its focal length against the source's."""

    position: Vector
    right: Vector
    down: Vector
    forward: Vector
    focal_scale: float = 1.0


@dataclass(frozen=True)
class Move:
    """A named camera move.

    Attributes:
        label: For people.
        description: One sentence, for people.
        unit: What `amount` counts: degrees, or multiples of the radius.
        default_amount: The amount where none is given; fixed for the reference's moves.
        max_amount: The largest amount that makes sense.
        path: From the distance covered (radians, or multiples of the radius) and the radius to the
            pose.
        is_reference: Whether the move is one of the reference's, whose amount depends on the number
            of frames alone.
        is_orbit: Whether the camera turns around the pivot as one with it.
    """

    label: str
    description: str
    unit: Literal["degrees", "radii"]
    default_amount: float
    max_amount: float
    path: Callable[[float, float], Pose]
    is_reference: bool = False
    is_orbit: bool = False


def pose(
    name: str,
    index: float,
    frame_count: int,
    radius: float,
    amount: float | None = None,
    *,
    pivot_offset: tuple[float, float] = (0.0, 0.0),
) -> Pose:
    """The camera of one frame of a move.

    Args:
        name: A key of `MOVES`.
        index: Frame, counted from 0; may lie between two, since a path can be gone along at any
            pace.
        frame_count: Frames of the whole move.
        radius: Distance of the pivot, in scene units.
        amount: How far the move goes, in the move's unit; its default where absent.
        pivot_offset: How far to the right and below the middle of the source's view the pivot lies,
            in scene units. Orbits turn around it; other moves go by its distance alone.

    Raises:
        InputError: `move_unknown`, `move_radius`, `move_frames`, or `move_amount` where the amount
            is out of range.
    """
    move = find(name)
    if not 0.0 < radius < math.inf:
        msg = f"expected a radius above 0 for {name}, found {radius:g}; give the pivot's distance"
        raise InputError("move_radius", msg)
    if not 0 <= index <= frame_count - 1:
        msg = f"expected a frame from 0 to {frame_count - 1} of {name}, found {index:g}"
        raise InputError("move_frames", msg)
    if amount is None:
        amount = move.default_amount
    if move.is_reference and amount != move.default_amount:
        msg = (
            f"expected no amount for {name}, whose path the reference fixes, found {amount:g}; "
            "leave it out, or take an orbit"
        )
        raise InputError("move_amount", msg)
    if not 0.0 < amount <= move.max_amount:
        msg = (
            f"expected an amount above 0 and up to {move.max_amount:g} {move.unit} for {name}, "
            f"found {amount:g}; for the other way take the opposite move"
        )
        raise InputError("move_amount", msg)
    if move.is_reference:
        amount *= max(frame_count / _TRAINED_FRAMES, _TRAINED_FRAMES / frame_count)
    progress = index / (frame_count - 1) if frame_count > 1 else 0.0
    distance = math.radians(amount) if move.unit == "degrees" else amount
    found = move.path(distance * progress, radius)
    return _turned_about(found, pivot_offset) if move.is_orbit else found


def find(name: str) -> Move:
    """The move of that name.

    Raises:
        InputError: `move_unknown`, naming those there are.
    """
    try:
        return MOVES[name]
    except KeyError:
        msg = f"expected one of {', '.join(MOVES)}, found {name!r}; choose one of these moves"
        raise InputError("move_unknown", msg) from None


def _normalised(vector: Vector) -> Vector:
    length = math.hypot(*vector)
    return (vector[0] / length, vector[1] / length, vector[2] / length)


def _cross(a: Vector, b: Vector) -> Vector:
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )


def _looking_at(position: Vector, target: Vector) -> Pose:
    forward = _normalised(
        (
            target[0] - position[0],
            target[1] - position[1],
            target[2] - position[2],
        )
    )
    right = _normalised(_cross((0.0, 1.0, 0.0), forward))
    return Pose(position, right, _cross(forward, right), forward)


def _translated(x: float, y: float, z: float, focal_scale: float = 1.0) -> Pose:
    return Pose((x, y, z), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), focal_scale)


def _turned_right(angle_rad: float, position: Vector = (0.0, 0.0, 0.0)) -> Pose:
    sin, cos = math.sin(angle_rad), math.cos(angle_rad)
    return Pose(position, (cos, 0.0, -sin), (0.0, 1.0, 0.0), (sin, 0.0, cos))


def _turned_down(angle_rad: float, position: Vector = (0.0, 0.0, 0.0)) -> Pose:
    sin, cos = math.sin(angle_rad), math.cos(angle_rad)
    return Pose(position, (1.0, 0.0, 0.0), (0.0, cos, -sin), (0.0, sin, cos))


def _orbit_right(angle_rad: float, radius: float) -> Pose:
    sin, cos = math.sin(angle_rad), math.cos(angle_rad)
    return _turned_right(-angle_rad, (radius * sin, 0.0, radius * (1.0 - cos)))


def _orbit_up(angle_rad: float, radius: float) -> Pose:
    sin, cos = math.sin(angle_rad), math.cos(angle_rad)
    return _turned_down(angle_rad, (0.0, -radius * sin, radius * (1.0 - cos)))


def _turned_about(pose: Pose, offset: tuple[float, float]) -> Pose:
    """The pose of an orbit moved so that a point beside the view's middle stays in its place."""
    right, down = offset
    x, y, z = (
        place - right * across - down * along
        for place, across, along in zip(pose.position, pose.right, pose.down, strict=True)
    )
    return pose._replace(position=(x + right, y + down, z))


def _reference_swing(angle_rad: float, radius: float) -> Pose:
    """EX-4D's moves of 30, 60 and 90 degrees (arXiv 2506.05554, its published `recon.py`)."""
    cos = abs(math.cos(angle_rad))
    eye = (
        radius * math.sin(angle_rad),
        _REFERENCE_DIP * radius * (cos - 1.0),
        radius * (1.0 - cos),
    )
    return _looking_at(eye, (0.0, 0.0, radius))


def _reference_sway(angle_rad: float, radius: float) -> Pose:
    """EX-4D's move called 180: to one side, to the other and back, at the source's depth."""
    eye = (
        radius * math.sin(angle_rad),
        _REFERENCE_DIP * radius * (math.cos(angle_rad) - 1.0),
        0.0,
    )
    return _looking_at(eye, (0.0, 0.0, radius))


def _dolly_zoom(travel: float, radius: float) -> Pose:
    # What lies at the pivot keeps its size: focal length and distance shrink alike.
    return _translated(0.0, 0.0, travel * radius, 1.0 - travel)


def _reference(degrees: float, path: Callable[[float, float], Pose], name: str) -> Move:
    text = f"The move that the EX-4D reference calls {name}"
    return Move(f"EX-4D {name}", text, "degrees", degrees, degrees, path, is_reference=True)


def _orbit(side: str, path: Callable[[float, float], Pose]) -> Move:
    text = f"Around the pivot on a circle, the camera goes {side}"
    return Move(f"Orbit {side.title()}", text, "degrees", 30.0, 90.0, path, is_orbit=True)


def _turn(verb: str, side: str, path: Callable[[float, float], Pose]) -> Move:
    text = f"The camera stays where it is and turns {side}"
    return Move(f"{verb} {side.title()}", text, "degrees", 15.0, 90.0, path)


def _travel(verb: str, side: str, path: Callable[[float, float], Pose], largest: float) -> Move:
    text = f"The camera goes straight {side} and keeps its direction"
    return Move(f"{verb} {side.title()}", text, "radii", 0.25, largest, path)


MOVES: dict[str, Move] = {
    "30": _reference(30.0, _reference_swing, "30"),
    "60": _reference(60.0, _reference_swing, "60"),
    "90": _reference(90.0, _reference_swing, "90"),
    "180": _reference(360.0, _reference_sway, "180"),
    "zoom_in": Move(
        "Zoom In",
        "The camera goes forward to half the pivot's distance",
        "radii",
        0.5,
        0.9,
        lambda travel, radius: _translated(0.0, 0.0, travel * radius),
    ),
    "zoom_out": Move(
        "Zoom Out",
        "The camera goes back by half the pivot's distance",
        "radii",
        0.5,
        4.0,
        lambda travel, radius: _translated(0.0, 0.0, -travel * radius),
    ),
    "orbit_left": _orbit("left", lambda angle, radius: _orbit_right(-angle, radius)),
    "orbit_right": _orbit("right", _orbit_right),
    "orbit_up": _orbit("up", _orbit_up),
    "orbit_down": _orbit("down", lambda angle, radius: _orbit_up(-angle, radius)),
    "pan_left": _turn("Pan", "left", lambda angle, _: _turned_right(-angle)),
    "pan_right": _turn("Pan", "right", lambda angle, _: _turned_right(angle)),
    "tilt_up": _turn("Tilt", "up", lambda angle, _: _turned_down(-angle)),
    "tilt_down": _turn("Tilt", "down", lambda angle, _: _turned_down(angle)),
    "truck_left": _travel(
        "Truck", "left", lambda travel, radius: _translated(-travel * radius, 0.0, 0.0), 4.0
    ),
    "truck_right": _travel(
        "Truck", "right", lambda travel, radius: _translated(travel * radius, 0.0, 0.0), 4.0
    ),
    "pedestal_up": _travel(
        "Pedestal", "up", lambda travel, radius: _translated(0.0, -travel * radius, 0.0), 4.0
    ),
    "pedestal_down": _travel(
        "Pedestal", "down", lambda travel, radius: _translated(0.0, travel * radius, 0.0), 4.0
    ),
    "dolly_zoom": Move(
        "Dolly Zoom",
        "Forward while the lens widens: what lies at the pivot keeps its size",
        "radii",
        0.5,
        0.9,
        _dolly_zoom,
    ),
}
