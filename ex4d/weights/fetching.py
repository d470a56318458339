"""Fetches the published files when the user asks: from the hub, or from a mirror on disk.

What was fetched in part is continued, and each file is compared with its publisher's checksum.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from ex4d.errors import InputError
from ex4d.task import Task

from .files import PublishedFile

_BLOCK_BYTES = 8 << 20
#: Files go to other names until they are whole.
_PART_SUFFIX = ".part"
_SHA256_DIGITS = 64


def check_room(folder: Path, files: Iterable[PublishedFile], mirror: Path | None = None) -> None:
    """Refuse to begin what the disk cannot hold.

    Args:
        folder: The models folder.
        files: What shall go there.
        mirror: Where they come from, if not from the hub.

    Raises:
        InputError: `disk_full`.
    """
    needed_gb = sum(_size_gb(file, mirror) for file in files)
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    if needed_gb > free_gb:
        msg = (
            f"expected {needed_gb:.0f} GB free for the model's files, found {free_gb:.0f}; free "
            "some space, or name a folder on another disk with EX4D_MODELS"
        )
        raise InputError("disk_full", msg)


def fetch_from_hub(folder: Path, file: PublishedFile, endpoint: str | None = None) -> Path:
    """Fetch a file from the Hugging Face hub, or go on where an earlier try ended.

    Args:
        folder: The models folder.
        file: What to fetch.
        endpoint: Another hub than the usual one.

    Returns:
        Where the file is.

    Raises:
        InputError: `hub_missing`, `fetch_failed` or `checksum`.
    """
    if find_spec("huggingface_hub") is None:
        msg = (
            "expected the package huggingface_hub, found none; run "
            "`pip install 'ex4d[diffusion]'`, or use --mirror"
        )
        raise InputError("hub_missing", msg)
    from huggingface_hub import (  # pyright: ignore[reportMissingImports] - an optional dependency
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
    )

    try:
        url = hf_hub_url(file.repository, file.name, endpoint=endpoint)
        etag = get_hf_file_metadata(url, endpoint=endpoint).etag or ""
        path = Path(
            hf_hub_download(
                file.repository, file.name, local_dir=folder / file.folder, endpoint=endpoint
            )
        )
    # The errors of the network library below it, which changes between versions, share no base.
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
        msg = (
            f"expected {file.name} from {file.repository}, found none ({reason}); "
            "run the same command again, it goes on where it stopped"
        )
        raise InputError("fetch_failed", msg) from error
    # Small files carry git's checksum instead, which the hub's package compares itself.
    if len(etag) == _SHA256_DIGITS:
        _compare(path, file_sha256(path), etag)
    return path


def fetch_from_mirror(folder: Path, file: PublishedFile, mirror: Path, task: Task) -> Path:
    """Copy a file from a folder of the same layout, or go on where an earlier try ended.

    Args:
        folder: The models folder.
        file: What to copy.
        mirror: Another models folder.
        task: Told the copied megabytes, the stage being the file's name.

    Returns:
        Where the file is.

    Raises:
        InputError: `mirror_missing` or `checksum`.
    """
    source, target = mirror / file.relative_path, folder / file.relative_path
    if not source.is_file():
        msg = (
            f"expected {file.relative_path} in the mirror, found none; name a folder that holds "
            f"{file.folder}/ as it was downloaded"
        )
        raise InputError("mirror_missing", msg)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + _PART_SUFFIX)
    total_bytes = source.stat().st_size
    have_bytes = part.stat().st_size if part.is_file() else 0
    if have_bytes > total_bytes:
        part.unlink()
        have_bytes = 0
    digest = hashlib.sha256()
    with source.open("rb") as reader, part.open("ab") as writer:
        while block := reader.read(_BLOCK_BYTES):
            digest.update(block)
            end_bytes = reader.tell()
            if end_bytes > have_bytes:
                writer.write(block[max(0, len(block) - (end_bytes - have_bytes)) :])
                have_bytes = end_bytes
            task.step(file.name, end_bytes >> 20, total_bytes >> 20)
        writer.flush()
        os.fsync(writer.fileno())
    try:
        _compare(part, file_sha256(part), digest.hexdigest())
    except InputError:
        # What an earlier try left does not belong to this file.
        part.unlink()
        raise
    part.replace(target)
    return target


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size_gb(file: PublishedFile, mirror: Path | None) -> float:
    if mirror is None or not (mirror / file.relative_path).is_file():
        return file.size_gb
    return (mirror / file.relative_path).stat().st_size / 1e9


def _compare(path: Path, found: str, expected: str) -> None:
    if found != expected:
        msg = (
            f"expected {path.name} with the SHA-256 {expected}, found {found}; delete the file and "
            "run the same command again"
        )
        raise InputError("checksum", msg)
