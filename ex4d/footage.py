"""What was filmed: a clip with its depth and its camera, from wherever they are to be had."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from .camera import Intrinsics
from .clip import Clip, FrameSelection, read_clip
from .depth import DEFAULT_ESTIMATOR, METRIC_ESTIMATOR, Depth, create_estimator
from .depth.files import DepthKind, read_depth
from .depth.refinement import refine
from .depth.units import depth_of, key_frames
from .diffusion.warm import WarmModels
from .errors import InputError
from .protocol.documents import DepthRange
from .task import Task

#: Against the clip's longer side: fields of view of 178 to 0.06 degrees, beyond any lens.
_FOCAL_RANGE = (0.01, 1000.0)
FocalSource = Literal["user", "lens", "estimator", "default"]


@dataclass(frozen=True)
class DepthWish:
    """Where depth shall come from.

    Attributes:
        path: The file; an estimator's work where absent.
        kind: What the file holds.
        estimator: Name of the estimator, the default one where absent.
        spread: How an estimator's affine disparity becomes depth.
        accepts_research_licence: The user accepts a licence that forbids production.
        refines: Whether depth is refined for the mesh, as `depth.refinement` has it; where absent,
            an estimator's is and a file's is not, nor is one spread as the reference does it.

    Raises:
        InputError: `depth_source` if both a file and an estimator are named.
    """

    path: Path | None = None
    kind: DepthKind = "auto"
    estimator: str | None = None
    spread: DepthRange = "percentile"
    accepts_research_licence: bool = False
    refines: bool | None = None

    def __post_init__(self) -> None:
        if self.path is not None and self.estimator is not None:
            msg = (
                f"expected depth from a file or from an estimator, found both {self.path.name} and "
                f"{self.estimator}; leave one out"
            )
            raise InputError("depth_source", msg)

    @property
    def is_refined(self) -> bool:
        """Whether depth is refined, by the user's word or by where it comes from."""
        if self.refines is not None:
            return self.refines
        return self.path is None and self.spread != "min_max"


@dataclass(frozen=True, eq=False)
class Footage:
    """A clip, the depth of its frames and its camera, all of one size."""

    clip: Clip
    depth: Depth
    intrinsics: Intrinsics


def read_footage(
    path: Path,
    wish: DepthWish,
    *,
    selection: FrameSelection,
    focal_px: float | None,
    task: Task,
    warm: WarmModels | None = None,
) -> Footage:
    """Read a clip, read or estimate its depth, and find its focal length.

    Args:
        path: The video, or the first image of a sequence.
        wish: Where depth shall come from.
        selection: Which frames.
        focal_px: The user's; see `chosen_intrinsics` for what is taken where there is none.
        task: Progress and cancellation.
        warm: Keeps networks between jobs.

    Raises:
        InputError: As `read_clip`, `read_depth`, `create_estimator`, the estimator itself and
            `depth_of` have it.
    """
    if wish.path is not None:
        clip = read_clip(path, selection=selection, task=task)
        frame_count, height_px, width_px, _ = clip.frames.shape
        depth = read_depth(
            wish.path,
            kind=wish.kind,
            frame_count=frame_count,
            width_px=width_px,
            height_px=height_px,
            selection=selection,
            task=task,
        )
        field_of_view_deg = None
    else:
        # Before the clip is read: what is missing shall be known at once.
        estimator = create_estimator(
            wish.estimator or DEFAULT_ESTIMATOR,
            warm,
            accepts_research_licence=wish.accepts_research_licence,
        )
        is_calibrated = wish.spread == "calibrated" and estimator.kind == "affine_disparity"
        calibrator = create_estimator(METRIC_ESTIMATOR, warm) if is_calibrated else None
        clip = read_clip(path, selection=selection, task=task)
        estimate = estimator.estimate(clip.frames, task=task)
        metric = None
        if calibrator is not None:
            # A server keeps the newest work alone, and these few frames are not it.
            few = clip.frames[key_frames(len(clip.frames))]
            metric = calibrator.estimate(few, task=task.keeping_nothing())
        depth = depth_of(estimate, estimator, wish.spread, metric)
        field_of_view_deg = estimate.field_of_view_deg
    intrinsics, source = chosen_intrinsics(clip, focal_px, field_of_view_deg)
    info = msgspec.structs.replace(depth.info, focal_source=source)
    if wish.is_refined:
        steps = refine(depth.values, clip.frames, task=task)
        info = msgspec.structs.replace(info, refinement=steps)
    return Footage(clip, Depth(depth.values, info), intrinsics)


def chosen_intrinsics(
    clip: Clip, focal_px: float | None, field_of_view_deg: float | None
) -> tuple[Intrinsics, FocalSource]:
    """The clip's camera, and where its focal length came from.

    Args:
        clip: Its own word on its lens comes second.
        focal_px: The user's word comes first.
        field_of_view_deg: The estimator's word, along the longer side, comes third; if nobody says
            anything, the usual 60 degrees are taken.

    Raises:
        InputError: `focal_length` if the user's word fits no lens.
    """
    _, height_px, width_px, _ = clip.frames.shape
    if focal_px is not None:
        _check_focal(focal_px, max(width_px, height_px))
        return Intrinsics.from_focal(width_px, height_px, focal_px), "user"
    if clip.lens_mm is not None:
        return Intrinsics.from_lens(width_px, height_px, clip.lens_mm), "lens"
    if field_of_view_deg is not None:
        return Intrinsics.from_field_of_view(width_px, height_px, field_of_view_deg), "estimator"
    return Intrinsics.from_field_of_view(width_px, height_px), "default"


def _check_focal(focal_px: float, side_px: int) -> None:
    least_px, most_px = (limit * side_px for limit in _FOCAL_RANGE)
    if not least_px <= focal_px <= most_px:
        msg = (
            f"expected a focal length of {least_px:g} to {most_px:g} px for a clip with a long "
            f"side of {side_px} px, found {focal_px:g}; leave it out if it is not known"
        )
        raise InputError("focal_length", msg)
