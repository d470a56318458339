# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators for work: generate a take, cancel, dismiss."""

import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import bpy

from . import camera, field_of_view, paths, preferences, pump, runtime, scene_jobs, shot_ids
from ._vendor.client import JobPhase
from ._vendor.errors import InputError
from ._vendor.protocol.documents import EngineSettings, TrajectoryDocument
from ._vendor.protocol.messages import GenerateJob
from .jobs import ENDED, Job, JobRecord, Stage, server_id
from .ops_connection import OperatorBase, StartOperator, wait_until
from .scene_files import DOCUMENT_NAME, SEQUENCES
from .shots import has_shot, required_shot, sampled_frames, scene_step

#: A script that waits longer than this for a job would rather submit it and come back.
JOB_TIMEOUT_S = 24 * 3600.0


class JobOperator(StartOperator):
    """What operators share that send a job."""

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        """Only with a session."""
        current = runtime.peek()
        if current is None or not current.connection.is_ready:
            cls.poll_message_set("Connect to a server first")
            return False
        return True

    def start(self, context: bpy.types.Context) -> Callable[[], None]:
        """Take up the job, named in the file before anything is sent."""
        return partial(wait_for, begin(context, self.record(context)))

    def record(self, context: bpy.types.Context) -> JobRecord:
        """What to send and where its results go."""
        raise NotImplementedError


def begin(context: bpy.types.Context, record: JobRecord) -> Job:
    """Take up a job of the present scene, named in the file before anything is sent.

    Raises:
        InputError: `under_way` if the same is being made already: a second click on a button.
    """
    jobs, scene_uid = runtime.get().jobs, context.scene.session_uid
    for job in jobs:
        is_same = _choices(job.record) == _choices(record)
        if is_same and job.stage not in ENDED and job.scene_uid == scene_uid:
            message = (
                f"expected something new to make, found {job.record.title!r} under way with the "
                "same choices; wait for it, cancel it, or change something"
            )
            raise InputError("under_way", message)
    job = jobs.add(record, scene_uid)
    scene_jobs.store()
    # Nothing else has Blender ask for the file to be saved, which alone finds the job again.
    bpy.ops.ed.undo_push(message=f"Send {record.title}")
    pump.wake()
    return job


def _choices(record: JobRecord) -> tuple[object, ...]:
    """All that tells one record from another, but for when it was made."""
    # The same of a copied shot is for the copy.
    return record.request, record.sources, record.shot_id


def wait_for(job: Job) -> None:
    """Tick until a job has ended and its result is in Blender.

    Raises:
        Ex4dError: Why the job failed.
    """
    connection = runtime.get().connection
    wait_until(
        lambda: job.stage in ENDED or connection.client is None,
        JOB_TIMEOUT_S,
        f"the result of {job.record.title}",
    )
    if job.error is not None:
        raise job.error
    if job.stage is not Stage.DONE:
        raise InputError(
            "job_not_done", f"{job.record.title} was {job.stage.value}; start it again"
        )


