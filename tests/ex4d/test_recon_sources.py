"""`ex4d recon` on what people have: a phone's video, an image sequence, ten bits, long clips."""

import struct
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from ex4d import framestore, pipeline
from ex4d.cli import main
from ex4d.clip import read_clip, write_video
from ex4d.images import write_png
from ex4d.protocol.messages import ReconstructJob
from ex4d.scene import Scene
from ex4d.task import Task

HEIGHT_PX, WIDTH_PX = 48, 64
LENS_KEY = "com.apple.quicktime.camera.focal_length.35mm_equivalent"
#: As a phone in poor light writes them; the last frame is shown for 33 ms.
TIMES_MS = (0, 33, 100, 133, 200, 300)
LEVELS = (10, 50, 90, 130, 170, 210)


def marked(level: int) -> NDArray[np.uint8]:
    """Grey with a red top left quarter, so that each turn looks different."""
    picture = np.full((HEIGHT_PX, WIDTH_PX, 3), level, np.uint8)
    picture[: HEIGHT_PX // 2, : WIDTH_PX // 2] = (255, 0, 0)
    return picture


def write_phone_video(path: Path) -> None:
    """Held upright: stored lying, with the flag that turns it clockwise, at a variable rate."""
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as container:
        container.metadata[LENS_KEY] = "26"
        stream: Any = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        for level, time_ms in zip(LEVELS, TIMES_MS, strict=True):
            frame = av.VideoFrame.from_ndarray(marked(level), "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4
    turned = [value << 16 for value in (0, 1, 0, -1, 0, 0, 0, 0)]
    struct.pack_into(">9i", content, start + 40, *turned, 1 << 30)
    path.write_bytes(content)


def write_depth(path: Path, frame_count: int, height_px: int, width_px: int) -> None:
    """A floor that comes nearer to the bottom, in metres."""
    depth = np.linspace(6, 2, height_px, dtype=np.float32)[None, :, None]
    np.save(path, np.broadcast_to(depth, (frame_count, height_px, width_px)))


def recon(folder: Path, clip: Path, *others: str) -> int:
    arguments = ["recon", "--input_video", str(clip), "--depth", str(folder / "depth.npy")]
    kind = ["--depth_kind", "metric", "--cam", "30", "--output_dir", str(folder / "out")]
    return main([*arguments, *kind, *others])


def test_phone_video(tmp_path: Path) -> None:
    write_phone_video(tmp_path / "phone.mov")
    write_depth(tmp_path / "depth.npy", len(LEVELS), WIDTH_PX, HEIGHT_PX)
    assert recon(tmp_path, tmp_path / "phone.mov") == 0
    scene = Scene(tmp_path / "out" / "scene")
    assert len(scene) == len(LEVELS)
    # All frames last as long as the video did.
    shown_s = (TIMES_MS[-1] + 33) / 1000
    assert float(len(scene) / scene.frame_rate) == pytest.approx(shown_s, abs=0.02)
    for index, level in enumerate(LEVELS):
        frame = scene.frame(index)
        assert frame.shape == (WIDTH_PX, HEIGHT_PX, 3)
        # Turned clockwise, the top left quarter is at the top right.
        corner, rest = frame[8:24, 32:40], frame[40:56, 8:40]
        assert corner[..., 0].mean() > 180
        assert corner[..., 1].mean() < 60
        assert np.abs(rest.astype(int) - level).max() < 12
    color = read_clip(tmp_path / "out" / "color_30.mp4")
    assert color.frames.shape == (len(LEVELS), WIDTH_PX, HEIGHT_PX, 3)
    assert np.abs(color.frames[0].astype(int) - scene.frame(0)).mean() < 8
    # The first frame looks from the source camera, so that the mask is full.
    assert read_clip(tmp_path / "out" / "mask_30.mp4").frames[0].min() > 250


def test_phone_video_knows_its_lens(tmp_path: Path) -> None:
    write_phone_video(tmp_path / "phone.mov")
    write_depth(tmp_path / "depth.npy", len(LEVELS), WIDTH_PX, HEIGHT_PX)
    job = ReconstructJob(
        files=(), clip="phone.mov", depth="depth.npy", depth_kind="metric", name="phone"
    )
    scene = pipeline.reconstruct(job, tmp_path, tmp_path / "scene", Task())
    assert scene.document.depth.focal_source == "lens"
    # 26 mm of 36 mm film, along the side that is now the height.
    assert scene.intrinsics.fx_px == pytest.approx(26 / 36 * WIDTH_PX)


def test_image_sequence(tmp_path: Path) -> None:
    for index, level in enumerate(LEVELS):
        write_png(tmp_path / f"shot.{index + 98:03d}.png", marked(level))
    write_depth(tmp_path / "depth.npy", len(LEVELS), HEIGHT_PX, WIDTH_PX)
    assert recon(tmp_path, tmp_path / "shot.098.png") == 0
    scene = Scene(tmp_path / "out" / "scene")
    assert scene.frame_rate == 24
    for index, level in enumerate(LEVELS):
        np.testing.assert_array_equal(scene.frame(index), marked(level))


def test_ten_bits(tmp_path: Path) -> None:
    """Ten-bit levels are rounded to eight, not cut off or shifted."""
    lumas = (64, 280, 501, 502, 720, 940)
    with av.open(str(tmp_path / "ten.mkv"), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p10le"
        for luma in lumas:
            frame = av.VideoFrame(WIDTH_PX, HEIGHT_PX, "yuv420p10le")
            for plane, value in zip(frame.planes, (luma, 512, 512), strict=True):
                plane.update(np.full(plane.buffer_size // 2, value, "<u2").tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    write_depth(tmp_path / "depth.npy", len(lumas), HEIGHT_PX, WIDTH_PX)
    assert recon(tmp_path, tmp_path / "ten.mkv") == 0
    scene = Scene(tmp_path / "out" / "scene")
    for index, luma in enumerate(lumas):
        expected = (luma - 64) * 255 / 876
        assert np.abs(scene.frame(index) - expected).max() <= 1


def test_one_frame(tmp_path: Path) -> None:
    write_png(tmp_path / "still.png", marked(90))
    write_depth(tmp_path / "depth.npy", 1, HEIGHT_PX, WIDTH_PX)
    assert recon(tmp_path, tmp_path / "still.png") == 0
    assert len(Scene(tmp_path / "out" / "scene")) == 1


@pytest.mark.parametrize(
    ("value", "kind", "code"),
    [
        (np.nan, "metric", "depth_values"),
        (np.nan, "disparity", "depth_values"),
        (0.5, "disparity", "depth_values"),
        (np.inf, "metric", "depth_values"),
    ],
)
def test_depth_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float, kind: str, code: str
) -> None:
    write_png(tmp_path / "still.png", marked(90))
    np.save(tmp_path / "depth.npy", np.full((1, HEIGHT_PX, WIDTH_PX), value, np.float32))
    assert recon(tmp_path, tmp_path / "still.png", "--depth_kind", kind) == 1
    assert f"[{code}]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_constant_depth_is_a_wall(tmp_path: Path) -> None:
    write_png(tmp_path / "still.png", marked(90))
    np.save(tmp_path / "depth.npy", np.full((1, HEIGHT_PX, WIDTH_PX), 3.0, np.float32))
    assert recon(tmp_path, tmp_path / "still.png") == 0
    np.testing.assert_array_equal(Scene(tmp_path / "out" / "scene").depth(0), np.float32(3))


# Long clips


def peak_bytes(folder: Path, frame_count: int) -> int:
    folder.mkdir()
    frames = (marked(index % 200) for index in range(frame_count))
    write_video(folder / "clip.mp4", frames, Fraction(30))
    write_depth(folder / "depth.npy", frame_count, HEIGHT_PX, WIDTH_PX)
    tracemalloc.start()
    try:
        count = str(frame_count)
        assert recon(folder, folder / "clip.mp4", "--num_frames", count) == 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framestore, "IN_MEMORY_BYTES", 20 * HEIGHT_PX * WIDTH_PX)
    peak_bytes(tmp_path / "warm", 30)
    short, long = peak_bytes(tmp_path / "short", 60), peak_bytes(tmp_path / "long", 480)
    # Frames and depth of the difference are 9 MB; poses and other things told of each frame stay.
    assert long < short + 3_000_000


def test_frames_on_disk_are_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.stack([marked(level) for level in LEVELS])
    write_video(tmp_path / "clip.mkv", frames, Fraction(30), lossless=True)
    monkeypatch.setattr(framestore, "IN_MEMORY_BYTES", frames[0].nbytes)
    np.testing.assert_array_equal(read_clip(tmp_path / "clip.mkv").frames, frames)


def test_released_frames_keep_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framestore, "IN_MEMORY_BYTES", 0)
    frames = framestore.new_frames((5, 64, 64), np.float32)
    for index, frame in enumerate(framestore.each_frame(frames)):
        frame[:] = index
    framestore.release(frames)
    assert framestore.value_range(frames) == (0, 4)


def test_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(framestore, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(framestore.os, "posix_fallocate", full)
    with pytest.raises(framestore.InputError) as caught:
        framestore.new_frames((5, 64, 64), np.float32)
    assert caught.value.code == "disk_full"
