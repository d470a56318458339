"""The three jobs, from a request and its files to a folder of results.

The command line and the server's worker call exactly these. `inputs` holds the files of the request
under their relative paths; `output` appears when the result is whole.
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .camera import Trajectory
from .clip import FrameSelection
from .condition import condition_frames
from .diffusion import Engine, View, create_engine
from .diffusion.warm import WarmModels
from .dwmesh import default_rules
from .folders import whole_folder
from .footage import DepthWish, read_footage
from .framestore import value_range
from .images import write_depth_exr
from .protocol.documents import TakeDocument, UsedPart
from .protocol.messages import GenerateJob, ReconstructJob, RenderJob
from .raster import Rasteriser, create_rasteriser
from .scene import Scene, write_scene
from .take import Take, frame_name, write_condition_frame, write_take
from .task import Task
from .video import MediaLimits


def reconstruct(
    job: ReconstructJob, inputs: Path, output: Path, task: Task, warm: WarmModels | None = None
) -> Scene:
    """Make a scene from a clip and its depth, or the depth that an estimator sees in it.

    Args:
        job: What to do; its paths are relative to `inputs`.
        inputs: Folder of the clip and the depth.
        output: Where the scene shall be.
        task: Progress and cancellation.
        warm: Keeps models between jobs.

    Raises:
        Ex4dError: If the clip or the depth cannot be used.
    """
    footage = read_footage(
        inputs / job.clip,
        DepthWish(
            path=None if job.depth is None else inputs / job.depth,
            kind=job.depth_kind,
            estimator=job.estimator,
            spread=job.depth_range,
            accepts_research_licence=job.accepts_research_licence,
            refines=job.refines,
        ),
        selection=FrameSelection(job.first_frame, job.frame_count, job.stride),
        focal_px=job.focal_px,
        task=task,
        warm=warm,
    )
    rules = default_rules(value_range(footage.depth.values)[1])
    return write_scene(
        output,
        footage.clip,
        footage.depth,
        footage.intrinsics,
        rules,
        name=job.name,
        task=task,
    )


def render(job: RenderJob, inputs: Path, output: Path, task: Task) -> NDArray[np.float64]:
    """Render colour, mask and depth of a scene along a trajectory.

    `output` gets `color/0001.png`, `mask/0001.png` (8 bit) and `depth/0001.exr` (float32 z-depth,
    0 where nothing is hit), one each per output frame.

    Args:
        job: What to render.
        inputs: Folder of the scene.
        output: Where the results shall be.
        task: Progress and cancellation.

    Returns:
        (frames,): share of each frame's pixels that the source saw.
    """
    trajectory = _checked(job)
    scene = Scene(inputs)
    coverage: list[float] = []
    with whole_folder(output) as temporary:
        for name in ("color", "mask", "depth"):
            (temporary / name).mkdir()
        frames = condition_frames(scene, trajectory, create_rasteriser(), task=task)
        for index, frame in enumerate(frames):
            write_condition_frame(temporary, index, frame)
            # EXR readers choke on infinity; 0 is no depth that a surface can have.
            depth = np.where(np.isfinite(frame.depth), frame.depth, np.float32(0))
            path = temporary / "depth" / frame_name(index)
            write_depth_exr(path.with_suffix(".exr"), depth)
            coverage.append(frame.coverage)
    return np.array(coverage)


def generate(
    job: GenerateJob, inputs: Path, output: Path, task: Task, warm: WarmModels | None = None
) -> Take:
    """Make a take of a scene along a trajectory.

    Args:
        job: The trajectory and what the engine is told.
        inputs: Folder of the scene.
        output: Where the take shall be.
        task: Progress and cancellation.
        warm: Keeps models between jobs.
    """
    trajectory = _checked(job)
    scene = Scene(inputs)
    rasteriser = create_rasteriser()
    engine = create_engine(job.settings, rasteriser, warm)
    notes = engine.check(len(trajectory), trajectory.width_px, trajectory.height_px)
    document = TakeDocument(
        scene_name=scene.document.name,
        scene_sha256=hashlib.sha256((inputs / "scene.json").read_bytes()).hexdigest(),
        frame_count=len(trajectory),
        frame_rate=scene.document.frame_rate,
        width_px=trajectory.width_px,
        height_px=trajectory.height_px,
        trajectory=job.trajectory,
        settings=job.settings,
        # Known when all is rendered.
        coverage=(),
        parts=(
            UsedPart(
                role="depth",
                name=scene.document.depth.source,
                version=scene.document.depth.weights,
                licence=scene.document.depth.licence,
            ),
            _part("rasteriser", rasteriser),
            _part("engine", engine),
            *engine.weights,
        ),
        notes=notes,
        app_version=__version__,
    )
    return write_take(
        output,
        document,
        condition_frames(scene, trajectory, rasteriser, task=task),
        lambda condition: engine.generate(condition, View(scene, trajectory), task=task),
        task=task,
    )


def _checked(job: RenderJob | GenerateJob) -> Trajectory:
    """The trajectory of a job, if its pictures are no larger and no more than a clip's may be.

    Raises:
        InputError: `clip_too_large`, or of `Trajectory.from_document`.
    """
    document, limits = job.trajectory, MediaLimits()
    limits.check_frame("the shot", document.width_px, document.height_px)
    frame_bytes = 3 * document.width_px * document.height_px
    limits.check_total("the shot", len(document.poses), frame_bytes)
    return Trajectory.from_document(document)


def _part(role: str, part: Rasteriser | Engine) -> UsedPart:
    return UsedPart(role=role, name=part.name, version=part.version, licence=part.licence)
