"""Every camera move: where it starts, where it goes, and what it refuses."""

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ex4d import moves
from ex4d.errors import InputError

FRAMES = 49
RADIUS = 3.0
ROOT_HALF = math.sqrt(0.5)


def dot(a: moves.Vector, b: moves.Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def determinant(pose: moves.Pose) -> float:
    (a, b, c), (d, e, f), (g, h, i) = pose.right, pose.down, pose.forward
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


@pytest.mark.parametrize("name", moves.MOVES)
def test_every_move_starts_at_the_source_camera(name: str) -> None:
    first = moves.pose(name, 0, FRAMES, RADIUS)
    assert first.position == pytest.approx((0, 0, 0), abs=1e-12)
    assert first.right == pytest.approx((1, 0, 0))
    assert first.down == pytest.approx((0, 1, 0))
    assert first.forward == pytest.approx((0, 0, 1))
    assert first.focal_scale == 1.0


@given(
    name=st.sampled_from(sorted(moves.MOVES)),
    index=st.integers(0, 80),
    radius=st.floats(1e-3, 1e3),
    share=st.floats(0.01, 1.0),
)
def test_axes_are_a_rotation_everywhere(name: str, index: int, radius: float, share: float) -> None:
    move = moves.find(name)
    amount = None if move.is_reference else share * move.max_amount
    pose = moves.pose(name, index, 81, radius, amount)
    axes = (pose.right, pose.down, pose.forward)
    for i, axis in enumerate(axes):
        for j, other in enumerate(axes):
            assert dot(axis, other) == pytest.approx(float(i == j), abs=1e-9)
    assert determinant(pose) == pytest.approx(1.0)
    assert pose.focal_scale > 0


# With a pivot 3 ahead; x is right, y is down, z is forward.
@pytest.mark.parametrize(
    ("name", "amount", "position", "forward"),
    [
        ("orbit_left", 45.0, (-3 * ROOT_HALF, 0, 3 - 3 * ROOT_HALF), (ROOT_HALF, 0, ROOT_HALF)),
        ("orbit_right", 45.0, (3 * ROOT_HALF, 0, 3 - 3 * ROOT_HALF), (-ROOT_HALF, 0, ROOT_HALF)),
        ("orbit_up", 45.0, (0, -3 * ROOT_HALF, 3 - 3 * ROOT_HALF), (0, ROOT_HALF, ROOT_HALF)),
        ("orbit_down", 45.0, (0, 3 * ROOT_HALF, 3 - 3 * ROOT_HALF), (0, -ROOT_HALF, ROOT_HALF)),
        ("orbit_left", 90.0, (-3, 0, 3), (1, 0, 0)),
        ("orbit_right", 90.0, (3, 0, 3), (-1, 0, 0)),
        ("orbit_up", 90.0, (0, -3, 3), (0, 1, 0)),
        ("orbit_down", 90.0, (0, 3, 3), (0, -1, 0)),
        ("pan_left", 90.0, (0, 0, 0), (-1, 0, 0)),
        ("pan_right", 90.0, (0, 0, 0), (1, 0, 0)),
        ("tilt_up", 90.0, (0, 0, 0), (0, -1, 0)),
        ("tilt_down", 90.0, (0, 0, 0), (0, 1, 0)),
        ("truck_left", 0.5, (-1.5, 0, 0), (0, 0, 1)),
        ("truck_right", 0.5, (1.5, 0, 0), (0, 0, 1)),
        ("pedestal_up", 0.5, (0, -1.5, 0), (0, 0, 1)),
        ("pedestal_down", 0.5, (0, 1.5, 0), (0, 0, 1)),
        ("zoom_in", None, (0, 0, 1.5), (0, 0, 1)),
        ("zoom_out", None, (0, 0, -1.5), (0, 0, 1)),
        ("dolly_zoom", 0.25, (0, 0, 0.75), (0, 0, 1)),
    ],
)
def test_where_a_move_ends(
    name: str, amount: float | None, position: moves.Vector, forward: moves.Vector
) -> None:
    last = moves.pose(name, FRAMES - 1, FRAMES, RADIUS, amount)
    assert last.position == pytest.approx(position, abs=1e-9)
    assert last.forward == pytest.approx(forward, abs=1e-9)


@pytest.mark.parametrize("name", ["orbit_left", "orbit_right", "orbit_up", "orbit_down"])
def test_an_orbit_keeps_its_distance_and_looks_at_the_pivot(name: str) -> None:
    for index in range(FRAMES):
        pose = moves.pose(name, index, FRAMES, RADIUS, 90.0)
        to_pivot = (-pose.position[0], -pose.position[1], RADIUS - pose.position[2])
        assert math.hypot(*to_pivot) == pytest.approx(RADIUS)
        assert dot(to_pivot, pose.forward) == pytest.approx(RADIUS)


@given(
    name=st.sampled_from(["orbit_left", "orbit_right", "orbit_up", "orbit_down"]),
    index=st.floats(0, FRAMES - 1),
    offset=st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
)
def test_an_orbit_keeps_a_pivot_beside_the_middle_where_it_is_in_the_picture(
    name: str, index: float, offset: tuple[float, float]
) -> None:
    pose = moves.pose(name, index, FRAMES, RADIUS, 70.0, pivot_offset=offset)
    pivot = (*offset, RADIUS)
    to_pivot = tuple(a - b for a, b in zip(pivot, pose.position, strict=True))
    seen = [dot(to_pivot, axis) for axis in (pose.right, pose.down, pose.forward)]
    assert seen == pytest.approx(pivot, abs=1e-9)


@pytest.mark.parametrize("name", [name for name in moves.MOVES if "orbit" not in name])
def test_other_moves_go_by_the_distance_of_the_pivot_alone(name: str) -> None:
    plain = moves.pose(name, 20, FRAMES, RADIUS)
    assert moves.pose(name, 20, FRAMES, RADIUS, pivot_offset=(1.0, 2.0)) == plain


def test_an_orbit_turns_evenly() -> None:
    """Azimuth is true: half of the frames cover half of the angle."""
    middle = moves.pose("orbit_right", 24, FRAMES, RADIUS, 60.0)
    assert math.degrees(math.atan2(-middle.forward[0], middle.forward[2])) == pytest.approx(30.0)


def test_the_dolly_zoom_keeps_the_size_at_the_pivot() -> None:
    sizes = [
        pose.focal_scale / (RADIUS - pose.position[2])
        for pose in (moves.pose("dolly_zoom", i, FRAMES, RADIUS, 0.9) for i in range(FRAMES))
    ]
    assert sizes == pytest.approx([1 / RADIUS] * FRAMES)


@pytest.mark.parametrize("frame_count", [2, 25, 49, 81])
@pytest.mark.parametrize("name", ["30", "60", "90"])
def test_the_reference_stretches_its_angle_by_the_frame_count(name: str, frame_count: int) -> None:
    stretch = max(frame_count / 49, 49 / frame_count)
    last = moves.pose(name, frame_count - 1, frame_count, 1.0)
    angle_rad = math.radians(float(name)) * stretch
    cos = abs(math.cos(angle_rad))
    assert last.position == pytest.approx((math.sin(angle_rad), 0.2 * (cos - 1), 1 - cos))


def test_a_single_frame_is_the_source_camera() -> None:
    assert moves.pose("orbit_left", 0, 1, RADIUS).position == pytest.approx((0, 0, 0))


@pytest.mark.parametrize(
    ("code", "name", "index", "frame_count", "radius", "amount"),
    [
        ("move_unknown", "spin", 0, 49, 1.0, None),
        ("move_amount", "orbit_left", 0, 49, 1.0, 91.0),
        ("move_amount", "orbit_left", 0, 49, 1.0, -30.0),
        ("move_amount", "zoom_in", 0, 49, 1.0, 1.0),
        ("move_amount", "zoom_in", 0, 49, 1.0, math.nan),
        ("move_amount", "180", 0, 49, 1.0, 90.0),
        ("move_radius", "180", 0, 49, 0.0, None),
        ("move_radius", "180", 0, 49, math.inf, None),
        ("move_radius", "180", 0, 49, math.nan, None),
        ("move_frames", "180", 49, 49, 1.0, None),
        ("move_frames", "180", 0, 0, 1.0, None),
    ],
)
def test_what_a_move_refuses(
    code: str, name: str, index: int, frame_count: int, radius: float, amount: float | None
) -> None:
    with pytest.raises(InputError) as caught:
        moves.pose(name, index, frame_count, radius, amount)
    assert caught.value.code == code


def test_moves_load_nothing_but_the_standard_library() -> None:
    """They travel inside the extension, where NumPy is whatever Blender has."""
    code = "import sys, ex4d.moves; print(*(m.split('.')[0] for m in sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not set(loaded) & {"numpy", "msgspec", "zmq", "torch"}
