# pyright: reportMissingImports=false
"""The rasteriser for NVIDIA cards, by nvdiffrast (Laine et al., "Modular Primitives", 2020).

nvdiffrast is for research and evaluation only; it is optional, built from its public source, and no
part of this project.

Its clip space is OpenGL's, its row 0 is at y = -1 and its samples lie at pixel centres; pixels are
therefore mapped without a flip. Coordinates are rounded to 1/16 pixel, sixteen times coarser than
the processor's rasteriser, so that pixels on edges may differ.

Its depth buffer has about 24 bits of z / w whatever happens, and z / w of a plain projection with a
near plane at `NEAR_DEPTH` spends nearly all of them within arm's reach. So the scene is drawn in
two ranges of depth at once, of which the near one wins. The depth that is returned is not the
buffer's: it is interpolated like colour, in float32.
"""

import math
import threading
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ex4d.camera import Intrinsics
from ex4d.dwmesh import DWMesh
from ex4d.errors import InputError

from . import NEAR_DEPTH, VISIBLE_ALPHA, ConditionFrame, Interpolated

if TYPE_CHECKING:
    from torch import Tensor, dtype

    #: Types and shapes of arrays that share a piece of memory.
    _Layout = tuple[tuple[dtype, tuple[int, ...]], ...]

#: The far range begins at this share of the mesh's farthest depth: 24 bits then tell apart depths
#: that differ by 1e-4 of it at the border and far less on everything in front of it.
_FAR_RANGE_SHARE = 1e-3


def is_available() -> bool:
    """Whether nvdiffrast, a CUDA device and Triton, part of PyTorch for Linux, are here."""
    if any(find_spec(package) is None for package in ("nvdiffrast", "torch", "triton")):
        return False
    import torch

    return torch.cuda.is_available()


