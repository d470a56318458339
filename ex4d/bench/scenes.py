"""Clips whose depth and other views are known exactly: solids, cast by rays.

All follows from this code: the same numbers everywhere, nothing on disk. What a network finds hard
is there once each: thin structures, sky, a room, walking figures, a fast camera; and two scenes
more that nothing was chosen by. And a model of what a network makes of true depth: noise, blur,
flicker and few pixels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from ex4d.camera import Intrinsics, move

from .sample import load_sample

ANGLES_DEG = (30, 60, 90)
SKY_DEPTH = 1000.0
"""z-depth where nothing stands, in metres: far enough that no angle moves it by a pixel."""
_SIZE_PX, _FRAME_COUNT = (320, 192), 25
#: Frames whose other views are compared.
_VIEWED = (3, 8, 12, 16, 21)
#: The sample has a view a frame, of growing azimuth: those this near are taken, every other one.
_SAMPLE_REACH_DEG = 4.0
_ELLIPSOID, _BOX, _CAPSULE = 0, 1, 2
#: A point counts as seen if nothing stands before this share of the way to it.
_ALMOST_THERE = 1 - 1e-3

_Solids = list[list[float]]
_Point = tuple[float, float, float]


@dataclass(frozen=True)
class TrueView:
    """What a camera beside the source truly sees.

    Attributes:
        index: Frame of the clip.
        cam_to_world: (4, 4) float64; the world is the source camera.
        color: (height, width, 3) uint8 sRGB.
        seen: (height, width) bool: what the source sees as well, at the same time.
    """

    index: int
    cam_to_world: NDArray[np.float64]
    color: NDArray[np.uint8]
    seen: NDArray[np.bool_]


@dataclass(frozen=True)
class TrueScene:
    """A clip with its truth.

    Attributes:
        name: For people.
        frames: (frames, height, width, 3) uint8 sRGB.
        depth: (frames, height, width) float32 z-depth in metres.
        intrinsics: Of the clip and of the views.
        views: Per azimuth in degrees.
    """

    name: str
    frames: NDArray[np.uint8]
    depth: NDArray[np.float32]
    intrinsics: Intrinsics
    views: dict[int, list[TrueView]]


@dataclass(frozen=True)
class _Plan:
    """Where the solids and the camera are in each frame, and how far off the orbit's pivot is."""

    solids: Callable[[int], _Solids]
    cam_to_world: Callable[[int], NDArray[np.float64]]
    radius_m: float


@cache
def true_scene(name: str) -> TrueScene:
    """The scene of one of `SCENE_NAMES` or `HELD_OUT_NAMES`; made once a process, in seconds."""
    if name == "sample":
        return _rendered_sample()
    return cast_scene(name, _SIZE_PX, range(_FRAME_COUNT), _VIEWED)


def cast_scene(
    name: str, size_px: tuple[int, int], numbers: Sequence[int], viewed: Sequence[int]
) -> TrueScene:
    """A scene other than the sample, of any size.

    Args:
        name: One of `SCENE_NAMES` or `HELD_OUT_NAMES`.
        size_px: Width and height.
        numbers: Which moments are the clip's frames.
        viewed: Of those, by place in the clip, the ones that are seen from the side.
    """
    plan = _PLANS[name]
    width_px, height_px = size_px
    camera = Intrinsics.from_field_of_view(width_px, height_px)
    frames = np.empty((len(numbers), height_px, width_px, 3), np.uint8)
    depth = np.empty(frames.shape[:3], np.float32)
    for index, number in enumerate(numbers):
        pose, solids = plan.cam_to_world(number), np.array(plan.solids(number))
        frames[index], depth[index] = _look(solids, pose, camera)
    views: dict[int, list[TrueView]] = {angle: [] for angle in ANGLES_DEG}
    for angle in ANGLES_DEG:
        orbit = move(
            "orbit_right", frame_count=2, radius=plan.radius_m, intrinsics=camera, amount=angle
        )
        for index in viewed:
            number = numbers[index]
            source, solids = plan.cam_to_world(number), np.array(plan.solids(number))
            pose = source @ orbit.cam_to_world[-1]
            color, view_depth = _look(solids, pose, camera)
            seen = _seen_from(source, pose, view_depth, solids, camera)
            views[angle].append(TrueView(index, orbit.cam_to_world[-1], color, seen))
    return TrueScene(name, frames, depth, camera, views)


