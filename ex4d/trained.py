"""What the EX-4D model was trained on, and which other sizes and lengths it takes.

Only the standard library is imported, since this module also travels inside the extension.
"""

import math

SIDE_PX = 512
FRAMES = 49
#: The most that Wan2.1 makes at once.
MAX_FRAMES = 81
#: Of a picture: what 720p has. The model was trained at less than half of it.
MAX_PIXELS = 1280 * 720
#: Sides are multiples of this: the autoencoder's 8 times the transformer's patches of 2.
SIDE_STEP_PX = 16
#: Frames of the clip that become one of the model's, after the first.
FRAME_STEP = 4


def fitting_size_px(width_px: int, height_px: int) -> tuple[int, int]:
    """The size nearest to a picture's aspect with about as many pixels as the model was trained at.

    Args:
        width_px: Width of a picture with square pixels.
        height_px: Its height.
    """
    scale = math.sqrt(SIDE_PX * SIDE_PX / (width_px * height_px))
    return nearest_size_px(width_px * scale, height_px * scale)


def nearest_size_px(width_px: float, height_px: float) -> tuple[int, int]:
    """The nearest size whose sides are multiples of 16."""
    steps = (round(width_px / SIDE_STEP_PX), round(height_px / SIDE_STEP_PX))
    return max(1, steps[0]) * SIDE_STEP_PX, max(1, steps[1]) * SIDE_STEP_PX


def fitting_frame_count(frame_count: int) -> int:
    """The most frames, up to `frame_count`, that the model makes at once: 4k + 1, at most 81."""
    return (min(frame_count, MAX_FRAMES) - 1) // FRAME_STEP * FRAME_STEP + 1


def token_count(frame_count: int, height_px: int, width_px: int) -> int:
    """Tokens that the model's transformer works on, for a take of this size."""
    latent_frames = (frame_count - 1) // FRAME_STEP + 1
    return latent_frames * (height_px // SIDE_STEP_PX) * (width_px // SIDE_STEP_PX)


#: Of a take as trained.
TOKENS = token_count(FRAMES, SIDE_PX, SIDE_PX)
