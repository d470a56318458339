"""The JSON documents: what a scene, a trajectory and a take are, on disk and on the wire.

A scene and a take are folders. Their documents name their files by relative path; image sequences
start at 0001. Lengths are in scene units (metres where `DepthInfo.unit` says so), axes are OpenCV's
(x right, y down, z forward), pixel centres lie at +0.5.
"""

import math
import re
from typing import Annotated, Literal

from msgspec import Meta, Struct

#: Limits that hold for every document, wherever it comes from.
#: Three minutes at 30 frames a second; three files of each fit into one message.
MAX_FRAMES = 5460
MAX_SIDE_PX = 8192

#: A path inside a scene or take: one folder at most, plain ASCII, never `..` or a leading dot.
RelativePath = Annotated[
    str, Meta(pattern=r"^(?:[A-Za-z0-9_-]{1,64}/)?[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}\Z")
]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
SidePx = Annotated[int, Meta(ge=2, le=MAX_SIDE_PX)]
FrameCount = Annotated[int, Meta(ge=1, le=MAX_FRAMES)]
ShortText = Annotated[str, Meta(max_length=256)]
#: Longer than the 512 tokens that the model reads, in any script.
Prompt = Annotated[str, Meta(max_length=2000)]
LoraName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}\Z")]
Positive = Annotated[float, Meta(gt=0.0)]


#: Names that Windows keeps for devices, with any suffix.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


def is_portable(path: str) -> bool:
    """Whether a `RelativePath` names a file on every system: no device, no dot that gets lost."""
    return not any(_DEVICE.fullmatch(part) or part.endswith(".") for part in path.split("/"))


