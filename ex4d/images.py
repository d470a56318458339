"""Image files: 8-bit PNG, 16-bit PNG and float32 EXR, with limits that hold before decoding."""

import struct
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
from numpy.typing import NDArray

from .errors import InputError
from .protocol.documents import MAX_SIDE_PX

#: Blender 4.2 to 5.2 read this channel exactly, as grey; 4.2 misreads one called Z.
DEPTH_CHANNEL = "Y"
#: Channels that other programs put depth in, in the order in which we look for them.
_DEPTH_CHANNELS = (DEPTH_CHANNEL, "Z", "depth.Z", "Depth.Z", "V", "R")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
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
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        msg = f"expected to write {path}, found: {error.strerror}; free some space or permit it"
        raise InputError("image_write", msg) from error


def read_png(path: Path) -> NDArray[np.uint8]:
    """Read an 8-bit PNG: (height, width, 3) uint8 RGB, or (height, width) uint8 if it is grey.

    Raises:
        InputError: `image_invalid` if it is missing, too large, damaged or not 8 bit.
    """
    image = _decode_png(path)
    if image.dtype != np.uint8:
        msg = f"expected an 8-bit PNG in {path.name}, found {image.dtype}; save it with 8 bits"
        raise InputError("image_invalid", msg)
    return image


def read_png16(path: Path) -> NDArray[np.uint16]:
    """Read a 16-bit grey PNG: (height, width) uint16.

    Raises:
        InputError: `image_invalid` if it is missing, too large, damaged or not 16-bit grey.
    """
    image = _decode_png(path)
    if image.dtype != np.uint16 or image.ndim != 2:
        msg = f"expected a 16-bit grey PNG in {path.name}, found {image.dtype} {image.shape}"
        raise InputError("image_invalid", msg)
    return image


def _decode_png(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    data = _read(path)
    if data[:8] != _PNG_SIGNATURE or len(data) < 33:
        raise InputError("image_invalid", f"expected a PNG in {path.name}, found something else")
    width_px, height_px = struct.unpack(">II", data[16:24])
    _check_size(path, width_px, height_px)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        msg = f"expected a whole PNG in {path.name}, found a damaged one; write it again"
        raise InputError("image_invalid", msg)
    if image.ndim == 3:
        image = cv2.cvtColor(
            image, cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
        )
    return image


def write_depth_exr(path: Path, depth: NDArray[np.float32]) -> None:
    """Write (height, width) float32 as one channel, without loss."""
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    channels = {DEPTH_CHANNEL: np.ascontiguousarray(depth, np.float32)}
    OpenEXR.File(header, channels).write(str(path))


def read_depth_exr(path: Path) -> NDArray[np.float32]:
    """Read the depth channel of an EXR: (height, width) float32.

    Takes Y, Z, depth.Z, V or R, in this order, or the only channel; of a multi-part file the first
    part that has one.

    Raises:
        InputError: `image_invalid` if it is missing, too large, damaged or without such a channel.
    """
    with path.open("rb") as file:
        head = file.read(4)
    if head != _EXR_MAGIC:
        raise InputError("image_invalid", f"expected an EXR in {path.name}, found something else")
    try:
        header = OpenEXR.File(str(path), header_only=True)
        for part in header.parts:
            low, high = part.header["dataWindow"]
            _check_size(path, int(high[0] - low[0] + 1), int(high[1] - low[1] + 1))
        with OpenEXR.File(str(path), separate_channels=True) as file:
            for index in range(len(file.parts)):
                channels = file.channels(index)
                names = [name for name in _DEPTH_CHANNELS if name in channels]
                if len(channels) == 1:
                    names = list(channels)
                if names:
                    return np.ascontiguousarray(channels[names[0]].pixels, np.float32)
    except (RuntimeError, ValueError, KeyError) as error:
        msg = f"expected an EXR image in {path.name}, found one that cannot be read: {error}"
        raise InputError("image_invalid", msg) from error
    msg = f"expected a channel {', '.join(_DEPTH_CHANNELS)} in {path.name}, found none of them"
    raise InputError("image_invalid", msg)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"expected an image in {path}, found: {error.strerror}"
        raise InputError("image_invalid", msg) from error


def _check_size(path: Path, width_px: int, height_px: int) -> None:
    if not (0 < width_px <= MAX_SIDE_PX and 0 < height_px <= MAX_SIDE_PX):
        msg = (
            f"expected at most {MAX_SIDE_PX} pixels a side in {path.name}, "
            f"found {width_px} x {height_px}; scale it down"
        )
        raise InputError("image_invalid", msg)
