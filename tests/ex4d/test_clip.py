"""Clips: exact frames and rates, true colours, odd and hostile files, encoding."""

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ex4d.clip import (
    Clip,
    FrameSelection,
    MediaLimits,
    read_clip,
    sequence_paths,
    write_video,
)
from ex4d.errors import CancelledError, InputError
from ex4d.images import write_png
from ex4d.task import Progress, Task
from ex4d.video import storable_rate

NTSC = Fraction(30000, 1001)
HEIGHT_PX, WIDTH_PX = 48, 64
#: Grey level of frame i, so that every frame tells its number.
LEVELS = range(20, 220, 20)
#: Weights of red and blue in luma: ITU-R BT.601, BT.709, BT.2020.
WEIGHTS = {5: (0.299, 0.114), 6: (0.299, 0.114), 1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}


def numbered_frames(count: int = len(LEVELS)) -> NDArray[np.uint8]:
    levels = np.array(LEVELS[:count], np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, HEIGHT_PX, WIDTH_PX, 3))


def frame_numbers(clip: Clip) -> list[int]:
    return [round(float(frame.mean()) / 20) - 1 for frame in clip.frames]


def encode(
    path: Path,
    frames: Iterable[av.VideoFrame],
    *,
    codec: str,
    rate: Fraction = NTSC,
    times_ms: Sequence[int] | None = None,
    stream_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    **context: Any,
) -> Path:
    """Write frames as they are, in their own pixel format."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = None
        for index, frame in enumerate(frames):
            if stream is None:
                stream = container.add_stream(codec, rate=rate)
                stream.width, stream.height = frame.width, frame.height
                stream.pix_fmt = frame.format.name
                stream.options = stream_options or {}
                if aspect is not None:
                    stream.codec_context.sample_aspect_ratio = aspect
                for name, value in context.items():
                    setattr(stream.codec_context, name, value)
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def grey_video(path: Path, **options: Any) -> Path:
    frames = [
        av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24").reformat(format="yuv420p")
        for frame in numbered_frames()
    ]
    return encode(path, frames, **{"codec": "libx264", **options})


def exact_video(path: Path, frames: Iterable[NDArray[np.uint8]], rate: Fraction = NTSC) -> Path:
    pictures = (
        av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24").reformat(format="bgr0")
        for frame in frames
    )
    return encode(path, pictures, codec="ffv1", rate=rate)


# Frames and rates


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mov", "mpeg4"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")],
)
@pytest.mark.parametrize("rate", [NTSC, Fraction(24), Fraction(24000, 1001)], ids=str)
def test_frames_and_rate_are_exact(name: str, codec: str, rate: Fraction, tmp_path: Path) -> None:
    # B-frames make the order of decoding differ from the order of showing.
    options = {"bf": "2", "x264-params": "b-adapt=0"} if codec == "libx264" else {}
    path = grey_video(tmp_path / name, codec=codec, rate=rate, stream_options=options)
    clip = read_clip(path)
    assert frame_numbers(clip) == list(range(10))
    assert clip.frame_rate == rate
    assert (clip.first_frame, clip.stride) == (0, 1)
    assert clip.frames.dtype == np.uint8


@pytest.fixture(scope="module")
def ten_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grey_video(tmp_path_factory.mktemp("video") / "ten.mp4")


@pytest.fixture(scope="module")
def ten_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for index, frame in enumerate(numbered_frames()):
        write_png(folder / f"shot.{index + 95:04d}.png", frame)
    return folder / "shot.0095.png"


@pytest.mark.parametrize("source", ["ten_frames", "ten_images"])
@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (FrameSelection(), list(range(10))),
        (FrameSelection(3), [3, 4, 5, 6, 7, 8, 9]),
        (FrameSelection(3, 2), [3, 4]),
        (FrameSelection(0, 10), list(range(10))),
        (FrameSelection(8, 50), [8, 9]),
        (FrameSelection(0, None, 4), [0, 4, 8]),
        (FrameSelection(1, 3, 3), [1, 4, 7]),
        (FrameSelection(9, None, 1000), [9]),
    ],
    ids=str,
)
def test_the_selected_frames_are_taken(
    source: str, selection: FrameSelection, expected: list[int], request: pytest.FixtureRequest
) -> None:
    reports: list[Progress] = []
    clip = read_clip(
        request.getfixturevalue(source), selection=selection, task=Task(reports.append)
    )
    assert frame_numbers(clip) == expected
    full_rate = NTSC if source == "ten_frames" else Fraction(24)
    assert clip.frame_rate == full_rate / selection.stride
    assert (clip.first_frame, clip.stride) == (selection.first_frame, selection.stride)
    assert [report.done for report in reports] == list(range(1, len(expected) + 1))
    assert {report.total for report in reports} == {len(expected)}


@given(
    first=st.integers(0, 30),
    count=st.none() | st.integers(1, 30),
    stride=st.integers(1, 9),
    available=st.integers(0, 40),
)
def test_a_selection_counts_what_it_holds(
    first: int, count: int | None, stride: int, available: int
) -> None:
    selection = FrameSelection(first, count, stride)
    held = [index for index in range(available) if selection.holds(index)][:count]
    assert selection.count_of(available) == len(held)


@pytest.mark.parametrize("numbers", [(-1, None, 1), (0, 0, 1), (0, -5, 1), (0, None, 0)], ids=str)
def test_selections_that_are_refused(numbers: tuple[int, int | None, int]) -> None:
    with pytest.raises(InputError) as caught:
        FrameSelection(*numbers)
    assert caught.value.code == "frame_selection"


TIMES_MS = [0, 33, 70, 100, 300, 333, 366, 400, 433, 466]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_variable_rate_becomes_the_average(name: str, tmp_path: Path) -> None:
    clip = read_clip(grey_video(tmp_path / name, times_ms=TIMES_MS))
    assert frame_numbers(clip) == list(range(10))
    # Ten frames in half a second, the last of them shown for 33 ms.
    assert float(clip.frame_rate) == pytest.approx(20, rel=2e-3)


@given(rate=st.fractions(Fraction(1, 1000), 1000))
def test_rates_fit_a_document(rate: Fraction) -> None:
    stored = storable_rate(rate)
    assert 1 <= stored.numerator <= 1_000_000
    assert 1 <= stored.denominator <= 1_000_000
    assert float(stored) == pytest.approx(float(rate), rel=1e-3)
    if rate.numerator <= 1000 * 1001 and rate.denominator <= 1000:
        assert stored == rate


@pytest.mark.parametrize("rate", [NTSC, Fraction(60000, 1001), Fraction(24000, 7007)], ids=str)
def test_common_rates_are_stored_exactly(rate: Fraction) -> None:
    assert storable_rate(rate) == rate


def test_one_frame_is_a_clip(tmp_path: Path) -> None:
    clip = read_clip(exact_video(tmp_path / "a.mkv", numbered_frames(1)))
    np.testing.assert_array_equal(clip.frames, numbered_frames(1))


@pytest.mark.parametrize(("height_px", "width_px"), [(33, 51), (2, 2), (49, 64)], ids=str)
def test_odd_sizes_are_kept(height_px: int, width_px: int, tmp_path: Path) -> None:
    frames = np.random.default_rng(3).integers(0, 256, (3, height_px, width_px, 3), np.uint8)
    clip = read_clip(exact_video(tmp_path / "a.mkv", frames))
    np.testing.assert_array_equal(clip.frames, frames)


# Colours


def planes_of(rgb: tuple[int, int, int], matrix: int, *, full: bool, bits: int) -> list[int]:
    """Y, Cb, Cr of a colour by the definitions in BT.601, BT.709 and BT.2020."""
    red_weight, blue_weight = WEIGHTS[matrix]
    red, green, blue = (value / 255 for value in rgb)
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    chroma = (blue - luma) / (2 - 2 * blue_weight), (red - luma) / (2 - 2 * red_weight)
    largest, scale = (1 << bits) - 1, 1 << (bits - 8)
    if full:
        values = luma * largest, *(value * largest + 128 * scale for value in chroma)
    else:
        values = (16 + 219 * luma) * scale, *((128 + 224 * value) * scale for value in chroma)
    return [min(round(value), largest) for value in values]


def flat_frame(rgb: tuple[int, int, int], pixels: str, matrix: int, *, full: bool) -> av.VideoFrame:
    bits = 10 if pixels.endswith("10le") else 8
    frame = av.VideoFrame(WIDTH_PX, HEIGHT_PX, pixels)
    for plane, value in zip(
        frame.planes, planes_of(rgb, matrix, full=full, bits=bits), strict=True
    ):
        numbers = np.uint8 if bits == 8 else np.dtype("<u2")
        plane.update(
            np.full(plane.buffer_size // np.dtype(numbers).itemsize, value, numbers).tobytes()
        )
    return frame


COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 50, 90)]


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv420p10le", "yuv422p10le"])
@pytest.mark.parametrize("matrix", [1, 5, 6, 9], ids=["709", "470bg", "170m", "2020"])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
def test_colours_follow_the_tags(pixels: str, matrix: int, full: bool, tmp_path: Path) -> None:
    frames = [flat_frame(rgb, pixels, matrix, full=full) for rgb in COLOURS]
    path = encode(
        tmp_path / "a.mkv", frames, codec="ffv1", colorspace=matrix, color_range=2 if full else 1
    )
    found = read_clip(path).frames[:, HEIGHT_PX // 2, WIDTH_PX // 2].astype(int)
    assert np.abs(found - np.array(COLOURS)).max() <= 1


@pytest.mark.parametrize(
    ("height_px", "matrix"), [(480, 5), (720, 1)], ids=["sd-is-601", "hd-is-709"]
)
def test_untagged_colours_are_taken_as_players_take_them(
    height_px: int, matrix: int, tmp_path: Path
) -> None:
    frames = []
    for rgb in COLOURS:
        frame = av.VideoFrame(16, height_px, "yuv444p")
        values = planes_of(rgb, matrix, full=False, bits=8)
        for plane, value in zip(frame.planes, values, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frames.append(frame)
    path = encode(tmp_path / "a.mkv", frames, codec="ffv1")
    found = read_clip(path).frames[:, height_px // 2, 8].astype(int)
    assert np.abs(found - np.array(COLOURS)).max() <= 1


def test_transparency_is_dropped(tmp_path: Path) -> None:
    rgba = np.random.default_rng(4).integers(0, 256, (HEIGHT_PX, WIDTH_PX, 4), np.uint8)
    frame = av.VideoFrame.from_ndarray(rgba, "rgba")
    clip = read_clip(encode(tmp_path / "a.mov", [frame], codec="png"))
    np.testing.assert_array_equal(clip.frames[0], rgba[..., :3])


def test_titles_in_another_encoding_are_no_obstacle(tmp_path: Path) -> None:
    path = grey_video(tmp_path / "a.mp4")
    content = path.read_bytes()
    encoder = content.index(b"Lavf")
    path.write_bytes(content[:encoder] + "Café".encode("latin-1") + content[encoder + 4 :])
    assert frame_numbers(read_clip(path)) == list(range(10))


# Rotation: the display matrix in the track header is rewritten


def with_display_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4
    assert content[start] == 0, "version 0 of the box"
    fixed = [round(value * 65536) for value in (a, b, 0, c, d, 0, 0, 0)]
    struct.pack_into(">9i", content, start + 40, *fixed, 1 << 30)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ((1, 0, 0, 1), lambda image: image),
        # A phone held upright writes this: show it turned clockwise.
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    ],
    ids=["upright", "clockwise", "half", "anticlockwise", "mirrored", "flipped", "transposed"],
)
def test_the_rotation_flag_is_applied(matrix: Any, upright: Any, tmp_path: Path) -> None:
    image = np.random.default_rng(5).integers(0, 256, (HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(image, "rgb24")
    path = encode(tmp_path / "a.mov", [frame], codec="png")
    clip = read_clip(with_display_matrix(path, *matrix))
    np.testing.assert_array_equal(clip.frames[0], upright(image))


def test_other_rotations_are_refused(tmp_path: Path) -> None:
    path = grey_video(tmp_path / "a.mp4")
    with pytest.raises(InputError, match="quarter turns") as caught:
        read_clip(with_display_matrix(path, 0.7071, 0.7071, -0.7071, 0.7071))
    assert caught.value.code == "clip_rotation"


# Odd and hostile files


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        sound.sample_rate = 48000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    return path


def no_frames(path: Path) -> Path:
    """A whole file of ten frames whose index is emptied."""
    grey_video(path)
    content = bytearray(path.read_bytes())
    for box in (b"stts", b"stsc", b"stsz", b"stco", b"ctts", b"stss"):
        start = content.find(box)
        if start > 0:
            skip = 12 if box == b"stsz" else 8
            struct.pack_into(">I", content, start + skip, 0)
    path.write_bytes(content)
    return path


def text(content: str) -> Any:
    def make(path: Path) -> Path:
        path.write_bytes(content.encode("latin-1"))
        return path

    return make


def cut(share: float) -> Any:
    def make(path: Path) -> Path:
        options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
        noise = np.random.default_rng(9).integers(0, 256, (10, 48, 64, 3), np.uint8)
        frames = [av.VideoFrame.from_ndarray(n, "rgb24").reformat(format="yuv420p") for n in noise]
        encode(path, frames, codec="mpeg4", container_options=options)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        return path

    return make


@pytest.mark.parametrize(
    ("code", "name", "make"),
    [
        ("clip_missing", "a.mp4", lambda path: path),
        ("clip_container", "a.mp4", text("")),
        ("clip_container", "a.mp4", text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")),
        ("clip_container", "a.mkv", text("ffconcat version 1.0\nfile /etc/passwd\n")),
        ("clip_container", "a.avi", text("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\n")),
        ("clip_container", "a.mov", text("<?xml version='1.0'?><MPD></MPD>")),
        ("clip_damaged", "a.mp4", text("\0\0\0\x10ftypisom" + "x" * 99)),
        ("clip_damaged", "a.mkv", text("\x1aE\xdf\xa3" + "x" * 99)),
        ("clip_no_video", "a.mp4", sound_only),
        ("clip_empty", "a.mp4", no_frames),
        ("clip_damaged", "a.mp4", cut(0.98)),
        ("clip_damaged", "a.mp4", cut(0.7)),
        ("clip_damaged", "a.mkv", cut(0.8)),
        ("clip_damaged", "a.avi", cut(0.8)),
        ("clip_codec", "a.avi", lambda path: grey_video(path, codec="asv1")),
        (
            "clip_pixel_aspect",
            "a.mp4",
            lambda path: grey_video(path, aspect=Fraction(16, 11)),
        ),
        ("clip_hdr", "a.mp4", lambda path: grey_video(path, color_trc=16)),
        ("clip_hdr", "a.mp4", lambda path: grey_video(path, color_trc=18)),
    ],
)
def test_files_that_are_refused(code: str, name: str, make: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_clip(make(tmp_path / name))
    assert caught.value.code == code
    assert name in caught.value.message
    assert "expected" in caught.value.message
    assert "found" in caught.value.message


def test_the_whole_frames_of_a_cut_file_can_be_taken(tmp_path: Path) -> None:
    path = cut(0.7)(tmp_path / "a.mp4")
    assert len(read_clip(path, selection=FrameSelection(0, 3)).frames) == 3


def test_a_file_cut_between_two_frames_is_refused(tmp_path: Path) -> None:
    """Nothing in the frames that are there tells."""
    path = cut(1.0)(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: ends[4]])
    with pytest.raises(InputError, match="after 5 frames: it is shorter than it says") as caught:
        read_clip(path)
    assert caught.value.code == "clip_damaged"


def test_a_first_frame_past_the_end_is_refused(ten_frames: Path) -> None:
    with pytest.raises(InputError, match="earlier first frame") as caught:
        read_clip(ten_frames, selection=FrameSelection(10))
    assert caught.value.code == "clip_empty"


@pytest.mark.parametrize(
    "limits",
    [
        MediaLimits(side_px=63),
        MediaLimits(frame_px=64 * 48 - 1),
        MediaLimits(frame_count=9),
        MediaLimits(total_bytes=10 * 64 * 48 * 3 - 1),
        MediaLimits(decoding_s=0.0),
    ],
    ids=["side", "frame", "count", "total", "time"],
)
@pytest.mark.parametrize("source", ["ten_frames", "ten_images"])
def test_limits_hold(source: str, limits: MediaLimits, request: pytest.FixtureRequest) -> None:
    with pytest.raises(InputError) as caught:
        read_clip(request.getfixturevalue(source), limits=limits)
    assert caught.value.code == "clip_too_large"


def test_limits_of_size_and_count_hold_before_decoding(ten_frames: Path) -> None:
    """The task would be told about the first decoded frame."""
    for limits in (MediaLimits(frame_count=9), MediaLimits(total_bytes=64 * 48 * 3 * 9)):
        reports: list[Progress] = []
        with pytest.raises(InputError):
            read_clip(ten_frames, limits=limits, task=Task(reports.append))
        assert not reports


def test_limits_hold_where_the_header_promises_nothing(tmp_path: Path) -> None:
    path = exact_video(tmp_path / "a.mkv", numbered_frames())
    with pytest.raises(InputError) as caught:
        read_clip(path, limits=MediaLimits(frame_count=4))
    assert caught.value.code == "clip_too_large"
    taken = read_clip(path, selection=FrameSelection(0, 4), limits=MediaLimits(frame_count=4))
    assert len(taken.frames) == 4


def test_a_cover_picture_is_no_clip(tmp_path: Path) -> None:
    """A sound file with a cover has a video stream in name only."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=48000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        silence.sample_rate = 48000
        container.mux(sound.encode(silence))
        container.mux(cover.encode(frame.reformat(format="yuvj420p")))
        container.mux(cover.encode(None))
        container.mux(sound.encode(None))
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(InputError) as caught:
        read_clip(path)
    assert caught.value.code == "clip_no_video"


