"""DW-mesh build and rasterisation, against the memory traffic that neither can avoid.

The bound of each is a copy, on the same machine in the same run, of as many bytes as must at least
be read and written: depth (4 bytes a pixel) and RGB (3) in and RGBA (4) out for the mesh, the mesh
(8) in and colour, mask and depth (8) out for a view.
"""

import os
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from ex4d.camera import Intrinsics, move
from ex4d.dwmesh import build_dwmesh, default_rules
from ex4d.raster import create_rasteriser

from .timing import REPEATS, best_s

SIZES_PX = ((512, 512), (1024, 576))
#: Moves and frames: from nearly unmoved to seen from the side, with much behind the camera.
VIEWS = (("30", 1), ("30", 48), ("60", 40), ("90", 30), ("90", 48), ("180", 12), ("180", 30))
_FRAME_COUNT = 49
_NOISE = 0.002


def synthetic_frame(
    width_px: int, height_px: int, time_s: float
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A ground to the horizon with six bulging things that move, and fine noise.

    Returns:
        Depth (height, width) float32, 2..100 units, and colour (height, width, 3) uint8.
    """
    random = np.random.default_rng(7)
    v, u = np.mgrid[0:height_px, 0:width_px].astype(np.float32)
    u, v = u / width_px, v / height_px
    disparity = np.clip(0.30 * (v - 0.4), 0.01, None)
    hue = v.copy()
    for number in range(6):
        x, y, side = random.uniform(0.15, 0.85), random.uniform(0.3, 0.8), random.uniform(0.06, 0.2)
        x += 0.1 * np.sin(time_s + number)
        inside = 1.0 - ((u - x) / side) ** 2 - ((v - y) / side / 1.3) ** 2
        edge = np.clip(inside * 20.0, 0.0, 1.0)
        near = 0.18 + 0.05 * number + 0.06 * np.sqrt(np.clip(inside, 0.0, 1.0))
        disparity += edge * np.clip(near - disparity, 0.0, None)
        hue += edge * (number + 1.0)
    disparity *= 1.0 + _NOISE * random.standard_normal(disparity.shape)
    phases = np.array([0.0, 2.1, 4.2])
    color = 127.5 + 127.5 * np.sin(hue[..., None] * 3.0 + 40.0 * u[..., None] + phases)
    return (1.0 / disparity).astype(np.float32), color.astype(np.uint8)


def copy_s(byte_count: int) -> float:
    """Seconds that reading and writing so many bytes in all takes on one thread."""
    source = np.ones(byte_count // 2, np.uint8)
    target = np.empty_like(source)
    return best_s(lambda: np.copyto(target, source))


def report(text: str, seconds: float, bound_s: float) -> None:
    """Print a line: milliseconds, the bound's, and how many times the bound that is."""
    times = seconds / bound_s
    print(f"{text:36}{seconds * 1e3:9.2f} ms   bound {bound_s * 1e3:6.3f} ms {times:7.0f}x")


def measure(width_px: int, height_px: int) -> None:
    """Print the figures of one size."""
    camera = Intrinsics.from_focal(width_px, height_px, float(width_px))
    depth, rgb = synthetic_frame(width_px, height_px, 0.0)
    rules = default_rules(float(depth.max()))
    rasteriser = create_rasteriser()
    radius = float(np.median(depth))

    poses = [
        move(name, frame_count=_FRAME_COUNT, radius=radius, intrinsics=camera).cam_to_world[frame]
        for name, frame in VIEWS
    ]
    mesh = build_dwmesh(depth, rgb, camera, rules)
    # Compile, or load what was compiled, outside the clock.
    rasteriser.render(mesh, poses[0], camera)
    print(f"{width_px} x {height_px}")
    pixel_count = width_px * height_px
    build_s = best_s(lambda: build_dwmesh(depth, rgb, camera, rules))
    report("DW-mesh", build_s, copy_s(11 * pixel_count))
    bound_s = copy_s(16 * pixel_count)
    views_s = [best_s(lambda pose=pose: rasteriser.render(mesh, pose, camera)) for pose in poses]
    for (name, frame), view_s in zip(VIEWS, views_s, strict=True):
        report(f"view {name}, frame {frame}", view_s, bound_s)
    report("mean of the views", mean(views_s), bound_s)


def run() -> None:
    """Print all figures."""
    print(f"{os.cpu_count()} cores, best of {REPEATS}")
    for width_px, height_px in SIZES_PX:
        measure(width_px, height_px)
