"""Depth from files: NumPy arrays, EXR and 16-bit PNG sequences."""

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from ex4d.clip import FrameSelection, MediaLimits, sequence_paths
from ex4d.errors import InputError
from ex4d.images import read_depth_exr, read_png16
from ex4d.protocol.documents import DepthInfo
from ex4d.task import Task

from . import Depth

DepthKind = Literal["auto", "depth", "metric", "disparity", "reference"]
#: The reference: depth = 10000 / (3900 d) for disparity d in [0, 1] over the whole clip, clipped.
_REFERENCE_NUMERATOR = 10_000.0
_REFERENCE_SCALE = 3_900.0
_REFERENCE_RANGE = (1e-4, 1e4)
_LICENCE = "the user's own"


def depth_from_disparity(disparity: NDArray[np.float32]) -> NDArray[np.float32]:
    """z-depth from disparity in [0, 1], in the reference's units: the nearest lies at 2.564.

    Args:
        disparity: Any shape, float32; 1 is nearest.

    Returns:
        Same shape, float32, within 1e-4..1e4.
    """
    floor = np.float32(_REFERENCE_NUMERATOR / (_REFERENCE_SCALE * _REFERENCE_RANGE[1]))
    depth = np.float32(_REFERENCE_NUMERATOR / _REFERENCE_SCALE) / np.maximum(disparity, floor)
    return np.clip(depth, *map(np.float32, _REFERENCE_RANGE))


def read_depth(
    path: Path,
    *,
    kind: DepthKind = "auto",
    frame_count: int,
    width_px: int,
    height_px: int,
    selection: FrameSelection | None = None,
    limits: MediaLimits | None = None,
    task: Task | None = None,
) -> Depth:
    """Read depth for the frames of a clip.

    A file holds either exactly the clip's frames, or all of the source's, of which the same are
    selected. Another size is scaled: nearest neighbour, since a blend of foreground and background
    is a surface that does not exist.

    Kinds: `depth` and `reference` are z-depth of a free scale, `metric` z-depth in metres;
    `disparity` is inverse depth up to scale and shift, spread over [0, 1] over the whole clip and
    turned into depth as the reference does it. `auto` takes `.npz`, `.npy` and EXR for depth, and
    16-bit PNG, which cannot hold a range of depths well, for disparity.

    Args:
        path: `.npz` (its array `depth`, or its only one), `.npy`, or one image of a sequence of
            `.exr` or 16-bit `.png`. Arrays are (frames, height, width), a channel axis of 1 is
            dropped.
        kind: What the numbers mean.
        frame_count: Frames of the clip.
        width_px: Width of the clip.
        height_px: Height of the clip.
        selection: Which frames of the source the clip holds.
        limits: What the file may ask of this machine.
        task: Told about every frame, stage `reading depth`.

    Raises:
        InputError: `depth_missing`, `depth_format`, `depth_too_large`, `depth_count`,
            `depth_values`.
    """
    if kind not in get_args(DepthKind):
        msg = f"expected one of {', '.join(get_args(DepthKind))}, found {kind!r}"
        raise InputError("depth_kind", msg)
    selection = selection or FrameSelection()
    task = task or Task()
    available, read = _open(path, limits or MediaLimits())
    indices = _select(path, available, frame_count, selection)
    values = np.empty((frame_count, height_px, width_px), np.float32)
    for place, index in enumerate(indices):
        values[place] = _fitted(read(index), width_px, height_px)
        task.step("reading depth", place + 1, frame_count)
    if kind == "auto":
        kind = "disparity" if path.suffix.lower() == ".png" else "depth"
    if kind == "disparity":
        values = depth_from_disparity(_normalised(values, path))
    _check_values(values, path)
    return Depth(
        values,
        DepthInfo(
            source="files",
            kind={"metric": "depth"}.get(kind, kind),  # pyright: ignore[reportArgumentType]
            unit="metres" if kind == "metric" else "scene",
            licence=_LICENCE,
        ),
    )


def _open(path: Path, limits: MediaLimits) -> tuple[int, Callable[[int], NDArray[np.generic]]]:
    """How many frames there are, and how to read one: (height, width) of any real dtype."""
    if not path.is_file():
        raise InputError("depth_missing", f"expected depth in {path}, found no such file")
    suffix = path.suffix.lower()
    if suffix in (".npz", ".npy"):
        frames = _frames_of(_load_array(path, limits), path)
        return len(frames), lambda index: frames[index]
    if suffix in (".exr", ".png"):
        paths = sequence_paths(path)
        reader = read_depth_exr if suffix == ".exr" else read_png16
        return len(paths), lambda index: reader(paths[index])
    msg = f"expected .npz, .npy, .exr or .png with depth, found {path.name}; convert it"
    raise InputError("depth_format", msg)


