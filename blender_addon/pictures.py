# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading image files through Blender, and PNG files of our own without it."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

from ._vendor.errors import InputError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB = 2
#: Each byte is stored as the difference from the one above: pictures get much smaller.
_FILTER_UP = 2
#: Unpacked, of lines that are read at once: about 2 ms.
_BLOCK_BYTES = 100_000
#: The same of lines that are packed.
_PACKED_BYTES = 60_000


def read_pixels(path: Path, width_px: int, height_px: int) -> NDArray[np.float32]:
    """Read an image as it is stored, without colour management.

    Args:
        path: PNG or EXR.
        width_px: Expected.
        height_px: Expected.

    Returns:
        (height, width, 4) float32, top row first; 8-bit values as 0..1.

    Raises:
        InputError: `image_invalid` if Blender cannot read it or its size is another.
    """
    # Loaded each time and removed: the file must not fill up with images nobody asked for.
    try:
        image = bpy.data.images.load(str(path))
    except RuntimeError as error:
        message = f"expected an image in {path}, found none that Blender reads; copy it again"
        raise InputError("image_invalid", message) from error
    try:
        image.colorspace_settings.name = "Non-Color"
        if tuple(image.size) != (width_px, height_px) or image.channels != 4:
            message = (
                f"expected {width_px} x {height_px} pixels in {path}, found {image.size[0]} x "
                f"{image.size[1]}; copy the scene again"
            )
            raise InputError("image_invalid", message)
        pixels = np.empty(width_px * height_px * 4, dtype=np.float32)
        image.pixels.foreach_get(pixels)
    finally:
        bpy.data.images.remove(image)
    return pixels.reshape(height_px, width_px, 4)[::-1]


def write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write (height, width, 3) uint8 sRGB.

    An image of Blender's could save itself too, but takes several times as long.
    """
    for _ in write_png_blocks(path, rgb):
        pass


def write_png_blocks(path: Path, rgb: NDArray[np.uint8]) -> Iterator[None]:
    """As `write_png`, a few milliseconds at a time; the file appears with the last."""
    height_px, width_px, _ = rgb.shape
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, _RGB, 0, 0, 0)
    flat = rgb.reshape(height_px, -1)
    packer = zlib.compressobj(level=1)
    packed: list[bytes] = []
    step = max(1, _PACKED_BYTES // flat.shape[1])
    for first in range(0, height_px, step):
        lines = flat[first : first + step].copy()
        # Each line but the picture's first as the difference from the one above.
        lines[0 if first else 1 :] -= flat[max(first - 1, 0) : first + len(lines) - 1]
        filtered = np.insert(lines, 0, _FILTER_UP, axis=1)
        packed.append(packer.compress(filtered.data))
        yield
    packed.append(packer.flush())
    path.write_bytes(
        _SIGNATURE
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", b"".join(packed))
        + _chunk(b"IEND", b"")
    )


def read_png(path: Path, width_px: int, height_px: int) -> NDArray[np.uint8]:
    """Read what `write_png` wrote: (height, width, 3) uint8 sRGB.

    Unlike an image of Blender's, whose coming and going has every window drawn again.

    Raises:
        InputError: `image_invalid` if it is another picture, damaged or gone.
    """
    return np.concatenate(list(read_png_blocks(path, width_px, height_px)))


def read_png_blocks(path: Path, width_px: int, height_px: int) -> Iterator[NDArray[np.uint8]]:
    """Read what `write_png` wrote, a few milliseconds at a time.

    Yields:
        The next lines: (lines, width, 3) uint8 sRGB.

    Raises:
        InputError: As `read_png`.
    """
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, _RGB, 0, 0, 0)
    start = _SIGNATURE + _chunk(b"IHDR", header)
    line_bytes = 1 + width_px * 3
    step = max(1, _BLOCK_BYTES // line_bytes)
    try:
        content = path.read_bytes()
        if not content.startswith(start) or content[len(start) + 4 : len(start) + 8] != b"IDAT":
            raise ValueError("it is another picture")  # noqa: TRY301
        (size_bytes,) = struct.unpack_from(">I", content, len(start))
        packed = content[len(start) + 8 : len(start) + 8 + size_bytes]
        unpacker = zlib.decompressobj()
        above = np.zeros(width_px * 3, dtype=np.uint8)
        for first in range(0, height_px, step):
            count = min(step, height_px - first)
            unpacked = unpacker.decompress(packed, count * line_bytes)
            packed = unpacker.unconsumed_tail
            lines = np.frombuffer(unpacked, dtype=np.uint8).reshape(count, line_bytes)[:, 1:]
            rgb = np.add.accumulate(lines, axis=0, dtype=np.uint8)
            rgb += above
            above = rgb[-1]
            yield rgb.reshape(count, width_px, 3)
    except (OSError, ValueError, zlib.error, struct.error) as error:
        message = (
            f"expected the picture {path} as it was imported ({error}); import the scene again"
        )
        raise InputError("image_invalid", message) from error


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
