# SPDX-License-Identifier: GPL-3.0-or-later
"""A take becomes strips of the video sequence editor: the shot, and its condition beside it."""

# Blender 4.5 renamed the classes of strips, so that annotations must not be evaluated.
from __future__ import annotations

import hashlib
import os.path
from pathlib import Path

import bpy

from . import compat, documents, field_of_view
from ._vendor.errors import InputError
from ._vendor.protocol.documents import TakeDocument, TrajectoryDocument
from .scene_files import DOCUMENT_NAME as SCENE_NAME
from .scene_files import stored_path
from .shots import is_meant

DOCUMENT_NAME = "take.json"
#: Custom property of the shot's strip: the text of `take.json`.
DOCUMENT_PROPERTY = "ex4d_take"
#: Id of the shot; takes of older versions have none until their file is opened.
SHOT_ID_PROPERTY = "ex4d_take_shot_id"
#: Name of the shot's object when the take was made.
SHOT_PROPERTY = "ex4d_take_shot"
#: Which of the shot's takes it is, counted from 1; takes of older versions have none.
NUMBER_PROPERTY = "ex4d_take_number"
#: Custom property of an image that shows a take behind a camera.
TAKE_IMAGE = "ex4d_take_image"
#: Every how many frames of the Blender scene the take has a picture; 1 where there is none.
FRAME_STEP_PROPERTY = "ex4d_take_frame_step"
_MAX_DOCUMENT_BYTES = 16 << 20
#: Of Blender's sequencer.
_MAX_CHANNEL = 128
#: Folder of a take -> what its strip is called after the engine's name.
_SEQUENCES = {"frames": "", "color": " color", "mask": " mask"}
#: Those beside the shot itself.
_PARTS = ("color", "mask")


def add_take_strips(
    context: bpy.types.Context,
    shot: bpy.types.Object,
    take_folder: Path,
    *,
    frame_start: int | None = None,
    frame_step: int = 1,
) -> list[bpy.types.Strip]:
    """Add a take to the sequencer on free channels; nothing that is there changes.

    Args:
        context: Its scene gets the strips.
        shot: The shot that the take was made of.
        take_folder: With `take.json` and its frames.
        frame_start: Frame of the take's first; where absent, it is told by the source frames that
            the take looks at.
        frame_step: For how many frames each picture stands; the last one not past the clip's end.

    Returns:
        The strips of the shot, its colour and its mask; the last two are muted.

    Raises:
        InputError: `take_invalid` if something is missing or wrong, `channels_full` if there is no
            room.
    """
    content = documents.read_document(
        take_folder / DOCUMENT_NAME, max_bytes=_MAX_DOCUMENT_BYTES, code="take_invalid"
    )
    document = _decode(content, str(take_folder))
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
        frame_start = first_frame(shot, document.trajectory, frame_step)
    # How often the last picture is repeated: not beyond the clip, if it is not all beyond it.
    last_frame = frame_start + (frame_count - 1) * frame_step
    last_hold = max(1, min(frame_step, shot.ex4d_shot.frame_end - last_frame + 1))
    editor = compat.ensure_sequencer(context.scene)
    collection = compat.strips_of(editor)
    channel = _free_channels(collection, frame_start, last_frame + last_hold, len(files))
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
        held = [name for name in names[:-1] for _ in range(frame_step)] + names[-1:] * last_hold
        for name in held[1:]:
            strip.elements.append(name)
        strip.mute = bool(strips)
        strips.append(strip)
    strips[0][DOCUMENT_PROPERTY] = content.decode("utf-8", "replace")
    strips[0][SHOT_ID_PROPERTY] = shot.ex4d_shot.shot_id
    strips[0][SHOT_PROPERTY] = shot.name
    strips[0][FRAME_STEP_PROPERTY] = frame_step
    numbers = [_number_of(other) for other in takes_of(context.scene, shot)]
    strips[0][NUMBER_PROPERTY] = max(numbers) + 1
    return strips


def takes_of(scene: bpy.types.Scene, shot: bpy.types.Object) -> list[bpy.types.Strip]:
    """The strips of a shot's takes, the oldest first."""
    return [take for take in all_takes(scene) if is_take(take, shot)]


