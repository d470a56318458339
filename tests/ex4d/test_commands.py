"""The commands as a user of the reference, or a script, calls them: arguments, files, refusals."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ex4d.cli import main
from ex4d.clip import read_clip, write_video
from ex4d.commands import doctor
from ex4d.images import read_depth_exr, read_png
from ex4d.scene import Scene

FRAMES, HEIGHT_PX, WIDTH_PX = 5, 48, 64


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `clip.mp4` and `depth.npy`: a square before a wall."""
    folder = tmp_path_factory.mktemp("footage")
    frames = np.full((FRAMES, HEIGHT_PX, WIDTH_PX, 3), 90, np.uint8)
    depth = np.full((FRAMES, HEIGHT_PX, WIDTH_PX), 6.0, np.float32)
    for index in range(FRAMES):
        left = 16 + 2 * index
        frames[index, 12:36, left : left + 20] = (220, 40, 30)
        depth[index, 12:36, left : left + 20] = 2.0
    write_video(folder / "clip.mp4", frames, Fraction(25))
    np.save(folder / "depth.npy", depth)
    return folder


@pytest.fixture(scope="module")
def results(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `ex4d recon` makes of it for two cameras, one after the other."""
    folder = tmp_path_factory.mktemp("results")
    for camera in ("zoom_in", "30"):
        assert main(recon_arguments(footage, folder, "--cam", camera, "--save_mesh")) == 0
    return folder


def recon_arguments(footage: Path, folder: Path, *others: str) -> list[str]:
    arguments = ["recon", "--input_video", str(footage / "clip.mp4")]
    arguments += ["--depth", str(footage / "depth.npy"), "--depth_kind", "depth"]
    return [*arguments, "--output_dir", str(folder), "--focal_px", "60", *others]


def test_recon_writes_the_references_files(results: Path) -> None:
    names = {path.name for path in results.iterdir()}
    assert names == {
        *(f"{what}_{camera}.mp4" for what in ("color", "mask") for camera in ("30", "zoom_in")),
        *("camera_30.npz", "camera_zoom_in.npz", "DW-Mesh.ply", "scene"),
    }
    color = read_clip(results / "color_30.mp4")
    mask = read_clip(results / "mask_30.mp4").frames[..., 0] > 127
    assert color.frames.shape == (FRAMES, HEIGHT_PX, WIDTH_PX, 3)
    assert color.frame_rate == 25
    assert mask[0].all()
    assert 0.01 < mask[-1].mean() < 0.98
    assert color.frames[-1][~mask[-1]].mean() < 20
    with np.load(results / "camera_30.npz") as arrays:
        assert arrays["extrinsics"].shape == (FRAMES, 4, 4)
        assert arrays["intrinsics"][0, 0] == 60


def test_recon_keeps_the_scene_if_it_fails(footage: Path, results: Path, tmp_path: Path) -> None:
    """Bad input never loses what was made."""
    np.save(tmp_path / "short.npy", np.ones((FRAMES - 1, HEIGHT_PX, WIDTH_PX), np.float32))
    arguments = recon_arguments(footage, results, "--cam", "60")
    arguments[arguments.index("--depth") + 1] = str(tmp_path / "short.npy")
    assert main(arguments) == 1
    assert len(Scene(results / "scene")) == FRAMES


@pytest.mark.parametrize(
    ("wrong", "code"), [(["--cam", "61"], "move_unknown"), (["--radius", "-1"], "move_radius")]
)
def test_recon_refuses_a_wrong_camera_before_it_works(
    footage: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    wrong: list[str],
    code: str,
) -> None:
    assert main(recon_arguments(footage, tmp_path / "out", *wrong)) != 0
    assert f"[{code}]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_recon_says_whose_focal_length_it_took(
    footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = recon_arguments(footage, tmp_path, "--cam", "zoom_in")
    assert main(arguments) == 0
    assert "focal length 60 px, from: user" in capsys.readouterr().out
    place = arguments.index("--focal_px")
    del arguments[place : place + 2]
    assert main(arguments) == 0
    assert "focal length 500 px, from: the reference" in capsys.readouterr().out


def test_recon_leaves_a_stranger_s_folder_alone(footage: Path, tmp_path: Path) -> None:
    mine = tmp_path / "scene" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert main(recon_arguments(footage, tmp_path, "--cam", "30")) == 1
    assert mine.read_text() == "mine"


def test_generate_makes_a_shot_of_what_recon_left(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output.mp4"
    arguments = ["generate", "--output_video", str(output)]
    arguments += ["--color_video", str(results / "color_30.mp4")]
    arguments += ["--mask_video", str(results / "mask_30.mp4")]
    assert main(arguments) == 0
    shot = read_clip(output)
    assert shot.frames.shape == (FRAMES, HEIGHT_PX, WIDTH_PX, 3)
    assert shot.frames[-1].min() > 10
    assert "`preview`" in capsys.readouterr().out


def test_generate_refuses_videos_of_two_runs(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "mask.mp4", np.zeros((2, HEIGHT_PX, WIDTH_PX, 3), np.uint8), 25)
    arguments = ["generate", "--output_video", str(tmp_path / "output.mp4")]
    arguments += ["--color_video", str(results / "color_30.mp4")]
    arguments += ["--mask_video", str(tmp_path / "mask.mp4")]
    assert main(arguments) == 1
    assert "[condition_size]" in capsys.readouterr().err
    assert not (tmp_path / "output.mp4").exists()


def test_render_writes_colour_mask_and_depth(results: Path, tmp_path: Path) -> None:
    output = tmp_path / "condition"
    arguments = ["render", str(results / "scene"), "--output", str(output), "--cam", "orbit_left"]
    assert main([*arguments, "--amount", "20"]) == 0
    names = {f"{index + 1:04d}" for index in range(FRAMES)}
    for folder in ("color", "mask", "depth"):
        assert {path.stem for path in (output / folder).iterdir()} == names
    mask = read_png(output / "mask" / "0005.png") > 127
    depth = read_depth_exr(output / "depth" / "0005.exr")
    assert 0.2 < mask.mean() < 1.0
    assert (depth[mask] > 1.0).all()


def test_doctor_names_what_is_missing_and_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for what in ("Python", "numba", "CURVE", "Blender"):
        assert what in text


@pytest.mark.parametrize(
    ("card_gib", "has_fp8", "states", "words"),
    [
        (141, True, ("ok", "ok"), "fits; about 60 s"),
        (24, True, ("ok", "ok"), "streamed"),
        (24, False, ("ok", "note"), "8 bits"),
        (6, True, ("note", "note"), "on the card"),
    ],
)
def test_doctor_says_which_modes_fit(
    card_gib: float, has_fp8: bool, states: tuple[str, str], words: str
) -> None:
    found = list(
        doctor.mode_findings(card_gib * 2**30, 64 * 2**30, 664e12 * 2 / 3, has_fp8=has_fp8)
    )
    assert tuple(finding.state for finding in found) == states
    assert words in " ".join(finding.detail for finding in found)


@pytest.mark.parametrize("missing", ["nvdiffrast", "triton"])
def test_doctor_says_why_nvdiffrast_is_not_used(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        doctor, "find_spec", lambda package: None if package == missing else object()
    )
    (finding,) = doctor._rasteriser()
    assert finding.what == "nvdiffrast"
    assert f"no {missing}: the cpu rasteriser is used" in finding.detail
    assert finding.remedy


def test_damaged_trajectory_is_refused(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trajectory.json"
    path.write_text(json.dumps({"width_px": 64}))
    arguments = ["render", str(results / "scene"), "--output", str(tmp_path / "condition")]
    assert main([*arguments, "--trajectory", str(path)]) == 1
    assert "[trajectory_invalid]" in capsys.readouterr().err


@pytest.mark.parametrize(
    "others",
    [
        ("--steps", "5"),
        ("--seed", "-1"),
        ("--engine", "ex4d", "--steps", "0"),
        ("--engine", "ex4d", "--guidance", "nan"),
        ("--engine", "ex4d", "--prompt", "a" * 2001),
        ("--engine", "ex4d", "--lora", "../elsewhere"),
    ],
)
def test_generate_refuses_what_the_engine_does_not_take(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], others: tuple[str, ...]
) -> None:
    arguments = ["generate", "--output_video", str(tmp_path / "output.mp4")]
    arguments += ["--color_video", str(results / "color_30.mp4")]
    arguments += ["--mask_video", str(results / "mask_30.mp4")]
    assert main([*arguments, *others]) == 1
    assert "[settings_invalid]" in capsys.readouterr().err
