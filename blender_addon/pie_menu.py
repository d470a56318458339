# SPDX-License-Identifier: GPL-3.0-or-later
"""The main actions in a pie menu, for those who give it a key: none is taken unasked."""

import bpy


class EX4D_MT_pie(bpy.types.Menu):
    """From a video to its takes."""

    bl_idname = "EX4D_MT_pie"
    bl_label = "EX-4D"

    def draw(self, _context: bpy.types.Context) -> None:
        """Draw what can be done; each button says itself what it lacks."""
        pie = self.layout.menu_pie()
        # Blender fills left, right, below, above, then the corners from the upper left on.
        pie.operator("ex4d.choose_video", text="Import Video", icon="IMPORT")
        pie.operator("ex4d.generate", icon="RENDER_ANIMATION")
        pie.operator("ex4d.check_coverage", icon="HIDE_OFF")
        # A menu within a pie menu opens for the mouse alone, and not for the number keys.
        moves = pie.operator("wm.call_menu", text="Add Camera Move", icon="CAMERA_DATA")
        moves.name = "EX4D_MT_add_move"
        pick = pie.operator("ex4d.set_pivot", text="Pivot on the Mesh", icon="PIVOT_CURSOR")
        pick.origin = "POINT"
        pie.operator("ex4d.next_take", icon="FILE_REFRESH")


def draw_button(layout: bpy.types.UILayout) -> None:
    """Draw the button that opens the pie menu, by which Blender can give it a key."""
    row = layout.row()
    button = row.operator("wm.call_menu_pie", text="Pie Menu", icon="EVENT_OS")
    button.name = EX4D_MT_pie.bl_idname
    row.label(text="Right click on it and choose Assign Shortcut")


register, unregister = bpy.utils.register_classes_factory((EX4D_MT_pie,))
