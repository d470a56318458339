"""Play an artist who lets the server estimate depth; run by a Python that has Blender.

Arguments: the extension's zip, a pairing link, a video, the folder of results. Prints as JSON what
was seen of each import. Timers never fire in Blender as a module, so the pump is driven by hand.
"""

import importlib
import json
import sys
import time
from pathlib import Path

import bpy

PACKAGE = "bl_ext.user_default.ex4d"
TIMEOUT_S = 90.0
#: At this size the network takes about a second for each.
FRAMES = 3


def main() -> None:
    """Import, import the same again, begin a third with other frames and cancel it."""
    addon, link, clip, folder = sys.argv[-4:]
    bpy.ops.extensions.package_install_files(
        filepath=addon, repo="user_default", enable_on_install=True
    )
    bpy.ops.wm.read_homefile(use_empty=True)
    preferences = bpy.context.preferences.addons[PACKAGE].preferences
    preferences.mode, preferences.cache = "REMOTE", folder
    bpy.ops.ex4d.pair_server(link=link)
    told = {
        "first": play(clip, frame_count=FRAMES),
        "again": play(clip, frame_count=FRAMES),
        "cancelled": play(clip, frame_count=FRAMES + 1, is_cancelled=True),
    }
    told["meshes"] = {
        item.name: describe(item)
        for item in bpy.data.objects
        if item.name.startswith("square Mesh")
    }
    print(json.dumps(told))


def play(clip: str, *, frame_count: int, is_cancelled: bool = False) -> dict:
    """Import, cancelling as soon as depth is being estimated; what the panel could have shown."""
    runtime, pump, jobs, wording = (
        importlib.import_module(f"{PACKAGE}.{name}")
        for name in ("runtime", "pump", "jobs", "wording")
    )
    start_s = time.monotonic()
    bpy.ops.ex4d.import_video(
        clip=clip,
        depth_source="ESTIMATOR",
        estimator="video-depth-anything",
        frame_count=frame_count,
        title="square",
        wait=False,
    )
    *_, job = runtime.get().jobs
    steps: list[tuple[str, float]] = []
    has_asked = False
    while job.stage not in jobs.ENDED:
        assert time.monotonic() < start_s + TIMEOUT_S, wording.job_text(job)
        pump.tick()
        if job.remote is not None and job.remote.stage:
            step = (job.remote.stage, job.remote.fraction)
            if step not in steps:
                steps.append(step)
            if is_cancelled and not has_asked and step[0] == "estimating depth":
                has_asked = True
                bpy.ops.ex4d.cancel_job(request_id=job.record.request_id)
        time.sleep(0.002)
    return {
        "stage": job.stage.value,
        "error": "" if job.error is None else job.error.message,
        "steps": steps,
        "seconds": time.monotonic() - start_s,
        "has_results": Path(job.record.folder).exists(),
        "folder": job.record.folder,
    }


def describe(mesh_object: bpy.types.Object) -> dict:
    """How large a mesh is, and how deep it lies before the camera."""
    mesh = mesh_object.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
    depths = [vertex.co.y for vertex in mesh.vertices]
    return {
        "vertices": len(depths),
        "depth_range": [min(depths), max(depths)],
    }


if __name__ == "__main__":
    main()
