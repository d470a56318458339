# SPDX-License-Identifier: GPL-3.0-or-later
"""Materials: the video on its mesh, and what the video never saw."""

from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

from . import compat

#: sRGB, 0..1, of everything that the video never saw.
UNSEEN_SRGB = (0.80, 0.10, 0.55)
#: The same as bytes.
MARK = np.array([round(255 * channel) for channel in UNSEEN_SRGB], dtype=np.uint8)
#: Name of the node whose image Solid mode and renders show.
CLIP_NODE = "EX-4D Clip"


def mark(frame: NDArray[np.uint8], occluded: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Paint the occluded pixels of a frame.

    Marks in the picture itself cost nothing at playback and show in Solid mode as in renders. Where
    a seen vertex meets an occluded one, the texture's interpolation puts the edge halfway, which is
    where the condition's mask has it.

    Args:
        frame: (height, width, 3) uint8 sRGB.
        occluded: (height, width) bool.

    Returns:
        A new picture like `frame`.
    """
    return np.where(occluded[..., None], MARK, frame)


def is_marked(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels of a picture `mark` painted: (height, width)."""
    red, green, blue = (picture[..., channel] == MARK[channel] for channel in range(3))
    return red & green & blue


def load_sequence(first_file: Path) -> bpy.types.Image:
    """Load an image sequence that starts at this file."""
    image = bpy.data.images.load(str(first_file))
    image.source = "SEQUENCE"
    return image


def create_clip_material(
    name: str, image: bpy.types.Image, frame_count: int, frame_start: int
) -> bpy.types.Material:
    """A material that shows an image sequence as it is, whatever the light.

    Args:
        name: Of the material.
        image: The sequence.
        frame_count: Its length.
        frame_start: Frame of Blender's scene that shows its first image.
    """
    material = bpy.data.materials.new(name)
    tree = compat.node_tree_of(material)
    tree.nodes.clear()
    texture = tree.nodes.new("ShaderNodeTexImage")
    texture.name = texture.label = CLIP_NODE
    texture.extension = "EXTEND"
    texture.image = image
    texture.image_user.frame_duration = frame_count
    texture.image_user.frame_start = frame_start
    texture.image_user.frame_offset = 0
    texture.image_user.use_auto_refresh = True
    _add_emission(tree, texture.outputs["Color"])
    # Solid mode with textures shows the active image node.
    tree.nodes.active = texture
    return material


def create_unseen_material(name: str) -> bpy.types.Material:
    """A material in the colour of everything that the video never saw."""
    material = bpy.data.materials.new(name)
    tree = compat.node_tree_of(material)
    tree.nodes.clear()
    color = tree.nodes.new("ShaderNodeRGB")
    color.outputs[0].default_value = (*_linear(UNSEEN_SRGB), 1.0)
    _add_emission(tree, color.outputs[0])
    # Of the viewport's Solid mode; linear too.
    material.diffuse_color = (*_linear(UNSEEN_SRGB), 1.0)
    return material


def clip_node(material: bpy.types.Material) -> bpy.types.ShaderNodeTexImage | None:
    """The node that holds the clip, unless the user has removed it."""
    return material.node_tree.nodes.get(CLIP_NODE)


def _add_emission(tree: bpy.types.ShaderNodeTree, color: bpy.types.NodeSocket) -> None:
    emission = tree.nodes.new("ShaderNodeEmission")
    emission.location = (300, 0)
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    output.location = (500, 0)
    tree.links.new(color, emission.inputs["Color"])
    tree.links.new(emission.outputs["Emission"], output.inputs["Surface"])


def _linear(srgb: tuple[float, float, float]) -> tuple[float, ...]:
    """The sRGB transfer function, from encoded to linear."""
    return tuple(
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in srgb
    )
