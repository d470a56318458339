"""A small scene on disk, made with numpy alone, so that every Blender can run the tests.

A slanted wall, and in front of it a square that moves one pixel a frame. Each pixel of each frame
has a colour of its own that tells its column, row and frame.
"""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BORDER_DEPTH = 12.0
SQUARE_DEPTH = 3.0


def depth_of(frame: int, width: int, height: int) -> NDArray[np.float32]:
    """z-depth, (height, width) float32."""
    rows, columns = np.mgrid[:height, :width]
    depth = 6.0 + 3.0 * columns / width + 0.5 * rows / height
    depth[square_of(frame, width, height)] = SQUARE_DEPTH
    return depth.astype(np.float32)


def square_of(frame: int, width: int, height: int) -> tuple[slice, slice]:
    """Rows and columns of the near square."""
    left = width // 4 + frame
    return slice(height // 3, 2 * height // 3), slice(left, left + width // 4)


def color_of(frame: int, width: int, height: int) -> NDArray[np.uint8]:
    """(height, width, 3) uint8: a ramp to the right, a ramp downwards, the frame."""
    rows, columns = np.mgrid[:height, :width]
    ramps = (columns * 255 // (width - 1), rows * 255 // (height - 1), 0 * rows + 40 * frame)
    return np.stack(ramps, axis=-1).astype(np.uint8)


def occluded_of(frame: int, width: int, height: int) -> NDArray[np.bool_]:
    """The vertices on both sides of the square's outline, and the border with its neighbours."""
    is_square = np.zeros((height, width), dtype=bool)
    is_square[square_of(frame, width, height)] = True
    occluded = np.ones((height, width), dtype=bool)
    occluded[2:-2, 2:-2] = False
    for axis in (0, 1):
        for shift in (-1, 1):
            occluded |= is_square != np.roll(is_square, shift, axis)
    return occluded


def write_scene(
    folder: Path,
    *,
    frame_count: int = 5,
    width: int = 32,
    height: int = 24,
    focal: float = 30.0,
    center: tuple[float, float] | None = None,
) -> Path:
    """Write the scene; `center` is the principal point, the middle where absent."""
    for name in ("frames", "depth", "occluded"):
        (folder / name).mkdir(parents=True)
    for frame in range(frame_count):
        name = f"{frame + 1:04d}"
        write_png(folder / "frames" / f"{name}.png", color_of(frame, width, height))
        write_exr(folder / "depth" / f"{name}.exr", depth_of(frame, width, height))
        occluded = occluded_of(frame, width, height).astype(np.uint8) * 255
        write_png(folder / "occluded" / f"{name}.png", occluded)
    center_x, center_y = center or (width / 2, height / 2)
    document = {
        "format": "ex4d-scene",
        "version": 1,
        "name": "Tiny",
        "frame_count": frame_count,
        "first_source_frame": 0,
        "stride": 1,
        "frame_rate": {"numerator": 30000, "denominator": 1001},
        "intrinsics": {
            "width_px": width,
            "height_px": height,
            "fx_px": focal,
            "fy_px": focal,
            "cx_px": center_x,
            "cy_px": center_y,
        },
        "depth": {"source": "files", "kind": "depth", "unit": "scene", "licence": "CC0"},
        "mesh": {"min_angle_deg": 2.5, "border_depth": BORDER_DEPTH, "back_plate": "occluded"},
        "nearest_depth_first_frame": SQUARE_DEPTH,
        "nearest_depth": SQUARE_DEPTH,
        "farthest_depth": float(depth_of(0, width, height).max()),
    }
    (folder / "scene.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def write_take(
    folder: Path,
    trajectory: dict[str, object],
    *,
    width: int,
    height: int,
    scene_sha256: str = "0" * 64,
) -> Path:
    """Write a take of plain grey frames along a trajectory, a document as plain data."""
    frame_count = len(trajectory["poses"])
    for index, name in enumerate(("frames", "color", "mask")):
        (folder / name).mkdir(parents=True)
        for frame in range(frame_count):
            picture = np.full((height, width, 3), 40 * index + frame, dtype=np.uint8)
            write_png(folder / name / f"{frame + 1:04d}.png", picture)
    document = {
        "format": "ex4d-take",
        "version": 1,
        "scene_name": "Tiny",
        "scene_sha256": scene_sha256,
        "frame_count": frame_count,
        "frame_rate": {"numerator": 30000, "denominator": 1001},
        "width_px": width,
        "height_px": height,
        "trajectory": trajectory,
        "settings": {"engine": "preview", "seed": 7},
        "coverage": [0.5] * frame_count,
        "parts": [],
        "app_version": "0",
    }
    (folder / "take.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """(height, width, 3) RGB or (height, width) grey."""
    height, width = image.shape[:2]
    lines = np.zeros((height, 1 + image[0].size), dtype=np.uint8)
    lines[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if image.ndim == 3 else 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b""))
    for kind, data in chunks:
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content)


def write_exr(path: Path, depth: NDArray[np.float32]) -> None:
    """(height, width) float32 as the one channel Y, not compressed."""
    height, width = depth.shape
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    channel = b"Y\0" + struct.pack("<iB3xii", 2, 0, 1, 1) + b"\0"
    attributes = (
        (b"channels", b"chlist", channel),
        (b"compression", b"compression", b"\0"),
        (b"dataWindow", b"box2i", box),
        (b"displayWindow", b"box2i", box),
        (b"lineOrder", b"lineOrder", b"\0"),
        (b"pixelAspectRatio", b"float", struct.pack("<f", 1.0)),
        (b"screenWindowCenter", b"v2f", struct.pack("<2f", 0.0, 0.0)),
        (b"screenWindowWidth", b"float", struct.pack("<f", 1.0)),
    )
    header = struct.pack("<ii", 20000630, 2)
    for name, kind, value in attributes:
        header += name + b"\0" + kind + b"\0" + struct.pack("<i", len(value)) + value
    header += b"\0"
    line_bytes = width * 4
    first = len(header) + 8 * height
    offsets = struct.pack(f"<{height}Q", *(first + row * (8 + line_bytes) for row in range(height)))
    lines = b"".join(
        struct.pack("<ii", row, line_bytes) + depth[row].astype("<f4").tobytes()
        for row in range(height)
    )
    path.write_bytes(header + offsets + lines)
