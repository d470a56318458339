"""Where the model's files are looked for, and what is said when they are missing; without torch."""

import shutil
from pathlib import Path

import pytest
from engine_tests import GOLDEN_MODELS

from ex4d.diffusion import why_unavailable
from ex4d.diffusion.wan.files import (
    PUBLISHED_FILES,
    converted_layout,
    find_models,
    lora_names,
    lora_path,
    models_folder,
    weights_identity,
)
from ex4d.errors import InputError


def test_published_files_are_found() -> None:
    files = find_models(GOLDEN_MODELS)
    assert len(files.dit) == 7
    assert files.adapter is not None
    assert all(path.is_file() for path in files.all_paths())


def test_missing_model_names_command_size_and_licence(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        find_models(tmp_path)
    assert caught.value.code == "model_missing"
    size_gb = sum(file.size_gb for file in PUBLISHED_FILES)
    for words in ("ex4d models download", f"{size_gb:.0f} GB", "Apache-2.0", "config.json"):
        assert words in caught.value.message


def test_one_missing_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(GOLDEN_MODELS, folder)
    (folder / "EX-4D" / "ex4d.ckpt").unlink()
    with pytest.raises(InputError, match=r"ex4d\.ckpt"):
        find_models(folder)


def test_half_converted_files_are_not_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(GOLDEN_MODELS, folder)
    converted_layout(folder).config.parent.mkdir()
    with pytest.raises(InputError, match="ex4d models convert"):
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
