"""Turn what `render_sample.py` wrote into the sample that is kept.

    python pack_sample.py RENDERED OUTPUT

Writes `source.mp4` and `orbit.mp4` (H.264), `depth.npz` (`depth`: float32 z-depth in metres of the
source view, rounded to 1/2048 m), `seen.npz` (`seen`: which pixels of the orbit view show something
that the source view shows at the same time, one bit each) and `sample.json` (lens and orbit).
"""

import argparse
import json
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
from numpy.typing import NDArray
from settings import FOCAL_SHARE, FRAME_COUNT, FRAME_RATE, ORBIT_DEG, RADIUS_M

from ex4d.camera import Intrinsics, Trajectory, move
from ex4d.clip import write_video

#: Half a step of rounded depth moves a point by 0.04 pixel when seen from the side.
DEPTH_STEPS_PER_M = 2048
#: A point this much behind the source's surface, relatively, is hidden by it.
HIDDEN_BEHIND = 0.005


def read_frame(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """sRGB (height, width, 3) and z-depth in metres (height, width) of a rendered file."""
    channels: dict[str, NDArray[np.float32]] = {}
    with OpenEXR.File(str(path), separate_channels=True) as file:
        for part in range(len(file.parts)):
            for name, channel in file.channels(part).items():
                channels[name.rsplit(".", 1)[-1]] = channel.pixels
    linear = np.dstack([channels[name] for name in "RGB"])
    encoded = np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-6) ** (1 / 2.4) - 0.055
    )
    return np.clip(encoded * 255 + 0.5, 0, 255).astype(np.uint8), channels["Z"]


def seen_by_source(
    orbit_depth: NDArray[np.float32],
    source_depth: NDArray[np.float32],
    trajectory: Trajectory,
    index: int,
) -> NDArray[np.bool_]:
    """(height, width) bool: the point at each pixel of the orbit view is seen by the source too.

    It must fall into the source's picture and not lie behind the surface there, of which the
    farthest within a pixel counts: the silhouettes of rendered depth are not antialiased.
    """
    camera = trajectory.intrinsics(index)
    columns, rows = np.meshgrid(np.arange(camera.width_px) + 0.5, np.arange(camera.height_px) + 0.5)
    points = np.stack(
        [
            (columns - camera.cx_px) / camera.fx_px * orbit_depth,
            (rows - camera.cy_px) / camera.fy_px * orbit_depth,
            orbit_depth,
            np.ones_like(orbit_depth),
        ]
    )
    x, y, z, _ = np.tensordot(trajectory.cam_to_world[index], points, 1)
    in_front = z > 0.01
    safe_z = np.where(in_front, z, 1.0)
    column = np.floor(camera.fx_px * x / safe_z + camera.cx_px).astype(int)
    row = np.floor(camera.fy_px * y / safe_z + camera.cy_px).astype(int)
    inside = (
        in_front
        & (column >= 0)
        & (column < camera.width_px)
        & (row >= 0)
        & (row < camera.height_px)
    )
    farthest = cv2.dilate(source_depth, np.ones((3, 3), np.uint8))
    surface = farthest[np.where(inside, row, 0), np.where(inside, column, 0)]
    return inside & (z <= surface * (1 + HIDDEN_BEHIND))


def main() -> None:
    """Pack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rendered", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    source, orbit, depth, seen = [], [], [], []
    trajectory = None
    for index in range(FRAME_COUNT):
        name = f"{index + 1:04d}.exr"
        color, source_depth = read_frame(arguments.rendered / f"source_{name}")
        orbit_color, orbit_depth = read_frame(arguments.rendered / f"orbit_{name}")
        if trajectory is None:
            height_px, width_px = source_depth.shape
            camera = Intrinsics.from_focal(width_px, height_px, FOCAL_SHARE * width_px)
            trajectory = move(
                "orbit_right",
                frame_count=FRAME_COUNT,
                radius=RADIUS_M,
                intrinsics=camera,
                amount=ORBIT_DEG,
            )
        source.append(color)
        orbit.append(orbit_color)
        depth.append(np.round(source_depth * DEPTH_STEPS_PER_M) / DEPTH_STEPS_PER_M)
        seen.append(seen_by_source(orbit_depth, source_depth, trajectory, index))
    arguments.output.mkdir(parents=True, exist_ok=True)
    rate = Fraction(FRAME_RATE)
    write_video(arguments.output / "source.mp4", source, rate)
    write_video(arguments.output / "orbit.mp4", orbit, rate)
    np.savez_compressed(arguments.output / "depth.npz", depth=np.array(depth, np.float32))
    np.savez_compressed(arguments.output / "seen.npz", seen=np.packbits(np.array(seen), axis=-1))
    facts = {
        "frame_count": FRAME_COUNT,
        "focal_px": FOCAL_SHARE * width_px,
        "radius_m": RADIUS_M,
        "orbit_deg": ORBIT_DEG,
    }
    (arguments.output / "sample.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
