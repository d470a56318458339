# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done with takes: compared, made again, put behind the camera, deleted.

A take is its strip: all is read from there, so that undo, copies and deleted strips need no second
book-keeping.
"""

# Blender 4.5 renamed the classes of strips, so that annotations must not be evaluated.
from __future__ import annotations

from pathlib import Path

import bpy
import msgspec

from . import camera_binding, camera_pictures, compat, ops_jobs, shot_ids, strips
from ._vendor.errors import InputError
from ._vendor.protocol.documents import Ex4dSettings, TakeDocument
from .ops_connection import OperatorBase
from .scene_files import stored_path
from .shots import active_shot

_SUBFOLDERS = ("frames", "color", "mask")
#: So many seeds there are.
_SEEDS = 2**31


def chosen_take(context: bpy.types.Context) -> bpy.types.Strip | None:
    """The take that is meant: in the sequencer that of the active strip, else that of the list."""
    scene, shot = compat.edited_scene(context), active_shot(context)
    editor = scene.sequence_editor
    if editor is None:
        return None
    found = compat.strips_of(editor)
    if compat.in_sequencer(context):
        take = strips.take_of(found, editor.active_strip)
        if take is not None:
            return take
    if shot is None:
        return None
    index = scene.ex4d_take_index
    if 0 <= index < len(found) and strips.is_take(found[index], shot):
        return found[index]
    takes = strips.takes_of(scene, shot)
    return takes[-1] if takes else None


def shot_of(context: bpy.types.Context, strip: bpy.types.Strip) -> bpy.types.Object:
    """The shot that a take is of.

    Raises:
        InputError: `shot_gone`.
    """
    owner = strips.owner_of(strip)
    # Takes of the oldest versions do not say it.
    found = shot_ids.find(context.scene.objects, *owner) if any(owner) else active_shot(context)
    if found is None:
        message = (
            f"expected the shot {owner[1]!r} of {strip.name}, found none; import its scene again"
        )
        raise InputError("shot_gone", message)
    return found


class _OnTake(OperatorBase):
    """What operators on the chosen take share."""

    strip: bpy.props.StringProperty(
        name="Strip",
        description="Name of the take's strip; empty: that of the active strip in the sequencer, "
        "else the one chosen in the list",
        options={"SKIP_SAVE"},
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only with a take."""
        if chosen_take(context) is None:
            cls.poll_message_set("The shot has no take yet")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Do it, or report why not."""
        # Which the sequencer may edit while the window shows another.
        with context.temp_override(scene=compat.edited_scene(context)):
            return self.reported(lambda: self.work(context, self._take(context)))

    def work(self, context: bpy.types.Context, strip: bpy.types.Strip) -> None:
        """What it is about."""
        raise NotImplementedError

    def _take(self, context: bpy.types.Context) -> bpy.types.Strip:
        strip = chosen_take(context)
        if self.strip:
            strip = compat.strips_of(context.scene.sequence_editor).get(self.strip)
        if strip is None or strips.DOCUMENT_PROPERTY not in strip:
            message = f"expected the strip of a take, found none named {self.strip!r}; choose one"
            raise InputError("take_missing", message)
        return strip


def _document(strip: bpy.types.Strip) -> TakeDocument:
    document = strips.document_of(strip)
    if document is None:
        raise InputError("take_missing", f"expected a take, found {strip.name}; choose one")
    return document


class EX4D_OT_use_take_settings(_OnTake):
    """Set engine, seed, size and all other settings to those of the take, and the scene's Step"""

    bl_idname = "ex4d.use_take_settings"
    bl_label = "Use Settings"
    bl_options = {"REGISTER", "UNDO"}

    def work(self, context: bpy.types.Context, strip: bpy.types.Strip) -> None:
        """Copy them to the panel."""
        document = _document(strip)
        chosen, panel = document.settings, context.scene.ex4d_generate
        # Every how many frames is the scene's to say, for its renders too.
        context.scene.frame_step = strips.frame_step_of(strip)
        panel.engine = chosen.__struct_config__.tag
        panel.seed = chosen.seed
        panel.size = "CUSTOM"
        panel.width_px, panel.height_px = document.width_px, document.height_px
        if isinstance(chosen, Ex4dSettings):
            for name in ("mode", "steps", "guidance", "prompt", "negative_prompt"):
                setattr(panel, name, getattr(chosen, name))
            panel.loras = ", ".join(chosen.loras)


