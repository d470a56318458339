"""Clips: decode a video or an image sequence to frames, and encode frames to video.

What comes in may be hostile: only the containers named here are opened, by their own demuxer, from
the file itself; nothing in it can name another file or address. Limits hold before decoding.
"""

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from .errors import InputError
from .images import read_png
from .protocol.documents import MAX_FRAMES, MAX_SIDE_PX
from .task import Task

#: Demuxer for each kind of container, by its first bytes: (offset, bytes, demuxer).
_CONTAINERS = (
    (4, b"ftyp", "mov"),
    (4, b"moov", "mov"),
    (4, b"mdat", "mov"),
    (4, b"wide", "mov"),
    (0, b"\x1aE\xdf\xa3", "matroska"),
    (8, b"AVI ", "avi"),
)
_SEQUENCE_SUFFIXES = (".png",)
_DEFAULT_RATE = Fraction(24)
#: Near enough to lossless that the eye finds no difference, far smaller.
_VIEWING_CRF = "12"


@dataclass(frozen=True)
class MediaLimits:
    """What a clip may ask of this machine."""

    side_px: int = MAX_SIDE_PX
    frame_px: int = 4096 * 2304
    frame_count: int = MAX_FRAMES
    total_bytes: int = 12 << 30
    decoding_s: float = 1800.0


@dataclass(frozen=True)
class FrameSelection:
    """Which frames of a source to take; the default is all of them.

    Attributes:
        first_frame: First frame to take, counted from 0.
        frame_count: How many to take; all to the end where absent, or as many as there are.
        stride: Take every so-manieth frame.
    """

    first_frame: int = 0
    frame_count: int | None = None
    stride: int = 1


@dataclass(frozen=True)
class Clip:
    """Source frames.

    Attributes:
        frames: (frames, height, width, 3) uint8 sRGB.
        frame_rate: Frames per second of these frames.
        first_frame: Which frame of the source the first one is, counted from 0.
        stride: Every how many frames of the source one was taken.
    """

    frames: NDArray[np.uint8]
    frame_rate: Fraction
    first_frame: int = 0
    stride: int = 1


def read_clip(
    path: Path,
    *,
    selection: FrameSelection | None = None,
    limits: MediaLimits | None = None,
    task: Task | None = None,
) -> Clip:
    """Decode a range of a video, or of the numbered PNG sequence that an image belongs to.

    Frames are those that the file holds, in the order in which they are shown; for a variable frame
    rate the rate is the average. Rotation flags are applied, transparency is ignored.

    Args:
        path: The video (MP4, MOV, Matroska, WebM or AVI), or one image of a sequence.
        selection: Which frames to take.
        limits: What the clip may ask of this machine.
        task: Told about every frame, stage `reading`.

    Raises:
        InputError: `clip_missing`, `clip_container`, `clip_no_video`, `clip_damaged`,
            `clip_too_large`, `clip_empty`.
    """
    selection = selection or FrameSelection()
    limits = limits or MediaLimits()
    task = task or Task()
    if not path.is_file():
        msg = f"expected a video or an image in {path}, found no such file"
        raise InputError("clip_missing", msg)
    if path.suffix.lower() in _SEQUENCE_SUFFIXES:
        available, rate = _sequence_frames(path), _DEFAULT_RATE
        return _collect(available, rate, path, selection, limits, task)
    with _open_video(path) as (container, stream):
        _check_frame_size(path, stream.codec_context.width, stream.codec_context.height, limits)
        rate = stream.average_rate or stream.guessed_rate or _DEFAULT_RATE
        frames = _decoded_frames(container, stream)
        return _collect(frames, rate, path, selection, limits, task)