def test_cancelling_stops_the_reading(ten_frames: Path) -> None:
    reports: list[Progress] = []
    task = Task(reports.append, lambda: len(reports) >= 3)
    with pytest.raises(CancelledError):
        read_clip(ten_frames, task=task)
    assert len(reports) == 3


# Sequences


@pytest.mark.parametrize(
    ("names", "first", "expected"),
    [
        (["a.0001", "a.0002", "a.0003"], "a.0001", ["a.0001", "a.0002", "a.0003"]),
        (["a.0001", "a.0002", "a.0003"], "a.0002", ["a.0002", "a.0003"]),
        (["a0099", "a0100", "b0101", "a1"], "a0099", ["a0099", "a0100"]),
        (["a9", "a10", "a011"], "a9", ["a9", "a10"]),
        (["0001", "0002", "x0003"], "0001", ["0001", "0002"]),
        (["picture", "picture2"], "picture", ["picture"]),
        (["a1", "a²"], "a1", ["a1"]),
        (["v[1]_1", "v[1]_2"], "v[1]_1", ["v[1]_1", "v[1]_2"]),
    ],
    ids=["all", "from-second", "prefix", "unpadded", "bare", "still", "superscript", "brackets"],
)
def test_which_files_continue_a_sequence(
    names: list[str], first: str, expected: list[str], tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / f"{name}.png").touch()
        (tmp_path / f"{name}.txt").touch()
    found = sequence_paths(tmp_path / f"{first}.png")
    assert [path.name for path in found] == [f"{name}.png" for name in expected]


