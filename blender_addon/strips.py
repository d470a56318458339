# SPDX-License-Identifier: GPL-3.0-or-later
"""A take becomes strips of the video sequence editor: the shot, and its condition beside it."""

# Blender 4.5 renamed the classes of strips, so that annotations must not be evaluated.
from __future__ import annotations

from pathlib import Path

import bpy
import msgspec

from . import compat
from ._vendor.errors import InputError
from ._vendor.protocol.documents import TakeDocument
from .scene_files import stored_path

DOCUMENT_NAME = "take.json"
#: Custom property of the shot's strip: the text of `take.json`.
DOCUMENT_PROPERTY = "ex4d_take"
#: Name of the shot's object.
SHOT_PROPERTY = "ex4d_take_shot"
#: Custom property of an image that shows a take behind a camera.
TAKE_IMAGE = "ex4d_take_image"
_MAX_DOCUMENT_BYTES = 16 << 20
#: Of Blender's sequencer.
_MAX_CHANNEL = 128
#: Folder of a take -> what its strip is called after the engine's name.
_SEQUENCES = {"frames": "", "color": " color", "mask": " mask"}


def add_take_strips(
    context: bpy.types.Context,
    shot: bpy.types.Object,
    take_folder: Path,
    *,
    frame_start: int | None = None,
) -> list[bpy.types.Strip]:
    """Add a take to the sequencer on free channels; nothing that is there changes.

    Args:
        context: Its scene gets the strips.
        shot: The shot that the take was made of.
        take_folder: With `take.json` and its frames.
        frame_start: Frame of the take's first; where absent, it is told by the source frames that
            the take looks at.

    Returns:
        The strips of the shot, its colour and its mask; the last two are muted.

    Raises:
        InputError: `take_invalid` if something is missing or wrong, `channels_full` if there is no
            room.
    """
    text, document = _read_document(take_folder)
    frame_count = document.frame_count
    files = {
        sequence: [f"{index + 1:04d}.png" for index in range(frame_count)]
        for sequence in _SEQUENCES
    }
    for sequence, names in files.items():
        for name in names:
            if not (take_folder / sequence / name).is_file():
                message = f"expected {sequence}/{name} in {take_folder}, found none; fetch it again"
                raise InputError("take_invalid", message)
    if frame_start is None:
        frame_start = int(shot.ex4d_shot.frame_start) + _first_offset(document)
    editor = compat.ensure_sequencer(context.scene)
    collection = compat.strips_of(editor)
    channel = _free_channels(collection, frame_start, frame_start + frame_count, len(files))
    engine = document.settings.__struct_config__.tag
    strips: list[bpy.types.Strip] = []
    for (sequence, names), suffix in zip(files.items(), _SEQUENCES.values(), strict=True):
        strip = collection.new_image(
            name=f"{shot.name} {engine}{suffix}",
            filepath=stored_path(take_folder / sequence / names[0]),
            channel=channel + len(strips),
            frame_start=frame_start,
            # The whole picture, never squeezed.
            fit_method="FIT",
        )
        for name in names[1:]:
            strip.elements.append(name)
        strip.mute = bool(strips)
        strips.append(strip)
    strips[0][DOCUMENT_PROPERTY] = text
    strips[0][SHOT_PROPERTY] = shot.name
    return strips


def take_of_strip(strip: bpy.types.Strip) -> TakeDocument | None:
    """How the take of a strip was made; None if the strip is none of ours.

    Raises:
        InputError: `take_invalid` if what the strip holds is damaged.
    """
    text = strip.get(DOCUMENT_PROPERTY)
    return None if text is None else _decode(str(text).encode(), strip.name)


def _read_document(take_folder: Path) -> tuple[str, TakeDocument]:
    try:
        with (take_folder / DOCUMENT_NAME).open("rb") as file:
            content = file.read(_MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        message = f"expected a take in {take_folder}, found none: {error.strerror}"
        raise InputError("take_invalid", message) from error
    return content.decode("utf-8", "replace"), _decode(content, str(take_folder))


def _decode(content: bytes, where: str) -> TakeDocument:
    if len(content) > _MAX_DOCUMENT_BYTES:
        message = f"expected at most {_MAX_DOCUMENT_BYTES} bytes of take.json in {where}"
        raise InputError("take_invalid", message)
    try:
        return msgspec.json.decode(content, type=TakeDocument)
    except msgspec.DecodeError as error:
        message = f"expected the facts of a take in {where}, found none that can be read: {error}"
        raise InputError("take_invalid", message) from error


def _first_offset(document: TakeDocument) -> int:
    """How many frames after the clip's first frame the take begins; negative if before it.

    A take that begins before the clip looks at the clip's first frame until the clip begins.
    """
    times = [pose.source_time for pose in document.trajectory.poses]
    held = next((index for index, time in enumerate(times) if time != times[0]), 1)
    return times[0] - (held - 1 if times[0] == 0 else 0)


def _free_channels(
    collection: bpy.types.bpy_prop_collection, frame_start: int, frame_end: int, count: int
) -> int:
    """The lowest of `count` neighbouring channels without a strip between two frames."""
    taken = set()
    for strip in collection:
        first, end = compat.strip_range(strip)
        if first < frame_end and frame_start < end:
            taken.add(strip.channel)
    for channel in range(1, _MAX_CHANNEL - count + 2):
        if taken.isdisjoint(range(channel, channel + count)):
            return channel
    message = (
        f"expected {count} neighbouring free channels at frames {frame_start} to {frame_end - 1}, "
        "found none; move strips away"
    )
    raise InputError("channels_full", message)