class EX4D_OT_generate_again(_OnTake):
    """Send the take's own camera path and settings again: a new take beside it, never over it"""

    bl_idname = "ex4d.generate_again"
    bl_label = "Generate Again"
    # No UNDO: adding the strips, which comes later, makes the undo step.
    bl_options = {"REGISTER"}

    new_seed: bpy.props.BoolProperty(
        name="New Seed",
        description="With a seed that no take of the shot has, for a variation; the same seed "
        "makes the same take",
        default=True,
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only with a take and a session."""
        return super().poll(context) and ops_jobs.JobOperator.poll.__func__(cls, context)

    def work(self, context: bpy.types.Context, strip: bpy.types.Strip) -> None:
        """Queue the job."""
        shot = shot_of(context, strip)
        document = _document(strip)
        settings = document.settings
        if self.new_seed:
            settings = msgspec.structs.replace(settings, seed=free_seed(context, shot))
        step = strips.frame_step_of(strip)
        record = ops_jobs.take_record(context, shot, document.trajectory, settings, frame_step=step)
        record.sources["scene.json"] = str(strips.scene_of(document, shot.ex4d_shot))
        ops_jobs.begin(context, record)


def free_seed(context: bpy.types.Context, shot: bpy.types.Object) -> int:
    """A seed that no take of the shot has."""
    seeds = [_document(take).settings.seed for take in strips.takes_of(context.scene, shot)]
    return (max(seeds, default=-1) + 1) % _SEEDS


class EX4D_OT_next_take(_OnTake):
    """Show the next take of the shot and hide the others: A, B and so on in turn"""

    bl_idname = "ex4d.next_take"
    bl_label = "Next Take"
    bl_options = {"REGISTER", "UNDO"}

    def work(self, context: bpy.types.Context, strip: bpy.types.Strip) -> None:
        """Go on from the last that shows; with a name given, to that one."""
        scene = context.scene
        takes = strips.takes_beside(scene, strip)
        if not takes:
            takes = strips.takes_of(scene, shot_of(context, strip))
        if strip not in takes:
            message = (
                f"expected the shot that {strip.name} is a take of, found none; import its scene "
                "again"
            )
            raise InputError("shot_gone", message)
        if not self.strip:
            shown = [place for place, take in enumerate(takes) if not take.mute]
            strip = takes[(shown[-1] + 1) % len(takes)] if shown else takes[0]
        editor = scene.sequence_editor
        collection = compat.strips_of(editor)
        strips.show_take(collection, takes, strip)
        if compat.in_sequencer(context):
            # Where the same key pressed again goes on from.
            editor.active_strip = strip
        scene.ex4d_take_index = collection.find(strip.name)


class EX4D_OT_take_background(_OnTake):
    """Show the take behind the cameras that it is seen through, to place objects over it"""

    bl_idname = "ex4d.take_background"
    bl_label = "Set as Camera Background"
    bl_options = {"REGISTER", "UNDO"}

    def work(self, context: bpy.types.Context, strip: bpy.types.Strip) -> None:
        """Add a background image to each, or change the one that a take has already."""
        # Whole, where the strip may be trimmed: each frame stays the one that belongs there.
        first_frame, frame_count = compat.content_start(strip), len(strip.elements)
        shot = shot_of(context, strip)
        cameras = camera_binding.cameras_between(
            context.scene, shot, first_frame, first_frame + frame_count - 1
        )
        if not cameras:
            message = "expected a camera of the shot, found none; choose one in the panel"
            raise InputError("camera_missing", message)
        for camera_data in cameras:
            if camera_data.library is not None:
                raise camera_pictures.linked(camera_data)
        first = strips.folder_of(strip) / "frames" / "0001.png"
        if not first.is_file():
            message = f"expected the take's frames in {first.parent}, found none; make it again"
            raise InputError("take_missing", message)
        image = bpy.data.images.load(str(first), check_existing=True)
        image.source = "SEQUENCE"
        image.filepath = stored_path(first)
        image[strips.TAKE_IMAGE] = True
        # What hangs there for a while and goes would change the places of the others.
        camera_pictures.remove_all()
        for camera_data in cameras:
            slots = camera_data.background_images
            found = [
                index
                for index, slot in enumerate(slots)
                if slot.image is not None and strips.TAKE_IMAGE in slot.image
            ]
            if not found:
                slots.new()
            index = found[0] if found else len(slots) - 1
            slot = slots[index]
            slot.image = image
            slot.alpha, slot.display_depth, slot.frame_method = 1.0, "BACK", "FIT"
            slot.image_user.frame_start = first_frame
            slot.image_user.frame_duration = frame_count
            slot.image_user.use_auto_refresh = True
            _hold_pictures(camera_data, index, strips.frame_step_of(strip))
            camera_data.show_background_images = True


def _hold_pictures(camera_data: bpy.types.Camera, index: int, frame_step: int) -> None:
    """Have each picture of a background stand for some frames, as on the strip of its take.

    Blender goes one picture on with each frame; an offset that grows with time brings it back. It
    is a simple expression, which Blender allows in files that may run no Python.

    Args:
        camera_data: Has the background.
        index: Which one, among all of the camera.
        frame_step: For how many frames a picture stands.
    """
    user = camera_data.background_images[index].image_user
    path = f"background_images[{index}].image_user.frame_offset"
    camera_data.driver_remove(path)
    user.frame_offset = 0
    if frame_step > 1:
        shown = f"min(max(frame - {user.frame_start}, 0), {user.frame_duration - 1})"
        curve = camera_data.driver_add(path)
        curve.driver.expression = f"floor(({shown}) / {frame_step}) - {shown}"


class EX4D_OT_open_take_folder(_OnTake):
    """Show the take's files in the system's file browser"""

    bl_idname = "ex4d.open_take_folder"
    bl_label = "Open Take Folder"
    bl_options = {"REGISTER"}

    def work(self, context: bpy.types.Context, strip: bpy.types.Strip) -> None:
        """Open the folder."""
        folder = strips.folder_of(strip)
        if not folder.is_dir():
            message = f"expected the take's files in {folder}, found none; make it again"
            raise InputError("take_missing", message)
        bpy.ops.wm.path_open(filepath=str(folder))


class EX4D_OT_delete_take(_OnTake):
    """Remove the take's strips and delete its files from the disk, which cannot be undone"""

    bl_idname = "ex4d.delete_take"
    bl_label = "Delete Take and Files"
    # No REGISTER: repeated or adjusted, it would delete another take unasked.
    bl_options = {"UNDO"}

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Ask first, about the very take that goes then."""
        chosen = chosen_take(context)
        if not self.strip and chosen is not None:
            self.strip = chosen.name
        message = f"Delete {self.strip} and its files for good?"
        return context.window_manager.invoke_confirm(
            self, event, title="Delete Take", message=message
        )

    def work(self, context: bpy.types.Context, strip: bpy.types.Strip) -> None:
        """Delete the files of the take, nothing else, then the strips."""
        folder = strips.folder_of(strip)
        text, count = str(strip[strips.DOCUMENT_PROPERTY]), _document(strip).frame_count
        try:
            delete_files(folder, text, count)
        except OSError as error:
            message = (
                f"expected to delete {error.filename}, found: {error.strerror}; close what uses it "
                "and delete the take again"
            )
            raise InputError("take_files", message) from error
        found = compat.strips_of(context.scene.sequence_editor)
        for other in [other for other in found if _folder_of_images(other) == folder]:
            found.remove(other)


def _folder_of_images(strip: bpy.types.Strip) -> Path | None:
    return strips.folder_of(strip) if strip.type == "IMAGE" else None


def delete_files(folder: Path, document: str, frame_count: int) -> None:
    """Delete a take's files; whatever else lies in its folder stays.

    Args:
        folder: The take's, as a .blend file names it, which may come from anybody.
        document: What its `take.json` must hold: only a take that is known is deleted.
        frame_count: As the document has it.

    Raises:
        InputError: `take_other` if another take or none lies there.
    """
    if not folder.is_dir():
        return
    path, expected = folder / strips.DOCUMENT_NAME, document.encode()
    is_own = path.is_file() and path.stat().st_size == len(expected)
    if not is_own or path.read_bytes() != expected:
        message = (
            f"expected the strip's own take in {folder}, found another or none; delete the strip "
            "alone, and the files by hand"
        )
        raise InputError("take_other", message)
    for name in _SUBFOLDERS:
        for index in range(frame_count):
            (folder / name / f"{index + 1:04d}.png").unlink(missing_ok=True)
        _remove_if_empty(folder / name)
    path.unlink()
    _remove_if_empty(folder)


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


_register_classes, _unregister_classes = bpy.utils.register_classes_factory(
    (
        EX4D_OT_use_take_settings,
        EX4D_OT_generate_again,
        EX4D_OT_next_take,
        EX4D_OT_take_background,
        EX4D_OT_open_take_folder,
        EX4D_OT_delete_take,
    )
)


def register() -> None:
    """Add the list, and which row of it is chosen."""
    _register_classes()
    bpy.types.Scene.ex4d_take_index = bpy.props.IntProperty(
        name="Take", description="The take that is chosen in the list", options={"HIDDEN"}
    )


def unregister() -> None:
    """Take them away."""
    del bpy.types.Scene.ex4d_take_index
    _unregister_classes()
