"""Clips: a video or an image sequence as frames, and frames as a video."""

import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from .errors import InputError
from .framestore import FrameCollector
from .images import png_size, read_png
from .task import Task
from .video import (
    ACCURATE,
    DEFAULT_RATE,
    Deadline,
    MediaLimits,
    Picture,
    open_video,
    storable_rate,
)

__all__ = [
    "Clip",
    "FrameSelection",
    "MediaLimits",
    "read_clip",
    "sequence_paths",
    "write_video",
]

_SEQUENCE_SUFFIX = ".png"
#: Near enough to lossless that the eye finds no difference, far smaller.
_VIEWING_CRF = "12"
#: FFmpeg's numbers for BT.709's primaries, which are sRGB's, and for sRGB's transfer function.
_PRIMARIES_709, _TRANSFER_SRGB = 1, 13


@dataclass(frozen=True)
class FrameSelection:
    """Which frames of a source to take; the default is all of them.

    Attributes:
        first_frame: First frame to take, counted from 0.
        frame_count: How many to take; all to the end where absent, or as many as there are.
        stride: Every how many frames one is taken.

    Raises:
        InputError: `frame_selection` if a number is too small.
    """

    first_frame: int = 0
    frame_count: int | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        count_is_wrong = self.frame_count is not None and self.frame_count < 1
        if self.first_frame < 0 or self.stride < 1 or count_is_wrong:
            msg = (
                "expected a first frame of 0 or more, a count and a stride of 1 or more, found "
                f"{self.first_frame}, {self.frame_count} and {self.stride}"
            )
            raise InputError("frame_selection", msg)

    def holds(self, index: int) -> bool:
        """Whether frame `index` of the source is taken, if there are enough."""
        return index >= self.first_frame and (index - self.first_frame) % self.stride == 0

    def count_of(self, available: int) -> int:
        """How many frames are taken of so many."""
        count = max(0, -(-(available - self.first_frame) // self.stride))
        return count if self.frame_count is None else min(count, self.frame_count)


@dataclass(frozen=True, eq=False)
class Clip:
    """Source frames.

    Attributes:
        frames: (frames, height, width, 3) uint8 sRGB.
        frame_rate: Frames per second of these frames.
        first_frame: Which frame of the source the first one is, counted from 0.
        stride: Every how many frames of the source one was taken.
        lens_mm: Focal length of the lens as it were on 35 mm film, None where the source does not
            say.
    """

    frames: NDArray[np.uint8]
    frame_rate: Fraction
    first_frame: int = 0
    stride: int = 1
    lens_mm: float | None = None


def read_clip(
    path: Path,
    *,
    selection: FrameSelection | None = None,
    limits: MediaLimits | None = None,
    task: Task | None = None,
) -> Clip:
    """Decode a range of a video, or of the numbered PNG sequence that an image begins.

    Frames are those that the file holds, in the order in which they are shown. The rate is the
    header's; where the frames' times disagree with it, as with a variable rate, it is the average
    of the frames read; a sequence has 24 frames per second. Rotation flags are applied,
    transparency is dropped, colours become sRGB by the matrix and range that the file names.

    Args:
        path: The video (MP4, MOV, Matroska, WebM or AVI), or the first image of a sequence.
        selection: Which frames to take.
        limits: What the clip may ask of this machine.
        task: Told about every frame taken, stage `reading`.

    Raises:
        InputError: `clip_missing`, `clip_container`, `clip_codec`, `clip_no_video`, `clip_damaged`,
            `clip_size`, `clip_too_large`, `clip_pixel_aspect`, `clip_rotation`, `clip_colour`,
            `clip_hdr`, `clip_empty`, `sequence_gap` or `image_invalid`.
    """
    selection = selection or FrameSelection()
    limits = limits or MediaLimits()
    task = task or Task()
    if not path.is_file():
        msg = f"expected a video or an image in {path}, found no such file; check the path"
        raise InputError("clip_missing", msg)
    deadline = Deadline(path.name, limits.decoding_s)
    if path.suffix.lower() == _SEQUENCE_SUFFIX:
        paths = sequence_paths(path)
        height_px, width_px = png_size(paths[0])
        taker = _Taker(path.name, selection, limits, task, len(paths))
        taker.check_promise(width_px, height_px)
        frames = taker.take(_sequence_pictures(paths, deadline))
        rate, lens_mm = DEFAULT_RATE, None
    else:
        with open_video(path, limits) as video:
            taker = _Taker(path.name, selection, limits, task, video.frame_count)
            taker.check_promise(video.width_px, video.height_px)
            frames = taker.take(video.pictures(deadline))
            rate, lens_mm = video.rate(), video.lens_mm
    return Clip(
        frames,
        storable_rate(rate / selection.stride),
        selection.first_frame,
        selection.stride,
        lens_mm,
    )


class _Taker:
    """Takes the selected frames of a source, within limits.

    Args:
        name: Of the source, for people.
        selection: Which frames to take.
        limits: How many and how large.
        task: Told about every frame taken.
        promised: How many frames the source says it has, 0 where it does not.
    """

    def __init__(
        self,
        name: str,
        selection: FrameSelection,
        limits: MediaLimits,
        task: Task,
        promised: int,
    ) -> None:
        self._name = name
        self._selection = selection
        self._limits = limits
        self._task = task
        self._total = selection.count_of(promised) or selection.frame_count or 0

    def check_promise(self, width_px: int, height_px: int) -> None:
        """Refuse, before anything is decoded, what the header says is too large."""
        self._limits.check_frame(self._name, width_px, height_px)
        self._limits.check_total(self._name, self._total, width_px * height_px * 3)

    def take(self, pictures: Iterator[Callable[[], Picture]]) -> NDArray[np.uint8]:
        """The selected frames: (frames, height, width, 3) uint8."""
        taken = FrameCollector()
        with closing(taken):
            shape: tuple[int, ...] = ()
            for index, convert in enumerate(pictures):
                if not self._selection.holds(index):
                    continue
                picture = convert()
                shape = shape or picture.shape
                self._check(picture, len(taken), shape)
                taken.append(picture)
                self._task.step("reading", len(taken), max(self._total, len(taken)))
                if len(taken) == self._selection.frame_count:
                    break
            if len(taken):
                return taken.frames()
        msg = (
            f"expected frames from {self._selection.first_frame} on in {self._name}, found none; "
            "choose an earlier first frame or another file"
        )
        raise InputError("clip_empty", msg)

    def _check(self, picture: Picture, taken: int, shape: tuple[int, ...]) -> None:
        height_px, width_px, _ = picture.shape
        self._limits.check_frame(self._name, width_px, height_px)
        self._limits.check_total(self._name, taken + 1, picture.nbytes)
        if picture.shape != shape:
            msg = (
                f"expected frames of one size in {self._name}, found {width_px} x {height_px} "
                f"after {shape[1]} x {shape[0]}; convert the clip"
            )
            raise InputError("clip_size", msg)


def sequence_paths(path: Path) -> list[Path]:
    """The files that continue the numbering of `path`, from it on, in order.

    `shot.0099.png` is followed by `shot.0100.png`, `shot9.png` by `shot10.png`.

    Args:
        path: The first image; one without a number at its end is a sequence of its own.

    Raises:
        InputError: `sequence_gap` if a number is missing.
    """
    match = re.fullmatch(r"(.*?)([0-9]+)", path.stem, re.DOTALL)
    if match is None:
        return [path]
    prefix, first = match[1], int(match[2])
    digits = len(match[2])
    numbered: dict[int, Path] = {}
    for other in path.parent.iterdir():
        number = re.fullmatch(r"[0-9]+", other.stem.removeprefix(prefix))
        if number is None or other.suffix != path.suffix or int(number[0]) < first:
            continue
        # Neither `shot.1.png` nor another prefix belongs to `shot.0001.png`.
        if other.stem == f"{prefix}{int(number[0]):0{digits}d}":
            numbered[int(number[0])] = other
    numbers = sorted(numbered)
    for expected, number in enumerate(numbers, start=first):
        if number != expected:
            msg = (
                f"expected number {expected} in the sequence of {path.name}, found {number} next; "
                "add the missing image or renumber the files"
            )
            raise InputError("sequence_gap", msg)
    return [numbered[number] for number in numbers]


def _sequence_pictures(paths: list[Path], deadline: Deadline) -> Iterator[Callable[[], Picture]]:
    for path in paths:
        deadline.check()
        yield partial(_read_colour, path)


def _read_colour(path: Path) -> Picture:
    image = read_png(path)
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def write_video(
    path: Path,
    frames: Iterable[NDArray[np.uint8]],
    frame_rate: Fraction,
    *,
    lossless: bool = False,
    task: Task | None = None,
) -> None:
    """Encode frames; the file appears when it is whole. The same frames make the same bytes.

    Args:
        path: `.mp4` for H.264 in 4:2:0, BT.709, for viewing: an odd last column or row is repeated
            once, since 4:2:0 needs even sizes. `.mkv` with `lossless` for FFV1 in RGB, exact.
        frames: Each (height, width, 3) uint8 sRGB, all of one size.
        frame_rate: Frames per second.
        lossless: Keep every value.
        task: Told about every frame, stage `encoding`.

    Raises:
        InputError: `video_suffix` if suffix and `lossless` do not fit, `video_size` if frames
            differ in size, `video_write` if the file cannot be written, `clip_empty`.
    """
    suffix = ".mkv" if lossless else ".mp4"
    if path.suffix.lower() != suffix:
        msg = f"expected a file name that ends in {suffix}, found {path.name}; rename it"
        raise InputError("video_suffix", msg)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{suffix}")
    with _write_failures_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _encode(temporary, frames, frame_rate, lossless=lossless, task=task or Task())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _write_failures_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (FFmpegError, OSError) as error:
        msg = f"expected to write {path}, found: {error.strerror}; free some space or permit it"
        raise InputError("video_write", msg) from error


def _encode(
    path: Path,
    frames: Iterable[NDArray[np.uint8]],
    frame_rate: Fraction,
    *,
    lossless: bool,
    task: Task,
) -> None:
    total = len(frames) if hasattr(frames, "__len__") else 0  # pyright: ignore[reportArgumentType]
    # Matroska would otherwise invent an identity at each writing.
    options = {"fflags": "+bitexact"} if lossless else {"movflags": "+faststart"}
    with av.open(str(path), "w", options=options) as container:
        stream: Any = None
        for index, image in enumerate(frames):
            picture = image if lossless else _even(image)
            if stream is None:
                stream = _add_stream(container, picture, frame_rate, lossless=lossless)
            if picture.shape != (stream.height, stream.width, 3):
                msg = (
                    f"expected frames of {stream.width} x {stream.height} for {path.suffix}, found "
                    f"{picture.shape} in frame {index}; make them all of one size"
                )
                raise InputError("video_size", msg)
            container.mux(stream.encode(_video_frame(picture, lossless=lossless)))
            task.step("encoding", index + 1, max(index + 1, total))
        if stream is None:
            raise InputError("clip_empty", "expected frames to encode, found none; render some")
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
    context.color_primaries = _PRIMARIES_709
    context.color_trc = _TRANSFER_SRGB
    return stream


def _video_frame(picture: NDArray[np.uint8], *, lossless: bool) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    if lossless:
        return frame.reformat(format="bgr0")
    return frame.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=ACCURATE,
    )


def _even(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height_px, width_px, _ = image.shape
    return np.pad(image, ((0, height_px % 2), (0, width_px % 2), (0, 0)), mode="edge")
