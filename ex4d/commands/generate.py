"""`ex4d generate`: the shot from colour and mask, as the reference's `generate.py` takes them.

The `ex4d` engine needs the two videos alone. The `preview` engine looks at scene and camera again,
which `ex4d recon` left beside them.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ex4d.diffusion import View


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `generate`."""
    from .engines import add_engine_arguments

    parser = subparsers.add_parser(
        "generate", help="the shot from colour and mask", description=__doc__
    )
    parser.add_argument("--color_video", type=Path, required=True, help="color_<cam>.mp4 of recon")
    parser.add_argument("--mask_video", type=Path, required=True, help="mask_<cam>.mp4 of recon")
    parser.add_argument("--output_video", type=Path, required=True, help="MP4 to write")
    parser.add_argument(
        "--scene", type=Path, help="for `preview`; default: scene/ beside the colour video"
    )
    parser.add_argument(
        "--camera",
        type=Path,
        help="for `preview`; default: camera_<cam>.npz beside the colour video",
    )
    add_engine_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the shot."""
    import numpy as np

    from ex4d.clip import read_clip, write_video
    from ex4d.diffusion import create_engine
    from ex4d.errors import InputError
    from ex4d.framestore import each_frame
    from ex4d.raster import ConditionFrame, create_rasteriser

    from .engines import chosen_settings
    from .progress import progress_bars

    engine = create_engine(chosen_settings(arguments), create_rasteriser())
    with progress_bars() as task:
        color = read_clip(arguments.color_video, task=task)
        mask = read_clip(arguments.mask_video, task=task)
        if color.frames.shape != mask.frames.shape:
            msg = (
                f"expected as many frames of the same size in both videos, found "
                f"{color.frames.shape[:3]} and {mask.frames.shape[:3]}; take both from one run of "
                "`ex4d recon`"
            )
            raise InputError("condition_size", msg)
        frame_count, height_px, width_px, _ = color.frames.shape
        notes = engine.check(frame_count, width_px, height_px)
        size = (frame_count, height_px, width_px)
        view = _read_view(arguments, size) if engine.looks_at_scene else None

        def condition() -> "Iterator[ConditionFrame]":
            unknown_depth = np.full((height_px, width_px), np.inf, np.float32)
            for pair in zip(each_frame(color.frames), each_frame(mask.frames), strict=True):
                seen = pair[1][..., 0] > 127
                picture = np.where(seen[..., None], pair[0], np.uint8(0))
                yield ConditionFrame(picture, seen, unknown_depth)

        frames = engine.generate(condition(), view, task=task)
        write_video(arguments.output_video, frames, color.frame_rate, task=task)
    print(f"{arguments.output_video}: made by the engine `{engine.name}`")
    for note in notes:
        print(f"note: {note}")
    return 0


def _read_view(arguments: argparse.Namespace, size: tuple[int, ...]) -> "View":
    """Scene and camera of (frames, height, width) pictures.

    Raises:
        InputError: `camera_file`, or of `Scene`.
    """
    from ex4d.camera import read_reference_camera
    from ex4d.diffusion import View
    from ex4d.errors import InputError
    from ex4d.scene import Scene

    frame_count, height_px, width_px = size
    folder: Path = arguments.color_video.parent
    name = arguments.color_video.stem.removeprefix("color_")
    trajectory = read_reference_camera(
        arguments.camera or folder / f"camera_{name}.npz", width_px, height_px
    )
    if len(trajectory) != frame_count:
        msg = f"expected {frame_count} cameras, one a frame, found {len(trajectory)}"
        raise InputError("camera_file", msg)
    return View(Scene(arguments.scene or folder / "scene"), trajectory)
