"""`ex4d submit` as a user types it, against a real server in a process of its own."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ex4d.cli import main
from ex4d.clip import write_video
from ex4d.demo.play import paired_server
from ex4d.scene import Scene
from ex4d.take import Take

FRAMES, HEIGHT_PX, WIDTH_PX = 5, 48, 64


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with paired_server(tmp_path_factory.mktemp("server")) as printed:
        yield printed


@pytest.fixture
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and the remembered server of this test alone."""
    monkeypatch.setattr("platformdirs.user_config_path", lambda *_, **__: tmp_path)


def test_clip_to_take(
    link: str, own_settings: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (FRAMES, HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    write_video(tmp_path / "clip.mp4", frames, Fraction(25))
    np.save(tmp_path / "depth.npy", np.full((FRAMES, HEIGHT_PX, WIDTH_PX), 3.0, np.float32))
    scene, take = tmp_path / "scene", tmp_path / "take"
    recon = ["submit", "recon", "--input_video", str(tmp_path / "clip.mp4")]
    recon += ["--depth", str(tmp_path / "depth.npy"), "--depth_kind", "depth"]
    generate = ["submit", "generate", str(scene), "--cam", "60", "--output", str(take)]

    assert main([*recon, "--output", str(scene)]) == 1
    assert "[no_server]" in capsys.readouterr().err
    assert main(["submit", "pair", link]) == 0
    assert main([*recon, "--output", str(scene)]) == 0
    assert len(Scene(scene)) == FRAMES
    assert main(generate) == 0
    made = (take / "take.json").read_bytes()
    assert len(list((take / "mask").iterdir())) == len(Take(take)) == FRAMES

    # What is there already is neither replaced nor found in the way after the work.
    assert main(generate) == 1
    assert "[folder_exists]" in capsys.readouterr().err
    assert (take / "take.json").read_bytes() == made
