# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between Blender 4.2 and 5.2, in one place: the rest of the extension asks here."""

# Blender 4.5 renamed the classes of strips, so that annotations must not be evaluated.
from __future__ import annotations

import bpy


def strips_of(editor: bpy.types.SequenceEditor) -> bpy.types.bpy_prop_collection:
    """The strips at the top level of a sequencer.

    Blender 4.5 renamed `sequences` to `strips`; 5.0 dropped the old name.
    """
    # Not `or`: an empty collection is falsy.
    return editor.strips if hasattr(editor, "strips") else editor.sequences


def ensure_sequencer(scene: bpy.types.Scene) -> bpy.types.SequenceEditor:
    """The scene's sequencer, shown by every workspace that shows none yet.

    Since Blender 5.0 a workspace says which scene its sequencer edits, and nothing is shown where
    it says none. What the user chose stays.
    """
    editor = scene.sequence_editor_create()
    for workspace in bpy.data.workspaces:
        if getattr(workspace, "sequencer_scene", scene) is None:
            workspace.sequencer_scene = scene
    return editor


def strip_range(strip: bpy.types.Strip) -> tuple[int, int]:
    """First frame of a strip and the frame after its last, as shown.

    Blender 5.2 has new names and deprecates the old ones.
    """
    if hasattr(strip, "left_handle"):
        return int(strip.left_handle), int(strip.right_handle)
    return int(strip.frame_final_start), int(strip.frame_final_end)


def content_start(strip: bpy.types.Strip) -> int:
    """Frame at which a strip's first picture shows, or would if the strip were not trimmed."""
    name = "content_start" if hasattr(strip, "content_start") else "frame_start"
    return round(getattr(strip, name))


def edited_scene(context: bpy.types.Context) -> bpy.types.Scene:
    """The scene that the sequencer edits where the mouse is in one, otherwise the context's.

    Since Blender 5.0 a workspace says which scene its sequencer edits.
    """
    if in_sequencer(context):
        return getattr(context, "sequencer_scene", None) or context.scene
    return context.scene


def in_sequencer(context: bpy.types.Context) -> bool:
    """Whether the mouse is in a sequencer."""
    return context.space_data is not None and context.space_data.type == "SEQUENCE_EDITOR"


def ensure_fcurve(owner: bpy.types.ID, data_path: str, index: int) -> bpy.types.FCurve:
    """The F-curve of an animated property, made where there is none.

    Blender 4.4 brought layered actions with a slot per animated data-block, 5.0 dropped the flat
    list of F-curves.

    Args:
        owner: Object or camera data.
        data_path: For example `location`.
        index: Component; 0 for a plain number.
    """
    animation = owner.animation_data_create()
    if animation.action is None:
        animation.action = bpy.data.actions.new(f"{owner.name} Action")
    action = animation.action
    if hasattr(action, "fcurve_ensure_for_datablock"):
        return action.fcurve_ensure_for_datablock(owner, data_path, index=index)
    # Keyed by hand, an object and its data share an action, each in a slot of its own.
    bag = _channelbag(animation) or action
    found = bag.fcurves.find(data_path, index=index)
    return bag.fcurves.new(data_path, index=index) if found is None else found


def fcurves_of(owner: bpy.types.ID) -> list[bpy.types.FCurve]:
    """All F-curves that animate a data-block; empty where it has no action."""
    animation = owner.animation_data
    if animation is None or animation.action is None:
        return []
    if not hasattr(animation, "action_slot"):
        return list(animation.action.fcurves)
    bag = _channelbag(animation)
    return [] if bag is None else list(bag.fcurves)


def _channelbag(animation: bpy.types.AnimData) -> bpy.types.ActionChannelbag | None:
    """The curves of the data-block's own slot; None where there is none, or before Blender 4.4."""
    slot = getattr(animation, "action_slot", None)
    if slot is None:
        return None
    layers = animation.action.layers
    bags = (strip.channelbag(slot) for layer in layers for strip in layer.strips)
    return next((bag for bag in bags if bag is not None), None)


def node_tree_of(material: bpy.types.Material) -> bpy.types.ShaderNodeTree:
    """The material's nodes; before Blender 5.0 a material has none until asked."""
    if material.node_tree is None:
        material.use_nodes = True
    return material.node_tree
