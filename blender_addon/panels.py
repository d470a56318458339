# SPDX-License-Identifier: GPL-3.0-or-later
"""The sidebar of the 3D view: connection, shot, camera, take, jobs. Drawing reads, never works.

What is seldom touched lies in panels that are closed at first, so that all steps from Connect to
the takes fit below each other.
"""

import bpy

from . import camera_binding, lead_in, ops_coverage, preferences, runtime, sending
from ._vendor import trained
from ._vendor.errors import InputError
from .connection import LinkState, Status
from .imports import SceneImport
from .jobs import ENDED, Job, Stage, server_id
from .local_server import ServerState
from .panel_import import draw_video
from .shots import active_shot, is_meant, sampled_frames, take_frames
from .sidebar import ShotSidebar, Sidebar
from .wording import draw_text, job_text

_STATE_ICONS = {
    LinkState.OFFLINE: "UNLINKED",
    LinkState.STARTING: "SORTTIME",
    LinkState.CONNECTING: "SORTTIME",
    LinkState.PAIRING: "SORTTIME",
    LinkState.READY: "LINKED",
    LinkState.LOST: "ERROR",
    LinkState.REFUSED: "CANCEL",
}


class EX4D_PT_connection(Sidebar, bpy.types.Panel):
    """Where the connection stands, and what to do about it."""

    bl_label = "Server"
    bl_idname = "EX4D_PT_connection"

    def draw(self, context: bpy.types.Context) -> None:
        """Draw the state, its reason and the buttons that fit it."""
        layout = self.layout
        chosen = preferences.get(context)
        current = runtime.peek()
        status = (
            Status(LinkState.OFFLINE, "Not connected")
            if current is None
            else current.connection.status()
        )
        row = layout.row(align=True)
        row.label(text=status.headline, icon=_STATE_ICONS[status.state])
        draw_text(layout, status.advice)
        if status.state is LinkState.REFUSED:
            layout.operator("ex4d.copy_public_key", icon="COPYDOWN")
        if current is not None and current.connection.client is not None:
            # Small: what it is about shows below, once there is a session.
            row.operator("ex4d.disconnect", text="", icon="UNLINKED")
        else:
            layout.row().prop(chosen, "mode", expand=True)
            if chosen.mode == "LOCAL" and not chosen.executable:
                layout.prop(chosen, "executable", text="Program")
            layout.operator("ex4d.connect", icon="LINKED")
            if chosen.mode == "REMOTE":
                self._draw_remote(layout, chosen)
        server = None if current is None else current.connection.server
        if server is not None and server.state in (ServerState.STARTING, ServerState.READY):
            row.operator("ex4d.stop_server", text="", icon="CANCEL")
        elif chosen.mode == "LOCAL" and not chosen.start_on_connect:
            layout.operator("ex4d.start_server", icon="PLAY")

    def _draw_remote(self, layout: bpy.types.UILayout, chosen) -> None:
        server = chosen.server()
        if server is not None:
            layout.label(text=f"{server.name} ({server.host}:{server.port})", icon="WORLD")
        layout.operator("ex4d.pair_server", icon="PASTEDOWN")


class EX4D_PT_shot(Sidebar, bpy.types.Panel):
    """The shot that is worked on, or how to get one."""

    bl_label = "Shot"
    bl_idname = "EX4D_PT_shot"

    def draw(self, context: bpy.types.Context) -> None:
        """Draw what is known of the clip and how it is shown."""
        layout = self.layout
        shot = active_shot(context)
        if shot is None:
            draw_video(layout.column(), context)
            _draw_finished_scene(layout)
            return
        clip = shot.ex4d_shot
        column = layout.column(align=True)
        column.menu("EX4D_MT_shots", text=shot.name, icon="FILE_MOVIE")
        column.label(
            text=f"{clip.width_px} x {clip.height_px} px, {clip.frame_count} frames "
            f"at {clip.frame_rate:g} fps"
        )
        layout.operator("ex4d.match_scene", icon="SCENE_DATA")


def _draw_finished_scene(layout: bpy.types.UILayout) -> None:
    layout.label(text="Or a scene that is finished:")
    layout.operator("ex4d.import_scene", icon="IMPORT")


class EX4D_PT_clip(ShotSidebar, bpy.types.Panel):
    """How the shot's clip is shown, and where it stands in time and space."""

    bl_label = "Display and Place"
    bl_idname = "EX4D_PT_clip"
    bl_parent_id = "EX4D_PT_shot"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        """Draw its switches, start, lens and scale."""
        shot = active_shot(context)
        if shot is None:
            return
        layout, clip = self.layout, shot.ex4d_shot
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column(heading="Show")
        if clip.proxy is not None:
            column.prop(clip, "use_proxy")
        column.prop(clip, "show_marks")
        column.prop(clip, "show_surround")
        column = layout.column()
        column.prop(clip, "frame_start")
        if clip.scene_field_of_view > 0:
            column.prop(clip, "field_of_view", slider=True)
            _draw_repainting(column, shot)
        scale = "Scale: meters, as estimated" if clip.is_metric else "Scale: free until measured"
        column.label(text=scale)
        column.operator("ex4d.measure", icon="DRIVER_DISTANCE")
        column.operator("ex4d.find_scene_folder", icon="FILE_FOLDER")