def write_video(
    path: Path,
    frames: Iterable[NDArray[np.uint8]],
    frame_rate: Fraction,
    *,
    lossless: bool = False,
    task: Task | None = None,
) -> None:
    """Encode frames; the file appears when it is whole.

    Args:
        path: `.mp4` for H.264 in 4:2:0, BT.709, for viewing: an odd last column or row is repeated
            once, since 4:2:0 needs even sizes. `.mkv` with `lossless` for FFV1 in RGB, exact.
        frames: Each (height, width, 3) uint8 sRGB, all of one size.
        frame_rate: Frames per second.
        lossless: Keep every value.
        task: Told about every frame, stage `encoding`.

    Raises:
        InputError: `video_suffix` if suffix and `lossless` do not fit; `clip_empty`.
    """
    suffix = ".mkv" if lossless else ".mp4"
    if path.suffix.lower() != suffix:
        msg = f"expected a file name that ends in {suffix}, found {path.name}"
        raise InputError("video_suffix", msg)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part{suffix}")
    try:
        _encode(temporary, frames, frame_rate, lossless=lossless, task=task or Task())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _encode(
    path: Path,
    frames: Iterable[NDArray[np.uint8]],
    frame_rate: Fraction,
    *,
    lossless: bool,
    task: Task,
) -> None:
    count = 0
    total = len(frames) if hasattr(frames, "__len__") else 0  # pyright: ignore[reportArgumentType]
    with av.open(str(path), "w") as container:
        stream: Any = None
        for image in frames:
            picture = image if lossless else _even(image)
            if stream is None:
                stream = _add_stream(container, picture, frame_rate, lossless=lossless)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if not lossless:
                frame = frame.reformat(
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                )
            container.mux(stream.encode(frame))
            count += 1
            task.step("encoding", count, max(count, total))
        if stream is None:
            raise InputError("clip_empty", f"expected frames to write to {path.name}, found none")
        container.mux(stream.encode(None))


def _add_stream(
    container: Any, picture: NDArray[np.uint8], frame_rate: Fraction, *, lossless: bool
) -> Any:
    stream = container.add_stream("ffv1" if lossless else "libx264", rate=frame_rate)
    stream.height, stream.width = picture.shape[:2]
    if lossless:
        stream.pix_fmt = "bgr0"
        return stream
    stream.pix_fmt = "yuv420p"
    stream.options = {"crf": _VIEWING_CRF, "preset": "veryfast"}
    context = stream.codec_context
    context.colorspace = Colorspace.ITU709
    context.color_range = ColorRange.MPEG
    # sRGB's primaries are those of BT.709 (1); its transfer function is IEC 61966-2-1 (13).
    context.color_primaries = 1
    context.color_trc = 13
    return stream


