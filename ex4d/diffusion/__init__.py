"""Engines: from a condition to the frames of a take.

Importing this loads nothing heavy: the server asks what is available.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ex4d.errors import InputError
from ex4d.protocol.documents import EngineSettings, Ex4dSettings, PreviewSettings, UsedPart

from .warm import WarmModels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from ex4d.camera import Trajectory
    from ex4d.raster import ConditionFrame, Rasteriser
    from ex4d.scene import Scene
    from ex4d.task import Task


class View(NamedTuple):
    """What was filmed, and the new camera."""

    scene: Scene
    trajectory: Trajectory


class Engine(Protocol):
    """Makes the frames of a take. The same input twice gives the same bytes."""

    name: str
    version: str
    licence: str
    #: Whether it looks at scene and camera, not at the condition alone.
    looks_at_scene: bool

    @property
    def weights(self) -> tuple[UsedPart, ...]:
        """Models that make the take; empty for an engine without any."""
        ...

    def check(self, frame_count: int, width_px: int, height_px: int) -> tuple[str, ...]:
        """Refuse what cannot be made, before any work is done.

        Args:
            frame_count: Of the take.
            width_px: Of the take.
            height_px: Of the take.

        Returns:
            What the viewer of the take should know.

        Raises:
            InputError: With what was expected and what to do.
        """
        ...

    def generate(
        self, condition: Iterable[ConditionFrame], view: View | None, *, task: Task
    ) -> Iterator[NDArray[np.uint8]]:
        """The frames, each (height, width, 3) uint8 sRGB.

        Args:
            condition: What the source shows along the new camera; all its frames are taken, once.
            view: Scene and camera; None only for an engine that does not look at them.
            task: Told about all work but what is done as the condition's frames come.
        """
        ...


def create_engine(
    settings: EngineSettings, rasteriser: Rasteriser, warm: WarmModels | None = None
) -> Engine:
    """The engine that the settings belong to.

    Args:
        settings: What the engine is told.
        rasteriser: For engines that look at the scene again.
        warm: Keeps models between jobs; absent: they are loaded for this one.

    Raises:
        InputError: If something that the engine needs is missing.
    """
    match settings:
        case PreviewSettings():
            from .preview import PreviewEngine

            return PreviewEngine(settings, rasteriser)
        case Ex4dSettings():
            check_packages()
            from .wan.engine import WanEngine

            return WanEngine(settings, warm or WarmModels(idle_s=0))


def why_unavailable() -> str:
    """Why the `ex4d` engine cannot work on this machine and what to do; empty where it can.

    Whether the card is large enough, it says itself when it knows what is to be made.
    """
    from ex4d.weights.files import models_folder

    from .wan.files import all_models

    try:
        check_packages()
        all_models(models_folder())
    except InputError as error:
        return error.message
    return ""


def check_packages() -> None:
    """Refuse to go on without what the `ex4d` engine is built on.

    Raises:
        InputError: `engine_missing`.
    """
    missing = [name for name in ("torch", "diffsynth") if find_spec(name) is None]
    if missing:
        msg = (
            f"expected the packages of the ex4d engine, found no {' and no '.join(missing)}; run "
            "`pip install 'ex4d[diffusion]'`"
        )
        raise InputError("engine_missing", msg)
