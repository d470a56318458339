# SPDX-License-Identifier: GPL-3.0-or-later
"""Videos and finished scenes come in: from the panel, the import menu, or dropped on the view."""

import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import bpy

from . import import_settings, imports, paths, preferences, runtime
from ._vendor.errors import InputError
from ._vendor.protocol.messages import ReconstructJob
from .imports import SceneImport
from .jobs import JobRecord, server_id
from .ops_connection import StartOperator
from .ops_jobs import JobOperator
from .panel_import import draw_options


class EX4D_OT_import_video(import_settings.ImportOptions, JobOperator):
    """Send the video to the server and import the scene that it makes of it"""

    bl_idname = "ex4d.import_video"
    bl_label = "Send and Import"
    # No UNDO: the import itself, which comes later, makes the undo step.
    bl_options = {"REGISTER"}

    clip: bpy.props.StringProperty(
        name="Video", description="The video, or any image of a sequence", subtype="FILE_PATH"
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Take the values from the panel, which lists the files that will be sent."""
        panel = context.window_manager.ex4d_import
        for name in ("clip", *import_settings.OPTION_NAMES):
            setattr(self, name, getattr(panel, name))
        return super().invoke(context, event)

    def record(self, context: bpy.types.Context) -> JobRecord:
        """The job that makes a scene. See `video_record`."""
        return video_record(context, self.clip, self)


class EX4D_OT_choose_video(JobOperator):
    """Choose a video, how its depth is found and which frames to take; then send and import it"""

    bl_idname = "ex4d.choose_video"
    bl_label = "Import EX-4D Video"
    bl_options = {"REGISTER"}

    filepath: bpy.props.StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})
    filter_movie: bpy.props.BoolProperty(default=True, options={"HIDDEN"})
    filter_image: bpy.props.BoolProperty(default=True, options={"HIDDEN"})
    filter_folder: bpy.props.BoolProperty(default=True, options={"HIDDEN"})

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        """Always: without a connection the video waits in the panel."""
        return True

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """Ask for the file, or about the one that was dropped."""
        self.wait = False
        if not self.filepath:
            context.window_manager.fileselect_add(self)
            return {"RUNNING_MODAL"}
        context.window_manager.ex4d_import.clip = self.filepath
        return context.window_manager.invoke_props_dialog(self, width=400)

    def draw(self, context: bpy.types.Context) -> None:
        """Draw the same options as the panel."""
        draw_options(self.layout, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Put the video into the panel, and send it where there is a connection."""
        # Blender's file browser leaves the folder alone where no file was chosen.
        context.window_manager.ex4d_import.clip = self.filepath
        if not EX4D_OT_import_video.poll(context):
            message = "The video waits in the sidebar, EX-4D: connect to a server, then send it"
            self.report({"WARNING"}, message)
            return {"FINISHED"}
        return super().execute(context)

    def record(self, context: bpy.types.Context) -> JobRecord:
        """The job that makes a scene. See `video_record`."""
        panel = context.window_manager.ex4d_import
        return video_record(context, panel.clip, panel)


def video_record(
    context: bpy.types.Context, clip: str, options: import_settings.ImportOptions
) -> JobRecord:
    """The job that makes a scene of a video.

    Raises:
        InputError: If a file is missing, there is no connection, or the server lacks the
            estimator; `licence_not_accepted` if it is for research alone and not accepted.
    """
    connection = runtime.get().connection
    names = import_settings.needed_estimators(options)
    for name in names:
        problem = connection.estimator_problem(name)
        if problem:
            raise InputError("estimator_unavailable", problem)
        info = connection.estimator(name)
        if info is not None and info.for_research_only and not options.accepts_research_licence:
            message = (
                f"expected its license to be accepted before {name} runs ({info.licence}), found "
                "it not accepted; tick For Research Alone, or choose another estimator"
            )
            raise InputError("licence_not_accepted", message)
    found = import_settings.collect_sources(clip, None if names else options.depth)
    title = options.title or Path(clip).stem[:64] or "clip"
    request_id = uuid.uuid4().hex
    request = ReconstructJob(
        files=(),
        clip=found["clip"].first,
        depth=None if names else found["depth"].first,
        depth_kind="auto" if names else options.depth_kind,
        estimator=names[0] if names else None,
        depth_range=options.depth_range if names else "percentile",
        accepts_research_licence=bool(names) and options.accepts_research_licence,
        name=title,
        first_frame=options.first_frame,
        frame_count=options.frame_count or None,
        stride=options.stride,
        focal_px=import_settings.chosen_focal_px(clip, options),
    )
    files = {name: str(path) for source in found.values() for name, path in source.files.items()}
    cache = preferences.get(context).cache
    return JobRecord(
        request_id=request_id,
        server=server_id(connection),
        title=title,
        request=request,
        sources=files,
        folder=str(paths.results_folder("scenes", title, request_id, cache)),
    )


class EX4D_OT_import_scene(StartOperator):
    """Import a finished scene: a folder with scene.json"""

    bl_idname = "ex4d.import_scene"
    bl_label = "Import Scene"
    # No UNDO: the undo step is made when the last part is in.
    bl_options = {"REGISTER"}

    directory: bpy.props.StringProperty(
        name="Folder", description="The scene's folder, with scene.json", subtype="DIR_PATH"
    )
    filter_folder: bpy.props.BoolProperty(default=True, options={"HIDDEN"})
    proxy_step: bpy.props.IntProperty(
        name="Proxy",
        description="Every how many pixels the proxy for the viewport has a vertex",
        min=1,
        max=8,
        default=2,
    )

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """Let the user choose the folder."""
        self.wait = False
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def start(self, context: bpy.types.Context) -> Callable[[], None]:
        """Queue the import."""
        folder = Path(bpy.path.abspath(self.directory))
        if not (folder / "scene.json").is_file():
            message = f"expected a folder with scene.json, found none in {folder}; choose another"
            raise InputError("scene_missing", message)
        item = SceneImport(folder.name, folder, context.scene.session_uid, self.proxy_step)
        runtime.get().imports.append(item)
        return partial(imports.finish, runtime.get().jobs, runtime.get().imports, item)


class EX4D_FH_video(bpy.types.FileHandler):
    """A video dropped on the 3D view."""

    bl_idname = "EX4D_FH_video"
    bl_label = "EX-4D Video"
    bl_import_operator = "ex4d.choose_video"
    bl_file_extensions = ";".join(import_settings.VIDEO_SUFFIXES)

    @classmethod
    def poll_drop(cls, context: bpy.types.Context) -> bool:
        """Only where the scene is seen."""
        return context.area is not None and context.area.type == "VIEW_3D"


def _draw_import_menu(menu: bpy.types.Menu, _context: bpy.types.Context) -> None:
    menu.layout.operator("ex4d.choose_video", text="EX-4D Video")
    menu.layout.operator("ex4d.import_scene", text="EX-4D Scene (scene.json)")


_register_classes, _unregister_classes = bpy.utils.register_classes_factory(
    (EX4D_OT_import_video, EX4D_OT_choose_video, EX4D_OT_import_scene, EX4D_FH_video)
)


def register() -> None:
    """Add the operators, the entries of the import menu and the drop."""
    _register_classes()
    bpy.types.TOPBAR_MT_file_import.append(_draw_import_menu)


def unregister() -> None:
    """Take them away."""
    bpy.types.TOPBAR_MT_file_import.remove(_draw_import_menu)
    _unregister_classes()
