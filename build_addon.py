#!/usr/bin/env python3
"""Build the Blender extension: one reproducible zip per platform, checked by Blender's validator.

Needs only the standard library and pip, so that it runs in any environment, also Blender's own:

    python build_addon.py --output dist --platform linux-x64

The wheels come from the list of hashes in `blender_addon/wheels.lock`; once fetched they are kept
in the user's cache and checked again before each use.
"""

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ADDON = ROOT / "blender_addon"
WHEELS_LOCK = ADDON / "wheels.lock"
MANIFEST = "blender_manifest.toml"
#: What both ends share, copied into the extension as it stands.
VENDORED = ("errors.py", "moves.py", "source_view.py", "trained.py", "protocol", "client")
#: Blender's name of each platform, and how the platform tags of its wheels look.
PLATFORMS = {
    "linux-x64": re.compile(r"manylinux\w+_x86_64"),
    "windows-x64": re.compile(r"win_amd64"),
    "windows-arm64": re.compile(r"win_arm64"),
    "macos-arm64": re.compile(r"macosx_\w+_(arm64|universal2)"),
    "macos-x64": re.compile(r"macosx_\w+_(x86_64|universal2)"),
}
#: The earliest time that a zip can hold: every file gets it, so that equal content is equal bytes.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
VALIDATOR = "scripts/addons_core/bl_pkg/cli/blender_ext.py"


class BuildError(Exception):
    """The extension cannot be built; the message says why and what to do."""


@dataclass(frozen=True)
class Wheel:
    """A line of `wheels.lock`."""

    file_name: str
    sha256: str

    @property
    def _parts(self) -> list[str]:
        return self.file_name.removesuffix(".whl").split("-")

    @property
    def requirement(self) -> str:
        """Name, version and hash in pip's words."""
        name, version = self._parts[:2]
        return f"{name}=={version} --hash=sha256:{self.sha256}"

    @property
    def python_tag(self) -> str:
        """Such as `cp311`."""
        return self._parts[2]

    @property
    def abi_tag(self) -> str:
        """Such as `cp311` or `abi3`."""
        return self._parts[3]

    @property
    def platform_tags(self) -> list[str]:
        """Such as `win_amd64`; a Linux wheel may have several."""
        return self._parts[4].split(".")

    def fits(self, platform: str) -> bool:
        """Whether the wheel is for this of Blender's platforms."""
        return any(PLATFORMS[platform].fullmatch(tag) for tag in self.platform_tags)


def read_wheels_lock(path: Path = WHEELS_LOCK) -> list[Wheel]:
    """Read the list of wheels, in its order.

    Raises:
        BuildError: If a line is not `sha256  file`.
    """
    wheels: list[Wheel] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"([0-9a-f]{64})  ([\w.]+-[\w.]+-\w+-\w+-[\w.]+\.whl)", line)
        if match is None:
            message = f"expected `sha256  file.whl` in {path}, line {number}, found: {line}"
            raise BuildError(message)
        wheels.append(Wheel(file_name=match[2], sha256=match[1]))
    return wheels


def cache_folder() -> Path:
    """Where fetched wheels are kept between builds."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "ex4d" / "wheels"


def fetch_wheel(wheel: Wheel, cache: Path) -> Path:
    """Return the wheel from the cache, after having pip fetch it where it is missing or damaged.

    Raises:
        BuildError: If pip cannot find exactly this file.
    """
    cached = cache / wheel.file_name
    if cached.exists() and _sha256(cached) == wheel.sha256:
        return cached
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(wheel.requirement + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--require-hashes", "--requirement"]
        command += [str(requirements), "--dest", folder, "--implementation", "cp"]
        python_version = f"{wheel.python_tag[2]}.{wheel.python_tag[3:]}"
        command += ["--python-version", python_version, "--abi", wheel.abi_tag]
        for tag in wheel.platform_tags:
            command += ["--platform", tag]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        fetched = Path(folder, wheel.file_name)
        if result.returncode or not fetched.exists() or _sha256(fetched) != wheel.sha256:
            message = (
                f"expected pip to fetch {wheel.file_name} (sha256 {wheel.sha256}), found:\n"
                f"{result.stderr.strip()}\ncheck pip's package index and blender_addon/wheels.lock"
            )
            raise BuildError(message)
        fetched.replace(cached)
    return cached


def manifest_for(platform: str, wheels: Sequence[Wheel]) -> str:
    """Return the tracked manifest with `platforms` and `wheels` added before its first table."""
    text = (ADDON / MANIFEST).read_text(encoding="utf-8")
    head, table, tail = text.partition("\n[")
    listed = "".join(f'  "./wheels/{wheel.file_name}",\n' for wheel in wheels)
    return f'{head}platforms = ["{platform}"]\nwheels = [\n{listed}]\n{table}{tail}'


def stage(folder: Path, platform: str, cache: Path) -> None:
    """Lay out the extension for one platform in an empty folder, as the zip will hold it."""
    wheels = [wheel for wheel in read_wheels_lock() if wheel.fits(platform)]
    ignore = shutil.ignore_patterns("__pycache__", "_vendor", "wheels.lock", ".*", MANIFEST)
    shutil.copytree(ADDON, folder, ignore=ignore, dirs_exist_ok=True)
    (folder / MANIFEST).write_text(manifest_for(platform, wheels), encoding="utf-8", newline="\n")
    vendor(folder)
    wheel_folder = folder / "wheels"
    wheel_folder.mkdir()
    for wheel in wheels:
        shutil.copy(fetch_wheel(wheel, cache), wheel_folder / wheel.file_name)


def vendor(folder: Path) -> None:
    """Copy what both ends share into the extension's folder, in place of any older copy."""
    target = folder / "_vendor"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    (target / "__init__.py").write_text(
        '"""Copies of `ex4d` packages, made by the build: do not edit."""\n',
        encoding="utf-8",
        newline="\n",
    )
    shutil.copy(ROOT / "LICENSE", target / "LICENSE")
    for name in VENDORED:
        source = ROOT / "ex4d" / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)


