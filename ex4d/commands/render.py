"""`ex4d render`: colour, mask and depth of a scene along a camera path."""

import argparse
from pathlib import Path


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `render`."""
    from .cameras import add_camera_arguments

    parser = subparsers.add_parser(
        "render", help="colour, mask and depth of a scene along a camera path", description=__doc__
    )
    parser.add_argument("scene", type=Path, help="folder of the scene")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    add_camera_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write `color/`, `mask/` (PNG) and `depth/` (EXR) below the output folder."""
    from ex4d import pipeline
    from ex4d.protocol.messages import RenderJob
    from ex4d.scene import Scene

    from .cameras import chosen_trajectory
    from .progress import progress_bars

    trajectory = chosen_trajectory(arguments, Scene(arguments.scene)).to_document()
    with progress_bars() as task:
        job = RenderJob(scene=(), trajectory=trajectory)
        coverage = pipeline.render(job, arguments.scene, arguments.output, task)
    print(
        f"{arguments.output}: {len(coverage)} frames; the source saw {coverage.mean():.0%} of "
        f"them, least in frame {int(coverage.argmin())}: {coverage.min():.0%}"
    )
    return 0
