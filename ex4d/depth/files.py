"""Depth from files: NumPy arrays, EXR and 16-bit PNG sequences."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from ex4d.arrays import ArrayReader, open_array
from ex4d.clip import FrameSelection, MediaLimits, sequence_paths
from ex4d.errors import InputError
from ex4d.framestore import each_frame, new_frames, release, value_range
from ex4d.images import read_depth_exr, read_png16
from ex4d.protocol.documents import DepthInfo
from ex4d.task import Task

from . import Depth
from .units import bring_sky_near, disparity_to_depth

DepthKind = Literal["auto", "depth", "metric", "disparity", "reference"]
#: How far the shape of depth may be from the clip's: networks round sides to multiples of 64.
_ASPECT_TOLERANCE = 0.1
#: Frames between two releases of what was read.
_RELEASED_EVERY = 32
_LICENCE = "the user's own"


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

    A file holds either exactly the clip's frames, or those of the whole source, of which the same
    are selected. Another size is scaled by nearest neighbour, since a blend of foreground and
    background is a surface that does not exist.

    What the numbers mean, by kind:

    - `depth`: z-depth of a free scale.
    - `metric`: z-depth in metres.
    - `reference`: z-depth in the reference's units, in which the clip's nearest lies at 2.564.
    - `disparity`: inverse depth up to scale and shift, larger is nearer. It is spread over [0, 1]
      over the clip's frames and turned into depth as the reference does it.
    - `auto`: 16-bit PNG is disparity, all else depth. Numbers that lie in [0, 1] throughout could
      be either, and are refused.

    Depth that is infinite, or beyond `units.SKY_FACTOR` times the clip's nearest, is sky and
    becomes that. Holes (NaN, zero and below) are refused: what fills them is the user's to choose.

    Args:
        path: `.npz` (its array `depth`, or its only one), `.npy`, or the first image of a sequence
            of `.exr` or 16-bit grey `.png`. Arrays are (frames, height, width), of any real type;
            a further axis of length 1, second or last, is dropped.
        kind: What the numbers mean.
        frame_count: Frames of the clip.
        width_px: Width of the clip.
        height_px: Height of the clip.
        selection: Which frames of the source the clip holds.
        limits: What the file may ask of this machine.
        task: Told about every frame, stage `reading depth`.

    Raises:
        InputError: `depth_missing`, `depth_format`, `depth_kind`, `depth_too_large`, `depth_count`,
            `depth_size`, `depth_values`, `array_invalid`, `image_invalid` or `sequence_gap`.
    """
    if kind not in get_args(DepthKind):
        msg = f"expected one of {', '.join(get_args(DepthKind))}, found {kind!r}; choose one"
        raise InputError("depth_kind", msg)
    task = task or Task()
    values = new_frames((frame_count, height_px, width_px), np.float32)
    with _open(path, limits or MediaLimits()) as (available, frames):
        wanted = _select(path, available, frame_count, selection or FrameSelection())
        for place, frame in enumerate(frames(wanted)):
            values[place] = _fitted(frame, width_px, height_px, path)
            if place % _RELEASED_EVERY == 0:
                release(values)
            task.step("reading depth", place + 1, frame_count)
    if kind == "auto":
        kind = _guessed_kind(values, path)
    if kind == "disparity":
        _disparity_to_depth(values, path)
    else:
        _check_depth(values, path)
    return Depth(
        values,
        DepthInfo(
            source="files",
            kind="depth" if kind == "metric" else kind,
            unit="metres" if kind == "metric" else "scene",
            licence=_LICENCE,
            spread="min_max" if kind == "disparity" else None,
        ),
    )


#: From the indices of frames to the frames, (height, width) of any real type.
_Frames = Callable[[range], Iterator[NDArray[np.generic]]]


