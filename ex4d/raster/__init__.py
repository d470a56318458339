"""Rasterisers: a DW-mesh and a camera to colour, mask and depth. One interface, several makes."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ex4d.camera import Intrinsics
from ex4d.dwmesh import DWMesh

#: A pixel counts as seen where the interpolated alpha, 0..255, is above this (EX-4D's rule).
VISIBLE_ALPHA = 125.0
#: Nearer than this to the camera's plane nothing is drawn, in scene units (EX-4D's value).
NEAR_DEPTH = 1e-3


RasteriserName = Literal["auto", "cpu", "nvdiffrast"]


@dataclass(frozen=True)
class ConditionFrame:
    """What the source shows of the scene from another camera.

    Attributes:
        color: (height, width, 3) uint8 sRGB, 0 where the mask is off. By the reference's mesh rules
            it is dark along the edges of what was seen.
        mask: (height, width) bool: the source saw this.
        depth: (height, width) float32 z-depth along this camera's axis; infinite where no surface
            is hit.
    """

    color: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    depth: NDArray[np.float32]

    @property
    def coverage(self) -> float:
        """Share of the pixels that the source saw."""
        return float(self.mask.mean())


@dataclass(frozen=True)
class Interpolated:
    """A mesh's vertex attributes as the camera sees them, before the mask is decided.

    Attributes:
        rgba: (height, width, 4) float32, 0..255, perspective-correct; 0 where nothing is hit.
        depth: (height, width) float32 z-depth; infinite where nothing is hit.
    """

    rgba: NDArray[np.float32]
    depth: NDArray[np.float32]

    @property
    def hit(self) -> NDArray[np.bool_]:
        """(height, width) bool: some face covers the pixel's centre."""
        return np.isfinite(self.depth)


class Rasteriser(Protocol):
    """Draws DW-meshes: one sample at each pixel's centre, top-left rule, near-plane clipping."""

    name: str
    version: str
    licence: str

    def render(
        self, mesh: DWMesh, cam_to_world: NDArray[np.float64], intrinsics: Intrinsics
    ) -> ConditionFrame:
        """Colour, mask and depth.

        Args:
            mesh: In the source camera's space.
            cam_to_world: (4, 4) float64, OpenCV axes; the world is the source camera.
            intrinsics: Of the output frame, of any size.
        """
        ...

    def interpolate(
        self, mesh: DWMesh, cam_to_world: NDArray[np.float64], intrinsics: Intrinsics
    ) -> Interpolated:
        """The same before the mask is decided."""
        ...


def create_rasteriser(name: RasteriserName = "auto") -> Rasteriser:
    """A rasteriser by its name.

    Args:
        name: `auto` is nvdiffrast where it is installed and there is a CUDA device, `cpu`
            elsewhere. nvdiffrast's licence allows no commercial use.

    Raises:
        InputError: `rasteriser_missing` if the named one is not here.
    """
    from . import cpu, nvdiffrast

    if name == "nvdiffrast" or (name == "auto" and nvdiffrast.is_available()):
        return nvdiffrast.NvdiffrastRasteriser()
    return cpu.CpuRasteriser()
