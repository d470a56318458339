# SPDX-License-Identifier: GPL-3.0-or-later
"""The takes of a shot as a list in the 3D view; in the sequencer, the take of the active strip."""

# Blender 4.5 renamed the classes of strips, so that annotations must not be evaluated.
from __future__ import annotations

import bpy
import msgspec

from . import compat, strips, thumbnails
from ._vendor.protocol.documents import EngineSettings, Ex4dSettings
from .ops_takes import chosen_take
from .shots import active_shot
from .sidebar import Sidebar

#: Height of the chosen take's picture, in buttons.
_PICTURE_SCALE = 4.0


class _Summary(msgspec.Struct):
    """What a row shows of `take.json`; the rest is skipped, since rows are drawn often."""

    settings: EngineSettings


def describe(strip: bpy.types.Strip) -> str:
    """Settings and seed of a take in a line; its name has the engine."""
    try:
        summary = msgspec.json.decode(str(strip[strips.DOCUMENT_PROPERTY]), type=_Summary)
    # As `documents.decode_document`.
    except (ValueError, RecursionError):
        return "damaged"
    chosen = summary.settings
    text = f"seed {chosen.seed}"
    step = strips.frame_step_of(strip)
    if step > 1:
        text += f", in steps of {step}"
    if isinstance(chosen, Ex4dSettings):
        text = f"{chosen.mode}, {chosen.steps} steps, {text}"
    return text


class EX4D_UL_takes(bpy.types.UIList):
    """The strips that are takes of the shot."""

    bl_idname = "EX4D_UL_takes"

    def draw_item(self, _context, layout, _data, item, _icon, _active_data, _active_name):
        """Draw a take: its name, how it was made, whether it is shown."""
        row = layout.row()
        # All have the shot's name, which leaves no room for the rest of theirs.
        name = item.name.removeprefix(f"{item.get(strips.SHOT_PROPERTY, '')} ")
        row.label(text=name, icon_value=thumbnails.icon_of(item))
        row.label(text=describe(item))
        row.label(text="", icon="HIDE_ON" if item.mute else "HIDE_OFF")

    def filter_items(self, context, data, name):
        """Leave out what is no take of the shot."""
        shot = active_shot(context)
        flags = [
            self.bitflag_filter_item if shot is not None and strips.is_take(strip, shot) else 0
            for strip in getattr(data, name)
        ]
        return flags, []


class EX4D_PT_takes(Sidebar, bpy.types.Panel):
    """What was made of the shot so far."""

    bl_label = "Takes"
    bl_idname = "EX4D_PT_takes"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only with a take."""
        return chosen_take(context) is not None

    def draw(self, context: bpy.types.Context) -> None:
        """Draw the list and what can be done with the chosen take."""
        layout, editor = self.layout, context.scene.sequence_editor
        name = "strips" if hasattr(editor, "strips") else "sequences"
        row = layout.row()
        row.template_list(
            "EX4D_UL_takes", "", editor, name, context.scene, "ex4d_take_index", rows=2
        )
        _draw_files(row.column(align=True))
        _draw_take(layout, chosen_take(context))


class EX4D_PT_take_strip(Sidebar, bpy.types.Panel):
    """The take that the active strip shows, or is the colour or the mask of."""

    bl_label = "Take"
    bl_idname = "EX4D_PT_take_strip"
    bl_space_type = "SEQUENCE_EDITOR"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only with a strip of a take."""
        editor = compat.edited_scene(context).sequence_editor
        if editor is None:
            return False
        return strips.take_of(compat.strips_of(editor), editor.active_strip) is not None

    def draw(self, context: bpy.types.Context) -> None:
        """Draw the same as the list does of the chosen take."""
        take = chosen_take(context)
        if take is None:
            return
        row = self.layout.row()
        row.label(text=take.name, icon="SEQUENCE")
        _draw_files(row.row(align=True))
        self.layout.label(text=describe(take))
        _draw_take(self.layout, take)


def _draw_take(layout: bpy.types.UILayout, take: bpy.types.Strip | None) -> None:
    icon = 0 if take is None else thumbnails.icon_of(take)
    row = layout.row()
    if icon:
        # Beside the buttons, where it takes no room below them.
        row.template_icon(icon_value=icon, scale=_PICTURE_SCALE)
    column = row.column(align=True)
    column.operator("ex4d.next_take", icon="FILE_REFRESH")
    column.operator("ex4d.use_take_settings", icon="COPYDOWN")
    column.operator("ex4d.generate_again", icon="RENDER_ANIMATION")
    # The operator's own name is too long beside the picture.
    column.operator("ex4d.take_background", text="Camera Background", icon="CAMERA_DATA")


def _draw_files(layout: bpy.types.UILayout) -> None:
    layout.operator("ex4d.open_take_folder", text="", icon="FILE_FOLDER")
    layout.operator("ex4d.delete_take", text="", icon="TRASH")


register, unregister = bpy.utils.register_classes_factory(
    (EX4D_UL_takes, EX4D_PT_takes, EX4D_PT_take_strip)
)
