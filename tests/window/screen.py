"""What a virtual screen shows: Xvfb keeps its picture in a file, which needs no other program.

Blender's own screenshots come out black where it draws in software.
"""

import mmap
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: Fields of the X window dump format, version 7: `XWDFile.h` of the X protocol's headers.
_HEADER = struct.Struct(">25I")
_VERSION = 7
_COLOR_BYTES = 12


def read(path: Path) -> NDArray[np.uint8]:
    """The screen as it is now.

    Args:
        path: `Xvfb_screen0` in the folder that Xvfb was given as `-fbdir`.

    Returns:
        (height, width, 3) uint8 sRGB, top row first.

    Raises:
        ValueError: If the screen is not 24 bits deep in 32-bit pixels, the lowest byte first.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        header = _HEADER.unpack_from(content)
        header_bytes, version, _, depth, width_px, height_px, _, byte_order = header[:8]
        pixel_bits, line_bytes, color_count = header[11], header[12], header[19]
        if (version, depth, byte_order, pixel_bits) != (_VERSION, 24, 0, 32):
            found = f"{depth} bits in {pixel_bits}, byte order {byte_order}, version {version}"
            raise ValueError(f"expected 24 bits in 32, lowest byte first, found {found}")
        start = header_bytes + color_count * _COLOR_BYTES
        lines = np.frombuffer(content[start : start + line_bytes * height_px], dtype=np.uint8)
    pixels = lines.reshape(height_px, line_bytes)[:, : width_px * 4].reshape(height_px, width_px, 4)
    return np.ascontiguousarray(pixels[..., 2::-1])


def write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write (height, width, 3) uint8 sRGB."""
    height_px, width_px, _ = rgb.shape
    lines = np.zeros((height_px, 1 + width_px * 3), dtype=np.uint8)
    lines[:, 1:] = rgb.reshape(height_px, -1)
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
        for kind, content in parts
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
