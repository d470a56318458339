"""The build of the extension: pinned, reproducible, one zip per platform."""

import hashlib
import importlib.util
import shutil
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("build_addon", ROOT / "build_addon.py")
assert _SPEC is not None
assert _SPEC.loader is not None
build_addon = importlib.util.module_from_spec(_SPEC)
sys.modules["build_addon"] = build_addon
_SPEC.loader.exec_module(build_addon)


@pytest.fixture
def fake_wheels(tmp_path, monkeypatch):
    """A lock whose wheels are small files that lie in the cache already."""
    cache = tmp_path / "cache"
    cache.mkdir()
    lines = ["# a comment"]
    for wheel in build_addon.read_wheels_lock():
        content = wheel.file_name.encode()
        (cache / wheel.file_name).write_bytes(content)
        lines.append(f"{hashlib.sha256(content).hexdigest()}  {wheel.file_name}")
    lock = tmp_path / "wheels.lock"
    lock.write_text("\n".join(lines) + "\n")
    original = build_addon.read_wheels_lock
    monkeypatch.setattr(build_addon, "read_wheels_lock", lambda: original(lock))
    return cache


def build_one(output, cache, platform="linux-x64"):
    return build_addon.build(output, [platform], validator=None, cache=cache)[0]


@pytest.mark.parametrize("platform", list(build_addon.PLATFORMS))
@pytest.mark.parametrize(
    ("package", "python_tags"),
    [
        ("pyzmq", {"cp311", "cp312"}),
        ("msgpack", {"cp311", "cp313", "cp314"}),
        ("msgspec", {"cp311", "cp313", "cp314"}),
    ],
)
def test_every_platform_has_a_wheel_for_every_python(platform, package, python_tags):
    wheels = [
        wheel
        for wheel in build_addon.read_wheels_lock()
        if wheel.fits(platform) and wheel.requirement.startswith(f"{package}==")
    ]
    assert {wheel.python_tag for wheel in wheels} == python_tags
    assert len({wheel.requirement.split()[0] for wheel in wheels}) == 1, "one version of each"


def test_two_builds_are_the_same_bytes(tmp_path, fake_wheels):
    first = build_one(tmp_path / "first", fake_wheels)
    second = build_one(tmp_path / "second", fake_wheels)
    assert first.read_bytes() == second.read_bytes()
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    sums = (first.parent / "SHA256SUMS").read_text()
    assert sums == f"{digest}  {first.name}\n"


def test_tracked_manifest_is_left_alone(tmp_path, fake_wheels):
    path = build_addon.ADDON / "blender_manifest.toml"
    before = path.read_bytes()
    build_one(tmp_path, fake_wheels)
    assert path.read_bytes() == before


@pytest.mark.parametrize("platform", list(build_addon.PLATFORMS))
def test_zip_holds_what_its_manifest_lists(tmp_path, fake_wheels, platform):
    with zipfile.ZipFile(build_one(tmp_path, fake_wheels, platform)) as archive:
        names = set(archive.namelist())
        manifest = tomllib.loads(archive.read("blender_manifest.toml").decode())
    assert manifest["platforms"] == [platform]
    wheels = {name for name in names if name.startswith("wheels/")}
    assert {f"./{name}" for name in wheels} == set(manifest["wheels"])
    assert {"__init__.py", "LICENSE", "THIRD_PARTY.md", "_vendor/LICENSE"} <= names
    assert "_vendor/protocol/codec.py" in names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".lock")]


def test_manifest_tells_the_version_of_the_package():
    manifest = tomllib.loads((build_addon.ADDON / "blender_manifest.toml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert manifest["version"] == project["version"]
    assert manifest["license"] == ["SPDX:GPL-3.0-or-later"]
    assert "wheels" not in manifest, "the build adds them"


def test_every_module_states_its_licence():
    for path in build_addon.ADDON.rglob("*.py"):
        if "_vendor" not in path.parts:
            first_line = path.read_text().partition("\n")[0]
            assert first_line == "# SPDX-License-Identifier: GPL-3.0-or-later", path


def test_extension_uses_no_thread_and_prints_nothing():
    for path in build_addon.ADDON.rglob("*.py"):
        text = path.read_text()
        assert "import threading" not in text, path
        assert "from concurrent" not in text, path
        assert "print(" not in text, path


@pytest.mark.parametrize(
    "line",
    ["pyzmq==27.3.0", "00  pyzmq-27.3.0-cp311-cp311-win_amd64.whl", f"{'0' * 64}  ../x.whl"],
    ids=["requirement", "short-hash", "path"],
)
def test_damaged_lock_is_refused(tmp_path, line):
    lock = tmp_path / "wheels.lock"
    lock.write_text(line + "\n")
    with pytest.raises(build_addon.BuildError, match="line 1"):
        build_addon.read_wheels_lock(lock)


def test_damaged_wheel_in_the_cache_is_not_used(tmp_path, fake_wheels, monkeypatch):
    wheel = next(wheel for wheel in build_addon.read_wheels_lock() if wheel.fits("linux-x64"))
    (fake_wheels / wheel.file_name).write_bytes(b"damaged")
    # An index that does not exist: fetching must be tried, and must fail with the file's name.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(build_addon.BuildError, match=wheel.file_name):
        build_one(tmp_path / "out", fake_wheels)


def test_missing_validator_is_an_error(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(build_addon.BuildError, match="--no-validate"):
        build_addon.find_validator(None)


def test_refusal_of_the_validator_is_an_error(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit('bad tagline')"]
    with pytest.raises(build_addon.BuildError, match="bad tagline"):
        build_addon.validate(tmp_path / "x.zip", command)
