"""`ex4d recon`: a clip to colour and mask along a camera move, as the reference does it.

The reference's rules hold here, so that its users can switch and compare: integer pixel coordinates
and the border at depth 100, and with depth from a file a focal length of 500 px unless told
otherwise. Blender, the server and `ex4d render` use true pixel centres and hide the border.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from ex4d.protocol.documents import DepthInfo

#: In the folder of results: what an attempt that ended early leaves to the next.
_KEPT = ".ex4d-unfinished"
#: What the reference adds to the nearest depth of frame 0 to get the orbit's radius.
_RADIUS_MARGIN = 0.15
_REFERENCE_FOCAL_PX = 500.0


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `recon`."""
    from .estimators import add_depth_arguments

    parser = subparsers.add_parser(
        "recon",
        help="clip to colour and mask along a camera move",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--input_video", type=Path, required=True, help="the clip")
    add_depth_arguments(parser)
    parser.add_argument(
        "--cam",
        default="180",
        help="30, 60, 90, 180, zoom_in, zoom_out, or a move of ours (default: %(default)s)",
    )
    parser.add_argument(
        "--radius", type=float, help="orbit radius; nearest depth of frame 0 + 0.15 where absent"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="where the results go")
    parser.add_argument("--num_frames", type=int, default=49, help="default: %(default)s")
    parser.add_argument("--first_frame", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--focal_px",
        type=float,
        help="of the clip; default: the reference's 500 with --depth, else what the clip says of "
        "its lens, else 60 degrees on the long side",
    )
    # The reference takes 0 or 1 after these; its README shows them bare.
    parser.add_argument("--save_mesh", type=int, nargs="?", const=1, default=0)
    parser.add_argument("--save_camera", type=int, nargs="?", const=1, default=1)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write `color_<cam>.mp4`, `mask_<cam>.mp4`, `camera_<cam>.npz`, `DW-Mesh.ply` and `scene/`.

    Windows of depth that an attempt finished lie in `.ex4d-unfinished/` until the scene is whole.
    """
    import shutil

    import numpy as np

    from ex4d.camera import move, reference_extrinsics
    from ex4d.clip import FrameSelection, write_video
    from ex4d.condition import condition_frames
    from ex4d.dwmesh import REFERENCE_RULES, build_dwmesh, write_ply
    from ex4d.footage import DepthWish, read_footage
    from ex4d.framestore import each_frame, new_frames
    from ex4d.moves import pose
    from ex4d.raster import create_rasteriser
    from ex4d.scene import write_scene

    from .progress import progress_bars

    name: str = arguments.cam
    folder: Path = arguments.output_dir
    # A wrong word shall not be found after minutes of work.
    pose(name, 0, arguments.num_frames, 1.0 if arguments.radius is None else arguments.radius)
    wish = DepthWish(
        path=arguments.depth,
        kind=arguments.depth_kind,
        estimator=arguments.estimator,
        spread=arguments.depth_range,
        accepts_research_licence=arguments.accept_research_licence,
        refines=arguments.refine,
    )
    focal_px = arguments.focal_px
    if focal_px is None and arguments.depth is not None:
        focal_px = _REFERENCE_FOCAL_PX
    with progress_bars(folder / _KEPT) as task:
        footage = read_footage(
            arguments.input_video,
            wish,
            selection=FrameSelection(arguments.first_frame, arguments.num_frames),
            focal_px=focal_px,
            task=task,
        )
        clip, camera = footage.clip, footage.intrinsics
        frame_count = len(clip.frames)
        scene = write_scene(
            folder / "scene",
            clip,
            footage.depth,
            # Half a pixel on the source alone: the reference lifts integer coordinates.
            camera.shifted(0.5, 0.5),
            REFERENCE_RULES,
            name=arguments.input_video.stem,
            task=task,
            # One folder serves several cameras, as in the reference.
            replaces=True,
        )
        shutil.rmtree(folder / _KEPT, ignore_errors=True)
        radius = arguments.radius
        if radius is None:
            radius = scene.document.nearest_depth_first_frame + _RADIUS_MARGIN
        trajectory = move(name, frame_count=frame_count, radius=radius, intrinsics=camera)
        condition = condition_frames(scene, trajectory, create_rasteriser(), task=task)
        masks = new_frames((frame_count, camera.height_px, camera.width_px), np.uint8)

        def colours() -> "Iterator[NDArray[np.uint8]]":
            places = zip(each_frame(masks), condition, strict=True)
            for place, frame in places:
                place[:] = frame.mask * np.uint8(255)
                yield frame.color

        write_video(folder / f"color_{name}.mp4", colours(), clip.frame_rate)
        pictures = (np.repeat(mask[..., None], 3, axis=-1) for mask in each_frame(masks))
        write_video(folder / f"mask_{name}.mp4", pictures, clip.frame_rate, task=task)
    _print_sources(arguments, scene.document.depth, camera.fx_px)
    if arguments.save_camera:
        np.savez_compressed(
            folder / f"camera_{name}.npz",
            extrinsics=reference_extrinsics(trajectory),
            intrinsics=camera.matrix().astype(np.float32),
        )
    if arguments.save_mesh:
        mesh = build_dwmesh(scene.depth(0), scene.frame(0), scene.intrinsics, REFERENCE_RULES)
        write_ply(folder / "DW-Mesh.ply", mesh)
    return 0


def _print_sources(arguments: argparse.Namespace, info: "DepthInfo", focal_px: float) -> None:
    """Where depth and the focal length came from."""
    if arguments.depth is None:
        print(f"depth by {info.source} ({info.licence})")
    if info.refinement:
        print(f"depth refined: {', '.join(info.refinement)}")
    is_reference = arguments.depth is not None and arguments.focal_px is None
    source = "the reference" if is_reference else info.focal_source
    print(f"focal length {focal_px:.0f} px, from: {source}")
