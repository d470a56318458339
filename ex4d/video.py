"""Decoding of videos that may be hostile.

Only the containers and codecs named here are opened, each by its own demuxer, from the file itself:
nothing in it can name another file or address. Limits hold before decoding where the headers tell,
and while decoding where they lie.
"""

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

from .errors import InputError
from .images import MAX_IMAGE_PX
from .protocol.documents import MAX_FRAMES, MAX_SIDE_PX

Picture = NDArray[np.uint8]
#: Frames per second where the source has no rate of its own.
DEFAULT_RATE = Fraction(24)
#: Without these, colours are off by up to three levels; with them by one.
ACCURATE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT

#: Titles in another encoding than UTF-8 are no reason to refuse a video; since version 19 PyAV is
#: of the same opinion and takes no word on it.
_TOLERANT_OF_TITLES: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
)
_EBML_MARK, _SEGMENT_MARK = b"\x1aE\xdf\xa3", b"\x18S\x80g"
#: Where a Matroska file's segment has begun by any means.
_HEAD_BYTES = 4096
#: A box of an MP4: its length, its name, and its length again where that takes 64 bits.
_BOX_HEAD_BYTES = 16
#: Demuxer of each kind of container, by its first bytes: (offset, bytes, demuxer).
_CONTAINERS = (
    (4, b"ftyp", "mov"),
    (4, b"moov", "mov"),
    (4, b"mdat", "mov"),
    (4, b"wide", "mov"),
    (4, b"free", "mov"),
    (0, _EBML_MARK, "matroska"),
    (8, b"AVI ", "avi"),
)
#: What cameras, editing programs and the web write; FFmpeg knows hundreds more, rarely looked at.
_CODECS = frozenset(
    (
        *("h264", "hevc", "av1", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4", "h263"),
        *("prores", "dnxhd", "cfhd", "mjpeg", "png", "qtrle", "dvvideo", "v210", "rawvideo"),
        *("ffv1", "ffvhuff", "huffyuv", "utvideo"),
    )
)
#: FFmpeg's colour matrices (AVColorSpace) as its scaler names them.
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
_UNKNOWN_MATRICES = (2, 3)
#: Transfer functions of high dynamic range: PQ and HLG.
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
#: Above this height players take an untagged video for BT.709, below for BT.601.
_HD_HEIGHT_PX = 720
_PIXEL_ASPECT_TOLERANCE = 0.01
_RATE_LIMIT = 1_000_000
#: Ends the name under which an iPhone writes its lens' focal length, as it were on 35 mm film:
#: AVFoundation's `quickTimeMetadataKeyCameraFocalLength35mmEquivalent`. Apple documents it as text
#: of the track, such as "50.00mm"; files from before that have a bare number, for the whole file.
_LENS_KEY = "focal_length.35mm_equivalent"
#: Lenses beyond these, in millimetres on 35 mm film, are mistakes of the file.
_LENS_RANGE_MM = (5.0, 2000.0)


@dataclass(frozen=True)
class MediaLimits:
    """What media may ask of this machine."""

    side_px: int = MAX_SIDE_PX
    frame_px: int = MAX_IMAGE_PX
    frame_count: int = MAX_FRAMES
    #: Three minutes of 1280 x 720 at 30 frames a second; on disk, not in memory.
    total_bytes: int = 16 << 30
    decoding_s: float = 1800.0

    def check_frame(self, name: str, width_px: int, height_px: int) -> None:
        """Refuse a frame that is too large, or too small to be a mesh.

        Raises:
            InputError: `clip_too_large` or `clip_size`.
        """
        if max(width_px, height_px) > self.side_px or width_px * height_px > self.frame_px:
            msg = (
                f"expected at most {self.side_px} pixels a side and {self.frame_px} in all in "
                f"{name}, found {width_px} x {height_px}; scale the clip down"
            )
            raise InputError("clip_too_large", msg)
        if min(width_px, height_px) < 2:
            msg = (
                f"expected at least 2 pixels a side in {name}, found {width_px} x {height_px}; "
                "choose another clip"
            )
            raise InputError("clip_size", msg)

    def check_total(self, name: str, frame_count: int, frame_bytes: int) -> None:
        """Refuse more frames than there is room for.

        Raises:
            InputError: `clip_too_large`.
        """
        if frame_count > self.frame_count or frame_count * frame_bytes > self.total_bytes:
            msg = (
                f"expected at most {self.frame_count} frames and {self.total_bytes >> 20} MiB "
                f"in {name}, found more; choose fewer frames or scale the clip down"
            )
            raise InputError("clip_too_large", msg)


class Deadline:
    """The moment at which decoding must be done."""

    def __init__(self, name: str, limit_s: float) -> None:
        self._name = name
        self._limit_s = limit_s
        self._end_s = time.monotonic() + limit_s

    def check(self) -> None:
        """Refuse to go on after it.

        Raises:
            InputError: `clip_too_large`.
        """
        if time.monotonic() > self._end_s:
            msg = (
                f"expected {self._name} to decode within {self._limit_s:g} s, found it slower; "
                "choose fewer frames or convert the clip"
            )
            raise InputError("clip_too_large", msg)


class VideoSource:
    """The pictures of an opened video.

    Attributes:
        width_px: Width by the header, before any rotation.
        height_px: Height by the header, before any rotation.
        frame_count: How many frames the header promises, 0 where it does not.
        lens_mm: Focal length as it were on 35 mm film, None where the file does not say.
    """

    def __init__(self, path: Path, container: Any, stream: Any) -> None:
        self._path = path
        self._container = container
        self._stream = stream
        self._decoded = 0
        self._first_s: Fraction | None = None
        self._end_s: Fraction | None = None
        self.width_px: int = stream.codec_context.width
        self.height_px: int = stream.codec_context.height
        self.frame_count: int = stream.frames
        self.lens_mm = _lens_mm({**container.metadata, **stream.metadata})

    def pictures(self, deadline: Deadline) -> Iterator[Callable[[], Picture]]:
        """Every frame in the order in which it is shown, converted only when called.

        Raises:
            InputError: `clip_damaged` where the file breaks or ends too early, or what `deadline`
                raises.
        """
        try:
            for frame in self._frames(deadline):
                self._note_time(frame)
                yield lambda frame=frame: _picture(frame, self._path.name)
        except FFmpegError as error:
            raise self._damaged(str(error.strerror)) from error
        if _is_cut(self._path):
            raise self._damaged("it is shorter than it says")

    def _frames(self, deadline: Deadline) -> Iterator[Any]:
        for packet in self._container.demux(self._stream):
            deadline.check()
            if packet.is_corrupt:
                # Whole frames before it are still inside the decoder.
                yield from self._stream.decode(None)
                raise self._damaged("a frame is cut off")
            yield from packet.decode()

    def rate(self) -> Fraction:
        """Frames per second: the header's, or the average of the frames decoded if they differ."""
        header = self._stream.average_rate or self._stream.guessed_rate
        if self._first_s is None or self._end_s is None:
            return header or DEFAULT_RATE
        shown_s = self._end_s - self._first_s
        if self._decoded < 2 or shown_s <= 0:
            return header or DEFAULT_RATE
        if header and abs(self._decoded / header - shown_s) <= 1 / header:
            return header
        return self._decoded / shown_s

    def _note_time(self, frame: Any) -> None:
        self._decoded += 1
        if frame.pts is None:
            self._end_s = None
            return
        start_s = frame.pts * self._stream.time_base
        if self._decoded == 1:
            self._first_s = start_s
        self._end_s = start_s + (frame.duration or 0) * self._stream.time_base

    def _damaged(self, reason: str) -> InputError:
        msg = (
            f"expected a whole video in {self._path.name}, found it damaged after {self._decoded} "
            f"frames: {reason}; take fewer frames or export it again"
        )
        return InputError("clip_damaged", msg)


@contextmanager
def open_video(path: Path, limits: MediaLimits) -> Iterator[VideoSource]:
    """Open a video and judge it by its headers.

    Raises:
        InputError: `clip_container`, `clip_damaged`, `clip_no_video`, `clip_codec`, `clip_hdr`,
            `clip_pixel_aspect`, `clip_size` or `clip_too_large`.
    """
    options = {"protocol_whitelist": "file", "max_pixels": str(limits.frame_px)}
    demuxer = _demuxer(path)
    if demuxer == "mov":
        # A MOV may keep its data in other files, which are none of ours.
        options["enable_drefs"] = "0"
    try:
        # An absolute path cannot be taken for the name of a protocol.
        container = av.open(
            str(path.absolute()),
            format=demuxer,
            options=options,
            **_TOLERANT_OF_TITLES,
        )
    except FFmpegError as error:
        msg = (
            f"expected a video in {path.name}, found one that cannot be opened: {error.strerror}; "
            "export it again"
        )
        raise InputError("clip_damaged", msg) from error
    with container:
        # A cover picture is a stream of its own.
        streams = [
            stream
            for stream in container.streams.video
            if not stream.disposition & Disposition.attached_pic
        ]
        if not streams:
            msg = f"expected moving pictures in {path.name}, found none; choose a file with video"
            raise InputError("clip_no_video", msg)
        stream = streams[0]
        _judge(path, stream, limits)
        stream.thread_type = "AUTO"
        # Frames may grow after the header was read.
        stream.codec_context.options = {"max_pixels": str(limits.frame_px)}
        yield VideoSource(path, container, stream)


def storable_rate(rate: Fraction) -> Fraction:
    """The rate itself, or the nearest whose terms a document can hold (up to a million each).

    Averages over a variable rate may have terms of any length.
    """
    return rate.limit_denominator(max(1, min(_RATE_LIMIT, int(_RATE_LIMIT / max(rate, 1)))))


def _demuxer(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    for offset, mark, name in _CONTAINERS:
        if head[offset : offset + len(mark)] == mark:
            return name
    msg = (
        f"expected an MP4, MOV, Matroska, WebM or AVI video or a PNG sequence, found neither "
        f"in {path.name}; convert it to MP4"
    )
    raise InputError("clip_container", msg)


def _judge(path: Path, stream: Any, limits: MediaLimits) -> None:
    context = stream.codec_context
    # There is no context where FFmpeg has no decoder.
    codec = "an unknown one" if context is None else context.codec.canonical_name
    if context is None or codec not in _CODECS:
        msg = f"expected a common codec in {path.name}, found {codec}; convert it to H.264"
        raise InputError("clip_codec", msg)
    limits.check_frame(path.name, context.width, context.height)
    if context.color_trc in _HDR_TRANSFERS:
        msg = (
            f"expected standard dynamic range in {path.name}, found "
            f"{_HDR_TRANSFERS[context.color_trc]}; export it as BT.709"
        )
        raise InputError("clip_hdr", msg)
    aspect = stream.sample_aspect_ratio or 1
    if abs(aspect - 1) > _PIXEL_ASPECT_TOLERANCE:
        msg = (
            f"expected square pixels in {path.name}, found an aspect of {aspect}; export it with "
            "square pixels"
        )
        raise InputError("clip_pixel_aspect", msg)


def _lens_mm(metadata: dict[str, str]) -> float | None:
    for name, text in metadata.items():
        if name.endswith(_LENS_KEY):
            try:
                lens_mm = float(text.removesuffix("mm"))
            except ValueError:
                continue
            if _LENS_RANGE_MM[0] <= lens_mm <= _LENS_RANGE_MM[1]:
                return lens_mm
    return None


def _is_cut(path: Path) -> bool:
    """Whether a file is shorter than its headers say; FFmpeg takes that for its end."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if head.startswith(b"RIFF"):
            return size_bytes < struct.unpack_from("<I", head, 4)[0] + 8
        if head.startswith(_EBML_MARK):
            return size_bytes < _matroska_end(head)
        start = 0
        # The boxes of an MP4; there are a handful, unless it is fragmented.
        while size_bytes - start >= _BOX_HEAD_BYTES:
            file.seek(start)
            length, _, long_length = struct.unpack(">I4sQ", file.read(_BOX_HEAD_BYTES))
            length = long_length if length == 1 else length
            if length < 8:
                # 0 means up to the end of the file, whatever that is.
                return False
            start += length
        return start > size_bytes


def _matroska_end(head: bytes) -> int:
    """Where the segment of a Matroska file ends, 0 where it does not say."""
    start = head.find(_SEGMENT_MARK) + len(_SEGMENT_MARK)
    if not len(_SEGMENT_MARK) <= start <= len(head) - 8:
        return 0
    # The leading zero bits of the first byte tell how many bytes the number has.
    length = 9 - head[start].bit_length()
    value = int.from_bytes(head[start : start + length], "big") - (1 << 7 * length)
    is_unknown = value == (1 << 7 * length) - 1
    return 0 if is_unknown else start + length + value


def _picture(frame: Any, name: str) -> Picture:
    is_rgb = frame.format.is_rgb or frame.format.has_palette
    picture = frame.reformat(
        format="rgb24",
        src_colorspace=Colorspace.ITU709 if is_rgb else _matrix(frame, name),
        src_color_range=ColorRange.JPEG if is_rgb else _range(frame),
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.JPEG,
        interpolation=ACCURATE,
    )
    return _upright(picture.to_ndarray(), frame, name)


def _matrix(frame: Any, name: str) -> Colorspace:
    """What the file says, else what players assume."""
    if frame.colorspace in _MATRICES:
        return _MATRICES[frame.colorspace]
    if frame.colorspace not in _UNKNOWN_MATRICES:
        msg = (
            f"expected a colour matrix of BT.601, BT.709 or BT.2020 in {name}, found number "
            f"{frame.colorspace}; export it as BT.709"
        )
        raise InputError("clip_colour", msg)
    return Colorspace.ITU709 if frame.height >= _HD_HEIGHT_PX else Colorspace.ITU601


def _range(frame: Any) -> ColorRange:
    if frame.color_range in (ColorRange.MPEG, ColorRange.JPEG):
        return ColorRange(frame.color_range)
    return ColorRange.JPEG if frame.format.name.startswith("yuvj") else ColorRange.MPEG


def _upright(picture: Picture, frame: Any, name: str) -> Picture:
    """Apply the display matrix: x' = a x + c y, y' = b x + d y, in pictures with y down."""
    side_data = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    if side_data is None:
        return picture
    a, b, _, c, d = (int(value) for value in np.frombuffer(side_data, np.int32)[:5])
    if a and d and not b and not c:
        across, down = a, d
    elif b and c and not a and not d:
        picture = picture.transpose(1, 0, 2)
        across, down = c, b
    else:
        msg = (
            f"expected {name} to be rotated by quarter turns, found {frame.rotation} degrees; "
            "export it upright"
        )
        raise InputError("clip_rotation", msg)
    return picture[:: 1 if down > 0 else -1, :: 1 if across > 0 else -1]
