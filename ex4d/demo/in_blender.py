# SPDX-License-Identifier: GPL-3.0-or-later
"""Play an artist in Blender: install the extension, import a clip, aim a camera, generate, save.

Run by Blender or by a Python that has Blender as a module, with the path of a JSON file that says
what to do (`Plan` in `play.py`). Uses only what a user could click. Never imported.
"""

import json
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import bpy
from mathutils import Vector

#: Colour samples of the picture of the mesh: edges need a few, light none.
_SAMPLES = 8
_PICTURE_PX = 640


def main() -> None:
    """Do what the plan says and write `done.json` beside it."""
    plan_path = Path(sys.argv[-1])
    plan = json.loads(plan_path.read_text())
    times_s: dict[str, float] = {}
    with timed(times_s, "install the extension"):
        bpy.ops.extensions.package_install_files(
            filepath=plan["addon"], repo="user_default", enable_on_install=True
        )
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=False)
    bpy.ops.wm.save_as_mainfile(filepath=plan["blend"])
    with timed(times_s, "pair with the server"):
        preferences = bpy.context.preferences.addons["bl_ext.user_default.ex4d"].preferences
        preferences.mode = "REMOTE"
        bpy.ops.ex4d.pair_server(link=plan["link"])
    with timed(times_s, "send the clip, reconstruct, import"):
        bpy.ops.ex4d.import_video(
            clip=plan["clip"],
            depth=plan["depth"],
            depth_kind=plan["depth_kind"],
            lens="PIXELS",
            focal_px=plan["focal_px"],
            title=plan["title"],
        )
    bpy.ops.ex4d.match_scene(
        use_size=True, use_rate=True, use_range=True, use_camera=True, use_view=True
    )
    shot = bpy.context.scene.ex4d.shot
    shot.ex4d_shot.radius = plan["radius"]
    with timed(times_s, "keyframe the camera"):
        bpy.ops.ex4d.add_move(move=plan["move"], strength=plan["strength"])
    with timed(times_s, "generate, fetch, add strips"):
        bpy.ops.ex4d.generate()
    if plan["picture"]:
        with timed(times_s, "render a picture of the mesh"):
            render_mesh(shot, Path(plan["picture"]))
    bpy.ops.wm.save_mainfile()
    plan_path.with_name("done.json").write_text(json.dumps(times_s))


@contextmanager
def timed(times_s: dict[str, float], what: str):
    """Note how long the block takes, in seconds."""
    start_s = time.perf_counter()
    yield
    times_s[what] = time.perf_counter() - start_s


def render_mesh(shot: bpy.types.Object, path: Path) -> None:
    """A picture of the mesh, the marks of what was never seen and the camera's path, from aside."""
    scene = bpy.context.scene
    radius = shot.ex4d_shot.radius
    scene.frame_set((scene.frame_start + scene.frame_end) // 2)
    data = bpy.data.cameras.new("Picture")
    camera = bpy.data.objects.new("Picture", data)
    scene.collection.objects.link(camera)
    place = Vector((radius * 0.75, -radius * 0.15, radius * 0.45))
    camera.location = shot.matrix_world @ place
    target = shot.matrix_world @ Vector((0.0, radius * 1.1, -radius * 0.1))
    camera.rotation_euler = (target - camera.location).to_track_quat("-Z", "Y").to_euler()
    kept_camera, kept_engine = scene.camera, scene.render.engine
    kept_size = (scene.render.resolution_x, scene.render.resolution_y)
    scene.camera, scene.render.engine = camera, "CYCLES"
    scene.render.resolution_x = scene.render.resolution_y = _PICTURE_PX
    scene.cycles.device, scene.cycles.samples = "CPU", _SAMPLES
    scene.cycles.use_denoising = False
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "IMAGE"
    settings.file_format = "PNG"
    scene.render.use_sequencer = False
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)
    scene.camera, scene.render.engine = kept_camera, kept_engine
    scene.render.resolution_x, scene.render.resolution_y = kept_size
    scene.render.use_sequencer = True
    bpy.data.objects.remove(camera)
    bpy.data.cameras.remove(data)


if __name__ == "__main__":
    main()