def _rendered_sample() -> TrueScene:
    sample = load_sample()
    views: dict[int, list[TrueView]] = {angle: [] for angle in ANGLES_DEG}
    azimuths_deg = np.linspace(0, 90, len(sample.trajectory))
    for angle in ANGLES_DEG:
        for index in np.flatnonzero(np.abs(azimuths_deg - angle) <= _SAMPLE_REACH_DEG)[::2]:
            pose = sample.trajectory.cam_to_world[index]
            view = TrueView(int(index), pose, sample.orbit[index], sample.seen[index])
            views[angle].append(view)
    return TrueScene("sample", sample.clip.frames, sample.depth.values, sample.intrinsics, views)


def degraded(
    depth: NDArray[np.float32], *, seed: int = 0, reduction: int = 3, noise: float = 0.01
) -> NDArray[np.float32]:
    """What a network makes of true depth: few pixels, blurred, noisy, flickering.

    The numbers are this benchmark's own choice, not measured on a network. All happens to inverse
    depth, which is what networks tell; a share is one of its range over the clip.

    Args:
        depth: (frames, height, width) float32 z-depth.
        seed: Of the noise.
        reduction: How many times fewer pixels a side has.
        noise: Share of the range; flicker goes with it: twice it in scale, half of it in shift.

    Returns:
        The same shape.
    """
    random = np.random.default_rng(seed)
    frame_count, height_px, width_px = depth.shape
    low_size = (width_px // reduction, height_px // reduction)
    inverse = 1 / depth
    spread = float(np.percentile(inverse, 99.9) - inverse.min())
    result = np.empty_like(depth)
    for index in range(frame_count):
        low = cv2.resize(inverse[index], low_size, interpolation=cv2.INTER_AREA)
        low = cv2.GaussianBlur(low, (0, 0), 0.7)
        low += noise * spread * _smooth_noise(random, low.shape)
        low = low * np.float32(1 + 2 * noise * random.standard_normal())
        low += np.float32(noise / 2 * spread * random.standard_normal())
        high = cv2.resize(low, (width_px, height_px), interpolation=cv2.INTER_CUBIC)
        # As networks do, it tells nothing negative: what is farther than all else is at infinity.
        result[index] = 1 / np.maximum(high, 1 / np.float32(SKY_DEPTH))
    return result


def _smooth_noise(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Noise of variance 1 whose blobs are some pixels wide."""
    noise = cv2.GaussianBlur(random.standard_normal(shape).astype(np.float32), (0, 0), 1.5)
    return noise / noise.std()


def _look(
    solids: NDArray[np.float64], cam_to_world: NDArray[np.float64], camera: Intrinsics
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Colour, four rays a pixel, and z-depth of its centre."""
    width_px, height_px = camera.width_px, camera.height_px
    color = np.zeros((height_px, width_px, 3))
    for x in (0.25, 0.75):
        for y in (0.25, 0.75):
            rays = _rays(camera, cam_to_world, x, y)
            color += _paint(solids, cam_to_world[:3, 3], rays, *_cast(solids, cam_to_world, rays))
    depth, _ = _cast(solids, cam_to_world, _rays(camera, cam_to_world, 0.5, 0.5))
    return (color / 4).round().astype(np.uint8), np.minimum(depth, SKY_DEPTH).astype(np.float32)


def _rays(
    camera: Intrinsics, cam_to_world: NDArray[np.float64], x: float, y: float
) -> NDArray[np.float64]:
    """(height, width, 3) directions in the world, of length 1 along the camera's axis."""
    columns = (np.arange(camera.width_px) + x - camera.cx_px) / camera.fx_px
    rows = (np.arange(camera.height_px) + y - camera.cy_px) / camera.fy_px
    rays = np.ones((camera.height_px, camera.width_px, 3))
    rays[..., 0], rays[..., 1] = columns, rows[:, None]
    return rays @ cam_to_world[:3, :3].T


def _cast(
    solids: NDArray[np.float64], cam_to_world: NDArray[np.float64], rays: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    depth, hit = np.empty(rays.shape[:2]), np.empty(rays.shape[:2], np.int64)
    _nearest(solids, cam_to_world[:3, 3].copy(), rays, depth, hit)
    return depth, hit


def _seen_from(
    source: NDArray[np.float64],
    pose: NDArray[np.float64],
    depth: NDArray[np.float32],
    solids: NDArray[np.float64],
    camera: Intrinsics,
) -> NDArray[np.bool_]:
    """Which points of a view lie in the source's picture with nothing before them."""
    points = pose[:3, 3] + _rays(camera, pose, 0.5, 0.5) * depth[..., None]
    rays = points - source[:3, 3]
    x, y, z = np.moveaxis(rays @ source[:3, :3], -1, 0)
    z_safe = np.where(z > 0, z, 1)
    column = x / z_safe * camera.fx_px + camera.cx_px
    row = y / z_safe * camera.fy_px + camera.cy_px
    inside = (z > 0) & (column >= 0) & (column < camera.width_px)
    inside &= (row >= 0) & (row < camera.height_px)
    share, _ = _cast(solids, source, rays)
    return inside & (share > _ALMOST_THERE)


def _paint(
    solids: NDArray[np.float64],
    origin: NDArray[np.float64],
    rays: NDArray[np.float64],
    depth: NDArray[np.float64],
    hit: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Colours 0..255: a pattern that moves with its solid, or sky that brightens downwards."""
    own = solids[np.maximum(hit, 0)]
    x, y, z = np.moveaxis(
        origin + rays * np.minimum(depth, SKY_DEPTH)[..., None] - own[..., 1:4], -1, 0
    )
    scale = own[..., 11]
    pattern = 0.8 + 0.15 * np.sin(scale * x + 1) * np.sin(scale * y) * np.cos(scale * z)
    pattern += 0.1 * np.sin(2.7 * scale * (x + z)) * np.sin(2.3 * scale * (y - z) + 2)
    up = rays[..., 1] / np.linalg.norm(rays, axis=-1)
    sky = np.array([120.0, 165.0, 225.0]) + (1 + up[..., None]) * np.array([75.0, 55.0, 20.0])
    color = np.where((hit >= 0)[..., None], own[..., 8:11] * pattern[..., None], sky)
    return np.clip(color, 0, 255)


@njit(cache=True)
def _nearest(solids, origin, rays, depth, hit):
    """The nearest solid along each ray, -1 for none, and how far in lengths of the ray."""
    for j in range(rays.shape[0]):
        for i in range(rays.shape[1]):
            best, found = np.inf, -1
            for k in range(len(solids)):
                t = _distance(solids[k], origin, rays[j, i])
                if 1e-6 < t < best:
                    best, found = t, k
            depth[j, i], hit[j, i] = best, found


@njit(cache=True)
def _distance(solid, origin, ray):
    """How far a solid is in lengths of the ray; infinite if it is missed."""
    if solid[0] == _BOX:
        first, last = -np.inf, np.inf
        for axis in range(3):
            step = ray[axis] if ray[axis] != 0 else 1e-300
            a = (solid[1 + axis] - origin[axis]) / step
            b = (solid[4 + axis] - origin[axis]) / step
            first, last = max(first, min(a, b)), min(last, max(a, b))
        return first if first <= last else np.inf
    ox, oy, oz = origin[0] - solid[1], origin[1] - solid[2], origin[2] - solid[3]
    dx, dy, dz = ray[0], ray[1], ray[2]
    if solid[0] == _ELLIPSOID:
        rx, ry, rz = solid[4], solid[5], solid[6]
        return _to_unit_sphere(ox / rx, oy / ry, oz / rz, dx / rx, dy / ry, dz / rz)
    ex, ey, ez = solid[4] - solid[1], solid[5] - solid[2], solid[6] - solid[3]
    radius = solid[7]
    along, ray_along = ox * ex + oy * ey + oz * ez, dx * ex + dy * ey + dz * ez
    length = ex * ex + ey * ey + ez * ez
    a = length * (dx * dx + dy * dy + dz * dz) - ray_along * ray_along
    b = length * (ox * dx + oy * dy + oz * dz) - along * ray_along
    c = length * (ox * ox + oy * oy + oz * oz - radius * radius) - along * along
    root = b * b - a * c
    # The ends' balls lie within the endless cylinder.
    if root < 0:
        return np.inf
    t = (-b - math.sqrt(root)) / max(a, 1e-300)
    if 0 < along + t * ray_along < length:
        return t
    dx, dy, dz = dx / radius, dy / radius, dz / radius
    first = _to_unit_sphere(ox / radius, oy / radius, oz / radius, dx, dy, dz)
    ox, oy, oz = (ox - ex) / radius, (oy - ey) / radius, (oz - ez) / radius
    return min(first, _to_unit_sphere(ox, oy, oz, dx, dy, dz))


@njit(cache=True)
def _to_unit_sphere(ox, oy, oz, dx, dy, dz):
    a, b = dx * dx + dy * dy + dz * dz, ox * dx + oy * dy + oz * dz
    root = b * b - a * (ox * ox + oy * oy + oz * oz - 1)
    return (-b - math.sqrt(root)) / a if root >= 0 else np.inf


def _solid(
    kind: int, a: _Point, b: _Point, rgb: _Point, *, radius: float = 0, pattern: float = 6
) -> list[float]:
    """One row: kind, two points, radius, colour, waves of the pattern in radians a metre."""
    return [kind, *a, *b, radius, *rgb, pattern]


def _box(low: _Point, high: _Point, rgb: _Point, pattern: float = 4) -> list[float]:
    return _solid(_BOX, low, high, rgb, pattern=pattern)


def _ball(centre: _Point, radii: _Point, rgb: _Point, pattern: float = 6) -> list[float]:
    return _solid(_ELLIPSOID, centre, radii, rgb, pattern=pattern)


def _rod(a: _Point, b: _Point, radius: float, rgb: _Point) -> list[float]:
    return _solid(_CAPSULE, a, b, rgb, radius=radius)


_GROUND = _box((-200, 1.5, -50), (200, 2.5, 200), (130, 120, 100), 3)


def _thin_structures(_index: int) -> _Solids:
    """A fence, wires and a bare tree before a wall."""
    bars = [
        _rod((x, -0.2, 3.4), (x, 1.5, 3.4), 0.025, (40, 45, 50)) for x in np.arange(-2, 0.3, 0.25)
    ]
    wires = [_rod((-3, y, 3.0), (3, y - 0.2, 3.6), 0.015, (25, 25, 30)) for y in (-1.0, -0.7)]
    trunk = [_rod((1.0, 1.5, 4), (1.1, -0.2, 4), 0.09, (95, 65, 45))]
    branches = [
        _rod(
            (1.1, 0.6 - 0.22 * k, 4),
            (1.1 + 0.9 * math.cos(k * 2.1), -0.2 - 0.3 * k, 4 + 0.5 * math.sin(k * 2.1)),
            0.03,
            (105, 75, 50),
        )
        for k in range(6)
    ]
    wall = [_box((-9, -5, 7), (9, 1.5, 7.5), (190, 170, 150))]
    return [_GROUND, *bars, *wires, *trunk, *branches, *wall]


def _sky(_index: int) -> _Solids:
    """Hills, a house, a tree and a lamp post under an open sky."""
    hills = [_ball((x, 6, 60), (25, 11 + x % 3, 12), (90, 120, 85), 0.5) for x in (-40, -5, 38)]
    house = [_box((-5, -1.2, 9), (-2, 1.5, 12), (200, 150, 120))]
    crown = [_ball((2.2, -0.6, 6), (0.9, 0.8, 0.8), (70, 130, 60), 8)]
    trunk = [_rod((2.2, 1.5, 6), (2.2, 0, 6), 0.1, (95, 65, 45))]
    post = [_rod((0.2, 1.5, 4), (0.2, -1.1, 4), 0.05, (60, 60, 65))]
    return [_GROUND, *hills, *house, *crown, *trunk, *post]


def _room(_index: int) -> _Solids:
    """Furniture between plain walls."""
    walls = [
        _box((-2.6, -1.2, 5.5), (2.6, 1.5, 5.7), (205, 200, 185), 2),
        _box((-2.8, -1.2, -2), (-2.6, 1.5, 5.7), (180, 195, 190), 2),
        _box((2.6, -1.2, -2), (2.8, 1.5, 5.7), (190, 180, 195), 2),
        _box((-2.8, -1.4, -2), (2.8, -1.2, 5.7), (225, 225, 220), 2),
        _box((-2.8, 1.5, -2), (2.8, 1.7, 5.7), (140, 105, 75), 5),
    ]
    table = [_box((-0.9, 0.6, 2.6), (0.6, 0.68, 3.5), (150, 95, 55))]
    legs = [
        _rod((x, 0.68, z), (x, 1.5, z), 0.04, (110, 70, 40))
        for x in (-0.8, 0.5)
        for z in (2.7, 3.4)
    ]
    things = [
        _ball((-0.3, 0.45, 3), (0.16, 0.16, 0.16), (200, 70, 60)),
        _box((1.5, -0.6, 4.6), (2.5, 1.5, 5.2), (95, 110, 130)),
        _rod((-1.7, 1.5, 4), (-1.7, -0.2, 4), 0.03, (50, 50, 55)),
        _ball((-1.7, -0.4, 4), (0.3, 0.22, 0.3), (235, 215, 150), 3),
    ]
    return [*walls, *table, *legs, *things]


def _figures(index: int) -> _Solids:
    """Three figures walk along a street front; the camera stands."""
    front = [
        _box((-12, -4, 7), (12, 1.5, 8), (175, 165, 160), 3),
        _box((-3, -0.4, 6.6), (-1.6, 1.5, 7), (95, 75, 65)),
        _box((1.2, -1, 6.5), (3.2, 0.4, 7), (120, 150, 175)),
    ]
    walkers = [
        (-1.6 + 0.06 * index, 3.2, (170, 60, 60)),
        (1.5 - 0.045 * index, 4.0, (60, 85, 160)),
        (-0.3 + 0.02 * index, 5.2, (70, 130, 80)),
    ]
    parts = [part for x, z, rgb in walkers for part in _figure(x, z, rgb, 0.5 * index + z)]
    return [_GROUND, *front, *parts]


def _figure(x: float, z: float, rgb: _Point, phase: float) -> _Solids:
    swing = 0.22 * math.sin(phase)
    legs = [
        _rod(
            (x, 0.7, z + side * 0.07), (x + side * swing, 1.45, z + side * 0.07), 0.08, (50, 50, 70)
        )
        for side in (-1, 1)
    ]
    arms = [
        _rod((x, 0.1, z + side * 0.2), (x - side * swing, 0.65, z + side * 0.22), 0.055, rgb)
        for side in (-1, 1)
    ]
    head = _ball((x, -0.25, z), (0.12, 0.15, 0.13), (215, 170, 140))
    return [_ball((x, 0.35, z), (0.2, 0.42, 0.17), rgb), head, *legs, *arms]


def _pillars(_index: int) -> _Solids:
    """A hall of pillars and boxes that a camera races through."""
    pillars = [
        _rod((x, -3, z), (x, 3, z), 0.22, (170 + 10 * (k % 4), 150, 120))
        for k, (x, z) in enumerate((x, z) for z in range(3, 22, 3) for x in (-1.8, 1.8))
    ]
    boxes = [
        _box((x, 0.9, z), (x + 0.6, 1.5, z + 0.6), (110, 80 + 8 * z, 150))
        for x, z in ((-0.9, 4), (0.5, 6), (-0.7, 8), (0.3, 10))
    ]
    walls = [
        _box((-9, -3, 24), (9, 1.5, 25), (150, 170, 185)),
        _box((-9.2, -3, -8), (-9, 1.5, 25), (160, 120, 100), 3),
        _box((9, -3, -8), (9.2, 1.5, 25), (120, 140, 110), 3),
        _box((-9.2, -3.2, -8), (9.2, -3, 25), (200, 195, 190), 3),
    ]
    return [_GROUND, *pillars, *boxes, *walls]


def _forest(_index: int) -> _Solids:
    """Trunks of all widths before a bright sky."""
    trunks = [
        _rod((x, 1.5, z), (x + 0.1 * math.sin(k), -4, z), 0.04 + 0.03 * (k % 5), rgb)
        for k, (x, z, rgb) in enumerate(
            (6 * math.sin(2.4 * k), 2.6 + 0.45 * k, (80 + 5 * (k % 7), 65 + 4 * (k % 5), 50))
            for k in range(34)
        )
    ]
    bushes = [
        _ball((3 * math.cos(1.9 * k), 1.4, 3 + k), (0.5, 0.35, 0.4), (70, 115 + 8 * k, 55), 9)
        for k in range(6)
    ]
    return [_GROUND, *trunks, *bushes]


def _alley(index: int) -> _Solids:
    """Houses on both sides, steps, and a car that comes nearer."""
    houses = [
        _box((-9, -5, 2), (-2.2, 1.5, 9), (185, 120, 100), 3),
        _box((2.4, -3, 3), (9, 1.5, 7), (200, 190, 160), 3),
        _box((1.6, -5, 8), (9, 1.5, 16), (120, 130, 150), 2),
        _box((-9, -4, 17), (9, 1.5, 19), (160, 140, 120), 1.5),
    ]
    steps = [
        _box((-2.2, 1.5 - 0.2 * k, 4 + 0.3 * k), (-1.4, 1.5, 5.5), (150, 150, 145))
        for k in range(5)
    ]
    z = 9 - 0.12 * index
    car = [
        _box((-0.6, 0.75, z), (0.8, 1.3, z + 2.4), (60, 70, 160), 5),
        _ball((0.1, 0.75, z + 1.3), (0.6, 0.42, 0.9), (40, 45, 60), 5),
    ]
    signs = [
        _rod((1.4, 1.5, 3.2), (1.4, -0.6, 3.2), 0.03, (70, 70, 75)),
        _box((1.1, -0.9, 3.18), (1.7, -0.5, 3.22), (210, 60, 50)),
    ]
    return [_GROUND, *houses, *steps, *car, *signs]


def _by_hand(index: int) -> NDArray[np.float64]:
    """A camera that someone holds while walking slowly."""
    pose = np.eye(4)
    yaw = math.radians(1.2 * math.sin(0.7 * index))
    pose[0, 0] = pose[2, 2] = math.cos(yaw)
    pose[0, 2], pose[2, 0] = math.sin(yaw), -math.sin(yaw)
    pose[:3, 3] = 0.03 * math.sin(1.1 * index), 0.02 * math.cos(0.9 * index), 0.03 * index
    return pose


def _camera(
    x_m: float = 0, z_m: float = 0, yaw_deg: float = 0
) -> Callable[[int], NDArray[np.float64]]:
    """A camera that moves and turns to the right by so much a frame."""

    def cam_to_world(index: int) -> NDArray[np.float64]:
        yaw = math.radians(yaw_deg * index)
        matrix = np.eye(4)
        matrix[0, 0] = matrix[2, 2] = math.cos(yaw)
        matrix[0, 2], matrix[2, 0] = math.sin(yaw), -math.sin(yaw)
        matrix[0, 3], matrix[2, 3] = x_m * index, z_m * index
        return matrix

    return cam_to_world


_PLANS = {
    "thin structures": _Plan(_thin_structures, _camera(), 3.6),
    "sky": _Plan(_sky, _camera(x_m=0.02), 5.0),
    "room": _Plan(_room, _camera(z_m=0.02), 2.4),
    "figures": _Plan(_figures, _camera(), 4.0),
    "fast camera": _Plan(_pillars, _camera(z_m=0.12, yaw_deg=0.8), 4.5),
    "forest": _Plan(_forest, _by_hand, 4.0),
    "alley": _Plan(_alley, _camera(x_m=0.03, yaw_deg=-0.3), 2.0),
}
HELD_OUT_NAMES = ("forest", "alley")
"""Nothing was chosen by these: they show what the choices are worth elsewhere."""
SCENE_NAMES = ("sample", *(name for name in _PLANS if name not in HELD_OUT_NAMES))
