"""Installing the built extension into Blender as a Python module, and removing it again."""

import sys
from pathlib import Path

PACKAGE = "bl_ext.user_default.ex4d"


def install(zip_path: Path) -> None:
    """Install and enable the extension."""
    import bpy

    result = bpy.ops.extensions.package_install_files(
        filepath=str(zip_path), repo="user_default", enable_on_install=True
    )
    assert result == {"FINISHED"}
    assert PACKAGE in bpy.context.preferences.addons


def uninstall() -> None:
    """Remove it, so that Blender ends well: 4.5 hangs at its exit where classes are left."""
    import bpy

    modules = [module for name, module in sys.modules.items() if name.startswith(PACKAGE)]
    repositories = [item.module for item in bpy.context.preferences.extensions.repos]
    bpy.ops.extensions.package_uninstall(
        repo_index=repositories.index("user_default"), pkg_id="ex4d"
    )
    assert PACKAGE not in bpy.context.preferences.addons
    # Blender 4.2 never lets go of a property's update function. As a Python module it crashes at
    # exit if such a function, through its module, still holds `bpy`.
    for module in modules:
        vars(module).pop("bpy", None)
