"""Depth of a clip: from files, or from an estimator."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ex4d.protocol.documents import DepthInfo


@dataclass(frozen=True)
class Depth:
    """Depth of every frame of a clip.

    Attributes:
        values: (frames, height, width) float32 z-depth in scene units, positive and finite.
        info: Where it came from and what its unit is.
    """

    values: NDArray[np.float32]
    info: DepthInfo