def _draw_repainting(layout: bpy.types.UILayout, shot: bpy.types.Object) -> None:
    current = runtime.peek()
    if current is None or current.repainter.shot_uid != shot.session_uid:
        return
    repainter = current.repainter
    if repainter.error is not None:
        draw_text(layout, repainter.error.message, icon="ERROR")
    elif repainter.fraction is not None:
        layout.progress(factor=repainter.fraction, text="Marking for this field of view")


class EX4D_PT_import(ShotSidebar, bpy.types.Panel):
    """One more video, or a scene that is finished; the panel above asks for the first."""

    bl_label = "Import Another"
    bl_idname = "EX4D_PT_import"
    bl_parent_id = "EX4D_PT_shot"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        """Draw the same as for the first."""
        draw_video(self.layout, context)
        _draw_finished_scene(self.layout)


class EX4D_PT_camera(ShotSidebar, bpy.types.Panel):
    """The camera that takes are made with."""

    bl_label = "Camera"
    bl_idname = "EX4D_PT_camera"

    def draw(self, context: bpy.types.Context) -> None:
        """Draw which camera it is and the moves that can be keyed on it."""
        shot = active_shot(context)
        if shot is None:
            return
        layout = self.layout
        column = layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(shot.ex4d_shot, "camera")
        column = layout.column(align=True)
        column.menu("EX4D_MT_add_move", icon="CAMERA_DATA")
        column.operator_menu_enum("ex4d.add_shake", "preset", icon="MOD_NOISE")


class EX4D_PT_pivot(ShotSidebar, bpy.types.Panel):
    """The point that moves turn around, which the import has chosen already."""

    bl_label = "Pivot"
    bl_idname = "EX4D_PT_pivot"
    bl_parent_id = "EX4D_PT_camera"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        """Draw where it is and the ways to choose another."""
        shot = active_shot(context)
        if shot is None:
            return
        layout = self.layout
        column = layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(shot.ex4d_shot, "radius", text="Distance")
        column.prop(shot.ex4d_shot, "pivot_offset", text="Offset")
        layout.operator_menu_enum("ex4d.set_pivot", "origin", icon="PIVOT_CURSOR")


class EX4D_PT_generate(ShotSidebar, bpy.types.Panel):
    """A camera's path becomes a take."""

    bl_label = "Take"
    bl_idname = "EX4D_PT_generate"

    def draw(self, context: bpy.types.Context) -> None:
        """Draw the engine, why it may be missing, its settings and what will be made."""
        shot = active_shot(context)
        if shot is None:
            return
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        settings = context.scene.ex4d_generate
        chosen = layout.column()
        chosen.prop(settings, "engine")
        current = runtime.peek()
        if current is not None:
            draw_text(chosen, current.connection.engine_problem(settings.engine), icon="ERROR")
        chosen.prop(settings, "size")
        if settings.size == "CUSTOM":
            column = chosen.column(align=True)
            column.prop(settings, "width_px")
            column.prop(settings, "height_px")
        chosen.prop(settings, "seed")
        if settings.engine == "ex4d":
            chosen.prop(settings, "length")
            chosen.prop(settings, "mode")
        told = layout.column(align=True)
        try:
            draw_text(told, take_text(context, shot))
        except InputError as error:
            draw_text(told, error.message, icon="ERROR")
        draw_text(told, expectation_text(context, shot))
        if settings.engine == "ex4d" and lead_in.starts_elsewhere(context, shot):
            draw_text(
                layout,
                "The first frame is not the source's view, which the model continues",
                icon="ERROR",
            )
            layout.operator("ex4d.add_lead_in", icon="CON_FOLLOWPATH")
        for text in ops_coverage.warnings(context, shot):
            draw_text(layout, text, icon="ERROR")
        layout.operator("ex4d.generate", icon="RENDER_ANIMATION")
        _draw_takes_under_way(layout, shot, context.scene.session_uid)


def _draw_takes_under_way(
    layout: bpy.types.UILayout, shot: bpy.types.Object, scene_uid: int
) -> None:
    """Say that the button has done something where it is seen: the list of jobs is far above."""
    current = runtime.peek()
    for job in () if current is None else current.jobs:
        is_own = is_meant(shot, job.record.shot_id, job.record.shot_name)
        if job.stage not in ENDED and is_own and job.scene_uid == scene_uid:
            factor = 0.0 if job.remote is None else job.remote.fraction
            layout.progress(factor=factor, text=job_text(job))