class _Document(Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all documents: immutable, strict."""


class FileRef(_Document, frozen=True, kw_only=True):
    """A file of a scene, a take or an upload, named by its content."""

    path: RelativePath
    sha256: Sha256
    size_bytes: Annotated[int, Meta(ge=0)]


class FrameRate(_Document, frozen=True, kw_only=True):
    """Frames per second as an exact fraction, for example 30000/1001."""

    numerator: Annotated[int, Meta(ge=1, le=1_000_000)]
    denominator: Annotated[int, Meta(ge=1, le=1_000_000)]


class PinholeIntrinsics(_Document, frozen=True, kw_only=True):
    """A pinhole camera in pixels of an image of `width_px` x `height_px`.

    The origin is the top-left corner of the top-left pixel, whose centre is (0.5, 0.5).
    """

    width_px: SidePx
    height_px: SidePx
    fx_px: Positive
    fy_px: Positive
    cx_px: float
    cy_px: float


#: What estimates depth; also the names of its weights in `ex4d models`.
EstimatorName = Literal[
    "video-depth-anything", "video-depth-anything-metric", "depth-anything", "depthcrafter"
]
#: How affine disparity becomes depth. Spread over 0..1 first: from its least to its largest number
#: over the clip, as the reference does it, or from its 0.1 to its 99.9 percentile, so that the
#: farthest is sent to infinity. `calibrated`: fitted to a metric estimate of a few frames instead.
DepthRange = Literal["percentile", "min_max", "calibrated"]

#: What can be done to estimated depth: noise and flicker taken along the motion of the picture, sky
#: sent behind all else, edges snapped to those of the picture.
RefinementStep = Literal["steady", "sky", "edges"]


class DepthInfo(_Document, frozen=True, kw_only=True, omit_defaults=True):
    """Where depth came from and what its numbers mean."""

    #: `files`, or the name of the estimator.
    source: ShortText
    #: What the source held before conversion to z-depth.
    kind: Literal["depth", "disparity", "reference"]
    #: `metres` only where the source was metric; otherwise the scene has a free scale.
    unit: Literal["scene", "metres"]
    licence: ShortText
    #: The estimator's file and 16 hexadecimal digits that tell its content.
    weights: ShortText = ""
    #: `proportional`: depth was scaled, if at all, and never shifted.
    spread: DepthRange | Literal["proportional"] | None = None
    #: Where the focal length came from: the user, the clip's own metadata, the estimator, or the
    #: usual 60 degrees.
    focal_source: Literal["user", "lens", "estimator", "default"] | None = None
    #: What was done to the depth since.
    refinement: tuple[RefinementStep, ...] = ()


class MeshRules(_Document, frozen=True, kw_only=True):
    """How depth becomes a DW-mesh."""

    #: A face with a smaller angle than this is stretched; its vertices are occluded.
    min_angle_deg: Annotated[float, Meta(gt=0.0, lt=60.0)] = 2.5
    #: z-depth of the border rows and columns; the border goes behind everything seen.
    border_depth: Positive
    #: `reference`: the caps are judged like other faces, so interpolated corner colours may count
    #: as seen. `occluded`: the border and the caps never do.
    back_plate: Literal["occluded", "reference"] = "occluded"

    @property
    def is_reference(self) -> bool:
        """Whether all is as in the reference: colours also darken towards occluded vertices."""
        return self.back_plate == "reference"


class SceneDocument(_Document, frozen=True, kw_only=True):
    """`scene.json`: a clip with depth and intrinsics.

    Beside it: `frames/0001.png` (8-bit RGB), `depth/0001.exr` (float32 z-depth, channel Y, ZIP) and
    `occluded/0001.png` (8-bit grey: 255 where the DW-mesh vertex of that pixel is occluded), one
    each per frame. The source camera is the identity.
    """

    format: Literal["ex4d-scene"] = "ex4d-scene"
    version: Literal[1] = 1
    name: ShortText
    frame_count: FrameCount
    #: First frame of the clip that the scene holds, counted from 0 in the source video.
    first_source_frame: Annotated[int, Meta(ge=0)]
    #: Every how many frames of the source video one was taken.
    stride: Annotated[int, Meta(ge=1, le=1000)] = 1
    #: Rate of the scene's frames (the source's rate divided by the stride).
    frame_rate: FrameRate
    intrinsics: PinholeIntrinsics
    depth: DepthInfo
    mesh: MeshRules
    #: Nearest z-depth of frame 0 and over the whole clip, border excluded.
    nearest_depth_first_frame: Positive
    nearest_depth: Positive
    farthest_depth: Positive


class CameraPose(_Document, frozen=True, kw_only=True):
    """The camera of one output frame."""

    #: Rows 0..2 of the 4x4 `cam_to_world`, row-major; OpenCV axes, world = source camera.
    cam_to_world: Annotated[tuple[float, ...], Meta(min_length=12, max_length=12)]
    fx_px: Positive
    fy_px: Positive
    cx_px: float
    cy_px: float
    #: Scene frame that this output frame looks at, counted from 0.
    source_time: Annotated[int, Meta(ge=0, lt=MAX_FRAMES)]


class TrajectoryDocument(_Document, frozen=True, kw_only=True):
    """A camera path: one pose per output frame, all of one size."""

    format: Literal["ex4d-trajectory"] = "ex4d-trajectory"
    version: Literal[1] = 1
    width_px: SidePx
    height_px: SidePx
    poses: Annotated[tuple[CameraPose, ...], Meta(min_length=1, max_length=MAX_FRAMES)]

    def __post_init__(self) -> None:
        """Refuse what the type system lets through: NaN and infinity.

        Raises:
            ValueError: msgspec turns it into a `ValidationError` when decoding.
        """
        for index, pose in enumerate(self.poses):
            numbers = (*pose.cam_to_world, pose.fx_px, pose.fy_px, pose.cx_px, pose.cy_px)
            if not all(map(math.isfinite, numbers)):
                msg = f"expected finite numbers in pose {index}, found {numbers}"
                raise ValueError(msg)


class PreviewSettings(_Document, frozen=True, kw_only=True, tag="preview", tag_field="engine"):
    """The engine without weights: fills from other frames, then by inpainting."""

    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0


#: What the reference tells the model; takes were trained and judged with these.
REFERENCE_PROMPT = (
    "4K ultra HD, surround motion, realistic tone, panoramic shot, wide-angle view, "
    "cinematic quality"
)
REFERENCE_NEGATIVE_PROMPT = (
    "Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, "
    "images, static, overall gray, worst quality, low quality, JPEG compression residue, ugly, "
    "incomplete, extra fingers, poorly drawn hands, poorly drawn faces, deformed, disfigured, "
    "misshapen limbs, fused fingers, still picture, messy background, three legs, many people in "
    "the background, walking backwards"
)


class Ex4dSettings(_Document, frozen=True, kw_only=True, tag="ex4d", tag_field="engine"):
    """EX-4D on Wan2.1-I2V-14B, which imagines what the source never saw."""

    #: `exact`: as the reference computes. `fast`: 8-bit floating-point products. `draft`: with a
    #: step-distilled LoRA among `loras`, few steps and no guidance.
    mode: Literal["exact", "fast", "draft"] = "exact"
    steps: Annotated[int, Meta(ge=1, le=100)] = 25
    #: Of classifier-free guidance; 1 is none, which halves the time.
    guidance: Annotated[float, Meta(ge=1.0, le=20.0)] = 5.0
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    prompt: Prompt = REFERENCE_PROMPT
    negative_prompt: Prompt = REFERENCE_NEGATIVE_PROMPT
    #: Names under which the server's owner registered additional LoRAs.
    loras: Annotated[tuple[LoraName, ...], Meta(max_length=8)] = ()


#: What an engine is told. Later engines join this union; the tag names the engine.
EngineSettings = PreviewSettings | Ex4dSettings


class UsedPart(_Document, frozen=True, kw_only=True):
    """A part that made a take, with its licence: rasteriser, engine, estimator."""

    role: ShortText
    name: ShortText
    version: ShortText
    licence: ShortText


class TakeDocument(_Document, frozen=True, kw_only=True):
    """`take.json`: a take with everything needed to make it again.

    Beside it: `frames/0001.png` (the shot), `color/0001.png` and `mask/0001.png` (the condition),
    8-bit, one each per output frame.
    """

    format: Literal["ex4d-take"] = "ex4d-take"
    version: Literal[1] = 1
    scene_name: ShortText
    #: SHA-256 of the scene's `scene.json`.
    scene_sha256: Sha256
    frame_count: FrameCount
    #: Of the scene's frames, in which each pose's `source_time` counts.
    frame_rate: FrameRate
    width_px: SidePx
    height_px: SidePx
    trajectory: TrajectoryDocument
    settings: EngineSettings
    #: Share of pixels that the source saw, per frame, 0..1.
    coverage: tuple[float, ...]
    parts: tuple[UsedPart, ...]
    #: What the viewer of the take should know, for example that its size is an unusual one.
    notes: Annotated[tuple[ShortText, ...], Meta(max_length=16)] = ()
    app_version: ShortText
