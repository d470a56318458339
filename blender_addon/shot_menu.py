# SPDX-License-Identifier: GPL-3.0-or-later
"""The menu with the shots of a scene, of which the panels show the chosen one."""

import bpy


class EX4D_OT_choose_shot(bpy.types.Operator):
    """Select the shot alone, which the panels show then"""

    bl_idname = "ex4d.choose_shot"
    bl_label = "Choose Shot"
    bl_options = {"REGISTER", "UNDO"}

    shot: bpy.props.StringProperty(name="Shot", description="Name of the shot's object")

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only where the active object may change."""
        if context.mode != "OBJECT":
            cls.poll_message_set("Change to Object Mode first")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Make it the active object; one that the view layer leaves out cannot be."""
        shot = context.scene.objects.get(self.shot)
        if shot is None or not shot.ex4d_shot.is_shot:
            self.report({"ERROR"}, f"expected a shot, found none named {self.shot!r}; choose one")
            return {"CANCELLED"}
        objects = context.view_layer.objects
        for other in objects:
            other.select_set(other == shot)
        objects.active = objects.get(shot.name)
        context.scene.ex4d.shot = shot
        return {"FINISHED"}


class EX4D_MT_shots(bpy.types.Menu):
    """All shots of the scene, by their names."""

    bl_label = "Shots"
    bl_idname = "EX4D_MT_shots"

    def draw(self, context: bpy.types.Context) -> None:
        """Draw a row for each."""
        for item in context.scene.objects:
            if item.ex4d_shot.is_shot:
                row = self.layout.operator("ex4d.choose_shot", text=item.name, icon="FILE_MOVIE")
                row.shot = item.name


register, unregister = bpy.utils.register_classes_factory((EX4D_OT_choose_shot, EX4D_MT_shots))
