"""Image files: 8-bit and 16-bit PNG, float32 EXR; a file's header is judged before its pixels."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
from numpy.typing import NDArray

from .errors import InputError
from .protocol.documents import MAX_SIDE_PX

#: Most pixels of one image or frame, wherever it comes from.
MAX_IMAGE_PX = 1 << 24
#: Blender 4.2 to 5.2 read this channel exactly, as grey; 4.2 misreads one called Z.
DEPTH_CHANNEL = "Y"
#: Channels that other programs put depth in, the surest first; a dot stands for any layer's name,
#: so that `.Depth.Z` is Blender's `ViewLayer.Depth.Z` too.
_DEPTH_CHANNELS = (DEPTH_CHANNEL, "Z", ".depth.z", ".depth.v", ".depth.y", "V", "R")
#: An EXR is decoded with all its channels; a render with forty passes in 4K needs 1.4 GB.
_MAX_EXR_BYTES = 2 << 30
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_BYTES = 33
#: More than four 16-bit channels with their filter bytes and tables can need, a pixel.
_MAX_PNG_BYTES_PER_PX = 9
_MAX_PNG_EXTRA_BYTES = 1 << 20
_EXR_MAGIC = b"\x76\x2f\x31\x01"


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write (height, width, 3) uint8 RGB or (height, width) uint8 grey, compressed lightly.

    Raises:
        InputError: `image_write` if the file cannot be written.
    """
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    # Level 1 is several times faster than the default and a few per cent larger.
    encoded, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not encoded:
        raise InputError("image_write", f"expected to encode {path.name}, found {image.shape}")
    with _writing(path):
        path.write_bytes(data.tobytes())


def read_png(path: Path) -> NDArray[np.uint8]:
    """Read a PNG: (height, width, 3) uint8 RGB, or (height, width) uint8 if it is grey.

    Transparency is dropped; 16 bits are rounded to 8.

    Raises:
        InputError: `image_invalid` if it is missing, too large or damaged.
    """
    image = _decode_png(path)
    if image.dtype == np.uint16:
        # 65535 = 255 * 257.
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return image.astype(np.uint8, copy=False)


def read_png16(path: Path) -> NDArray[np.uint16]:
    """Read a 16-bit grey PNG: (height, width) uint16.

    Raises:
        InputError: `image_invalid` if it is missing, too large, damaged or not 16-bit grey.
    """
    image = _decode_png(path)
    if image.dtype != np.uint16 or image.ndim != 2:
        kind = f"{image.dtype.itemsize * 8}-bit {'grey' if image.ndim == 2 else 'colour'}"
        msg = f"expected a 16-bit grey PNG in {path.name}, found {kind}; save it with 16 bits"
        raise InputError("image_invalid", msg)
    return image.astype(np.uint16, copy=False)


def png_size(path: Path) -> tuple[int, int]:
    """Height and width of a PNG in pixels, by its header.

    Raises:
        InputError: `image_invalid` if it is missing, too large or something else.
    """
    with _reading(path), path.open("rb") as file:
        head = file.read(_PNG_HEADER_BYTES)
    if head[:8] != _PNG_SIGNATURE or len(head) < _PNG_HEADER_BYTES:
        raise InputError("image_invalid", f"expected a PNG in {path.name}, found something else")
    width_px, height_px = struct.unpack(">II", head[16:24])
    _check_size(path, width_px, height_px)
    return height_px, width_px