@contextmanager
def _open(path: Path, limits: MediaLimits) -> Iterator[tuple[int, _Frames]]:
    """How many frames there are, and how to read them in order."""
    if not path.is_file():
        msg = f"expected depth in {path}, found no such file; check the path"
        raise InputError("depth_missing", msg)
    suffix = path.suffix.lower()
    if suffix in (".npz", ".npy"):
        with open_array(path, "depth") as reader:
            height_px, width_px = _array_size(path, reader.shape)
            if height_px * width_px > limits.frame_px:
                msg = (
                    f"expected at most {limits.frame_px} pixels a frame in {path.name}, "
                    f"found {width_px} x {height_px}; scale it down"
                )
                raise InputError("depth_too_large", msg)
            yield reader.shape[0], partial(_array_frames, reader, (height_px, width_px))
    elif suffix in (".exr", ".png"):
        paths = sequence_paths(path)
        read = read_depth_exr if suffix == ".exr" else read_png16
        yield len(paths), lambda indices: (read(paths[index]) for index in indices)
    else:
        msg = f"expected .npz, .npy, .exr or .png with depth, found {path.name}; convert it"
        raise InputError("depth_format", msg)


def _array_size(path: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of the frames of an array."""
    height_px, width_px = 0, 0
    if len(shape) == 3:
        _, height_px, width_px = shape
    elif len(shape) == 4 and shape[1] == 1:
        _, _, height_px, width_px = shape
    elif len(shape) == 4 and shape[3] == 1:
        _, height_px, width_px, _ = shape
    if not height_px * width_px:
        msg = f"expected depth of (frames, height, width) in {path.name}, found {shape}; reshape it"
        raise InputError("depth_format", msg)
    return height_px, width_px


def _array_frames(
    reader: ArrayReader, size: tuple[int, int], indices: range
) -> Iterator[NDArray[np.generic]]:
    position = 0
    for index in indices:
        reader.skip_entries(index - position)
        position = index + 1
        yield reader.next_entry().reshape(size)


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


def _fitted(
    frame: NDArray[np.generic], width_px: int, height_px: int, path: Path
) -> NDArray[np.float32]:
    # Numbers too large for float32 become infinity, which is sky.
    with np.errstate(over="ignore"):
        values = frame.astype(np.float32)
    if values.shape == (height_px, width_px):
        return values
    aspect = values.shape[1] / values.shape[0] * height_px / width_px
    if abs(aspect - 1) > _ASPECT_TOLERANCE:
        msg = (
            f"expected depth of about the shape of the clip, {width_px} x {height_px}, in "
            f"{path.name}, found {values.shape[1]} x {values.shape[0]}; crop or turn it alike"
        )
        raise InputError("depth_size", msg)
    # INTER_NEAREST_EXACT samples at pixel centres; INTER_NEAREST is up to half a pixel off.
    return cv2.resize(values, (width_px, height_px), interpolation=cv2.INTER_NEAREST_EXACT)  # pyright: ignore[reportReturnType]


def _guessed_kind(values: NDArray[np.float32], path: Path) -> Literal["depth", "disparity"]:
    if path.suffix.lower() == ".png":
        return "disparity"
    if all(frame.min() >= 0 and frame.max() <= 1 for frame in each_frame(values)):
        msg = (
            f"expected to tell depth from disparity in {path.name}, found numbers from 0 to 1, "
            "which could be either; say which kind it is"
        )
        raise InputError("depth_kind", msg)
    return "depth"


def _disparity_to_depth(disparity: NDArray[np.float32], path: Path) -> None:
    for index, frame in enumerate(each_frame(disparity)):
        if not np.isfinite(frame).all():
            raise _wrong_values(path, index, ~np.isfinite(frame), "finite disparity")
    disparity_to_depth(disparity, *value_range(disparity), path.name)


def _check_depth(depth: NDArray[np.float32], path: Path) -> None:
    """Refuse holes and bring the sky within reach, in place."""
    for index, frame in enumerate(each_frame(depth)):
        # NaN is not above 0 either.
        wrong = ~(frame > 0)
        if wrong.any():
            raise _wrong_values(path, index, wrong, "depth above 0")
    nearest, _ = value_range(depth)
    if not np.isfinite(nearest):
        msg = f"expected finite depth in {path.name}, found infinity everywhere; check it"
        raise InputError("depth_values", msg)
    bring_sky_near(depth, nearest)


def _wrong_values(path: Path, index: int, wrong: NDArray[np.bool_], expected: str) -> InputError:
    msg = (
        f"expected {expected} in {path.name}, found other values in {100 * wrong.mean():.2g} % of "
        f"frame {index}; fill the holes, and a sky with a large depth"
    )
    return InputError("depth_values", msg)