def takes_beside(scene: bpy.types.Scene, take: bpy.types.Strip) -> list[bpy.types.Strip]:
    """All takes of the shot that a take is of, the oldest first, even where the shot is gone.

    Empty where a take of an older version does not say whose it is.
    """
    # The name is another after the shot was renamed.
    key = 0 if owner_of(take)[0] else 1
    owner = owner_of(take)[key]
    return [other for other in all_takes(scene) if owner and owner_of(other)[key] == owner]


def all_takes(scene: bpy.types.Scene) -> list[bpy.types.Strip]:
    """The strips of the takes of all shots, the oldest of each first."""
    if scene.sequence_editor is None:
        return []
    found = compat.strips_of(scene.sequence_editor)
    takes = [strip for strip in found if DOCUMENT_PROPERTY in strip]
    # Blender puts strips in another order when they change channels.
    return sorted(takes, key=lambda strip: (_number_of(strip), strip.name))


def is_take(strip: bpy.types.Strip, shot: bpy.types.Object) -> bool:
    """Whether a strip is a take of a shot."""
    if DOCUMENT_PROPERTY not in strip:
        return False
    shot_id, shot_name = owner_of(strip)
    if not shot_id and not shot_name:
        # Takes of the oldest versions do not say whose they are, but are named after it.
        return strip.name.startswith(f"{shot.name} ")
    return is_meant(shot, shot_id, shot_name)


def frame_step_of(take: bpy.types.Strip) -> int:
    """For how many frames each picture of a take stands."""
    found = take.get(FRAME_STEP_PROPERTY, 1)
    # A .blend from elsewhere may say anything.
    return found if isinstance(found, int) and 1 <= found <= len(take.elements) else 1


def owner_of(take: bpy.types.Strip) -> tuple[str, str]:
    """Id and name of the shot that a take is of, each empty where the take does not say it."""
    shot_id, shot_name = take.get(SHOT_ID_PROPERTY), take.get(SHOT_PROPERTY)
    # As for the step.
    return (
        shot_id if isinstance(shot_id, str) else "",
        shot_name if isinstance(shot_name, str) else "",
    )


def _number_of(take: bpy.types.Strip) -> int:
    found = take.get(NUMBER_PROPERTY, 0)
    return found if isinstance(found, int) else 0


def scene_of(document: TakeDocument, shot: bpy.types.PropertyGroup) -> Path:
    """The `scene.json` that a take was made of: the field of view may have changed since.

    Raises:
        InputError: `scene_other` if the scene was made anew since, `scene_invalid` if there is one
            that cannot be read.
    """
    folder, sha256 = Path(shot.folder), document.scene_sha256
    for path in (folder / SCENE_NAME, field_of_view.changed_document(folder, sha256)):
        if path.is_file():
            content = documents.read_document(
                path, max_bytes=_MAX_DOCUMENT_BYTES, code="scene_invalid"
            )
            if hashlib.sha256(content).hexdigest() == sha256:
                return path
    message = (
        f"expected the scene that the take was made of in {folder}, found another; choose Use "
        "Settings, then Generate Take"
    )
    raise InputError("scene_other", message)


def folder_of(strip: bpy.types.Strip) -> Path:
    """Where the files of a take are: where its strip finds them, wherever they moved."""
    return Path(bpy.path.abspath(strip.directory)).resolve().parent


def take_of(
    collection: bpy.types.bpy_prop_collection, strip: bpy.types.Strip | None
) -> bpy.types.Strip | None:
    """The take that a strip is, or is the colour or the mask of; None if it is neither.

    Panels ask for it whenever they are drawn: no file is touched.
    """
    if strip is None or DOCUMENT_PROPERTY in strip:
        return strip
    if strip.type != "IMAGE" or Path(strip.directory).name not in _PARTS:
        return None
    folder = _plain_folder_of(strip)
    takes = [
        other
        for other in collection
        if DOCUMENT_PROPERTY in other and _plain_folder_of(other) == folder
    ]
    return next((take for take in takes if strip in parts_of(collection, take)), None)


def _plain_folder_of(strip: bpy.types.Strip) -> Path:
    """As `folder_of`, but without asking the disk about links."""
    return Path(os.path.normpath(bpy.path.abspath(strip.directory))).parent