def _decode_png(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    height_px, width_px = png_size(path)
    most_bytes = height_px * width_px * _MAX_PNG_BYTES_PER_PX + _MAX_PNG_EXTRA_BYTES
    with _reading(path), path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        msg = (
            f"expected at most {most_bytes} bytes in {path.name} for {width_px} x {height_px} "
            "pixels, found more; save it without attachments"
        )
        raise InputError("image_invalid", msg)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        msg = f"expected a whole PNG in {path.name}, found a damaged one; write it again"
        raise InputError("image_invalid", msg)
    if image.ndim == 3:
        order = cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
        image = cv2.cvtColor(image, order)
    return image  # pyright: ignore[reportReturnType]


def write_depth_exr(path: Path, depth: NDArray[np.float32]) -> None:
    """Write (height, width) float32 as one channel, ZIP-compressed, without loss.

    Raises:
        InputError: `image_write` if the file cannot be written.
    """
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    channels = {DEPTH_CHANNEL: np.ascontiguousarray(depth, np.float32)}
    with _writing(path):
        OpenEXR.File(header, channels).write(str(path))


def read_depth_exr(path: Path) -> NDArray[np.float32]:
    """Read the depth channel of an EXR: (height, width) float32.

    Takes, from any part of the file, Y, Z, a layer's Depth.Z, V or R, in this order, or the only
    channel.

    Raises:
        InputError: `image_invalid` if it is missing, too large, damaged, cropped or without such a
            channel.
    """
    part, channel = _judge_exr(path)
    with _reading(path), OpenEXR.File(str(path), separate_channels=True) as file:
        pixels = file.channels(part)[channel].pixels
        # The file's own buffers die with it.
        return np.array(pixels, np.float32, order="C")


def exr_size(path: Path) -> tuple[int, int]:
    """Height and width of an EXR with depth in pixels, by its header.

    Raises:
        InputError: As `read_depth_exr`, except for damaged pixels.
    """
    part, _ = _judge_exr(path)
    with _reading(path):
        low, high = OpenEXR.File(str(path), header_only=True).parts[part].header["dataWindow"]
    return int(high[1] - low[1] + 1), int(high[0] - low[0] + 1)


def _judge_exr(path: Path) -> tuple[int, str]:
    """Part and name of the depth channel, once the whole file is known to be safe to decode."""
    with _reading(path):
        with path.open("rb") as file:
            magic = file.read(4)
        if magic != _EXR_MAGIC:
            msg = f"expected an EXR in {path.name}, found something else"
            raise InputError("image_invalid", msg)
        headers = [part.header for part in OpenEXR.File(str(path), header_only=True).parts]
        size_bytes = 0
        names: list[tuple[int, str]] = []
        for index, header in enumerate(headers):
            low, high = (corner.astype(np.int64) for corner in header["dataWindow"])
            width_px, height_px = (int(side) for side in high - low + 1)
            _check_size(path, width_px, height_px)
            size_bytes += width_px * height_px * 4 * len(header["channels"])
            names += [(index, channel.name) for channel in header["channels"]]
    if size_bytes > _MAX_EXR_BYTES:
        msg = (
            f"expected at most {_MAX_EXR_BYTES >> 20} MiB of channels in {path.name}, found "
            f"{size_bytes >> 20} MiB; save depth alone"
        )
        raise InputError("image_invalid", msg)
    part, channel = _depth_channel(path, names)
    _check_layout(path, headers[part], channel)
    return part, channel


def _depth_channel(path: Path, names: list[tuple[int, str]]) -> tuple[int, str]:
    if len(names) == 1:
        return names[0]
    for wanted in _DEPTH_CHANNELS:
        for part, name in names:
            if name == wanted or (wanted[0] == "." and f".{name.lower()}".endswith(wanted)):
                return part, name
    found = ", ".join(sorted(name for _, name in names)[:12]) or "none"
    msg = f"expected a depth channel in {path.name}, Y or Z, found {found}; save depth alone"
    raise InputError("image_invalid", msg)


def _check_layout(path: Path, header: dict[str, object], channel: str) -> None:
    kind = header.get("type", OpenEXR.scanlineimage)
    if kind not in (OpenEXR.scanlineimage, OpenEXR.tiledimage):
        msg = f"expected a flat image in {path.name}, found a deep one; flatten it"
        raise InputError("image_invalid", msg)
    data, display = header["dataWindow"], header["displayWindow"]
    if not np.array_equal(data, display):  # pyright: ignore[reportArgumentType]
        msg = (
            f"expected the whole picture in {path.name}, found the window {data} of {display}; "
            "save it without crop or overscan"
        )
        raise InputError("image_invalid", msg)
    channels: list[OpenEXR.Channel] = header["channels"]  # pyright: ignore[reportAssignmentType]
    if any((c.xSampling, c.ySampling) != (1, 1) for c in channels if c.name == channel):
        msg = f"expected every pixel in channel {channel} of {path.name}, found it subsampled"
        raise InputError("image_invalid", msg)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, IndexError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        msg = f"expected an image in {path}, found one that cannot be read: {reason}; copy it again"
        raise InputError("image_invalid", msg) from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        msg = f"expected to write {path}, found: {reason}; free some space or permit it"
        raise InputError("image_write", msg) from error


def _check_size(path: Path, width_px: int, height_px: int) -> None:
    if not (0 < width_px <= MAX_SIDE_PX and 0 < height_px <= MAX_SIDE_PX):
        limit = f"1 to {MAX_SIDE_PX} pixels a side"
    elif width_px * height_px > MAX_IMAGE_PX:
        limit = f"at most {MAX_IMAGE_PX} pixels"
    else:
        return
    msg = f"expected {limit} in {path.name}, found {width_px} x {height_px}; scale it down"
    raise InputError("image_invalid", msg)
