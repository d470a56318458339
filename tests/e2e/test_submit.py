"""`ex4d submit` as a user types it, against a real server in a process of its own."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from ex4d.cli import main
from ex4d.client import JobPhase
from ex4d.clip import write_video
from ex4d.demo.play import paired_server
from ex4d.scene import Scene
from ex4d.take import Take

FRAMES, HEIGHT_PX, WIDTH_PX = 5, 48, 64


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With `clip.mp4` and `depth.npy`; keys and the remembered server lie there too."""
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (FRAMES, HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    write_video(tmp_path / "clip.mp4", frames, Fraction(25))
    np.save(tmp_path / "depth.npy", np.full((FRAMES, HEIGHT_PX, WIDTH_PX), 3.0, np.float32))
    monkeypatch.setattr("platformdirs.user_config_path", lambda *_, **__: tmp_path)
    return tmp_path


@pytest.fixture
def link(tmp_path: Path) -> Iterator[str]:
    with paired_server(tmp_path) as printed:
        yield printed


def recon_arguments(folder: Path) -> list[str]:
    recon = ["submit", "recon", "--input_video", str(folder / "clip.mp4")]
    return [*recon, "--depth", str(folder / "depth.npy"), "--depth_kind", "depth"]


def test_clip_to_take(folder: Path, link: str, capsys: pytest.CaptureFixture[str]) -> None:
    scene, take = folder / "scene", folder / "take"
    recon = recon_arguments(folder)
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


@pytest.mark.parametrize("is_heard", [True, False])
def test_interrupting_cancels_the_job(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_heard: bool
) -> None:
    """Where the server says nothing in time, the command was interrupted all the same."""

    def interrupt(bars: Progress, *_: object, description: str, **__: object) -> None:
        if description not in [phase.value for phase in JobPhase]:
            monkeypatch.undo()
            if not is_heard:
                monkeypatch.setattr("ex4d.commands.submit._CANCEL_TIMEOUT_S", 0.0)
            raise KeyboardInterrupt

    with paired_server(folder) as link:
        assert main(["submit", "pair", link]) == 0
        monkeypatch.setattr(Progress, "update", interrupt)
        assert main([*recon_arguments(folder), "--output", str(folder / "scene")]) == 130
    assert not (folder / "scene").exists()
    if not is_heard:
        return
    with closing(sqlite3.connect(folder / "server" / "journal.sqlite3")) as journal:
        ((event,),) = journal.execute("SELECT event FROM jobs").fetchall()
    assert json.loads(event)["state"] == "cancelled"


def test_no_server_is_told_soon(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with paired_server(folder) as link:
        assert main(["submit", "pair", link]) == 0
    monkeypatch.setattr("ex4d.commands.submit._CONNECT_TIMEOUT_S", 2.0)
    assert main([*recon_arguments(folder), "--output", str(folder / "scene")]) == 1
    assert "[timeout]" in capsys.readouterr().err
