"""The benchmark of the depth networks runs, and refuses what it cannot measure."""

from pathlib import Path

import pytest
from engine_tests import needs_estimators

needs_estimators()

from ex4d.cli import main


def test_random_weights(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "depth", "--random-weights", "--size", "56x42", "--side_px", "42"]
    assert main([*arguments, "--frames", "2"]) == 0
    output = capsys.readouterr().out
    for words in ("network input 56x42", "encoder", "head", "frames a second", "peak memory"):
        assert words in output


@pytest.mark.parametrize("size", ["512", "0x64", "ax64", "64x"])
def test_sizes_that_are_none_are_refused(capsys: pytest.CaptureFixture[str], size: str) -> None:
    assert main(["bench", "depth", "--random-weights", "--size", size]) == 1
    assert "[bench_size]" in capsys.readouterr().err


def test_published_weights_must_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path))
    assert main(["bench", "depth", "--size", "64x64", "--frames", "1"]) == 1
    assert "[model_missing]" in capsys.readouterr().err
