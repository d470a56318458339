# SPDX-License-Identifier: GPL-3.0-or-later
"""Moves that users have saved: Blender's own operator presets of Add Camera Move, in a menu.

The plus beside Operator Presets in Adjust Last Operation saves a move, the minus deletes it;
Blender keeps the files in the user's own presets.
"""

import ast
from pathlib import Path
from typing import Any, TypeGuard

import bpy

from ._vendor.errors import InputError
from .ops_connection import OperatorBase
from .shots import NeedsShot

#: Of the operator's presets; as `AddPresetOperator.operator_path` in Blender's `presets.py` has it.
FOLDER = "operator/ex4d.add_move"
_MAX_BYTES = 1 << 16


def read_move(path: Path) -> dict[str, Any]:
    """The arguments of Add Camera Move that a preset holds: its lines `op.name = value`.

    Read, not run, since running it would change whichever operator was the last.

    Raises:
        InputError: `move_unreadable`.
    """
    try:
        with path.open("rb") as file:
            tree = ast.parse(file.read(_MAX_BYTES))
        found = {
            line.targets[0].attr: ast.literal_eval(line.value)
            for line in tree.body
            if isinstance(line, ast.Assign) and _is_of_operator(line.targets[0])
        }
    except (
        OSError,
        SyntaxError,
        ValueError,
        # What is no literal, or one so deep that Python gives up on it.
        TypeError,
        MemoryError,
        RecursionError,
    ) as error:
        message = f"expected a saved move in {path}, found none: {error}; save it again"
        raise InputError("move_unreadable", message) from error
    if "move" not in found:
        # Of another operator, or left behind by a Blender that could not save it.
        message = f"expected a saved move in {path}, found none; delete it and save it again"
        raise InputError("move_unreadable", message)
    return found


def _is_of_operator(target: ast.expr) -> TypeGuard[ast.Attribute]:
    return (
        isinstance(target, ast.Attribute)
        and isinstance(target.value, ast.Name)
        and target.value.id == "op"
    )


class EX4D_OT_add_saved_move(NeedsShot, OperatorBase):
    """Animate the shot's camera with a move that was saved as a preset of Add Camera Move"""

    bl_idname = "ex4d.add_saved_move"
    bl_label = "Add Saved Move"
    # No REGISTER and no UNDO: Add Camera Move itself is what is undone and adjusted.
    bl_options = {"INTERNAL"}

    filepath: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Preset",
        description="File of the preset",
        subtype="FILE_PATH",
        options={"SKIP_SAVE"},
    )

    def execute(self, _context: bpy.types.Context) -> set[str]:
        """Run Add Camera Move with what was saved."""
        return self.reported(self._add)

    def _add(self) -> None:
        arguments = read_move(Path(self.filepath))
        try:
            bpy.ops.ex4d.add_move("EXEC_DEFAULT", True, **arguments)
        except TypeError as error:
            message = f"expected a saved move in {self.filepath}, found {error}; save it again"
            raise InputError("move_unreadable", message) from error
        except RuntimeError as error:
            # What the operator has reported, as it becomes in Python.
            raise InputError("move_refused", str(error).removeprefix("Error: ").strip()) from error


class EX4D_MT_add_move(bpy.types.Menu):
    """The moves there are, and below them those that the user has saved."""

    bl_idname = "EX4D_MT_add_move"
    bl_label = "Add Camera Move"

    def draw(self, _context: bpy.types.Context) -> None:
        """Draw both."""
        self.layout.operator_enum("ex4d.add_move", "move")
        folders = bpy.utils.preset_paths(FOLDER)
        if folders:
            self.layout.separator()
            self.path_menu(
                folders,
                "ex4d.add_saved_move",
                filter_ext=lambda extension: extension.lower() == ".py",
                display_name=lambda path: bpy.path.display_name(path, title_case=False),
            )


register, unregister = bpy.utils.register_classes_factory(
    (EX4D_OT_add_saved_move, EX4D_MT_add_move)
)
