# SPDX-License-Identifier: GPL-3.0-or-later
"""Which jobs a file waits for, saved with its Blender scenes: ids, and nothing else."""

import bpy

from . import runtime
from .jobs import ENDED


class EX4D_PG_job(bpy.types.PropertyGroup):
    """A job that the Blender scene waits for."""

    request_id: bpy.props.StringProperty(options=set())


def find_scene(scene_uid: int) -> bpy.types.Scene | None:
    """The Blender scene with this `session_uid`, which survives undo and renaming."""
    return next((scene for scene in bpy.data.scenes if scene.session_uid == scene_uid), None)


def store() -> None:
    """Write the ids of unfinished jobs to their scenes; undo may have taken them away."""
    current = runtime.peek()
    if current is None:
        return
    for scene in bpy.data.scenes:
        wanted = [
            job.record.request_id
            for job in current.jobs
            if job.scene_uid == scene.session_uid and job.stage not in ENDED
        ]
        if [item.request_id for item in scene.ex4d_jobs] != wanted:
            scene.ex4d_jobs.clear()
            for request_id in wanted:
                scene.ex4d_jobs.add().request_id = request_id


def restore() -> bool:
    """Take up the jobs that the open file names; true if there are any."""
    # What a linked scene waits for goes to the file that it is of.
    named = [
        (item.request_id, scene.session_uid)
        for scene in bpy.data.scenes
        if scene.library is None
        for item in scene.ex4d_jobs
    ]
    # A file without jobs must not make Blender create an identity.
    if not named and runtime.peek() is None:
        return False
    board = runtime.get().jobs
    board.forget_all()
    for request_id, scene_uid in named:
        board.restore(request_id, scene_uid)
    return any(board)


_register_classes, _unregister_classes = bpy.utils.register_classes_factory((EX4D_PG_job,))


def register() -> None:
    """Add the list to every Blender scene."""
    _register_classes()
    bpy.types.Scene.ex4d_jobs = bpy.props.CollectionProperty(type=EX4D_PG_job, options={"HIDDEN"})


def unregister() -> None:
    """Take the list away; what is saved in files stays there."""
    del bpy.types.Scene.ex4d_jobs
    _unregister_classes()
