# SPDX-License-Identifier: GPL-3.0-or-later
"""Registers every module of the extension in order, and undoes it in reverse."""

from types import ModuleType

from . import (
    camera_moves,
    camera_pictures,
    import_settings,
    lead_in,
    measure,
    ops_connection,
    ops_coverage,
    ops_import,
    ops_jobs,
    ops_moves,
    ops_takes,
    panel_takes,
    panels,
    pie_menu,
    preferences,
    pump,
    relink,
    runtime,
    saved_moves,
    scene_jobs,
    settings,
    shot_ids,
    shot_menu,
    shots,
    thumbnails,
)

#: Each has `register()` and `unregister()`; a module may use what those before it registered.
MODULES: tuple[ModuleType, ...] = (
    preferences,
    runtime,
    settings,
    import_settings,
    shots,
    shot_ids,
    shot_menu,
    scene_jobs,
    camera_pictures,
    pump,
    camera_moves,
    saved_moves,
    lead_in,
    ops_moves,
    ops_connection,
    ops_jobs,
    ops_import,
    measure,
    relink,
    panels,
    ops_coverage,
    ops_takes,
    pie_menu,
    thumbnails,
    panel_takes,
)


def register() -> None:
    """Register all modules, or none: what is already registered is undone if one of them fails."""
    registered: list[ModuleType] = []
    try:
        for module in MODULES:
            module.register()
            registered.append(module)
    finally:
        if len(registered) < len(MODULES):
            _unregister(registered)


def unregister() -> None:
    """Take everything back out of Blender."""
    _unregister(list(MODULES))


def _unregister(modules: list[ModuleType]) -> None:
    for module in reversed(modules):
        module.unregister()
