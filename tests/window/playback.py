"""Frames per second of a shot that plays in a real Blender window, full and with its proxy.

Run by `run.py --script playback.py` inside Blender; the figures are in `report.json`. Beside them
stand those of the same view without the mesh: what the window itself costs.
"""

import sys
import tempfile
import time
from pathlib import Path

import bpy

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "blender_addon")]

from hands import SETTLE_S, Steps, Window, plan  # noqa: E402 - found by the line above
from scene_writer import write_scene  # noqa: E402 - found by the line above

PLAN = plan()
FRAMES = 49
SIZES_PX = ((512, 512), (1024, 576))
#: Played over and over; the first round fills the caches.
WARM_FRAMES = 6
MEASURED_FRAMES = 2 * WARM_FRAMES


def installs(window: Window) -> Steps:
    """The extension, into an empty file that plays each frame as fast as it can."""
    bpy.ops.extensions.package_install_files(
        filepath=PLAN["addon"], repo="user_default", enable_on_install=True
    )
    for item in list(bpy.data.objects):
        bpy.data.objects.remove(item)
    scene = bpy.context.scene
    scene.sync_mode, scene.render.fps = "NONE", 120
    scene.frame_start, scene.frame_end = 1, WARM_FRAMES
    yield SETTLE_S


def plays(window: Window) -> Steps:
    """Each size and way of showing it in turn."""
    for width_px, height_px in SIZES_PX:
        with tempfile.TemporaryDirectory() as folder:
            write_scene(
                Path(folder),
                frame_count=FRAMES,
                width=width_px,
                height=height_px,
                focal=float(width_px),
            )
            with window.over():
                bpy.ops.ex4d.import_scene(directory=folder)
                bpy.ops.ex4d.match_scene(use_size=True, use_camera=True, use_viewport=True)
            shot = bpy.context.scene.ex4d.shot
            clip = shot.ex4d_shot
            for name, uses_proxy, is_shown in (
                ("full mesh", False, True),
                ("proxy", True, True),
                ("nothing", True, False),
            ):
                clip.use_proxy = uses_proxy
                clip.proxy.hide_viewport = not (uses_proxy and is_shown)
                yield SETTLE_S
                if is_shown:
                    window.picture(f"{width_px} {name}")
                yield from _play(window, f"{width_px} x {height_px}, {name}")
            for item in [*shot.children, shot]:
                bpy.data.objects.remove(item)


def _play(window: Window, name: str) -> Steps:
    seconds: list[tuple[float, float]] = []

    def on_frame(_scene, _depsgraph=None) -> None:
        # Other programs disturb the processor's time less than the clock's.
        seconds.append((time.perf_counter(), time.process_time()))

    bpy.app.handlers.frame_change_post.append(on_frame)
    with window.over():
        bpy.ops.screen.animation_play()
    last = WARM_FRAMES + MEASURED_FRAMES
    yield from window.wait_for(lambda: len(seconds) > last, f"{last} frames of {name}", 240.0)
    with window.over():
        bpy.ops.screen.animation_cancel()
    bpy.app.handlers.frame_change_post.remove(on_frame)
    (clock_s, busy_s), (clock_end_s, busy_end_s) = seconds[WARM_FRAMES], seconds[last]
    window.figure(f"{name}, frames a second", MEASURED_FRAMES / (clock_end_s - clock_s))
    window.figure(f"{name}, processor ms a frame", (busy_end_s - busy_s) / MEASURED_FRAMES * 1e3)
    yield SETTLE_S


if __name__ == "__main__":
    Window(Path(PLAN["screen"]), Path(PLAN["output"])).run([installs, plays])
