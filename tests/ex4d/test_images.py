"""PNG and EXR files: exact round trips, what other programs write, and what is refused."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import pytest
from numpy.typing import NDArray

from ex4d import images
from ex4d.errors import InputError

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (5, 7, 3), np.uint8)
GREY = RNG.integers(0, 256, (5, 7), np.uint8)
DEPTH = RNG.uniform(0.5, 100.0, (5, 7)).astype(np.float32)
OTHER = np.full((5, 7), 0.25, np.float32)


def write_exr(path: Path, *parts: dict[str, NDArray[np.generic]], **header: object) -> None:
    """Each part is a mapping from channel names to pixels."""
    OpenEXR.File(
        [
            OpenEXR.Part(
                {
                    "name": f"part{index}",
                    "compression": OpenEXR.ZIP_COMPRESSION,
                    "type": OpenEXR.scanlineimage,
                    **header,
                },
                channels,
            )
            for index, channels in enumerate(parts)
        ]
    ).write(str(path))


def png_header(width_px: int, height_px: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    head = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IEND", b"")


@pytest.mark.parametrize("image", [RGB, GREY, RGB[::-1, :, ::-1]], ids=["rgb", "grey", "view"])
def test_png_is_exact(image: NDArray[np.uint8], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    images.write_png(path, image)
    back = images.read_png(path)
    np.testing.assert_array_equal(back, image)
    assert back.dtype == np.uint8
    assert images.png_size(path) == image.shape[:2]


def test_png_holds_red_first(tmp_path: Path) -> None:
    """Our own reader would not notice swapped channels that our own writer made."""
    images.write_png(tmp_path / "red.png", np.full((2, 2, 3), (255, 0, 0), np.uint8))
    raw = (tmp_path / "red.png").read_bytes()
    start = raw.index(b"IDAT")
    (length,) = struct.unpack(">I", raw[start - 4 : start])
    filtered = zlib.decompress(raw[start + 4 : start + 4 + length])
    assert filtered[1:4] == b"\xff\x00\x00"


def test_transparency_is_dropped_from_a_png(tmp_path: Path) -> None:
    bgra = np.dstack([RGB[..., ::-1], GREY])
    cv2.imwrite(str(tmp_path / "a.png"), bgra)
    np.testing.assert_array_equal(images.read_png(tmp_path / "a.png"), RGB)


def test_sixteen_bits_are_rounded_to_eight(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257, 32767, 32768, 65406, 65407, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), values)
    expected = np.rint(values / 65535.0 * 255.0).astype(np.uint8)
    np.testing.assert_array_equal(images.read_png(tmp_path / "a.png"), expected)


def test_sixteen_bit_grey_is_exact(tmp_path: Path) -> None:
    values = RNG.integers(0, 65536, (5, 7), np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), values)
    np.testing.assert_array_equal(images.read_png16(tmp_path / "a.png"), values)


@pytest.mark.parametrize("image", [GREY, RGB, RGB.astype(np.uint16)], ids=["8", "rgb8", "rgb16"])
def test_depth_png_must_be_sixteen_bit_grey(image: NDArray[np.generic], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), image)
    with pytest.raises(InputError, match="16-bit grey") as caught:
        images.read_png16(tmp_path / "a.png")
    assert caught.value.code == "image_invalid"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "something else"),
        (b"GIF89a" + bytes(60), "something else"),
        (png_header(16, 16), "damaged"),
        (png_header(16, 16)[:30], "something else"),
        (png_header(8193, 1), "8192 pixels a side"),
        (png_header(1, 2**31), "8192 pixels a side"),
        (png_header(0, 5), "1 to 8192"),
        (png_header(8192, 8192), "at most 16777216"),
        (png_header(2, 2) + bytes(2 << 20), "without attachments"),
    ],
    ids=["empty", "gif", "hollow", "cut", "wide", "high", "zero", "bomb", "stuffed"],
)
def test_png_files_that_are_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        images.read_png(tmp_path / "a.png")
    assert caught.value.code == "image_invalid"


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("suffix", [".png", ".exr"])
def test_cut_images_are_refused(suffix: str, share: float, tmp_path: Path) -> None:
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    noise = RNG.integers(0, 256, (64, 64), np.uint8)
    if suffix == ".png":
        images.write_png(whole, noise)
    else:
        images.write_depth_exr(whole, noise.astype(np.float32))
    content = whole.read_bytes()
    cut.write_bytes(content[: int(len(content) * share)])
    read = images.read_png if suffix == ".png" else images.read_depth_exr
    with pytest.raises(InputError) as caught:
        read(cut)
    assert caught.value.code == "image_invalid"


@pytest.mark.parametrize("read", [images.read_png, images.read_png16, images.read_depth_exr])
def test_missing_images_are_named(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing_here") as caught:
        read(tmp_path / "nothing_here")
    assert caught.value.code == "image_invalid"


@pytest.mark.parametrize(
    ("write", "image"),
    [(images.write_png, GREY), (images.write_depth_exr, DEPTH)],
    ids=["png", "exr"],
)
def test_a_failed_write_says_where(
    write: Callable[[Path, NDArray[np.generic]], None], image: NDArray[np.generic], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no_such_folder") as caught:
        write(tmp_path / "no_such_folder" / "a", image)
    assert caught.value.code == "image_write"


def test_depth_exr_is_exact_and_as_blender_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "d.exr"
    values = DEPTH.copy()
    values[0, :3] = 1e-4, 1e4, np.float32(1e-40)
    images.write_depth_exr(path, values)
    back = images.read_depth_exr(path)
    np.testing.assert_array_equal(back, values)
    assert back.dtype == np.float32
    assert images.exr_size(path) == (5, 7)
    with OpenEXR.File(str(path), separate_channels=True) as file:
        assert list(file.channels()) == ["Y"]
        assert file.channels()["Y"].pixels.dtype == np.float32
        assert file.header()["compression"] == OpenEXR.ZIP_COMPRESSION


@pytest.mark.parametrize(
    "parts",
    [
        ({"anything": DEPTH},),
        ({"Z": DEPTH},),
        ({"R": OTHER, "G": OTHER, "B": OTHER, "Z": DEPTH},),
        ({"R": OTHER, "G": OTHER, "B": OTHER, "depth.Z": DEPTH},),
        ({"ViewLayer.Combined.R": OTHER, "ViewLayer.Depth.Z": DEPTH},),
        ({"ViewLayer.Normal.Y": OTHER, "ViewLayer.Normal.Z": OTHER, "ViewLayer.Depth.V": DEPTH},),
        ({"R": DEPTH, "G": DEPTH, "B": DEPTH},),
        ({"R": OTHER, "G": OTHER, "B": OTHER}, {"Depth.Z": DEPTH}),
        ({"V": DEPTH, "A": OTHER},),
    ],
    ids=lambda parts: "+".join(name for part in parts for name in part),
)
def test_the_depth_channel_is_found(
    parts: tuple[dict[str, NDArray[np.generic]], ...], tmp_path: Path
) -> None:
    write_exr(tmp_path / "d.exr", *parts)
    np.testing.assert_array_equal(images.read_depth_exr(tmp_path / "d.exr"), DEPTH)


@pytest.mark.parametrize(
    "pixels",
    [DEPTH.astype(np.float16), DEPTH.astype(np.uint32)],
    ids=["half", "integer"],
)
def test_other_numbers_become_float32(pixels: NDArray[np.generic], tmp_path: Path) -> None:
    write_exr(tmp_path / "d.exr", {"Z": pixels})
    back = images.read_depth_exr(tmp_path / "d.exr")
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, pixels.astype(np.float32))


def window(left: int, top: int, right: int, bottom: int) -> tuple[NDArray[np.int32], ...]:
    return np.array([left, top], np.int32), np.array([right, bottom], np.int32)


@pytest.mark.parametrize(
    ("channels", "header", "words"),
    [
        ({"G": DEPTH, "B": DEPTH}, {}, "found B, G"),
        ({"Y": DEPTH}, {"displayWindow": window(0, 0, 99, 99)}, "whole picture"),
        (
            {"Y": DEPTH},
            {"dataWindow": window(1, 1, 7, 5), "displayWindow": window(0, 0, 6, 4)},
            "whole picture",
        ),
    ],
    ids=["no-depth", "crop", "offset"],
)
def test_exr_files_that_are_refused(
    channels: dict[str, NDArray[np.generic]],
    header: dict[str, object],
    words: str,
    tmp_path: Path,
) -> None:
    write_exr(tmp_path / "d.exr", channels, **header)
    with pytest.raises(InputError, match=words) as caught:
        images.read_depth_exr(tmp_path / "d.exr")
    assert caught.value.code == "image_invalid"


@pytest.mark.parametrize("content", [b"", b"\x76\x2f\x31\x01", b"\x76\x2f\x31\x01" + bytes(400)])
def test_what_only_looks_like_an_exr_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "d.exr").write_bytes(content)
    with pytest.raises(InputError) as caught:
        images.read_depth_exr(tmp_path / "d.exr")
    assert caught.value.code == "image_invalid"


def test_an_exr_is_judged_by_its_header_before_decoding(tmp_path: Path) -> None:
    """The data window of a small file is rewritten to claim 100,000 x 100,000 pixels."""
    path = tmp_path / "d.exr"
    images.write_depth_exr(path, DEPTH)
    content = path.read_bytes()
    for name in (b"dataWindow\0box2i\0", b"displayWindow\0box2i\0"):
        start = content.index(name) + len(name) + 4
        bomb = struct.pack("<iiii", 0, 0, 99_999, 99_999)
        content = content[:start] + bomb + content[start + 16 :]
    path.write_bytes(content)
    with pytest.raises(InputError, match="found 100000 x 100000") as caught:
        images.read_depth_exr(path)
    assert caught.value.code == "image_invalid"


def test_an_exr_with_too_many_channels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_MAX_EXR_BYTES", 5 * 7 * 4 * 2)
    write_exr(tmp_path / "two.exr", {"Z": DEPTH, "A": OTHER})
    write_exr(tmp_path / "three.exr", {"Z": DEPTH, "A": OTHER, "B": OTHER})
    np.testing.assert_array_equal(images.read_depth_exr(tmp_path / "two.exr"), DEPTH)
    with pytest.raises(InputError, match="save depth alone"):
        images.read_depth_exr(tmp_path / "three.exr")