class EX4D_OT_generate(JobOperator):
    """Send the camera's path to the server and add the take that it makes to the sequencer"""

    bl_idname = "ex4d.generate"
    bl_label = "Generate Take"
    # No UNDO: adding the strips, which comes later, makes the undo step.
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only with a session and a shot."""
        if not has_shot(cls, context) or not super().poll(context):
            return False
        problem = runtime.get().connection.engine_problem(context.scene.ex4d_generate.engine)
        if problem:
            cls.poll_message_set(problem)
        return not problem

    def record(self, context: bpy.types.Context) -> JobRecord:
        """The job that makes a take, along the camera's path as it is now.

        Raises:
            InputError: If the camera cannot be used or the scene's files are gone.
        """
        shot = required_shot(context)
        trajectory = take_trajectory(context, shot)
        scene = context.scene
        settings = scene.ex4d_generate.engine_settings()
        return take_record(context, shot, trajectory, settings, frame_step=scene_step(scene))


def take_record(
    context: bpy.types.Context,
    shot: bpy.types.Object,
    trajectory: TrajectoryDocument,
    engine_settings: EngineSettings,
    *,
    frame_step: int,
) -> JobRecord:
    """The job that makes a take of a shot.

    Args:
        context: Its scene waits for the take.
        shot: What the take is of.
        trajectory: Of the camera.
        engine_settings: What the engine is told.
        frame_step: Every how many frames the trajectory has a pose.

    Raises:
        InputError: If the scene's files are gone.
    """
    shot_ids.ensure()
    request_id, title = uuid.uuid4().hex, f"{shot.name} take"
    cache = preferences.get(context).cache
    return JobRecord(
        request_id=request_id,
        server=server_id(runtime.get().connection),
        title=title,
        request=GenerateJob(scene=(), trajectory=trajectory, settings=engine_settings),
        sources=take_sources(shot.ex4d_shot),
        folder=str(paths.results_folder("takes", title, request_id, cache)),
        shot_id=shot.ex4d_shot.shot_id,
        shot_name=shot.name,
        frame_step=frame_step,
    )


def take_trajectory(context: bpy.types.Context, shot: bpy.types.Object) -> TrajectoryDocument:
    """The camera's path in the size and over the frames that the panel asks for.

    Raises:
        InputError: `take_size`, `range_empty`, or if the camera cannot be sampled.
    """
    chosen = context.scene.ex4d_generate
    width_px, height_px = chosen.size_px(shot.ex4d_shot.width_px, shot.ex4d_shot.height_px)
    frames = sampled_frames(context, shot)
    return camera.sample_trajectory(
        context,
        shot,
        frame_start=frames[0],
        frame_end=frames[-1],
        frame_step=frames.step,
        width_px=width_px,
        height_px=height_px,
    )


def take_sources(shot: bpy.types.PropertyGroup) -> dict[str, str]:
    """Path in a scene -> file, of everything that a take of the shot is made from.

    Raises:
        InputError: `scene_missing` if the folder holds no scene, or of
            `field_of_view.scene_document_file`.
    """
    folder = Path(shot.folder)
    if not (folder / DOCUMENT_NAME).is_file():
        message = (
            f"expected the scene's files in {folder}, found no scene.json; choose Find Scene Folder"
        )
        raise InputError("scene_missing", message)
    files = {DOCUMENT_NAME: str(field_of_view.scene_document_file(shot, folder))}
    for kind, suffix in SEQUENCES.items():
        for path in sorted((folder / kind).glob(f"*{suffix}")):
            files[f"{kind}/{path.name}"] = str(path)
    return files


class _OnJob(OperatorBase):
    """What operators on a row of the job list share."""

    request_id: bpy.props.StringProperty(options={"HIDDEN", "SKIP_SAVE"})

    def job(self) -> Job | None:
        """The job of the row."""
        current = runtime.peek()
        return None if current is None else current.jobs.get(self.request_id)


class EX4D_OT_cancel_job(_OnJob):
    """Stop the job. Pressed again before the server has confirmed: take it off the list"""

    bl_idname = "ex4d.cancel_job"
    bl_label = "Cancel Job"
    bl_options = {"REGISTER", "INTERNAL"}

    def execute(self, _context: bpy.types.Context) -> set[str]:
        """Ask the server to stop it, or leave out what is being imported."""
        return self.reported(self._cancel)

    def _cancel(self) -> None:
        current = runtime.get()
        current.imports = [item for item in current.imports if item.request_id != self.request_id]
        job = self.job()
        if job is None:
            return
        if job.remote is not None and job.remote.phase is JobPhase.CANCELLING:
            current.jobs.dismiss(job)
        else:
            current.jobs.cancel(job)
        scene_jobs.store()
        pump.wake()


class EX4D_OT_dismiss_job(_OnJob):
    """Take the job off the list"""

    bl_idname = "ex4d.dismiss_job"
    bl_label = "Dismiss Job"
    bl_options = {"REGISTER", "INTERNAL"}

    def execute(self, _context: bpy.types.Context) -> set[str]:
        """Dismiss it."""
        job = self.job()
        if job is None:
            return {"CANCELLED"}
        runtime.get().jobs.dismiss(job)
        scene_jobs.store()
        pump.redraw()
        return {"FINISHED"}


class EX4D_OT_show_error(_OnJob):
    """Show what went wrong and what to do"""

    bl_idname = "ex4d.show_error"
    bl_label = "Show Error"
    bl_options = {"REGISTER", "INTERNAL"}

    def execute(self, _context: bpy.types.Context) -> set[str]:
        """Report it as Blender does."""
        job = self.job()
        if job is None or job.error is None:
            return {"CANCELLED"}
        self.report({"ERROR"}, job.error.message)
        return {"FINISHED"}


register, unregister = bpy.utils.register_classes_factory(
    (
        EX4D_OT_generate,
        EX4D_OT_cancel_job,
        EX4D_OT_dismiss_job,
        EX4D_OT_show_error,
    )
)
