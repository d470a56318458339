"""Engines: from a condition to the frames of a take."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ex4d.camera import Trajectory
from ex4d.condition import Condition
from ex4d.protocol.documents import EngineSettings
from ex4d.raster import Rasteriser
from ex4d.scene import Scene
from ex4d.task import Task


class Engine(Protocol):
    """Makes the frames of a take. The same input twice gives the same bytes."""

    name: str
    version: str
    licence: str

    def generate(
        self, scene: Scene, trajectory: Trajectory, condition: Condition, *, task: Task
    ) -> Iterator[NDArray[np.uint8]]:
        """The frames, each (height, width, 3) uint8 sRGB.

        Args:
            scene: What was filmed.
            trajectory: The new camera.
            condition: What the source shows along it.
            task: Told about every frame.
        """
        ...


def create_engine(settings: EngineSettings, rasteriser: Rasteriser) -> Engine:
    """The engine that the settings belong to.

    Args:
        settings: What the engine is told.
        rasteriser: For engines that look at the scene again.
    """
    from .preview import PreviewEngine

    return PreviewEngine(settings, rasteriser)
