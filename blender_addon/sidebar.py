# SPDX-License-Identifier: GPL-3.0-or-later
"""What the panels in the sidebar of the 3D view share."""

import bpy

from .shots import active_shot


class Sidebar:
    """Where a panel is found: in the extension's own tab."""

    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "EX-4D"


class ShotSidebar(Sidebar):
    """Of a panel that is about the active shot."""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only with a shot."""
        return active_shot(context) is not None