def parts_of(
    collection: bpy.types.bpy_prop_collection, take: bpy.types.Strip
) -> list[bpy.types.Strip | None]:
    """The strips of a take: the shot, its colour and its mask; None for one that was deleted.

    Of copies, those on the nearest channels count.
    """
    folder, parts = _plain_folder_of(take), [take]
    for sequence in _PARTS:
        found = [
            strip
            for strip in collection
            if strip.type == "IMAGE"
            and Path(strip.directory).name == sequence
            and _plain_folder_of(strip) == folder
            and _meet(compat.strip_range(strip), compat.strip_range(take))
        ]
        found.sort(key=lambda strip: abs(strip.channel - take.channel))
        parts.append(found[0] if found else None)
    return parts


def show_take(
    collection: bpy.types.bpy_prop_collection,
    takes: list[bpy.types.Strip],
    take: bpy.types.Strip,
) -> None:
    """Show one of a shot's takes in the place of the one that shows, and hide the others.

    The strips of both exchange their channels, and colour and mask are as visible as they were, so
    that what lies above and below stays there. Where other strips are in the way, the channels stay
    as they are.

    Args:
        collection: All strips.
        takes: Of the shot; of several that show, the last gives up its place.
        take: One of them.
    """
    shown = next((other for other in reversed(takes) if not other.mute and other != take), None)
    if shown is not None:
        pairs = [
            (old, new)
            for old, new in zip(
                parts_of(collection, shown), parts_of(collection, take), strict=True
            )
            if old is not None and new is not None
        ]
        if take.mute:
            _exchange_channels(collection, pairs)
        for old, new in pairs[1:]:
            new.mute, old.mute = old.mute, True
    for other in takes:
        other.mute = other != take


def _exchange_channels(
    collection: bpy.types.bpy_prop_collection,
    pairs: list[tuple[bpy.types.Strip, bpy.types.Strip]],
) -> None:
    """Exchange the channels of strips, where no other strip is in the way."""
    places = {}
    for old, new in pairs:
        places[old.name], places[new.name] = new.channel, old.channel
    taken = [
        (places.get(strip.name, strip.channel), compat.strip_range(strip)) for strip in collection
    ]
    for place, (channel, frames) in enumerate(taken):
        others = taken[:place]
        if any(channel == other and _meet(frames, theirs) for other, theirs in others):
            return
    try:
        first = min(compat.strip_range(old)[0] for old, _ in pairs)
        end = max(compat.strip_range(old)[1] for old, _ in pairs)
        free = _free_channels(collection, first, end, len(pairs))
    except InputError:
        return
    # By way of free channels: Blender pushes a strip aside that meets another.
    for place, (old, _) in enumerate(pairs):
        old.channel = free + place
    for _, new in pairs:
        new.channel = places[new.name]
    for old, _ in pairs:
        old.channel = places[old.name]


def _meet(frames: tuple[int, int], others: tuple[int, int]) -> bool:
    """Whether two ranges, each without its end, have a frame in common."""
    return frames[0] < others[1] and others[0] < frames[1]


def document_of(strip: bpy.types.Strip) -> TakeDocument | None:
    """How the take of a strip was made; None if the strip is none of ours.

    Raises:
        InputError: `take_invalid` if what the strip holds is damaged.
    """
    text = strip.get(DOCUMENT_PROPERTY)
    return None if text is None else _decode(str(text).encode(), strip.name)


def _decode(content: bytes, where: str) -> TakeDocument:
    return documents.decode_document(content, TakeDocument, where=where, code="take_invalid")


def first_frame(shot: bpy.types.Object, trajectory: TrajectoryDocument, frame_step: int = 1) -> int:
    """The frame of the scene at which a take begins, as its source frames tell.

    A take that begins before the clip looks at the clip's first frame until the clip begins.
    """
    times = [pose.source_time for pose in trajectory.poses]
    held = next((index for index, time in enumerate(times) if time != times[0]), 1)
    offset = times[0] - ((held - 1) * frame_step if times[0] == 0 else 0)
    return int(shot.ex4d_shot.frame_start) + offset


def _free_channels(
    collection: bpy.types.bpy_prop_collection, frame_start: int, frame_end: int, count: int
) -> int:
    """The lowest of `count` neighbouring channels without a strip between two frames."""
    taken = set()
    for strip in collection:
        if _meet(compat.strip_range(strip), (frame_start, frame_end)):
            taken.add(strip.channel)
    for channel in range(1, _MAX_CHANNEL - count + 2):
        if taken.isdisjoint(range(channel, channel + count)):
            return channel
    message = (
        f"expected {count} neighbouring free channels at frames {frame_start} to {frame_end - 1}, "
        "found none; move strips away"
    )
    raise InputError("channels_full", message)
