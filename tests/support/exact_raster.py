"""A rasteriser to be compared with: slow, in float64, and without a line of clipping.

Every triangle is tested at every pixel by homogeneous edge functions, which need no clipping; only
the near plane is judged, at each pixel's own depth.
"""

import numpy as np
from numpy.typing import NDArray

from ex4d.camera import Intrinsics
from ex4d.dwmesh import DWMesh
from ex4d.raster import NEAR_DEPTH


def interpolate(
    mesh: DWMesh, cam_to_world: NDArray[np.float64], camera: Intrinsics
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """RGBA (height, width, 4), z-depth (height, width), and how near to an edge each pixel is.

    The last is the smallest barycentric coordinate of the nearest triangle: where it is tiny,
    rounding decides, and two right rasterisers may differ.
    """
    to_camera = np.linalg.inv(cam_to_world)[:3]
    vertices = mesh.vertices().astype(np.float64)
    clip = (camera.matrix() @ to_camera @ np.c_[vertices, np.ones(len(vertices))].T).T
    columns, rows = np.meshgrid(np.arange(camera.width_px) + 0.5, np.arange(camera.height_px) + 0.5)
    centres = np.stack([columns, rows, np.ones_like(columns)], -1)
    nearness = np.zeros(columns.shape)
    rgba = np.zeros((*columns.shape, 4))
    margin = np.full(columns.shape, np.inf)
    colors = mesh.rgba.reshape(-1, 4).astype(np.float64)
    for face in mesh.faces():
        corners = clip[face]
        edges = np.stack([np.cross(corners[(k + 1) % 3], corners[(k + 2) % 3]) for k in range(3)])
        determinant = corners[0] @ edges[0]
        if determinant == 0 or not np.isfinite(determinant):
            continue
        values = centres @ (edges / determinant).T
        inverse = values.sum(-1)
        inside = (values >= 0).all(-1) & (inverse > 0) & (inverse < 1 / NEAR_DEPTH)
        closest = inside & (inverse > nearness)
        # Near an edge of anything in front, who wins is a matter of rounding.
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = values / inverse[..., None]
        touches = (np.abs(shares.min(-1)) < 1e-3) & (inverse > nearness * 0.999)
        margin[touches] = 0
        nearness[closest] = inverse[closest]
        rgba[closest] = shares[closest] @ colors[face]
    with np.errstate(divide="ignore"):
        return rgba, 1.0 / nearness, margin