def test_a_gap_in_a_sequence_is_named(tmp_path: Path) -> None:
    for number in (1, 2, 4):
        (tmp_path / f"a.{number:04d}.png").touch()
    with pytest.raises(InputError, match=r"expected number 3 .* found 4 next") as caught:
        sequence_paths(tmp_path / "a.0001.png")
    assert caught.value.code == "sequence_gap"


def test_a_sequence_of_two_sizes_is_refused(tmp_path: Path) -> None:
    write_png(tmp_path / "a1.png", np.zeros((4, 4, 3), np.uint8))
    write_png(tmp_path / "a2.png", np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(InputError, match="found 5 x 4 after 4 x 4") as caught:
        read_clip(tmp_path / "a1.png")
    assert caught.value.code == "clip_size"


def test_a_grey_sequence_becomes_colour(tmp_path: Path) -> None:
    image = np.random.default_rng(6).integers(0, 256, (4, 5), np.uint8)
    write_png(tmp_path / "a1.png", image)
    np.testing.assert_array_equal(read_clip(tmp_path / "a1.png").frames[0, ..., 1], image)


# Encoding


@pytest.mark.parametrize("size", [(48, 64), (33, 51)], ids=str)
def test_lossless_video_is_exact(size: tuple[int, int], tmp_path: Path) -> None:
    frames = np.random.default_rng(7).integers(0, 256, (3, *size, 3), np.uint8)
    write_video(tmp_path / "a.mkv", frames, NTSC, lossless=True)
    clip = read_clip(tmp_path / "a.mkv")
    np.testing.assert_array_equal(clip.frames, frames)
    assert clip.frame_rate == NTSC


@pytest.mark.parametrize("rgb", COLOURS, ids=str)
def test_viewing_video_keeps_colours(rgb: tuple[int, int, int], tmp_path: Path) -> None:
    frames = np.full((2, HEIGHT_PX, WIDTH_PX, 3), rgb, np.uint8)
    write_video(tmp_path / "a.mp4", frames, NTSC)
    clip = read_clip(tmp_path / "a.mp4")
    assert np.abs(clip.frames.astype(int) - frames).max() <= 2
    assert clip.frame_rate == NTSC


def test_viewing_video_says_what_its_colours_are(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", numbered_frames(), NTSC)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == (1, 1)
        assert (context.color_primaries, context.color_trc) == (1, 13)
        assert context.pix_fmt == "yuv420p"


def test_viewing_video_repeats_an_odd_edge(tmp_path: Path) -> None:
    frames = np.full((2, 33, 51, 3), (200, 50, 90), np.uint8)
    write_video(tmp_path / "a.mp4", frames, NTSC)
    found = read_clip(tmp_path / "a.mp4").frames
    assert found.shape == (2, 34, 52, 3)
    assert np.abs(found.astype(int) - (200, 50, 90)).max() <= 2


@pytest.mark.parametrize(("name", "lossless"), [("a.mp4", False), ("a.mkv", True)])
def test_the_same_frames_make_the_same_bytes(name: str, lossless: bool, tmp_path: Path) -> None:
    frames = np.random.default_rng(8).integers(0, 256, (5, 48, 64, 3), np.uint8)
    for folder in ("one", "two"):
        write_video(tmp_path / folder / name, iter(frames), NTSC, lossless=lossless)
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("code", "name", "frames"),
    [
        ("video_suffix", "a.avi", numbered_frames(1)),
        ("video_suffix", "a.mkv", numbered_frames(1)),
        ("clip_empty", "a.mp4", []),
        ("video_size", "a.mp4", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)]),
    ],
)
def test_videos_that_are_not_written(code: str, name: str, frames: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        write_video(tmp_path / name, frames, NTSC)
    assert caught.value.code == code
    assert not list(tmp_path.iterdir())


def test_a_failed_encoding_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    steps: list[Progress] = []
    task = Task(steps.append, lambda: len(steps) >= 2)
    with pytest.raises(CancelledError):
        write_video(path, numbered_frames(), NTSC, task=task)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file") as caught:
        write_video(tmp_path / "file" / "a.mp4", numbered_frames(), NTSC)
    assert caught.value.code == "video_write"
