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
    from torch import Tensor

#: The far range begins at this share of the mesh's farthest depth: 24 bits then tell apart depths
#: that differ by 1e-4 of it at the border and far less on everything in front of it.
_FAR_RANGE_SHARE = 1e-3
#: Where one of several arrays in one piece of memory may begin.
_ALIGNMENT_BYTES = 16


def is_available() -> bool:
    """Whether nvdiffrast and a CUDA device are here."""
    if find_spec("nvdiffrast") is None or find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


class NvdiffrastRasteriser:
    """Draws DW-meshes on an NVIDIA card; safe to call from several threads, one draws at a time.

    Args:
        device: Which CUDA device.

    Raises:
        InputError: `rasteriser_missing` if there is no nvdiffrast or no CUDA device.
    """

    name = "nvdiffrast"
    licence = "NVIDIA Source Code License (1-Way Commercial): non-commercial use only"

    def __init__(self, device: str = "cuda") -> None:
        if not is_available():
            msg = (
                "expected nvdiffrast and a CUDA device for the rasteriser nvdiffrast, found them "
                "missing; build it from its public source, or choose the rasteriser cpu"
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
        # Pinned memory, through which copies are several times faster.
        self._staging = torch.empty(0, pin_memory=True)
        self._landing = torch.empty(0, dtype=torch.uint8, pin_memory=True)
        self._faces: tuple[tuple[int, ...], Tensor] | None = None

    def render(
        self, mesh: DWMesh, cam_to_world: NDArray[np.float64], intrinsics: Intrinsics
    ) -> ConditionFrame:
        """Colour, mask and depth; see `Rasteriser`."""
        torch = self._torch
        with self._lock, torch.no_grad():
            rgba, depth = self._draw(mesh, cam_to_world, intrinsics)
            alpha = rgba[..., 3:]
            mask = (alpha > VISIBLE_ALPHA) & (depth > 0).unsqueeze(-1)
            # Occluded vertices are black: only the reference's colours darken towards them.
            gain = 1.0 if mesh.rules.is_reference else 255.0 / alpha
            levels = (rgba[..., :3] * gain).clamp_(max=255.0) + 0.5
            color = torch.where(mask, levels, 0.0).to(torch.uint8)
            mask = mask[..., 0]
            return ConditionFrame(*self._to_host(color, mask, depth))

    def interpolate(
        self, mesh: DWMesh, cam_to_world: NDArray[np.float64], intrinsics: Intrinsics
    ) -> Interpolated:
        """The same before the mask is decided; see `Rasteriser`."""
        with self._lock, self._torch.no_grad():
            rgba, depth = self._draw(mesh, cam_to_world, intrinsics)
            return Interpolated(*self._to_host(rgba.contiguous(), depth))

    def _to_host(self, *tensors: "Tensor") -> list[NDArray[Any]]:
        torch = self._torch
        sizes = [-(-tensor.nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES for tensor in tensors]
        if len(self._landing) < sum(sizes):
            self._landing = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=True)
        copies = []
        for tensor, part in zip(tensors, self._landing[: sum(sizes)].split(sizes), strict=True):
            copies.append(part[: tensor.nbytes].view(tensor.dtype).view(tensor.shape))
            copies[-1].copy_(tensor, non_blocking=True)
        torch.cuda.current_stream(self._device).synchronize()
        # Pinning memory for every frame that is kept would take longer than drawing it.
        return [copy.numpy().copy() for copy in copies]

    def _to_device(self, *arrays: NDArray[Any]) -> "list[Tensor]":
        """Arrays of four bytes an entry as float32 on the card, in one copy from pinned memory."""
        torch = self._torch
        count = sum(array.size for array in arrays)
        if len(self._staging) < count:
            self._staging = torch.empty(count, pin_memory=True)
        host = self._staging.numpy()
        start = 0
        for array in arrays:
            host[start : start + array.size] = array.reshape(-1).view(np.float32)
            start += array.size
        # It is not written to again before `_to_host` has waited for the card.
        card = self._staging[:count].to(self._device, non_blocking=True)
        parts = card.split([array.size for array in arrays])
        return [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]

    def _draw(
        self, mesh: DWMesh, cam_to_world: NDArray[np.float64], intrinsics: Intrinsics
    ) -> "tuple[Tensor, Tensor]":
        """RGBA (height, width, 4), 0..255, and depth (height, width), float32 on the card."""
        torch = self._torch
        near, far = (
            _clip_from_world(cam_to_world, intrinsics, *limits) for limits in _ranges(mesh)
        )
        matrices = np.stack([near, far])[:, None]
        columns, rows = mesh.rays()
        depth, packed, by_column, by_row, offset = self._to_device(
            mesh.depth,
            mesh.packed(),
            columns[:, None] * matrices[..., 0],
            rows[:, None] * matrices[..., 1] + matrices[..., 2],
            matrices[..., 3],
        )
        # What has no place is put behind the camera, where nothing is drawn.
        depth = depth.nan_to_num_(-1.0, posinf=1e30, neginf=-1.0)
        # Sums term by term: a matrix product might be rounded to TensorFloat.
        positions = by_row.unsqueeze(2) + by_column.unsqueeze(1)
        positions = positions.mul_(depth.unsqueeze(-1)).add_(offset.unsqueeze(1)).flatten(1, 2)
        attributes = torch.empty((1, depth.numel(), 5), device=self._device)
        attributes[0, :, :4] = packed.view(torch.uint8).reshape(-1, 4)
        attributes[0, :, 4] = positions[0, :, 3]
        faces = self._faces_of(mesh)
        size = (intrinsics.height_px, intrinsics.width_px)
        raster, _ = self._dr.rasterize(self._context, positions, faces, size, grad_db=False)
        drawn, _ = self._dr.interpolate(attributes, raster, faces)
        hit = raster[..., 3:] > 0
        near_or_far = torch.where(hit[0], drawn[0], drawn[1])
        depth = torch.where((hit[0] | hit[1])[..., 0], near_or_far[..., 4], torch.inf)
        return near_or_far[..., :4], depth

    def _faces_of(self, mesh: DWMesh) -> "Tensor":
        """The mesh's triangles on the card; they depend on its size alone."""
        if self._faces is None or self._faces[0] != mesh.depth.shape:
            faces = self._torch.from_numpy(mesh.faces()).to(self._device)
            self._faces = (mesh.depth.shape, faces)
        return self._faces[1]


def _ranges(mesh: DWMesh) -> tuple[tuple[float, float], tuple[float, float]]:
    """Near and far range: z of clip space is the first number times w plus the second.

    z / w is linear in 1 / w, from -1 at the near end, which clips, to 1 at the far one.
    """
    farthest = float(mesh.depth.max(initial=0.0))
    # Depths that are no numbers leave no better choice.
    border = max(farthest * _FAR_RANGE_SHARE, 2 * NEAR_DEPTH) if np.isfinite(farthest) else 1.0
    span = border - NEAR_DEPTH
    near = ((border + NEAR_DEPTH) / span, -2.0 * border * NEAR_DEPTH / span)
    return near, (1.0, -2.0 * border)


def _clip_from_world(
    cam_to_world: NDArray[np.float64], intrinsics: Intrinsics, scale: float, shift: float
) -> NDArray[np.float32]:
    """(4, 4): from world points to clip space, whose w is the z-depth and z `scale * w + shift`."""
    to_camera = np.linalg.inv(np.asarray(cam_to_world, np.float64))[:3]
    pixels = intrinsics.matrix() @ to_camera
    half_size = np.array([intrinsics.width_px, intrinsics.height_px])[:, None] / 2
    w = pixels[2]
    clip = np.vstack([pixels[:2] / half_size - w, scale * w + [0, 0, 0, shift], w])
    return clip.astype(np.float32)