def write_zip(folder: Path, path: Path) -> None:
    """Zip a folder so that the same content gives the same bytes."""
    temporary = path.with_name(path.name + ".part")
    with zipfile.ZipFile(temporary, "w") as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            info = zipfile.ZipInfo(file.relative_to(folder).as_posix(), ZIP_TIME)
            info.external_attr = 0o644 << 16
            info.create_system = 3  # Unix on every system, or the bytes would tell them apart.
            # A wheel is compressed already.
            info.compress_type = (
                zipfile.ZIP_STORED if file.suffix == ".whl" else zipfile.ZIP_DEFLATED
            )
            archive.writestr(info, file.read_bytes())
    temporary.replace(path)


def find_validator(given: Path | None) -> list[str]:
    """Return the command that validates an extension, up to the zip's path.

    Args:
        given: `blender_ext.py` of some Blender, or a Blender executable. Otherwise: Blender as a
            module in this Python, then `blender` on the PATH.

    Raises:
        BuildError: If there is none.
    """
    if given is not None:
        return _script_command(given) if given.suffix == ".py" else _blender_command(given)
    module = importlib.util.find_spec("bpy")
    if module is not None and module.origin is not None:
        scripts = sorted(Path(module.origin).parent.glob(f"*/{VALIDATOR}"))
        if scripts:
            return _script_command(scripts[-1])
    blender = shutil.which("blender")
    if blender is not None:
        return _blender_command(Path(blender))
    message = (
        "expected Blender, to validate the extension: as a module in this Python, as `blender` on "
        "the PATH or given by --validator; found none; add one or pass --no-validate"
    )
    raise BuildError(message)


def _script_command(script: Path) -> list[str]:
    tags = script.parents[3] / "modules" / "_bpy_internal" / "extensions" / "tags.py"
    return [sys.executable, str(script), "validate", f"--valid-tags={tags}"]


def _blender_command(blender: Path) -> list[str]:
    return [str(blender), "--command", "extension", "validate"]


def validate(path: Path, command: Sequence[str]) -> None:
    """Let Blender judge a zip.

    Raises:
        BuildError: With Blender's words.
    """
    result = subprocess.run([*command, str(path)], check=False, capture_output=True, text=True)
    if result.returncode:
        message = f"Blender refuses {path.name}:\n{result.stdout.strip()}\n{result.stderr.strip()}"
        raise BuildError(message)


def build(
    output: Path, platforms: Iterable[str], *, validator: Sequence[str] | None, cache: Path
) -> list[Path]:
    """Build, validate and list zips.

    Args:
        output: Folder of the zips and of `SHA256SUMS`, which lists exactly those of this build.
        platforms: Keys of `PLATFORMS`.
        validator: Command that judges a zip whose path is appended; None judges nothing.
        cache: Folder of fetched wheels.

    Raises:
        BuildError: If a wheel cannot be fetched or Blender refuses a zip.
    """
    output.mkdir(parents=True, exist_ok=True)
    manifest = tomllib.loads((ADDON / MANIFEST).read_text(encoding="utf-8"))
    zips: list[Path] = []
    for platform in platforms:
        name = f"{manifest['id']}-{manifest['version']}-{platform.replace('-', '_')}.zip"
        with tempfile.TemporaryDirectory() as folder:
            stage(Path(folder), platform, cache)
            built = Path(output, name)
            write_zip(Path(folder), built)
        if validator is not None:
            validate(built, validator)
        zips.append(built)
    sums = "".join(f"{_sha256(path)}  {path.name}\n" for path in zips)
    (output / "SHA256SUMS").write_text(sums, encoding="utf-8", newline="\n")
    return zips


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """Run from the command line; see `--help`."""
    parser = argparse.ArgumentParser(description="Build the Blender extension.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder of the zips")
    parser.add_argument(
        "--platform",
        action="append",
        choices=list(PLATFORMS),
        help="build for this platform alone; may be repeated",
    )
    parser.add_argument(
        "--validator",
        type=Path,
        help="blender_ext.py of a Blender, or a Blender executable; otherwise looked for",
    )
    parser.add_argument("--no-validate", action="store_true", help="build without Blender")
    parser.add_argument(
        "--cache", type=Path, default=cache_folder(), help="folder that keeps fetched wheels"
    )
    parser.add_argument(
        "--vendor",
        action="store_true",
        help="only copy the shared packages into blender_addon/, for type checkers and for trying "
        "changes in a Blender that has the folder linked in",
    )
    arguments = parser.parse_args()
    if arguments.vendor:
        vendor(ADDON)
        return 0
    try:
        zips = build(
            arguments.output,
            arguments.platform or list(PLATFORMS),
            validator=None if arguments.no_validate else find_validator(arguments.validator),
            cache=arguments.cache,
        )
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    for path in zips:
        print(f"{path} {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
