# SPDX-License-Identifier: GPL-3.0-or-later
"""What the panels ask for before a job is sent."""

import math
from pathlib import Path

import bpy

from . import sources
from ._vendor.errors import InputError
from ._vendor.protocol.documents import PreviewSettings

DEPTH_KINDS = (
    ("auto", "Automatic", "Told by the file: metric depth where it says so, else disparity"),
    ("depth", "Depth", "Distance along the view in units of its own"),
    ("metric", "Metric Depth", "Distance along the view in metres"),
    ("disparity", "Disparity", "Inverse depth: near is large"),
    ("reference", "EX-4D Disparity", "Disparity as the EX-4D reference code stores it, 0 to 1"),
)
LENSES = (
    ("DEFAULT", "60°", "A field of view of 60 degrees along the long side"),
    ("ANGLE", "Field of View", "The angle along the long side"),
    ("PIXELS", "Focal Length", "In pixels of the clip's width"),
)
DEFAULT_ANGLE_RAD = math.radians(60.0)


def _describe_clip(panel: "EX4D_PG_import", _context: bpy.types.Context) -> None:
    panel.clip_summary = _describe(panel.clip, "clip")


def _describe_depth(panel: "EX4D_PG_import", _context: bpy.types.Context) -> None:
    panel.depth_summary = _describe(panel.depth, "depth")


def _describe(path: str, role: str) -> str:
    """Say what would be sent; done when the path changes, since drawing must not read disks."""
    if not path:
        return ""
    try:
        return sources.collect(Path(bpy.path.abspath(path)), role).description
    except (InputError, OSError) as error:
        return str(error)


class EX4D_PG_import(bpy.types.PropertyGroup):
    """A video to be made into a scene. Lives in the window manager: no file can fill it in."""

    clip: bpy.props.StringProperty(
        name="Video",
        description="The video, or any image of a numbered sequence",
        subtype="FILE_PATH",
        update=_describe_clip,
    )
    depth: bpy.props.StringProperty(
        name="Depth",
        description=(
            "Depth of every frame of the video: a .npz or .npy file, or any image of a numbered "
            "sequence of EXR or 16-bit PNG files"
        ),
        subtype="FILE_PATH",
        update=_describe_depth,
    )
    clip_summary: bpy.props.StringProperty()
    depth_summary: bpy.props.StringProperty()
    depth_kind: bpy.props.EnumProperty(
        name="Holds", description="What the numbers in the depth file mean", items=DEPTH_KINDS
    )
    title: bpy.props.StringProperty(
        name="Name",
        description="Name of the scene; empty: the video's",
        maxlen=64,
    )
    first_frame: bpy.props.IntProperty(
        name="First Frame", description="Counted from 0 in the video", min=0, max=10_000_000
    )
    frame_count: bpy.props.IntProperty(
        name="Frames", description="How many frames to take; 0: all to the end", min=0, max=4096
    )
    stride: bpy.props.IntProperty(
        name="Step",
        description="Take only every nth frame of the video",
        min=1,
        max=1000,
        default=1,
    )
    lens: bpy.props.EnumProperty(
        name="Lens", description="What is known of the lens that filmed the video", items=LENSES
    )
    angle: bpy.props.FloatProperty(
        name="Field of View",
        description="Angle along the long side of the video",
        subtype="ANGLE",
        min=math.radians(1.0),
        max=math.radians(170.0),
        default=DEFAULT_ANGLE_RAD,
    )
    focal_px: bpy.props.FloatProperty(
        name="Focal Length",
        description="Focal length of the video in its pixels",
        min=1.0,
        max=100_000.0,
        default=1000.0,
    )


class EX4D_PG_generate(bpy.types.PropertyGroup):
    """How takes of a Blender scene are made."""

    engine: bpy.props.EnumProperty(
        name="Engine",
        description="What fills in the parts that the video never saw",
        items=(
            (
                "preview",
                "Preview",
                "Fills from other frames of the video, then by smoothing; quick, without a model",
            ),
        ),
        options=set(),
    )
    seed: bpy.props.IntProperty(
        name="Seed",
        description="The same seed makes the same take again",
        min=0,
        options=set(),
    )

    def engine_settings(self) -> PreviewSettings:
        """The same as the protocol says it."""
        return PreviewSettings(seed=self.seed)


def collect_sources(clip: str, depth: str) -> tuple[sources.Source, sources.Source]:
    """Find all files of a video and its depth.

    Args:
        clip: Path of the video or of an image; Blender's `//` is understood.
        depth: Path of the depth file or of an image.

    Raises:
        InputError: `source_missing` if one of them is not there.
    """
    if not clip or not depth:
        missing = "video" if not clip else "depth file"
        raise InputError("source_missing", f"expected a {missing}, found none chosen; choose one")
    return (
        sources.collect(Path(bpy.path.abspath(clip)), "clip"),
        sources.collect(Path(bpy.path.abspath(depth)), "depth"),
    )


def focal_px_of_angle(clip: str, angle_rad: float) -> float:
    """Focal length of a video in pixels, from its field of view along the long side.

    Raises:
        InputError: `clip_unreadable` if Blender cannot open the video.
    """
    path = bpy.path.abspath(clip)
    try:
        movie = bpy.data.movieclips.load(path)
    except RuntimeError as error:
        message = f"expected a video that Blender can open at {path}, found: {error}"
        raise InputError("clip_unreadable", message) from error
    long_side_px = max(movie.size)
    bpy.data.movieclips.remove(movie)
    if long_side_px == 0:
        message = (
            f"expected a video that Blender can open at {path}, found none; give the focal length "
            "in pixels"
        )
        raise InputError("clip_unreadable", message)
    return long_side_px / 2 / math.tan(angle_rad / 2)


_register_classes, _unregister_classes = bpy.utils.register_classes_factory(
    (EX4D_PG_import, EX4D_PG_generate)
)


def register() -> None:
    """Attach the settings to where they live."""
    _register_classes()
    bpy.types.WindowManager.ex4d_import = bpy.props.PointerProperty(type=EX4D_PG_import)
    bpy.types.Scene.ex4d_generate = bpy.props.PointerProperty(type=EX4D_PG_generate)


def unregister() -> None:
    """Take them away."""
    del bpy.types.Scene.ex4d_generate
    del bpy.types.WindowManager.ex4d_import
    _unregister_classes()
