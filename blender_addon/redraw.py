# SPDX-License-Identifier: GPL-3.0-or-later
"""Having parts of Blender's windows drawn again, since timers draw nothing by themselves."""

import bpy


def redraw_views(region_type: str) -> None:
    """Have a part of every 3D view drawn again.

    Args:
        region_type: As Blender has it: `UI` for the sidebar, `WINDOW` for the view itself.
    """
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                for region in area.regions:
                    if region.type == region_type:
                        region.tag_redraw()
