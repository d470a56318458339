"""How long the extension's ticks and panels take with a shot loaded and a job running.

Run with a Python that has Blender as a module:

    python tests/bench/blender_ticks.py --width 512 --height 512 --frames 49
"""

import argparse
import importlib
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import ModuleType

sys.path[:0] = [str(Path(__file__).parent)]

import blender_playback  # noqa: E402 - found by the line above
import extension  # noqa: E402 - blender_playback knows where

BUDGET_MS = 8.0
_IDLE_TICKS = 200


def module(name: str) -> ModuleType:
    """A module of the installed extension."""
    return importlib.import_module(f"{extension.PACKAGE}.{name}")


def report(text: str, milliseconds: list[tuple[float, float]]) -> None:
    """Print a line for the clock and one for the processor, which other programs disturb less."""
    for name, values in zip(("clock", "processor"), zip(*milliseconds, strict=True), strict=True):
        over = sum(value > BUDGET_MS for value in values)
        print(
            f"{text:31s} {name:9s} {len(values):4d} x  median {median(values):6.2f} ms  "
            f"longest {max(values):6.2f} ms  over {BUDGET_MS:g} ms: {over}"
        )


def timed_ms(function: Callable[[], object], count: int) -> list[tuple[float, float]]:
    """Milliseconds of each of so many calls: by the clock, and of this thread's processor."""
    found = []
    for _ in range(count):
        start, busy = time.perf_counter(), time.thread_time()
        function()
        seconds = time.perf_counter() - start, time.thread_time() - busy
        found.append((seconds[0] * 1e3, seconds[1] * 1e3))
    return found


def add_waiting_job(folder: Path) -> None:
    """A job that is under way, as after a restart: it waits for its server."""
    import bpy

    documents, messages = module("_vendor.protocol.documents"), module("_vendor.protocol.messages")
    shot = bpy.context.scene.ex4d.shot
    trajectory = module("camera").sample_trajectory(bpy.context, shot)
    request = messages.GenerateJob(
        scene=(), trajectory=trajectory, settings=documents.PreviewSettings()
    )
    record = module("jobs").JobRecord(
        request_id=uuid.uuid4().hex,
        job_id=uuid.uuid4().hex,
        server="k" * 40,
        title="Take",
        request=request,
        sources={},
        folder=str(folder / "take"),
        shot_id=shot.ex4d_shot.shot_id,
        shot_name=shot.name,
    )
    module("runtime").get().jobs.add(record, bpy.context.scene.session_uid)


def coverage_ticks_ms(tick: Callable[[], object]) -> list[tuple[float, float]]:
    """Milliseconds of each tick of a measurement: see `timed_ms`."""
    import bpy

    bpy.ops.ex4d.check_coverage(wait=False)
    check, ticks = module("runtime").get().coverage, []
    while not check.work.is_over:
        ticks += timed_ms(tick, 1)
    return ticks


def measure(folder: Path, width: int, height: int, frame_count: int) -> None:
    """Import a synthetic scene and print all figures."""
    import bpy
    from scene_writer import write_scene

    write_scene(folder, frame_count=frame_count, width=width, height=height, focal=float(width))
    bpy.ops.wm.read_homefile(use_empty=True)
    shot, _ = blender_playback.time_steps(folder)
    scene = bpy.context.scene
    scene.ex4d.shot = shot
    scene.frame_start, scene.frame_end = 1, frame_count
    bpy.ops.ex4d.add_move(move="orbit_right")
    add_waiting_job(folder)
    module("repainting").SETTLE_S = 0.0
    pump, redraws = module("pump"), []
    pump.redraw = lambda: redraws.append(1)
    pump.tick()
    redraws.clear()
    print(f"Blender {bpy.app.version_string}, {width} x {height}, {frame_count} frames")
    report("ticks with nothing new", timed_ms(pump.tick, _IDLE_TICKS))
    print(f"redraws caused by them: {len(redraws)}")
    report("ticks that measure coverage", coverage_ticks_ms(pump.tick))
    scene.ex4d_generate.show_condition = True
    ticks = []
    for frame in range(1, 11):
        scene.frame_set(frame)
        ticks += timed_ms(pump.tick, 1)
        while module("runtime").get().condition.is_drawing:
            ticks += timed_ms(pump.tick, 1)
    report("ticks that draw conditions", ticks)
    redraws.clear()
    report("ticks that keep a condition", timed_ms(pump.tick, _IDLE_TICKS))
    print(f"redraws caused by them: {len(redraws)}")
    scene.ex4d_generate.show_condition = False
    shot.ex4d_shot.field_of_view *= 1.2
    repainter, ticks = module("runtime").get().repainter, []
    while repainter.is_painting:
        ticks += timed_ms(pump.tick, 1)
    report("ticks that paint marks anew", ticks)
    report("the same, by another lens", coverage_ticks_ms(pump.tick))
    warnings = module("ops_coverage").warnings
    report("warnings, as drawn", timed_ms(lambda: warnings(bpy.context, shot), 50))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--frames", type=int, default=49)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        blender_playback.install(Path(temporary))
        try:
            measure(Path(temporary, "scene"), arguments.width, arguments.height, arguments.frames)
        finally:
            extension.uninstall()


if __name__ == "__main__":
    main()