def _load_array(path: Path, limits: MediaLimits) -> NDArray[np.generic]:
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                _check_header(file, path, limits)
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if "depth" not in names and len(names) != 1:
                msg = f"expected an array called depth in {path.name}, found {', '.join(names)}"
                raise InputError("depth_format", msg)
            name = "depth" if "depth" in names else names[0]
            with archive.open(f"{name}.npy") as file:
                _check_header(file, path, limits)
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except (OSError, ValueError, KeyError, EOFError, struct.error, zipfile.BadZipFile) as error:
        msg = f"expected a NumPy array in {path.name}, found none that can be read: {error}"
        raise InputError("depth_format", msg) from error


def _check_header(file: object, path: Path, limits: MediaLimits) -> None:
    """Judge an array by its header, before anything of its size is allocated."""
    version = npy_format.read_magic(file)  # pyright: ignore[reportArgumentType]
    first = version == (1, 0)
    read = npy_format.read_array_header_1_0 if first else npy_format.read_array_header_2_0
    shape, _, dtype = read(file)  # pyright: ignore[reportArgumentType]
    size_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if dtype.kind not in "fui" or len(shape) not in (3, 4):
        msg = (
            f"expected numbers of shape (frames, height, width) in {path.name}, "
            f"found {dtype} {shape}"
        )
        raise InputError("depth_format", msg)
    if size_bytes > limits.total_bytes:
        msg = (
            f"expected at most {limits.total_bytes >> 20} MiB of depth in {path.name}, "
            f"found {size_bytes >> 20} MiB; shorten or scale it down"
        )
        raise InputError("depth_too_large", msg)


def _frames_of(array: NDArray[np.generic], path: Path) -> NDArray[np.generic]:
    for axis in (1, 3):
        if array.ndim == 4 and array.shape[axis] == 1:
            return array.squeeze(axis)
    if array.ndim != 3 or not len(array):
        msg = f"expected depth of shape (frames, height, width) in {path.name}, found {array.shape}"
        raise InputError("depth_format", msg)
    return array


def _select(path: Path, available: int, frame_count: int, selection: FrameSelection) -> range:
    if available == frame_count:
        return range(frame_count)
    last = selection.first_frame + (frame_count - 1) * selection.stride
    if last >= available:
        msg = (
            f"expected {frame_count} frames of depth in {path.name}, as the clip has, or the whole "
            f"video's {last + 1} or more; found {available}"
        )
        raise InputError("depth_count", msg)
    return range(selection.first_frame, last + 1, selection.stride)


def _fitted(frame: NDArray[np.generic], width_px: int, height_px: int) -> NDArray[np.float32]:
    values = np.ascontiguousarray(frame, np.float32)
    if values.shape == (height_px, width_px):
        return values
    # INTER_NEAREST_EXACT samples at pixel centres; INTER_NEAREST is half a pixel off.
    return cv2.resize(values, (width_px, height_px), interpolation=cv2.INTER_NEAREST_EXACT)


def _normalised(disparity: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
    """Spread over [0, 1] over the whole clip, as the reference does it."""
    if not np.isfinite(disparity).all():
        msg = f"expected finite disparity in {path.name}, found NaN or infinity; export it again"
        raise InputError("depth_values", msg)
    low, high = float(disparity.min()), float(disparity.max())
    if low == high:
        msg = f"expected disparity that varies in {path.name}, found {low:g} everywhere"
        raise InputError("depth_values", msg)
    return (disparity - np.float32(low)) / np.float32(high - low)


def _check_values(values: NDArray[np.float32], path: Path) -> None:
    wrong = ~np.isfinite(values) | (values <= 0)
    if wrong.any():
        index = int(np.argmax(wrong.any(axis=(1, 2))))
        share = 100.0 * float(wrong.mean())
        msg = (
            f"expected positive, finite depth in {path.name}, found other values in {share:.2g} % "
            f"of the pixels, first in frame {index}; fill them, a sky with a large depth"
        )
        raise InputError("depth_values", msg)