class EX4D_PT_model(Sidebar, bpy.types.Panel):
    """What the EX-4D model is told."""

    bl_label = "Model"
    bl_idname = "EX4D_PT_model"
    bl_parent_id = "EX4D_PT_generate"
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only for the engine that has one."""
        return context.scene.ex4d_generate.engine == "ex4d"

    def draw(self, context: bpy.types.Context) -> None:
        """Draw steps, guidance, prompts and LoRAs."""
        layout, settings = self.layout, context.scene.ex4d_generate
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column(align=True)
        column.prop(settings, "steps")
        column.prop(settings, "guidance")
        column = layout.column()
        column.prop(settings, "prompt")
        if settings.guidance > 1.0:
            column.prop(settings, "negative_prompt")
        column.prop(settings, "loras")
        column.prop(settings, "show_preview")


def take_text(context: bpy.types.Context, shot: bpy.types.Object) -> str:
    """What will be made: frames, size, and through which cameras where markers switch them.

    Raises:
        InputError: `range_empty` or `take_size`.
    """
    settings, clip = context.scene.ex4d_generate, shot.ex4d_shot
    first, last = take_frames(context, shot)
    frames = sampled_frames(context, shot)
    count, wanted = len(frames), len(range(first, last + 1, frames.step))
    stepped = "" if frames.step == 1 else f" in steps of {frames.step}"
    width_px, height_px = settings.size_px(clip.width_px, clip.height_px)
    text = f"Frames {first} to {frames[-1]}{stepped}: {count}, {width_px} x {height_px} px"
    if count != wanted:
        text += (
            f"\nThe range has {wanted} frames{stepped}; the model makes 4k + 1, at most "
            f"{trained.MAX_FRAMES}, at once"
        )
    found = camera_binding.stretches(context.scene, shot, first, last)
    if [stretch.camera for stretch in found] != [clip.camera]:
        named = [f"{start} {camera.name}" for start, _, camera in found if camera is not None]
        text += f"\nMarkers choose the camera: from {', from '.join(named)}"
    return text


def expectation_text(context: bpy.types.Context, shot: bpy.types.Object) -> str:
    """What the connected server is sent and how long it should take; empty without one."""
    current = runtime.peek()
    if current is None or current.connection.client is None or not current.connection.is_ready:
        return ""
    settings, clip = context.scene.ex4d_generate, shot.ex4d_shot
    size = current.sizes.find(clip.folder)
    was_sent = size is not None and current.sent.has(
        server_id(current.connection), size.scene_sha256
    )
    text = sending.sending_text(size, was_sent=was_sent)
    try:
        time_text = sending.time_text(
            current.connection.client.take_times,
            settings.engine_settings(),
            settings.size_px(clip.width_px, clip.height_px),
            len(sampled_frames(context, shot)),
        )
    except InputError:
        # `take_text` has said why there is no take to speak of.
        return text
    return f"{text}\n{time_text}"


class EX4D_PT_jobs(Sidebar, bpy.types.Panel):
    """What the server and the importer are doing, and what failed.

    What is done shows as a shot or a take instead, and who cancels a job knows that it ended.
    """

    bl_label = "Jobs"
    bl_idname = "EX4D_PT_jobs"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        """Only while there are any."""
        current = runtime.peek()
        return current is not None and bool(_listed_jobs(current) or current.imports)

    def draw(self, _context: bpy.types.Context) -> None:
        """Draw a row for each."""
        current = runtime.peek()
        if current is None:
            return
        imports = {item.request_id: item for item in current.imports}
        for job in _listed_jobs(current):
            self._draw_job(job, imports.pop(job.record.request_id, None))
        for item in imports.values():
            column = self.layout.column(align=True)
            column.label(text=item.title)
            row = column.row(align=True)
            _draw_import(row, item)
            row.operator("ex4d.cancel_job", text="", icon="X").request_id = item.request_id
            if item.error is not None:
                draw_text(column, item.error.message)

    def _draw_job(self, job: Job, item: SceneImport | None) -> None:
        column = self.layout.column(align=True)
        column.label(text=job.record.title)
        row = column.row(align=True)
        if item is not None:
            _draw_import(row, item)
        elif job.stage is Stage.ACTIVE and job.remote is not None:
            row.progress(factor=job.remote.fraction, text=job_text(job))
        elif job.stage is Stage.FAILED and job.error is not None:
            button = row.operator("ex4d.show_error", text=job_text(job), icon="ERROR")
            button.request_id = job.record.request_id
        else:
            row.label(text=job_text(job))
        end = "ex4d.dismiss_job" if job.stage in ENDED else "ex4d.cancel_job"
        row.operator(end, text="", icon="X").request_id = job.record.request_id
        if job.error is not None:
            draw_text(column, job.error.message)


def _listed_jobs(current: runtime.Runtime) -> list[Job]:
    return [job for job in current.jobs if job.stage not in (Stage.DONE, Stage.CANCELLED)]


def _draw_import(layout: bpy.types.UILayout, item: SceneImport) -> None:
    if item.error is None:
        layout.progress(factor=item.fraction, text="Importing")
    else:
        layout.label(text="Failed", icon="ERROR")


register, unregister = bpy.utils.register_classes_factory(
    (
        EX4D_PT_connection,
        # Where progress shows without scrolling, whatever the height of the window.
        EX4D_PT_jobs,
        EX4D_PT_shot,
        EX4D_PT_clip,
        EX4D_PT_import,
        EX4D_PT_camera,
        EX4D_PT_pivot,
        EX4D_PT_generate,
        EX4D_PT_model,
    )
)
