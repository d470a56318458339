# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixed ids of shots, by which takes and jobs know theirs, whatever people call it.

Within a Blender scene no two shots have the same: a copy gets an id of its own and starts without
takes, which stay with the shot that they were made of. A scene that was copied whole has strips of
its own, and keeps the ids.
"""

# Blender 4.5 renamed the classes of strips, so that annotations must not be evaluated.
from __future__ import annotations

import hashlib
import secrets

import bpy
from bpy.app.handlers import persistent

from . import strips
from ._vendor.errors import InputError
from .shots import is_meant

#: `session_uid` counts anew in each session.
_SESSION = secrets.token_bytes(16)
#: How many objects there were when ids were last looked after: copies make more of them.
_object_count = -1


def find(
    objects: bpy.types.bpy_prop_collection, shot_id: str, shot_name: str
) -> bpy.types.Object | None:
    """The shot that a take or a job is of; None if it is not among the objects.

    Args:
        objects: Of a scene, or of the file.
        shot_id: As the take or job has it; empty in those of older versions.
        shot_name: As it was when the take or job was made.
    """
    found = objects.get(shot_name)
    if found is not None and found.ex4d_shot.is_shot and is_meant(found, shot_id, shot_name):
        return found
    return next(
        (item for item in objects if item.ex4d_shot.is_shot and is_meant(item, shot_id, shot_name)),
        None,
    )


def ensure() -> None:
    """Give an id to each shot that lacks one or has another's, and to the takes known by its name.

    For operators and handlers: drawing must not write.
    """
    for scene in bpy.data.scenes:
        shots = [item for item in scene.objects if item.ex4d_shot.is_shot]
        # The original came first. What is linked cannot change, and so comes before all.
        shots.sort(key=lambda shot: (_is_writable(shot), shot.session_uid))
        taken = {""}
        for shot in shots:
            if shot.ex4d_shot.shot_id in taken and _is_writable(shot):
                shot.ex4d_shot.shot_id = _new_id(shot)
            taken.add(shot.ex4d_shot.shot_id)
        # Takes of old versions go by the beginning of their name: `Shot 2` before `Shot`.
        for shot in sorted(shots, key=lambda shot: -len(shot.name)):
            for take in strips.takes_of(scene, shot):
                if not take.get(strips.SHOT_ID_PROPERTY) and shot.ex4d_shot.shot_id:
                    take[strips.SHOT_ID_PROPERTY] = shot.ex4d_shot.shot_id


def adopt_orphans(scene: bpy.types.Scene, shot: bpy.types.Object) -> None:
    """Take up the takes of a shot that is gone and was imported again from the same files."""
    for take in strips.all_takes(scene):
        owner = strips.owner_of(take)
        if find(scene.objects, *owner) is None and _is_made_of(take, shot):
            take[strips.SHOT_ID_PROPERTY] = shot.ex4d_shot.shot_id
            take[strips.SHOT_PROPERTY] = shot.name


def _is_made_of(take: bpy.types.Strip, shot: bpy.types.Object) -> bool:
    try:
        document = strips.document_of(take)
        return document is not None and bool(strips.scene_of(document, shot.ex4d_shot))
    except (InputError, OSError):
        return False


def _new_id(shot: bpy.types.Object) -> str:
    """The same for an object throughout a session: undo takes ids back that jobs know already."""
    uid = shot.session_uid.to_bytes(8, "little", signed=False)
    return hashlib.blake2b(uid, key=_SESSION, digest_size=8).hexdigest()


def _is_writable(shot: bpy.types.Object) -> bool:
    return shot.library is None and shot.override_library is None


@persistent
def _on_file(_path: str) -> None:
    ensure()


@persistent
def _on_undo(_scene: bpy.types.Scene) -> None:
    ensure()


@persistent
def _on_update(_scene: bpy.types.Scene, _depsgraph: bpy.types.Depsgraph) -> None:
    """Blender has no event of its own for copies; this one comes with every change."""
    global _object_count  # noqa: PLW0603 - counting is all that is cheap enough
    # Renders call from their own thread.
    if len(bpy.data.objects) != _object_count and not bpy.app.is_job_running("RENDER"):
        _object_count = len(bpy.data.objects)
        ensure()


_HANDLERS = (
    (bpy.app.handlers.load_post, _on_file),
    (bpy.app.handlers.save_pre, _on_file),
    (bpy.app.handlers.undo_post, _on_undo),
    (bpy.app.handlers.redo_post, _on_undo),
    (bpy.app.handlers.depsgraph_update_post, _on_update),
)


def register() -> None:
    """Look after ids from now on; a file that is open already is with its next change."""
    for handlers, handler in _HANDLERS:
        handlers.append(handler)


def unregister() -> None:
    """Listen no more; what is saved in files stays there."""
    global _object_count  # noqa: PLW0603 - as above
    for handlers, handler in _HANDLERS:
        handlers.remove(handler)
    _object_count = -1
