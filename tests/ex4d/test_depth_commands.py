"""From a video without depth to a scene, on the small networks."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from engine_tests import needs_estimators

needs_estimators()

import tiny_depth
import torch

from ex4d import pipeline
from ex4d.cli import main
from ex4d.clip import write_video
from ex4d.depth.video_depth_anything import estimator
from ex4d.depth.video_depth_anything.network import Network
from ex4d.errors import InputError
from ex4d.protocol.messages import ReconstructJob
from ex4d.scene import Scene
from ex4d.task import Task

FRAMES, HEIGHT_PX, WIDTH_PX = 3, 64, 96


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With `clip.mp4`, and the small networks in `models/`."""
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(estimator, "INPUT_SIDE_PX", 56)
    tiny_depth.write_video_depth_anything(tmp_path / "models")
    tiny_depth.write_video_depth_anything(tmp_path / "models", metric=True)
    tiny_depth.write_depthcrafter(tmp_path / "models")
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 8, 12, 3), np.uint8)
    write_video(tmp_path / "clip.mp4", frames.repeat(8, axis=1).repeat(8, axis=2), Fraction(25))
    return tmp_path


def recon(folder: Path, *others: str) -> int:
    arguments = ["recon", "--input_video", str(folder / "clip.mp4"), "--cam", "30"]
    return main([*arguments, "--output_dir", str(folder / "out"), *others])


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ((), ("video-depth-anything", "disparity", "scene", "percentile", "default")),
        (
            ("--depth_range", "min_max", "--focal_px", "500"),
            ("video-depth-anything", "disparity", "scene", "min_max", "user"),
        ),
        (
            ("--estimator", "video-depth-anything-metric"),
            ("video-depth-anything-metric", "depth", "metres", "proportional", "default"),
        ),
        (
            ("--estimator", "depthcrafter", "--accept-research-licence"),
            ("depthcrafter", "disparity", "scene", "percentile", "default"),
        ),
    ],
)
def test_recon_without_depth(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    others: tuple[str, ...],
    expected: tuple[str, ...],
) -> None:
    assert recon(folder, *others) == 0
    info = Scene(folder / "out" / "scene").document.depth
    assert (info.source, info.kind, info.unit, info.spread, info.focal_source) == expected
    assert len(info.weights.split()[-1]) == 16
    assert f"depth by {info.source} ({info.licence})" in capsys.readouterr().out
    for name in ("color_30.mp4", "mask_30.mp4", "camera_30.npz"):
        assert (folder / "out" / name).is_file()


def test_calibrated_disparity(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The small metric network says more where the other one does: until it is turned round."""
    assert recon(folder, "--depth_range", "calibrated") == 1
    # The metric estimate of a few frames takes no place among what is kept.
    assert len(list((folder / "out" / ".ex4d-unfinished").iterdir())) == 1
    assert "[depth_calibration]" in capsys.readouterr().err
    path = tiny_depth.write_video_depth_anything(folder / "models", metric=True)
    values = torch.load(path, weights_only=True)
    values["head.scratch.output_conv2.2.weight"] *= -1
    torch.save(values, path)
    assert recon(folder, "--depth_range", "calibrated") == 0
    info = Scene(folder / "out" / "scene").document.depth
    assert (info.source, info.kind) == ("video-depth-anything", "disparity")
    assert (info.unit, info.spread) == ("metres", "calibrated")
    path.unlink()
    assert recon(folder, "--depth_range", "calibrated") == 1
    assert "ex4d models download video-depth-anything-metric" in capsys.readouterr().err


def test_recon_shows_the_licence_before_it_needs_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recon(folder, "--estimator", "depthcrafter") == 1
    assert "[licence_not_accepted]" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_reconstruct_job_without_depth(folder: Path) -> None:
    job = ReconstructJob(files=(), clip="clip.mp4", name="clip")
    scene = pipeline.reconstruct(job, folder, folder / "scene", Task())
    assert scene.document.depth.source == "video-depth-anything"
    depth = scene.depth(0)
    assert depth.shape == (HEIGHT_PX, WIDTH_PX)
    assert depth.std() > 0.01
    research = ReconstructJob(files=(), clip="clip.mp4", name="clip", estimator="depthcrafter")
    with pytest.raises(InputError) as caught:
        pipeline.reconstruct(research, folder, folder / "other", Task())
    assert caught.value.code == "licence_not_accepted"


@pytest.mark.parametrize(("bias", "words"), [(-1e3, "that varies"), (float("nan"), "finite")])
def test_network_that_sees_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], bias: float, words: str
) -> None:
    path = tiny_depth.write_video_depth_anything(folder / "models")
    values = torch.load(path, weights_only=True)
    values[tiny_depth.LAST_BIAS][:] = bias
    torch.save(values, path)
    assert recon(folder) == 1
    error = capsys.readouterr().err
    assert "[depth_values]" in error
    assert words in error
    assert not (folder / "out" / "scene").exists()
    # Numbers are kept as any finished window is, what is none is not.
    assert any((folder / "out").rglob("*.npy")) == np.isfinite(bias)


def test_models_commands_know_the_estimators(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["video-depth-anything", "video-depth-anything-metric", "depthcrafter"]
    assert main(["models", "list", *names]) == 0
    assert main(["models", "check", *names]) == 0
    output = capsys.readouterr().out
    assert all(f"ok  {name}: " in output for name in names)
    other = folder / "others"
    arguments = ["models", "--folder", str(other), "download", *names]
    mirrored = ["--mirror", str(folder / "models"), "--accept-research-licence"]
    assert main([*arguments, *mirrored]) == 0
    assert main(["models", "--folder", str(other), "check", *names]) == 0
    path = other / "Video-Depth-Anything-Small" / "video_depth_anything_vits.pth"
    path.write_bytes(path.read_bytes()[:1000])
    assert main(["models", "--folder", str(other), "check", *names]) == 1
    assert "[checkpoint_damaged]" in capsys.readouterr().err
    assert main(["doctor"]) == 0
    assert "ok depth by depthcrafter" in " ".join(capsys.readouterr().out.split())


def test_recon_that_was_stopped_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_arguments: object, **_settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ex4d.scene.write_scene", stop)
    assert recon(folder) != 0
    assert list((folder / "out" / ".ex4d-unfinished").rglob("*.npy"))
    monkeypatch.undo()
    monkeypatch.setenv("EX4D_MODELS", str(folder / "models"))
    monkeypatch.setattr(estimator, "INPUT_SIDE_PX", 56)

    def refuse(*_arguments: object) -> None:
        raise AssertionError("what was estimated must not be estimated again")

    monkeypatch.setattr(Network, "encode", refuse)
    assert recon(folder) == 0
    assert not (folder / "out" / ".ex4d-unfinished").exists()
