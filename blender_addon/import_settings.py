# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked for before a video is sent: the same in the panel, the dialog and the operator."""

import math
from pathlib import Path

import bpy

from . import sources
from ._vendor.errors import InputError
from ._vendor.protocol.documents import MAX_FRAMES, EstimatorName

DEPTH_SOURCES = (
    ("FILE", "File", "Depth that was made before"),
    ("ESTIMATOR", "Estimate", "The server estimates depth from the video alone"),
)
DEPTH_KINDS = (
    ("auto", "Automatic", "Told by the file: metric depth where it says so, else disparity"),
    ("depth", "Depth", "Distance along the view in units of its own"),
    ("metric", "Metric Depth", "Distance along the view in metres"),
    ("disparity", "Disparity", "Inverse depth: near is large"),
    ("reference", "EX-4D Disparity", "Disparity as the EX-4D reference code stores it, 0 to 1"),
)
METRIC_ESTIMATOR: EstimatorName = "video-depth-anything-metric"
ESTIMATORS = (
    ("video-depth-anything", "Video Depth Anything", "Steady depth without a scale of its own"),
    (METRIC_ESTIMATOR, "Video Depth Anything Metric", "Depth in metres"),
    ("depth-anything", "Depth Anything", "For single pictures: the depth of a video flickers"),
    ("depthcrafter", "DepthCrafter", "The EX-4D reference's; for research alone"),
)
DEPTH_RANGES = (
    ("percentile", "Percentiles", "A few extreme pixels do not change the rest"),
    ("min_max", "Minimum to Maximum", "As the EX-4D reference code does"),
    (
        "calibrated",
        "Calibrated",
        "Fitted to metric depth of a few frames, so that walls stay where they are",
    ),
)
LENSES = (
    (
        "DEFAULT",
        "Automatic",
        "The video's own word on its lens, else the estimator's, else 60 degrees on the long side",
    ),
    ("ANGLE", "Field of View", "The angle along the long side"),
    ("PIXELS", "Focal Length", "In pixels of the clip's width"),
)
DEFAULT_ANGLE_RAD = math.radians(60.0)
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")


def _forget_licence(options: bpy.types.PropertyGroup, _context: bpy.types.Context) -> None:
    """Who accepted one estimator's licence has not read the next one's."""
    # An operator is told both at once.
    if isinstance(options, EX4D_PG_import):
        options.accepts_research_licence = False


def _describe(options: "ImportOptions", _context: bpy.types.Context) -> None:
    """Say what would be sent; done when a path changes, since drawing must not read disks."""
    # An operator has the same properties, but shows no summary.
    if isinstance(options, EX4D_PG_import):
        options.clip_summary = _description(options.clip, "clip")
        options.depth_summary = _description(options.depth, "depth")


class ImportOptions:
    """Properties of whatever asks for a video; to be mixed into a class of Blender's."""

    depth_source: bpy.props.EnumProperty(
        name="Depth", description="Where depth comes from", items=DEPTH_SOURCES
    )
    depth: bpy.props.StringProperty(
        name="Depth File",
        description=(
            "Depth of every frame of the video: a .npz or .npy file, or any image of a numbered "
            "sequence of EXR or 16-bit PNG files"
        ),
        subtype="FILE_PATH",
        update=_describe,
    )
    depth_kind: bpy.props.EnumProperty(
        name="Holds", description="What the numbers in the depth file mean", items=DEPTH_KINDS
    )
    estimator: bpy.props.EnumProperty(
        name="Estimator",
        description="What estimates depth",
        items=ESTIMATORS,
        update=_forget_licence,
    )
    depth_range: bpy.props.EnumProperty(
        name="Range",
        description="How the estimator's disparity becomes depth",
        items=DEPTH_RANGES,
    )
    accepts_research_licence: bpy.props.BoolProperty(
        name="For Research Alone",
        description="You accept the license of this estimator, which forbids production",
    )
    title: bpy.props.StringProperty(
        name="Name", description="Name of the scene; empty: the video's", maxlen=64
    )
    first_frame: bpy.props.IntProperty(
        name="First Frame", description="Counted from 0 in the video", min=0, max=10_000_000
    )
    frame_count: bpy.props.IntProperty(
        name="Frames",
        description="How many frames to take; 0: all to the end",
        min=0,
        max=MAX_FRAMES,
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


OPTION_NAMES = tuple(ImportOptions.__annotations__)


class EX4D_PG_import(ImportOptions, bpy.types.PropertyGroup):
    """A video to be made into a scene. Lives in the window manager: no file can fill it in."""

    clip: bpy.props.StringProperty(
        name="Video",
        description="The video, or any image of a numbered sequence",
        subtype="FILE_PATH",
        update=_describe,
    )
    clip_summary: bpy.props.StringProperty()
    depth_summary: bpy.props.StringProperty()


def _description(path: str, role: str) -> str:
    if not path:
        return ""
    try:
        return sources.collect(Path(bpy.path.abspath(path)), role).description
    except (InputError, OSError) as error:
        return str(error)


def needed_estimators(options: ImportOptions) -> list[EstimatorName]:
    """Names of the estimators that would work on the video; none where a file holds depth."""
    if options.depth_source == "FILE":
        return []
    names: list[EstimatorName] = [options.estimator]
    if options.depth_range == "calibrated" and options.estimator != METRIC_ESTIMATOR:
        names.append(METRIC_ESTIMATOR)
    return names


def collect_sources(clip: str, depth: str | None) -> dict[str, sources.Source]:
    """Find all files of a video and its depth.

    Args:
        clip: Path of the video or of an image; Blender's `//` is understood.
        depth: Path of the depth file or of an image; None where depth is estimated.

    Returns:
        `clip`, and `depth` where it is not estimated.

    Raises:
        InputError: `source_missing` if one of them is not there.
    """
    found: dict[str, sources.Source] = {}
    for role, path, what in (("clip", clip, "video"), ("depth", depth, "depth file")):
        if path is None:
            continue
        if not path:
            message = f"expected a {what}, found none chosen; choose one"
            if role == "depth":
                message += ", or let the server estimate depth"
            raise InputError("source_missing", message)
        found[role] = sources.collect(Path(bpy.path.abspath(path)), role)
    return found


def chosen_focal_px(clip: str, options: ImportOptions) -> float | None:
    """The focal length in pixels of the video that the user gives; None: to be found out.

    Raises:
        InputError: `clip_unreadable` if Blender cannot open a video whose angle is given.
    """
    if options.lens == "PIXELS":
        return options.focal_px
    if options.lens == "ANGLE":
        return focal_px_of_angle(clip, options.angle)
    return None


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


_register_classes, _unregister_classes = bpy.utils.register_classes_factory((EX4D_PG_import,))


def register() -> None:
    """Attach the settings to the window manager."""
    _register_classes()
    bpy.types.WindowManager.ex4d_import = bpy.props.PointerProperty(type=EX4D_PG_import)


def unregister() -> None:
    """Take them away."""
    del bpy.types.WindowManager.ex4d_import
    _unregister_classes()
