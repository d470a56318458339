"""`ex4d demo`: the whole path on the sample, from a clip to strips in Blender's sequencer."""

import argparse
from pathlib import Path


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `demo`."""
    parser = subparsers.add_parser(
        "demo", help="the whole path on the sample, through Blender", description=__doc__
    )
    parser.add_argument(
        "--blender", type=Path, required=True, help="Blender, or a Python with Blender as a module"
    )
    parser.add_argument("--addon", type=Path, required=True, help="the extension's zip")
    parser.add_argument(
        "--output", type=Path, default=Path("demo"), help="folder of the results (default: demo)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Play it; print what took how long and where the results are."""
    import time

    from ex4d.bench.sample import SAMPLE_FOLDER, load_sample
    from ex4d.demo.play import Shot, clear, play, write_results

    start_s = time.perf_counter()
    sample = load_sample()
    shot = Shot(
        clip=SAMPLE_FOLDER / "source.mp4",
        depth=SAMPLE_FOLDER / "depth.npz",
        depth_kind="metric",
        focal_px=sample.intrinsics.fx_px,
        radius=sample.radius_m,
        move="orbit_right",
        strength=1.5,
        title="Toy room",
    )
    folder: Path = arguments.output
    clear(folder)
    outcome = play(shot, blender=arguments.blender, addon=arguments.addon, folder=folder)
    write_results(outcome, shot, folder)
    for what, duration_s in outcome.times_s.items():
        print(f"{duration_s:7.1f} s  {what}")
    print(f"{time.perf_counter() - start_s:7.1f} s  in all")
    for name in ("demo.blend", "demo.mp4", "contact_sheet.png", "mesh.png"):
        print(folder / name)
    return 0