class NvdiffrastRasteriser:
    """Draws DW-meshes on an NVIDIA card; safe to call from several threads, one draws at a time.

    Args:
        device: Which CUDA device.

    Raises:
        InputError: `rasteriser_missing` if there is no nvdiffrast, no Triton or no CUDA device.
    """

    name = "nvdiffrast"
    licence = "NVIDIA Source Code License (1-Way Commercial): non-commercial use only"

    def __init__(self, device: str = "cuda") -> None:
        if not is_available():
            msg = (
                "expected nvdiffrast, Triton and a CUDA device for the rasteriser nvdiffrast, "
                "found not all of them; build it from its public source on Linux, or choose the "
                "rasteriser cpu"
            )
            raise InputError("rasteriser_missing", msg)
        import nvdiffrast.torch as dr
        import torch

        self.version = version("nvdiffrast")
        self._dr = dr
        self._torch = torch
        self._device = torch.device(device)
        self._lock = threading.Lock()
        self._context = dr.RasterizeCudaContext(self._device)
        self._faces: tuple[tuple[int, ...], Tensor] | None = None

    def render(
        self, mesh: DWMesh, cam_to_world: NDArray[np.float64], intrinsics: Intrinsics
    ) -> ConditionFrame:
        """Colour, mask and depth; see `Rasteriser`."""
        torch, size = self._torch, (intrinsics.height_px, intrinsics.width_px)
        layout = ((torch.float32, size), (torch.uint8, (*size, 3)), (torch.bool, size))
        depth, color, mask = self._draw(mesh, cam_to_world, intrinsics, layout)
        return ConditionFrame(color, mask, depth)

    def interpolate(
        self, mesh: DWMesh, cam_to_world: NDArray[np.float64], intrinsics: Intrinsics
    ) -> Interpolated:
        """The same before the mask is decided; see `Rasteriser`."""
        float32, size = self._torch.float32, (intrinsics.height_px, intrinsics.width_px)
        layout = ((float32, size), (float32, (*size, 4)))
        depth, rgba = self._draw(mesh, cam_to_world, intrinsics, layout)
        return Interpolated(rgba, depth)

    def _draw(
        self,
        mesh: DWMesh,
        cam_to_world: NDArray[np.float64],
        intrinsics: Intrinsics,
        layout: "_Layout",
    ) -> list[NDArray[Any]]:
        """Depth, colour and, where the layout has a third part, the mask."""
        from . import nvdiffrast_triton

        torch = self._torch
        numbers = np.concatenate(
            [*mesh.rays(), _clip_from_world(cam_to_world, intrinsics), _ranges(mesh)], None
        ).astype(np.float32)
        with self._lock, torch.no_grad():
            depth, packed, numbers = self._to_device(mesh.depth, mesh.packed(), numbers)
            positions = torch.empty((2, depth.numel(), 4), device=self._device)
            nvdiffrast_triton.project(depth, numbers, positions)
            faces = self._faces_of(mesh)
            size = (intrinsics.height_px, intrinsics.width_px)
            raster, _ = self._dr.rasterize(self._context, positions, faces, size, grad_db=False)
            card = torch.empty(sum(_sizes_bytes(layout)), dtype=torch.uint8, device=self._device)
            nvdiffrast_triton.interpolate(
                raster,
                faces,
                packed.view(torch.int32),
                positions,
                *_parts(card, layout),
                visible_alpha=VISIBLE_ALPHA,
                is_darkened=mesh.rules.is_reference,
            )
            return self._to_host(card, layout)

    def _to_host(self, card: "Tensor", layout: "_Layout") -> list[NDArray[Any]]:
        """Arrays that later frames leave alone, of one piece of the card's memory."""
        torch = self._torch
        pinned = torch.empty(card.shape, dtype=torch.uint8, pin_memory=True)
        pinned.copy_(card, non_blocking=True)
        torch.cuda.current_stream(self._device).synchronize()
        # Pinning memory for every frame that is kept would take longer than drawing it.
        # PyTorch copies with several cores.
        return [part.clone().numpy() for part in _parts(pinned, layout)]

    def _to_device(self, *arrays: NDArray[Any]) -> "list[Tensor]":
        """Arrays of four bytes an entry as float32 on the card, in one copy."""
        torch = self._torch
        sizes = [array.size for array in arrays]
        # PyTorch keeps what was pinned for the next frame.
        pinned = torch.empty(sum(sizes), pin_memory=True)
        for array, part in zip(arrays, pinned.split(sizes), strict=True):
            part.copy_(torch.from_numpy(array.reshape(-1).view(np.float32)))
        card = pinned.to(self._device, non_blocking=True)
        return [
            part.view(array.shape) for array, part in zip(arrays, card.split(sizes), strict=True)
        ]

    def _faces_of(self, mesh: DWMesh) -> "Tensor":
        """The mesh's triangles on the card; they depend on its size alone."""
        if self._faces is None or self._faces[0] != mesh.depth.shape:
            faces = self._torch.from_numpy(mesh.faces()).to(self._device)
            self._faces = (mesh.depth.shape, faces)
        return self._faces[1]


def _sizes_bytes(layout: "_Layout") -> list[int]:
    return [dtype.itemsize * math.prod(shape) for dtype, shape in layout]


def _parts(memory: "Tensor", layout: "_Layout") -> "list[Tensor]":
    """One piece of memory as several arrays, which follow each other, the widest type first."""
    return [
        part.view(dtype).view(shape)
        for part, (dtype, shape) in zip(memory.split(_sizes_bytes(layout)), layout, strict=True)
    ]


def _ranges(mesh: DWMesh) -> NDArray[np.float64]:
    """(2, 2): of near and far range, z of clip space is the first number times w plus the second.

    z / w is linear in 1 / w, from -1 at the near end, which clips, to 1 at the far one.
    """
    farthest = float(mesh.depth.max(initial=0.0))
    # Depths that are no numbers leave no better choice.
    border = max(farthest * _FAR_RANGE_SHARE, 2 * NEAR_DEPTH) if np.isfinite(farthest) else 1.0
    span = border - NEAR_DEPTH
    near = ((border + NEAR_DEPTH) / span, -2.0 * border * NEAR_DEPTH / span)
    return np.array([near, (1.0, -2.0 * border)])


def _clip_from_world(
    cam_to_world: NDArray[np.float64], intrinsics: Intrinsics
) -> NDArray[np.float64]:
    """(3, 4): from world points to x, y and w of clip space; w is the z-depth."""
    to_camera = np.linalg.inv(np.asarray(cam_to_world, np.float64))[:3]
    pixels = intrinsics.matrix() @ to_camera
    half_size = np.array([intrinsics.width_px, intrinsics.height_px])[:, None] / 2
    return np.vstack([pixels[:2] / half_size - pixels[2], pixels[2]])
