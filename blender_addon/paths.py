# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the extension keeps its files: never beside its code."""

import re
import tomllib
from pathlib import Path

import bpy


def app_version() -> str:
    """Version of the extension, from its manifest."""
    text = Path(__file__).with_name("blender_manifest.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["version"])


def private_folder() -> Path:
    """The folder that Blender gives this extension: the identity and the jobs under way."""
    return Path(bpy.utils.extension_path_user(__package__, create=True))


def cache_folder(chosen: str) -> Path:
    """Where scenes, takes and logs go that have no saved file to lie beside.

    Args:
        chosen: The preference; empty for a folder of the extension's own.
    """
    folder = Path(bpy.path.abspath(chosen)) if chosen else private_folder() / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def results_folder(kind: str, title: str, request_id: str, chosen_cache: str) -> Path:
    """Where the results of a job go: beside the saved file, or else into the cache.

    Args:
        kind: `scenes` or `takes`.
        title: For people; letters that a file system may refuse are replaced.
        request_id: Keeps two results of one title apart.
        chosen_cache: The preference for the cache folder.
    """
    if bpy.data.filepath:
        base = Path(bpy.data.filepath).parent / f"ex4d_{kind}"
    else:
        base = cache_folder(chosen_cache) / kind
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", title).strip("_")[:48] or kind
    return base / f"{name}_{request_id[:8]}"
