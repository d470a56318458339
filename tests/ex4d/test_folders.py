"""Folders that appear whole: what was there before is never lost."""

from pathlib import Path

import pytest

from ex4d.errors import InputError
from ex4d.folders import whole_folder

MARK = "scene.json"


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """An earlier result."""
    folder = tmp_path / "scene"
    folder.mkdir()
    (folder / MARK).write_text("old")
    return folder


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_earlier_result_gives_way(earlier: Path) -> None:
    with whole_folder(earlier, replaces=MARK) as temporary:
        (temporary / MARK).write_text("new")
        assert (earlier / MARK).read_text() == "old"
    assert (earlier / MARK).read_text() == "new"
    assert names_in(earlier.parent) == {"scene"}


def test_earlier_result_stays_if_the_work_fails(earlier: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole_folder(earlier, replaces=MARK):
        raise ZeroDivisionError
    assert (earlier / MARK).read_text() == "old"
    assert names_in(earlier.parent) == {"scene"}


@pytest.mark.parametrize("also_back", [False, True], ids=["goes back", "cannot go back"])
def test_earlier_result_survives_a_failed_rename(
    earlier: Path, monkeypatch: pytest.MonkeyPatch, also_back: bool
) -> None:
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if target == earlier and (also_back or "old" not in self.parent.name):
            raise PermissionError("held open")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(PermissionError), whole_folder(earlier, replaces=MARK) as temporary:
        (temporary / MARK).write_text("new")
    (kept,) = earlier.parent.rglob(MARK)
    assert kept.read_text() == "old"
    assert (kept.parent == earlier) != also_back


def test_what_is_not_a_result_stays(earlier: Path) -> None:
    with pytest.raises(InputError) as caught, whole_folder(earlier, replaces="take.json"):
        pass
    assert caught.value.code == "folder_exists"
    assert (earlier / MARK).read_text() == "old"
