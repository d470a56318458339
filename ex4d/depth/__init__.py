"""Depth of a clip: from files, or from an estimator.

Importing this loads no torch: commands ask what is available.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, Protocol

from ex4d.errors import InputError
from ex4d.protocol.documents import DepthInfo, EstimatorName, UsedPart

from .models import DEPTH_ANYTHING, DEPTH_MODELS, DEPTHCRAFTER

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from ex4d.diffusion.warm import WarmModels
    from ex4d.task import Task
    from ex4d.weights.files import PublishedModel

#: What an estimator's numbers are. `affine_disparity`: inverse depth up to scale and shift, larger
#: is nearer. `depth`: z-depth up to scale. `metric_depth`: z-depth in metres.
EstimateKind = Literal["affine_disparity", "depth", "metric_depth"]
DEFAULT_ESTIMATOR: EstimatorName = "video-depth-anything"
#: Disparity of the others is calibrated by it.
METRIC_ESTIMATOR: EstimatorName = "video-depth-anything-metric"


@dataclass(frozen=True, eq=False)
class Depth:
    """Depth of every frame of a clip.

    Attributes:
        values: (frames, height, width) float32 z-depth in scene units, positive and finite.
        info: Where it came from and what its unit is.
    """

    values: NDArray[np.float32]
    info: DepthInfo


@dataclass(frozen=True, eq=False)
class Estimate:
    """What an estimator saw, in its own numbers; `units.depth_of` makes depth of it.

    Attributes:
        values: (frames, height, width) float32, of the clip's size.
        kind: What the numbers are.
        field_of_view_deg: Along the longer side, one for the clip; None where it does not say.
    """

    values: NDArray[np.float32]
    kind: EstimateKind
    field_of_view_deg: float | None = None


class DepthEstimator(Protocol):
    """Tells how far every pixel of a clip is. The same input twice gives the same numbers."""

    name: str
    licence: str
    kind: EstimateKind

    @property
    def weights(self) -> UsedPart:
        """The files it works with, told apart by what is in them."""
        ...

    def check_files(self) -> str:
        """Compare the files with the networks, by name and shape; what was found, for people.

        Raises:
            InputError: `checkpoint_keys`, `checkpoint_damaged` or `checkpoint_size`.
        """
        ...

    def estimate(self, frames: NDArray[np.uint8], *, task: Task) -> Estimate:
        """Estimate the frames of a clip.

        Args:
            frames: (frames, height, width, 3) uint8 sRGB; one is enough.
            task: Told about every window of frames, and asked more often whether to stop.

        Raises:
            InputError: `checkpoint_damaged`, `checkpoint_keys`, `checkpoint_size`, or
                `depth_values` where the network's numbers are none.
        """
        ...


def create_estimator(
    name: str,
    warm: WarmModels | None = None,
    *,
    accepts_research_licence: bool = False,
    folder: Path | None = None,
) -> DepthEstimator:
    """The estimator of a name, if all that it needs is there; nothing is loaded yet.

    Args:
        name: One of `protocol.documents.EstimatorName`.
        warm: Keeps large networks between jobs; absent: they are loaded for this one.
        accepts_research_licence: The user accepts a licence that forbids production.
        folder: The models folder; `weights.files.models_folder()` where absent.

    Raises:
        InputError: `estimator_unknown`, `licence_not_accepted`, `model_missing` with the command
            that fetches the weights, or `estimator_missing`.
    """
    from ex4d.diffusion.warm import WarmModels
    from ex4d.weights.files import check_research_licence, models_folder

    models = {model.name: model for model in DEPTH_MODELS}
    if name not in models:
        msg = f"expected one of the estimators {', '.join(models)}, found {name}; choose one"
        raise InputError("estimator_unknown", msg)
    model = models[name]
    folder = folder or models_folder()
    check_research_licence(model, is_accepted=accepts_research_licence)
    _check_available(model, folder)
    if model is DEPTHCRAFTER:
        from .depthcrafter.estimator import DepthCrafter

        return DepthCrafter(folder, warm or WarmModels(idle_s=0))
    if model is DEPTH_ANYTHING:
        from .depth_anything import DepthAnything

        return DepthAnything(folder)
    from .video_depth_anything.estimator import VideoDepthAnything

    return VideoDepthAnything(model, folder)


def check_estimator(name: str, folder: Path) -> str:
    """Compare the files of an estimator with its networks, by name and shape.

    Returns:
        What was found, for people.

    Raises:
        InputError: As `create_estimator`, `checkpoint_keys` or `checkpoint_damaged`.
    """
    # Looking at the files is no use that their licence is about.
    estimator = create_estimator(name, accepts_research_licence=True, folder=folder)
    return estimator.check_files()


def why_unavailable(model: PublishedModel) -> str:
    """Why an estimator cannot work on this machine and what to do; empty where it can.

    Loads no torch, and does not look into the files.
    """
    from ex4d.weights.files import models_folder

    try:
        _check_available(model, models_folder())
    except InputError as error:
        return error.message
    return ""


def _check_available(model: PublishedModel, folder: Path) -> None:
    model.require(folder)
    if model is DEPTHCRAFTER:
        _check_packages("torch", "diffusers", "transformers")
    elif model is DEPTH_ANYTHING:
        _check_packages("torch", "transformers")
    else:
        _check_packages("torch")


def _check_packages(*packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        msg = (
            f"expected the packages of the depth estimators, found no {' and no '.join(missing)}; "
            "run `pip install 'ex4d[depth]'`"
        )
        raise InputError("estimator_missing", msg)
