"""Clip, depth and camera together: who is asked, in which order; without torch."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ex4d.cli import main
from ex4d.clip import Clip, FrameSelection, read_clip, write_video
from ex4d.errors import InputError
from ex4d.footage import DepthWish, chosen_intrinsics, read_footage
from ex4d.task import Task

LENS_KEY = "com.apple.quicktime.camera.focal_length.35mm_equivalent"


def clip_with(lens_mm: float | None, height_px: int = 90, width_px: int = 160) -> Clip:
    return Clip(np.zeros((1, height_px, width_px, 3), np.uint8), Fraction(25), lens_mm=lens_mm)


def test_focal_length_from_whoever_knows_it_best() -> None:
    def source_of(lens_mm: float | None, *others: float | None) -> str:
        return chosen_intrinsics(clip_with(lens_mm), *others)[1]

    assert source_of(26.0, 200.0, 50.0) == "user"
    assert source_of(26.0, None, 50.0) == "lens"
    assert source_of(None, None, 50.0) == "estimator"
    assert source_of(None, None, None) == "default"


@pytest.mark.parametrize("focal_px", [1e-300, 1.5, 1.7e5, 1e300, float("nan")])
def test_focal_length_of_no_lens_is_refused(focal_px: float) -> None:
    with pytest.raises(InputError, match=r"1\.6 to 160000 px") as caught:
        chosen_intrinsics(clip_with(None), focal_px, None)
    assert caught.value.code == "focal_length"


@pytest.mark.parametrize("size", [(90, 160), (160, 90)])
def test_lens_means_the_longer_side(size: tuple[int, int]) -> None:
    """26 mm on film 36 mm long see 69.4 degrees."""
    camera, _ = chosen_intrinsics(clip_with(26.0, *size), None, None)
    assert camera.fx_px == camera.fy_px
    seen_deg = np.degrees(2 * np.arctan(80 / camera.fx_px))
    assert seen_deg == pytest.approx(69.4, abs=0.05)


def write_phone_video(path: Path, lens: str) -> None:
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as container:
        container.metadata[LENS_KEY] = lens
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("lens", "expected"),
    [
        ("26", 26.0),
        ("13.5", 13.5),
        ("50.00mm", 50.0),
        ("-13", None),
        ("mm", None),
        ("wide", None),
        ("0", None),
        ("nan", None),
        ("1e9", None),
    ],
)
def test_clip_knows_its_lens(tmp_path: Path, lens: str, expected: float | None) -> None:
    write_phone_video(tmp_path / "phone.mp4", lens)
    assert read_clip(tmp_path / "phone.mp4").lens_mm == expected


def test_clip_without_a_lens(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", np.zeros((2, 48, 64, 3), np.uint8), Fraction(25))
    assert read_clip(tmp_path / "clip.mp4").lens_mm is None


def test_file_or_estimator() -> None:
    with pytest.raises(InputError) as caught:
        DepthWish(path=Path("depth.npy"), estimator="depthcrafter")
    assert caught.value.code == "depth_source"


def test_missing_weights_are_known_before_the_clip_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path))
    with pytest.raises(InputError) as caught:
        read_footage(
            tmp_path / "no such clip.mp4",
            DepthWish(),
            selection=FrameSelection(),
            focal_px=None,
            task=Task(),
        )
    assert caught.value.code == "model_missing"


def test_recon_names_the_command_that_fetches_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path / "models"))
    clip = tmp_path / "clip.mp4"
    write_video(clip, np.zeros((2, 48, 64, 3), np.uint8), Fraction(25))
    arguments = ["recon", "--input_video", str(clip), "--output_dir", str(tmp_path / "out")]
    assert main(arguments) == 1
    error = " ".join(capsys.readouterr().err.split())
    for words in ("ex4d models download video-depth-anything", "120 MB", "Apache-2.0"):
        assert words in error
    assert main([*arguments, "--estimator", "depthcrafter"]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "[licence_not_accepted]" in error
    assert "academic use only" in error
    assert not (tmp_path / "out").exists()


def test_download_asks_for_the_research_licence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["models", "--folder", str(tmp_path / "models"), "download", "depthcrafter"]
    assert main([*arguments, "--mirror", str(tmp_path)]) == 1
    assert "[licence_not_accepted]" in capsys.readouterr().err
    assert main([*arguments, "--mirror", str(tmp_path), "--accept-research-licence"]) == 1
    assert "[mirror_missing]" in capsys.readouterr().err


def test_models_of_other_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "download", "crystal-ball"]) == 1
    error = capsys.readouterr().err
    assert "[model_unknown]" in error
    assert "video-depth-anything" in error


def test_doctor_knows_the_estimators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path))
    main(["doctor"])
    output = " ".join(capsys.readouterr().out.split())
    for name in ("video-depth-anything", "depthcrafter --accept-research-licence"):
        assert f"ex4d models download {name}" in output
