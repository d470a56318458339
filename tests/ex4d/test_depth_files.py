"""Depth from files: formats, kinds, selection, scaling, and what is refused."""

import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from ex4d.clip import FrameSelection, MediaLimits
from ex4d.depth.files import read_depth
from ex4d.depth.units import SKY_FACTOR, depth_from_disparity
from ex4d.errors import InputError
from ex4d.images import write_depth_exr

FRAMES, HEIGHT_PX, WIDTH_PX = 3, 4, 6
DEPTH = (
    np.random.default_rng(1).uniform(2.0, 50.0, (FRAMES, HEIGHT_PX, WIDTH_PX)).astype(np.float32)
)
CLIP = {"frame_count": FRAMES, "width_px": WIDTH_PX, "height_px": HEIGHT_PX}


def save(path: Path, values: NDArray[np.generic]) -> Path:
    """Write depth by the suffix; of a sequence, the path of its first image comes back."""
    if path.suffix == ".npy":
        np.save(path, values)
        return path
    if path.suffix == ".npz":
        np.savez_compressed(path, depth=values)
        return path
    for index, frame in enumerate(values):
        image = path.with_name(f"{path.stem}.{index + 1:04d}{path.suffix}")
        if path.suffix == ".exr":
            write_depth_exr(image, frame.astype(np.float32))
        else:
            cv2.imwrite(str(image), frame)
    return path.with_name(f"{path.stem}.0001{path.suffix}")


@pytest.mark.parametrize("name", ["d.npy", "d.npz", "d.exr"])
def test_depth_is_read_as_it_is(name: str, tmp_path: Path) -> None:
    depth = read_depth(save(tmp_path / name, DEPTH), **CLIP)
    np.testing.assert_array_equal(depth.values, DEPTH)
    assert depth.values.dtype == np.float32
    assert (depth.info.source, depth.info.kind, depth.info.unit) == ("files", "depth", "scene")


@pytest.mark.parametrize(
    "values",
    [
        DEPTH.astype(np.float16),
        DEPTH.astype(np.float64),
        DEPTH.astype(">f4"),
        (DEPTH * 100).astype(np.uint16),
        (DEPTH * 100).astype(np.int32),
        DEPTH[:, None],
        DEPTH[..., None],
    ],
    ids=["half", "double", "big-endian", "uint16", "int32", "N1HW", "NHW1"],
)
@pytest.mark.parametrize("name", ["d.npy", "d.npz"])
def test_arrays_of_other_types_and_shapes(
    name: str, values: NDArray[np.generic], tmp_path: Path
) -> None:
    depth = read_depth(save(tmp_path / name, values), **CLIP)
    np.testing.assert_array_equal(depth.values, values.astype(np.float32).reshape(DEPTH.shape))


def test_the_only_array_of_an_archive_may_have_any_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", anything=DEPTH)
    np.testing.assert_array_equal(read_depth(tmp_path / "d.npz", **CLIP).values, DEPTH)


