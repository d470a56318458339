"""The extension in a real Blender window, step by step; `run.py` says what it needs."""

import os
from pathlib import Path

import pytest

PROGRAM = os.environ.get("EX4D_BLENDER_WINDOW")


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.skipif(PROGRAM is None, reason="EX4D_BLENDER_WINDOW names no Blender program")
def test_artist_gets_from_the_zip_to_strips(tmp_path: Path) -> None:
    import run

    assert PROGRAM is not None
    found = run.run(Path(PROGRAM), Path(os.environ["EX4D_ADDON_ZIP"]), tmp_path)
    assert found.problems == []
    assert found.report["steps"]
