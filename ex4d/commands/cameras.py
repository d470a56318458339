"""The arguments by which several commands choose a camera path."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ex4d.camera import Trajectory
    from ex4d.scene import Scene


def add_camera_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--cam` and its companions, or `--trajectory`."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--cam", help="a named move, for example 30, orbit_left or zoom_in")
    which.add_argument("--trajectory", type=Path, help="a trajectory document (JSON)")
    parser.add_argument("--amount", type=float, help="how far the move goes: degrees, or radii")
    parser.add_argument(
        "--radius", type=float, help="distance of the pivot; the nearest surface where absent"
    )


def chosen_trajectory(arguments: argparse.Namespace, scene: "Scene") -> "Trajectory":
    """The camera path that the arguments ask for.

    Raises:
        InputError: `trajectory_invalid` if the document cannot be read.
    """
    import msgspec

    from ex4d.camera import Trajectory, move
    from ex4d.errors import InputError
    from ex4d.protocol.documents import TrajectoryDocument

    if arguments.trajectory is None:
        return move(
            arguments.cam,
            frame_count=len(scene),
            radius=arguments.radius or scene.document.nearest_depth_first_frame,
            intrinsics=scene.intrinsics,
            amount=arguments.amount,
        )
    try:
        text = arguments.trajectory.read_bytes()
        document = msgspec.json.decode(text, type=TrajectoryDocument)
    # Bytes that are no text are a ValueError of their own.
    except (OSError, ValueError) as error:
        msg = f"expected a trajectory document in {arguments.trajectory}, found none: {error}"
        raise InputError("trajectory_invalid", msg) from error
    return Trajectory.from_document(document)