def test_the_array_called_depth_is_taken_of_several(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", confidence=DEPTH * 0, depth=DEPTH)
    np.testing.assert_array_equal(read_depth(tmp_path / "d.npz", **CLIP).values, DEPTH)


@pytest.mark.parametrize(
    ("kind", "told_kind", "unit"),
    [
        ("depth", "depth", "scene"),
        ("metric", "depth", "metres"),
        ("reference", "reference", "scene"),
    ],
)
def test_kinds_of_depth_keep_their_numbers(
    kind: Any, told_kind: str, unit: str, tmp_path: Path
) -> None:
    depth = read_depth(save(tmp_path / "d.npy", DEPTH), kind=kind, **CLIP)
    np.testing.assert_array_equal(depth.values, DEPTH)
    assert (depth.info.kind, depth.info.unit) == (told_kind, unit)


def test_disparity_becomes_depth_as_the_reference_does_it(tmp_path: Path) -> None:
    disparity = np.random.default_rng(2).uniform(-3.0, 8.0, DEPTH.shape)
    depth = read_depth(save(tmp_path / "d.npy", disparity), kind="disparity", **CLIP)
    spread = (disparity - disparity.min()) / (disparity.max() - disparity.min())
    expected = np.clip(10000.0 / (3900.0 * np.maximum(spread, 1e-9)), 1e-4, 1e4)
    np.testing.assert_allclose(depth.values, expected, rtol=1e-3)
    assert depth.values.min() == pytest.approx(2.5641, abs=1e-4)
    assert depth.values.max() == 1e4
    assert (depth.info.kind, depth.info.unit) == ("disparity", "scene")


@given(npst.arrays(np.float32, (2, 3), elements=st.floats(0, 1, width=32)))
def test_depth_from_disparity_stays_in_the_reference_s_range(disparity: Any) -> None:
    depth = depth_from_disparity(disparity)
    assert depth.dtype == np.float32
    assert (depth >= 2.564).all()
    assert (depth <= 1e4).all()
    near_first = np.argsort(-disparity, axis=None, kind="stable")
    assert (np.diff(depth.ravel()[near_first]) >= 0).all()


def test_sixteen_bit_png_is_disparity_unless_told_otherwise(tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(1, 65536, DEPTH.shape, np.uint16)
    values[0, 0, 0], values[0, 0, 1] = 1, 65535
    path = save(tmp_path / "d.png", values)
    guessed = read_depth(path, **CLIP)
    assert guessed.info.kind == "disparity"
    assert guessed.values[0, 0, 1] < guessed.values[0, 0, 0]
    told = read_depth(path, kind="metric", **CLIP)
    np.testing.assert_array_equal(told.values, values.astype(np.float32))


@pytest.mark.parametrize("name", ["d.npy", "d.exr"])
def test_numbers_from_0_to_1_must_be_named(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / name, DEPTH / 50.0)
    with pytest.raises(InputError, match="say which kind") as caught:
        read_depth(path, **CLIP)
    assert caught.value.code == "depth_kind"
    near = read_depth(path, kind="metric", **CLIP)
    np.testing.assert_array_equal(near.values, DEPTH / 50.0)


# Which frames


@pytest.mark.parametrize(
    ("available", "selection", "expected"),
    [
        (3, FrameSelection(), [0, 1, 2]),
        # As many as the clip has: they are the clip's, wherever it begins.
        (3, FrameSelection(7, None, 5), [0, 1, 2]),
        (9, FrameSelection(), [0, 1, 2]),
        (9, FrameSelection(2), [2, 3, 4]),
        (9, FrameSelection(1, 3, 3), [1, 4, 7]),
        (8, FrameSelection(1, None, 3), [1, 4, 7]),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["d.npz", "d.exr"])
def test_the_clip_s_frames_are_selected(
    name: str, available: int, selection: FrameSelection, expected: list[int], tmp_path: Path
) -> None:
    values = np.broadcast_to(
        np.arange(2.0, 2.0 + available, dtype=np.float32)[:, None, None],
        (available, HEIGHT_PX, WIDTH_PX),
    )
    depth = read_depth(save(tmp_path / name, values), selection=selection, **CLIP)
    assert [float(frame[0, 0]) - 2.0 for frame in depth.values] == expected


@pytest.mark.parametrize(
    ("available", "selection"),
    [(2, FrameSelection()), (4, FrameSelection(2)), (7, FrameSelection(1, 3, 3))],
    ids=str,
)
def test_too_few_frames_are_refused(
    available: int, selection: FrameSelection, tmp_path: Path
) -> None:
    path = save(tmp_path / "d.npy", np.repeat(DEPTH[:1], available, axis=0))
    with pytest.raises(InputError, match=f"found {available}") as caught:
        read_depth(path, selection=selection, **CLIP)
    assert caught.value.code == "depth_count"


# Scaling


@pytest.mark.parametrize(("width_px", "height_px"), [(37, 28), (128, 96), (16, 12)], ids=str)
def test_scaling_keeps_an_edge_a_step(width_px: int, height_px: int, tmp_path: Path) -> None:
    """Nothing may lie between foreground and background, and the edge stays in its place."""
    step = np.full((1, 24, 32), 2.0, np.float32)
    step[:, :, 12:] = 50.0
    depth = read_depth(
        save(tmp_path / "d.npy", step), frame_count=1, width_px=width_px, height_px=height_px
    )
    assert set(np.unique(depth.values)) == {2.0, 50.0}
    edge_px = (depth.values[0] == 2.0).sum(axis=1)
    assert abs(edge_px / width_px - 12 / 32).max() <= 0.5 / width_px + 1e-9


def test_doubling_repeats_every_pixel(tmp_path: Path) -> None:
    depth = read_depth(
        save(tmp_path / "d.npy", DEPTH), frame_count=FRAMES, width_px=12, height_px=8
    )
    np.testing.assert_array_equal(depth.values, DEPTH.repeat(2, axis=1).repeat(2, axis=2))


def test_depth_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "d.npy", DEPTH.transpose(0, 2, 1).copy())
    with pytest.raises(InputError, match="found 4 x 6") as caught:
        read_depth(path, **CLIP)
    assert caught.value.code == "depth_size"


# Values


@pytest.mark.parametrize("sky", [np.inf, 1e10, 1e300], ids=str)
def test_the_sky_comes_within_reach(sky: float, tmp_path: Path) -> None:
    values = DEPTH.astype(np.float64)
    values[1, 2, 3] = sky
    depth = read_depth(save(tmp_path / "d.npy", values), **CLIP)
    assert depth.values[1, 2, 3] == np.float32(float(DEPTH.min()) * SKY_FACTOR)
    others = np.ones(DEPTH.shape, bool)
    others[1, 2, 3] = False
    np.testing.assert_array_equal(depth.values[others], DEPTH[others])


@pytest.mark.parametrize(
    ("kind", "hole"),
    [
        ("depth", np.nan),
        ("depth", 0.0),
        ("metric", -1.0),
        ("reference", -np.inf),
        ("disparity", np.nan),
        ("disparity", np.inf),
    ],
)
def test_holes_are_refused(kind: Any, hole: float, tmp_path: Path) -> None:
    values = DEPTH.copy()
    values[2, 1] = hole
    with pytest.raises(InputError, match="25 % of frame 2") as caught:
        read_depth(save(tmp_path / "d.npy", values), kind=kind, **CLIP)
    assert caught.value.code == "depth_values"


@pytest.mark.parametrize(("kind", "value"), [("disparity", 5.0), ("depth", np.inf)])
def test_depth_without_content_is_refused(kind: Any, value: float, tmp_path: Path) -> None:
    path = save(tmp_path / "d.npy", np.full(DEPTH.shape, value))
    with pytest.raises(InputError, match="everywhere") as caught:
        read_depth(path, kind=kind, **CLIP)
    assert caught.value.code == "depth_values"


# Hostile files


def npy(header: str, data: bytes = b"") -> bytes:
    """An `.npy` file with any header."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def npy_of_shape(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    return npy(header, bytes(1 << 20))


def test_a_small_archive_that_unpacks_to_much_is_refused_by_its_header(tmp_path: Path) -> None:
    """A header claims 10^12 pixels a frame; nothing of that size may be touched."""
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("depth.npy", npy_of_shape("(3, 1000000, 1000000)"))
    with pytest.raises(InputError, match="1000000 x 1000000") as caught:
        read_depth(tmp_path / "d.npz", **CLIP)
    assert caught.value.code == "depth_too_large"


def test_the_limit_of_a_frame_holds(tmp_path: Path) -> None:
    path = save(tmp_path / "d.npy", DEPTH)
    assert read_depth(path, limits=MediaLimits(frame_px=24), **CLIP).values.shape == DEPTH.shape
    with pytest.raises(InputError) as caught:
        read_depth(path, limits=MediaLimits(frame_px=23), **CLIP)
    assert caught.value.code == "depth_too_large"


class Bomb:
    """Would show itself if it were unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("name", ["d.npy", "d.npz"])
def test_nothing_is_unpickled(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / name, np.array([Bomb()] * 3, object))
    with pytest.raises(InputError) as caught:
        read_depth(path, **CLIP)
    assert caught.value.code == "array_invalid"


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-40])
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("code", "make"),
    [
        ("depth_missing", lambda folder: folder / "d.npy"),
        ("depth_format", lambda folder: written(folder / "d.tif", b"II*")),
        ("depth_format", lambda folder: save(folder / "d.npy", DEPTH[0])),
        ("depth_format", lambda folder: save(folder / "d.npy", DEPTH[:, :, :0])),
        ("depth_format", lambda folder: save(folder / "d.npy", np.stack([DEPTH] * 3, axis=3))),
        ("array_invalid", lambda folder: written(folder / "d.npy", b"")),
        ("array_invalid", lambda folder: written(folder / "d.npy", b"\x93NUMPY\x09\x00")),
        ("array_invalid", lambda folder: written(folder / "d.npy", npy("{'shape': (3,"))),
        ("array_invalid", lambda folder: written(folder / "d.npy", npy_of_shape("(3, -4, 6)"))),
        ("array_invalid", lambda folder: written(folder / "d.npy", npy_of_shape("()"))),
        ("array_invalid", lambda folder: written(folder / "d.npz", b"PK\x03\x04" + bytes(60))),
        ("array_invalid", lambda folder: cut(save(folder / "d.npy", DEPTH))),
        ("array_invalid", lambda folder: cut(save(folder / "d.npz", DEPTH))),
        ("array_invalid", lambda folder: save(folder / "d.npy", DEPTH > 3)),
        ("array_invalid", lambda folder: save(folder / "d.npy", DEPTH * 1j)),
        ("array_invalid", lambda folder: save(folder / "d.npy", np.asfortranarray(DEPTH))),
        ("image_invalid", lambda folder: save(folder / "d.png", DEPTH.astype(np.uint8))),
        ("image_invalid", lambda folder: written(folder / "d.exr", b"no picture")),
    ],
    ids=[
        "missing",
        "suffix",
        "one-frame",
        "no-pixels",
        "colour",
        "empty",
        "version",
        "header",
        "negative",
        "scalar",
        "no-archive",
        "cut-npy",
        "cut-npz",
        "booleans",
        "complex",
        "columns",
        "png8",
        "no-exr",
    ],
)
def test_files_that_are_refused(code: str, make: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_depth(make(tmp_path), **(CLIP | {"frame_count": 1} if code[:3] == "ima" else CLIP))
    assert caught.value.code == code


def test_an_archive_without_depth_names_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", left=DEPTH, right=DEPTH)
    with pytest.raises(InputError, match=r"left\.npy, right\.npy") as caught:
        read_depth(tmp_path / "d.npz", **CLIP)
    assert caught.value.code == "array_invalid"


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "d.npz", DEPTH)
    content = bytearray(path.read_bytes())
    for offset in range(120, 180):
        content[offset] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_depth(path, **CLIP)
    assert caught.value.code == "array_invalid"


def test_a_kind_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_depth(save(tmp_path / "d.npy", DEPTH), kind="depht", **CLIP)  # pyright: ignore
    assert caught.value.code == "depth_kind"
