"""Whether a take's first frame is the source's own, of which everything was seen.

Only the standard library is imported, since this module also travels inside the extension.
"""

from collections.abc import Sequence
from typing import Any, Protocol

#: A camera shows the source's own view if that moves no pixel farther than this.
_SAME_POSE_PX = 0.1
#: The reference's source and output cameras differ by half a pixel, which it ignores in frame 0;
#: and a picture that is smaller than the source by a rounded factor may reach beyond it by as much.
_SAME_INTRINSICS_PX = 0.5


class Pinhole(Protocol):
    """A pinhole camera, in pixels of an image of `width_px` x `height_px`."""

    @property
    def width_px(self) -> int:
        """Of the image."""
        ...

    @property
    def height_px(self) -> int:
        """Of the image."""
        ...

    @property
    def fx_px(self) -> float:
        """Focal length."""
        ...

    @property
    def fy_px(self) -> float:
        """Focal length, along the height."""
        ...

    @property
    def cx_px(self) -> float:
        """Principal point."""
        ...

    @property
    def cy_px(self) -> float:
        """Principal point, down from the top."""
        ...


def is_source_view(
    source: Pinhole, output: Pinhole, cam_to_world: Sequence[float], nearest_depth: float
) -> bool:
    """Whether a camera sees, from the source's place, nothing but what the source sees.

    Args:
        source: The source camera.
        output: The other one's lens.
        cam_to_world: Rows 0 to 2 of its pose, row by row: 12 numbers.
        nearest_depth: Of all that the source sees.
    """
    identity = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    focal_px = max(output.fx_px, output.fy_px)
    for index, (value, expected) in enumerate(zip(cam_to_world, identity, strict=True)):
        # Every fourth is a distance, the others are of the rotation.
        depth = nearest_depth if index % 4 == 3 else 1.0
        if abs(value - expected) / depth * focal_px > _SAME_POSE_PX:
            return False
    if is_same_lens(source, output):
        return True
    left_px, top_px = in_source(source, output, 0.0, 0.0)
    right_px, bottom_px = in_source(source, output, output.width_px, output.height_px)
    beyond_px = max(-left_px, -top_px, right_px - source.width_px, bottom_px - source.height_px)
    return beyond_px <= _SAME_INTRINSICS_PX


def is_same_lens(source: Pinhole, output: Pinhole) -> bool:
    """Whether two cameras have the same picture, but for less than a pixel."""
    differences_px = (
        source.fx_px - output.fx_px,
        source.fy_px - output.fy_px,
        source.cx_px - output.cx_px,
        source.cy_px - output.cy_px,
    )
    return (source.width_px, source.height_px) == (output.width_px, output.height_px) and (
        max(map(abs, differences_px)) <= _SAME_INTRINSICS_PX
    )


def in_source(source: Pinhole, output: Pinhole, x_px: Any, y_px: Any) -> tuple[Any, Any]:
    """Where points of the output's picture, numbers or arrays, lie in the source's."""
    return (
        (x_px - output.cx_px) / output.fx_px * source.fx_px + source.cx_px,
        (y_px - output.cy_px) / output.fy_px * source.fy_px + source.cy_px,
    )
