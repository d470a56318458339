"""Where the model's files are looked for, and what is said when they are missing; without torch."""

import shutil
from pathlib import Path

import pytest
from engine_tests import GOLDEN_MODELS

from ex4d.cli import main
from ex4d.diffusion import why_unavailable
from ex4d.diffusion.wan.files import (
    EX4D_MODEL,
    converted_layout,
    find_models,
    lora_names,
    lora_path,
)
from ex4d.errors import CancelledError, InputError
from ex4d.task import Progress, Task
from ex4d.weights import fetching
from ex4d.weights.files import models_folder, weights_identity


def test_published_files_are_found() -> None:
    files = find_models(GOLDEN_MODELS)
    assert len(files.dit) == 7
    assert files.adapter is not None
    assert all(path.is_file() for path in files.all_paths())


def test_missing_model_names_command_size_and_licence(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        find_models(tmp_path)
    assert caught.value.code == "model_missing"
    size_gb = sum(file.size_gb for file in EX4D_MODEL.files)
    for words in ("ex4d models download", f"{size_gb:.0f} GB", "Apache-2.0", "config.json"):
        assert words in caught.value.message


def test_one_missing_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(GOLDEN_MODELS, folder)
    (folder / "EX-4D" / "ex4d.ckpt").unlink()
    with pytest.raises(InputError, match=r"ex4d\.ckpt"):
        find_models(folder)


@pytest.mark.parametrize(
    ("is_quantised", "remedy"),
    [
        (False, "run `ex4d models convert` again after removing converted/"),
        (True, "run `ex4d models convert --fp8` again after removing converted-fp8/"),
    ],
)
def test_half_converted_files_are_not_passed_over(
    tmp_path: Path, is_quantised: bool, remedy: str
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(GOLDEN_MODELS, folder)
    converted_layout(folder, is_quantised=is_quantised).config.parent.mkdir()
    with pytest.raises(InputError, match=remedy):
        find_models(folder)


def test_folder_is_the_environments_or_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path))
    assert models_folder() == tmp_path
    monkeypatch.delenv("EX4D_MODELS")
    assert models_folder().parts[-2:] == ("ex4d", "models")


def test_loras_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "four-steps.safetensors").write_bytes(b"")
    files = converted_layout(tmp_path)
    assert lora_names(files) == ["four-steps"]
    assert lora_path(files, "four-steps").is_file()
    with pytest.raises(InputError, match="four-steps") as caught:
        lora_path(files, "eight-steps")
    assert caught.value.code == "lora_missing"


def test_identity_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(10_000_000))
    first = weights_identity(path)
    assert weights_identity(path) == first
    content = bytearray(10_000_000)
    content[0] = 1
    path.write_bytes(content)
    assert weights_identity(path) != first
    path.write_bytes(bytes(10_000_001))
    assert weights_identity(path) != first
    path.write_bytes(b"short")
    assert weights_identity(path) != first


def test_reason_why_the_engine_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path))
    reason = why_unavailable()
    assert "ex4d models download" in reason or "pip install 'ex4d[diffusion]'" in reason


# --- a mirror ------------------------------------------------------------------------------------


def content_of(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_download_from_a_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models"
    monkeypatch.setenv("EX4D_MODELS", str(folder))
    assert main(["models", "list", "ex4d"]) == 1
    assert "missing ~  11.4 GB" in capsys.readouterr().out
    assert main(["models", "download", "--mirror", str(GOLDEN_MODELS)]) == 0
    expected = {file.relative_path for file in EX4D_MODEL.files}
    assert content_of(folder) == {
        path: content for path, content in content_of(GOLDEN_MODELS).items() if path in expected
    }
    assert main(["models", "list", "ex4d"]) == 0
    capsys.readouterr()
    assert main(["models", "download", "--mirror", str(GOLDEN_MODELS)]) == 0
    assert "0 files are missing" in capsys.readouterr().out


def test_copy_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_BLOCK_BYTES", 1 << 20)
    (vae,) = [file for file in EX4D_MODEL.files if "VAE" in file.name]
    done: list[Progress] = []
    task = Task(done.append, lambda: len(done) == 2)
    with pytest.raises(CancelledError):
        fetching.fetch_from_mirror(tmp_path, vae, GOLDEN_MODELS, task)
    part = (tmp_path / vae.relative_path).with_name(f"{vae.name}.part")
    assert part.stat().st_size >= 2 << 20
    assert not (tmp_path / vae.relative_path).exists()
    path = fetching.fetch_from_mirror(tmp_path, vae, GOLDEN_MODELS, Task())
    assert path.read_bytes() == (GOLDEN_MODELS / vae.relative_path).read_bytes()
    assert not part.exists()


def test_part_of_another_file_is_noticed(tmp_path: Path) -> None:
    (vae,) = [file for file in EX4D_MODEL.files if "VAE" in file.name]
    target = tmp_path / vae.relative_path
    target.parent.mkdir(parents=True)
    target.with_name(f"{vae.name}.part").write_bytes(bytes(1000))
    with pytest.raises(InputError) as caught:
        fetching.fetch_from_mirror(tmp_path, vae, GOLDEN_MODELS, Task())
    assert caught.value.code == "checksum"
    assert fetching.fetch_from_mirror(tmp_path, vae, GOLDEN_MODELS, Task()).is_file()


def test_mirror_without_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        fetching.fetch_from_mirror(tmp_path, EX4D_MODEL.files[0], tmp_path / "none", Task())
    assert caught.value.code == "mirror_missing"


def test_too_small_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    fetching.check_room(tmp_path / "new" / "folder", EX4D_MODEL.files, GOLDEN_MODELS)
    with pytest.raises(InputError) as caught:
        fetching.check_room(tmp_path / "new" / "folder", EX4D_MODEL.files)
    assert caught.value.code == "disk_full"
    assert "found 1" in caught.value.message


def test_converted_files_are_not_fetched_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mirror is empty: whatever is asked of it is refused."""
    folder, mirror = tmp_path / "models", tmp_path / "mirror"
    mirror.mkdir()
    paths = converted_layout(folder).all_paths()
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"converted")
    arguments = ["models", "--folder", str(folder), "download", "--mirror", str(mirror)]
    assert main(arguments) == 0
    assert "0 files are missing" in capsys.readouterr().out
    paths[0].unlink()
    assert main(arguments) == 1