def _even(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height_px, width_px, _ = image.shape
    return np.pad(image, ((0, height_px % 2), (0, width_px % 2), (0, 0)), mode="edge")


@contextmanager
def _open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    with path.open("rb") as file:
        head = file.read(16)
    demuxers = [
        name
        for offset, mark, name in _CONTAINERS
        if head[offset : offset + len(mark)] == mark and (name != "avi" or head.startswith(b"RIFF"))
    ]
    if not demuxers:
        msg = (
            f"expected an MP4, MOV, Matroska, WebM or AVI video or a PNG sequence, found neither "
            f"in {path.name}; convert it to MP4"
        )
        raise InputError("clip_container", msg)
    options = {"protocol_whitelist": "file"}
    if demuxers[0] == "mov":
        # A MOV may keep its data in other files, which are none of ours.
        options["enable_drefs"] = "0"
    try:
        container = av.open(str(path), format=demuxers[0], options=options)
    except av.FFmpegError as error:
        msg = f"expected a video in {path.name}, found one that cannot be opened: {error.strerror}"
        raise InputError("clip_damaged", msg) from error
    with container:
        if not container.streams.video:
            msg = f"expected pictures in {path.name}, found none; choose a file with video"
            raise InputError("clip_no_video", msg)
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


def _decoded_frames(container: Any, stream: Any) -> Iterator[NDArray[np.uint8]]:
    for frame in container.decode(stream):
        picture = frame.reformat(
            format="rgb24",
            src_colorspace=_colorspace(frame),
            src_color_range=_range(frame),
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.JPEG,
        )
        image = picture.to_ndarray()
        # FFmpeg counts the angle anticlockwise, as NumPy does.
        yield np.rot90(image, round(frame.rotation / 90)) if frame.rotation else image


def _colorspace(frame: av.VideoFrame) -> int:
    """What the file says, else what players assume: BT.709 for HD, BT.601 below."""
    if frame.colorspace in (1, 4, 5, 7, 9):
        return frame.colorspace
    return Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601


def _range(frame: av.VideoFrame) -> int:
    if frame.color_range in (ColorRange.MPEG, ColorRange.JPEG):
        return frame.color_range
    return ColorRange.JPEG if frame.format.name.startswith("yuvj") else ColorRange.MPEG


def _sequence_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    for image_path in sequence_paths(path):
        image = read_png(image_path)
        yield np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def sequence_paths(path: Path) -> list[Path]:
    """The files that differ from `path` in their last number alone, from it on, in order.

    Args:
        path: Any image of a numbered sequence; one without a number is a sequence of its own.

    Raises:
        InputError: `sequence_gap` if a number is missing.
    """
    match = re.fullmatch(r"(.*?)(\d+)", path.stem)
    if match is None:
        return [path]
    prefix = match[1]
    numbered: dict[int, Path] = {}
    for other in path.parent.glob(f"*{path.suffix}"):
        rest = other.stem.removeprefix(prefix)
        if other.stem.startswith(prefix) and rest.isdigit() and int(rest) >= int(match[2]):
            numbered[int(rest)] = other
    numbers = sorted(numbered)
    for expected, number in enumerate(numbers, start=int(match[2])):
        if number != expected:
            msg = (
                f"expected number {expected} in the sequence of {path.name}, found {number} next; "
                "add the missing image or renumber the files"
            )
            raise InputError("sequence_gap", msg)
    return [numbered[number] for number in numbers]


def _collect(
    frames: Iterator[NDArray[np.uint8]],
    rate: Fraction,
    path: Path,
    selection: FrameSelection,
    limits: MediaLimits,
    task: Task,
) -> Clip:
    taken: list[NDArray[np.uint8]] = []
    deadline_s = time.monotonic() + limits.decoding_s
    wanted = selection.frame_count
    try:
        for index, image in enumerate(frames):
            if time.monotonic() > deadline_s:
                msg = (
                    f"expected {path.name} to decode within {limits.decoding_s:.0f} s, found it "
                    "slower; shorten the clip or convert it"
                )
                raise InputError("clip_too_large", msg)
            if index < selection.first_frame or (index - selection.first_frame) % selection.stride:
                continue
            _check_next(path, image, taken, limits)
            taken.append(image)
            task.step("reading", len(taken), wanted or max(len(taken), 1))
            if len(taken) == wanted:
                break
    except av.FFmpegError as error:
        msg = (
            f"expected a whole video in {path.name}, found it damaged after {len(taken)} frames: "
            f"{error.strerror}; take fewer frames or export it again"
        )
        raise InputError("clip_damaged", msg) from error
    if not taken:
        msg = (
            f"expected frames from {selection.first_frame} on in {path.name}, found none; "
            "choose an earlier first frame or another file"
        )
        raise InputError("clip_empty", msg)
    return Clip(np.stack(taken), rate / selection.stride, selection.first_frame, selection.stride)


def _check_next(
    path: Path, image: NDArray[np.uint8], taken: list[NDArray[np.uint8]], limits: MediaLimits
) -> None:
    _check_frame_size(path, image.shape[1], image.shape[0], limits)
    if taken and image.shape != taken[0].shape:
        msg = (
            f"expected frames of one size in {path.name}, found {image.shape[1]} x "
            f"{image.shape[0]} after {taken[0].shape[1]} x {taken[0].shape[0]}; convert the clip"
        )
        raise InputError("clip_damaged", msg)
    count = len(taken) + 1
    if count > limits.frame_count or count * image.nbytes > limits.total_bytes:
        msg = (
            f"expected at most {limits.frame_count} frames and {limits.total_bytes >> 20} MiB in "
            f"{path.name}, found more; choose fewer frames or scale the clip down"
        )
        raise InputError("clip_too_large", msg)


def _check_frame_size(path: Path, width_px: int, height_px: int, limits: MediaLimits) -> None:
    if max(width_px, height_px) > limits.side_px or width_px * height_px > limits.frame_px:
        msg = (
            f"expected at most {limits.side_px} pixels a side and {limits.frame_px} in all in "
            f"{path.name}, found {width_px} x {height_px}; scale the clip down"
        )
        raise InputError("clip_too_large", msg)
    if min(width_px, height_px) < 2:
        msg = f"expected at least 2 pixels a side in {path.name}, found {width_px} x {height_px}"
        raise InputError("clip_damaged", msg)
