"""How long importing and scrubbing take inside Blender, beside what the machine allows.

Run with a Python that has Blender as a module:

    python tests/bench/blender_playback.py --width 512 --height 512 --frames 49
"""

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "blender_addon"), str(ROOT / "tests" / "support")]

import extension  # noqa: E402 - found by the line above


def install(folder: Path) -> None:
    """Build the extension and install it into a Blender whose settings live in `folder`."""
    os.environ["BLENDER_USER_RESOURCES"] = str(folder / "resources")
    command = [sys.executable, str(ROOT / "build_addon.py"), "--output", str(folder), "--platform"]
    subprocess.run([*command, "linux-x64", "--no-validate"], check=True, stdout=sys.stderr)
    extension.install(next(folder.glob("*.zip")))


def time_steps(folder: Path) -> tuple[object, list[float]]:
    """Import a scene; returns the shot and the seconds of each step."""
    import bpy

    steps = importlib.import_module(f"{extension.PACKAGE}.scene_import").import_scene(
        bpy.context, folder, frame_start=1
    )
    seconds: list[float] = []
    while True:
        start = time.perf_counter()
        try:
            next(steps)
        except StopIteration as end:
            return end.value, seconds
        finally:
            seconds.append(time.perf_counter() - start)


def scrub_s(frame_count: int) -> float:
    """Seconds of a change of frame: the median of the better of two passes."""
    import bpy

    scene = bpy.context.scene

    def run() -> float:
        seconds = []
        for frame in range(1, frame_count + 1):
            start = time.perf_counter()
            scene.frame_set(frame)
            seconds.append(time.perf_counter() - start)
        return median(seconds)

    run()
    return min(run(), run())


def best_s(function: Callable[[], object]) -> float:
    """Seconds of the best of twenty calls."""
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def report(text: str, seconds: float, bound_s: float) -> None:
    """Print a line: milliseconds, and how many times the bound."""
    print(f"{text:44s} {seconds * 1e3:8.2f} ms {seconds / bound_s:8.1f} x bound")


def measure(folder: Path, width: int, height: int, frame_count: int) -> None:
    """Import a synthetic scene and print all figures."""
    import bpy
    from scene_writer import write_scene

    write_scene(folder, frame_count=frame_count, width=width, height=height, focal=float(width))
    bpy.ops.wm.read_homefile(use_empty=True)
    shot, seconds = time_steps(folder)
    clip = shot.ex4d_shot
    points = np.ones((len(clip.mesh.data.vertices), 3), dtype=np.float32)
    copy = np.empty_like(points)
    bound_s = best_s(lambda: np.copyto(copy, points))
    print(f"Blender {bpy.app.version_string}, {width} x {height}, {frame_count} frames")
    report(f"bound: copy of {points.nbytes / 1e6:.1f} MB of points", bound_s, bound_s)
    report("import, longest step", max(seconds), bound_s)
    report("import, median step", median(seconds), bound_s)
    report("import, all steps", sum(seconds), bound_s)
    report("scrub, marks baked into the texture", scrub_s(frame_count), bound_s)
    clip.use_proxy = True
    report("scrub, proxy of step 2", scrub_s(frame_count), bound_s)
    clip.show_surround = True
    report("scrub, proxy and surround", scrub_s(frame_count), bound_s)
    read_pixels = importlib.import_module(f"{extension.PACKAGE}.pictures").read_pixels
    picture = folder / "blender" / "marked" / "0001.png"
    seconds_of_texture = best_s(lambda: read_pixels(picture, width, height))
    report("reading a marked frame", seconds_of_texture, bound_s)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--frames", type=int, default=49)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        install(Path(temporary))
        try:
            measure(Path(temporary, "scene"), arguments.width, arguments.height, arguments.frames)
        finally:
            extension.uninstall()


if __name__ == "__main__":
    main()
