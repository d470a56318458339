# SPDX-License-Identifier: GPL-3.0-or-later
"""Results on their way into Blender: scenes step by step, takes as strips."""

import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import bpy

from . import scene_import, scene_jobs, shot_ids, strips
from ._vendor.errors import Ex4dError, InputError
from ._vendor.protocol.messages import GenerateJob
from .jobs import Job, JobBoard, Stage


@dataclass(eq=False)
class SceneImport:
    """A scene's folder being brought into a Blender scene in small steps."""

    title: str
    folder: Path
    #: `ID.session_uid` of the Blender scene.
    scene_uid: int
    #: Every how many pixels the proxy has a vertex.
    proxy_step: int = 2
    #: The job that made the folder; None for one that the user chose.
    job: Job | None = None
    #: The job's, or one of its own.
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    #: Created at the first step.
    steps: Iterator[float] | None = None
    #: Of the whole import, 0..1.
    fraction: float = 0.0
    is_done: bool = False
    error: Ex4dError | None = None


UNFORESEEN = InputError(
    "internal_error", "Something went wrong that should not; Blender's console says what."
)


def advance(jobs: JobBoard, queue: list[SceneImport], deadline_s: float) -> bool:
    """Work on what arrived until the time is up; true if anything changed.

    Args:
        jobs: Those that have arrived are brought in.
        queue: Imports, the first that has not failed being worked on; finished ones are removed.
        deadline_s: Of `time.perf_counter`; the last step may go beyond it.
    """
    changed = False
    for job in jobs:
        if job.stage is not Stage.ARRIVED:
            continue
        if isinstance(job.record.request, GenerateJob):
            _add_take(jobs, job)
            changed = True
        elif not any(item.job is job for item in queue):
            request_id = job.record.request_id
            queue.append(
                SceneImport(
                    job.record.title, job.folder, job.scene_uid, job=job, request_id=request_id
                )
            )
            changed = True
    while (item := next_import(queue)) is not None and time.perf_counter() < deadline_s:
        step(jobs, queue, item)
        changed = True
    return changed


def next_import(queue: list[SceneImport]) -> SceneImport | None:
    """The import to work on; failed ones stay in the queue for the user to read about."""
    return next((item for item in queue if item.error is None), None)


def step(jobs: JobBoard, queue: list[SceneImport], current: SceneImport) -> None:
    """Do one step of an import of the queue."""
    # Failed until proven otherwise: an unforeseen error must not repeat itself at every tick.
    current.error = UNFORESEEN
    try:
        with in_scene(current.scene_uid):
            if current.steps is None:
                current.steps = scene_import.import_scene(
                    bpy.context, current.folder, proxy_step=current.proxy_step
                )
            try:
                current.fraction = next(current.steps)
            except StopIteration:
                current.is_done = True
                bpy.ops.ed.undo_push(message=f"Import {current.title}")
    except (Ex4dError, OSError) as error:
        current.error = _readable(error)
    else:
        current.error = None
    # The row of the job tells of its failure.
    if current.is_done or (current.error is not None and current.job is not None):
        queue.remove(current)
    if current.job is not None and (current.is_done or current.error is not None):
        stage = Stage.DONE if current.is_done else Stage.FAILED
        jobs.finish(current.job, stage, current.error)


def finish(jobs: JobBoard, queue: list[SceneImport], item: SceneImport) -> None:
    """Do all steps of an import of the queue at once, as scripts want it.

    Raises:
        Ex4dError: Why it failed; it has left the queue then.
    """
    while not item.is_done and item.error is None:
        step(jobs, queue, item)
    if item.error is not None:
        queue.remove(item)
        raise item.error


def _add_take(jobs: JobBoard, job: Job) -> None:
    # As for an import.
    jobs.finish(job, Stage.FAILED, UNFORESEEN)
    try:
        with in_scene(job.scene_uid):
            shot_ids.ensure()
            owner = (job.record.shot_id, job.record.shot_name)
            # A deleted one may live on: its take still has a place on the timeline.
            shot = shot_ids.find(bpy.context.scene.objects, *owner)
            shot = shot or shot_ids.find(bpy.data.objects, *owner)
            if shot is None:
                message = (
                    f"expected the shot {job.record.shot_name!r} for the take, found none; the "
                    f"frames are in {job.folder}"
                )
                raise InputError("shot_gone", message)
            step = job.record.frame_step
            strips.add_take_strips(bpy.context, shot, job.folder, frame_step=step)
            bpy.ops.ed.undo_push(message=f"Add {job.record.title}")
    except (Ex4dError, OSError) as error:
        jobs.finish(job, Stage.FAILED, _readable(error))
    else:
        jobs.finish(job, Stage.DONE)


def in_scene(scene_uid: int) -> AbstractContextManager[None]:
    """Override the context: the user may look at another scene, and a timer has no window."""
    scene = scene_jobs.find_scene(scene_uid)
    if scene is None:
        message = "expected the Blender scene that asked for this, found it deleted; import again"
        raise InputError("scene_gone", message)
    windows = list(bpy.context.window_manager.windows)
    # Without any window Blender runs in the background and no operator asks for one.
    windows.sort(key=lambda window: window.scene != scene)
    return bpy.context.temp_override(window=windows[0] if windows else None, scene=scene)


def _readable(error: Ex4dError | OSError) -> Ex4dError:
    return error if isinstance(error, Ex4dError) else InputError("file", str(error))
