# pyright: reportMissingImports=false, reportIndexIssue=false, reportPossiblyUnboundVariable=false
# ruff: noqa: PLR0913 - kernels take their pointers one by one
"""What the CUDA rasteriser does before and after nvdiffrast, as a Triton kernel each.

By PyTorch it would be thirty small steps, each of which takes longer to ask for than to do.
"""

import triton
import triton.language as tl
from torch import Tensor

#: Vertices or pixels that one program looks at.
_BLOCK = 256
#: Whole numbers up to here are written as they are in float32, by nvdiffrast's convention; greater
#: ones as bits, which begin at `_LARGE_FACE_BITS`.
_LARGEST_FLOAT_FACE = tl.constexpr(16777216.0)
_LARGE_FACE_BITS = tl.constexpr(0x4A800000)


@triton.jit
def _project_kernel(
    depth_ptr, numbers_ptr, positions_ptr, width, height, block: tl.constexpr
):  # fmt: skip
    vertex = tl.program_id(0) * block + tl.arange(0, block)
    count = width * height
    mask = vertex < count
    depth = tl.load(depth_ptr + vertex, mask=mask, other=0.0)
    # What has no place is put behind the camera, where nothing is drawn.
    depth = tl.where((depth == depth) & (depth > float("-inf")), tl.minimum(depth, 1e30), -1.0)
    column = tl.load(numbers_ptr + vertex % width, mask=mask, other=0.0)
    row = tl.load(numbers_ptr + width + vertex // width, mask=mask, other=0.0)
    matrix_ptr = numbers_ptr + width + height
    x = _transform(matrix_ptr, depth, column, row)
    y = _transform(matrix_ptr + 4, depth, column, row)
    w = _transform(matrix_ptr + 8, depth, column, row)
    for depth_range in tl.static_range(2):
        scale = tl.load(matrix_ptr + 12 + 2 * depth_range)
        shift = tl.load(matrix_ptr + 13 + 2 * depth_range)
        position_ptr = positions_ptr + (depth_range * count + vertex) * 4
        tl.store(position_ptr, x, mask=mask)
        tl.store(position_ptr + 1, y, mask=mask)
        tl.store(position_ptr + 2, scale * w + shift, mask=mask)
        tl.store(position_ptr + 3, w, mask=mask)


@triton.jit
def _transform(row_ptr, depth, column, row):
    """A row of the matrix times the point at a depth along a ray."""
    across = tl.load(row_ptr) * column + (tl.load(row_ptr + 1) * row + tl.load(row_ptr + 2))
    return depth * across + tl.load(row_ptr + 3)


@triton.jit
def _interpolate_kernel(
    raster_ptr, faces_ptr, packed_ptr, positions_ptr, depth_ptr, color_ptr, mask_ptr, pixels,
    visible_alpha, is_decided: tl.constexpr, is_darkened: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    mask = pixel < pixels
    near_face = tl.load(raster_ptr + 4 * pixel + 3, mask=mask, other=0.0)
    far_face = tl.load(raster_ptr + 4 * (pixels + pixel) + 3, mask=mask, other=0.0)
    number = tl.where(near_face > 0, near_face, far_face)
    is_hit = mask & (number > 0)
    bits = number.to(tl.int32, bitcast=True) - _LARGE_FACE_BITS
    face = tl.where(number <= _LARGEST_FLOAT_FACE, number.to(tl.int32), bits) - 1
    place = 4 * tl.where(near_face > 0, pixel, pixels + pixel)
    first = tl.load(raster_ptr + place, mask=is_hit, other=0.0)
    second = tl.load(raster_ptr + place + 1, mask=is_hit, other=0.0)
    red = tl.zeros((block,), tl.float32)
    green, blue, alpha, depth = red, red, red, red
    for corner in tl.static_range(3):
        if corner == 0:
            share = first
        elif corner == 1:
            share = second
        else:
            share = 1.0 - first - second
        vertex = tl.load(faces_ptr + 3 * face + corner, mask=is_hit, other=0)
        packed = tl.load(packed_ptr + vertex, mask=is_hit, other=0)
        red += share * (packed & 255).to(tl.float32)
        green += share * ((packed >> 8) & 255).to(tl.float32)
        blue += share * ((packed >> 16) & 255).to(tl.float32)
        alpha += share * ((packed >> 24) & 255).to(tl.float32)
        depth += share * tl.load(positions_ptr + 4 * vertex + 3, mask=is_hit, other=0.0)
    tl.store(depth_ptr + pixel, tl.where(is_hit, depth, float("inf")), mask=mask)
    if is_decided:
        is_seen = is_hit & (alpha > visible_alpha) & (depth > 0)
        tl.store(mask_ptr + pixel, is_seen, mask=mask)
        # Occluded vertices are black: only the reference's colours darken towards them.
        gain = 1.0
        if not is_darkened:
            gain = 255.0 / alpha
        _store_level(color_ptr + 3 * pixel, red * gain, is_seen, mask)
        _store_level(color_ptr + 3 * pixel + 1, green * gain, is_seen, mask)
        _store_level(color_ptr + 3 * pixel + 2, blue * gain, is_seen, mask)
    else:
        tl.store(color_ptr + 4 * pixel, red, mask=mask)
        tl.store(color_ptr + 4 * pixel + 1, green, mask=mask)
        tl.store(color_ptr + 4 * pixel + 2, blue, mask=mask)
        tl.store(color_ptr + 4 * pixel + 3, alpha, mask=mask)


@triton.jit
def _store_level(level_ptr, level, is_seen, mask):
    level = tl.where(is_seen, tl.minimum(level, 255.0) + 0.5, 0.0)
    tl.store(level_ptr, level.to(tl.int32).to(tl.uint8), mask=mask)


def project(depth: Tensor, numbers: Tensor, positions: Tensor) -> None:
    """Put the mesh's vertices into clip space, once for each range of depth.

    Args:
        depth: (height, width) float32.
        numbers: float32: the ray's x of each column, its y of each row, the rows x, y and w of the
            matrix from source to clip space, and scale and shift of z by w for both ranges.
        positions: (2, height * width, 4) float32; written.
    """
    height, width = depth.shape
    grid = (triton.cdiv(depth.numel(), _BLOCK),)
    _project_kernel[grid](depth, numbers, positions, width, height, block=_BLOCK)


def interpolate(
    raster: Tensor,
    faces: Tensor,
    packed: Tensor,
    positions: Tensor,
    depth: Tensor,
    color: Tensor,
    mask: Tensor | None = None,
    *,
    visible_alpha: float,
    is_darkened: bool,
) -> None:
    """What each pixel shows, of the near range where that has something.

    Args:
        raster: (2, height, width, 4) from nvdiffrast.
        faces: (faces, 3) int32.
        packed: (height, width) int32 colours of the vertices, red in the lowest byte.
        positions: From `project`.
        depth: (height, width) float32; written.
        color: Written: (height, width, 3) uint8 where there is a mask, else (..., 4) float32.
        mask: (height, width) of a byte; written if it is there.
        visible_alpha: Above what a pixel was seen.
        is_darkened: Colours stay as they are interpolated, as in the reference.
    """
    pixels = depth.numel()
    _interpolate_kernel[(triton.cdiv(pixels, _BLOCK),)](
        raster, faces, packed, positions, depth, color, color if mask is None else mask, pixels,
        visible_alpha, mask is not None, is_darkened, block=_BLOCK,
    )  # fmt: skip
