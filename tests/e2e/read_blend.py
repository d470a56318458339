"""Tell as JSON what a saved demo shows; run in Blender without the extension."""

import json
import sys

import bpy
import numpy as np

bpy.ops.wm.open_mainfile(filepath=sys.argv[-1])
scene = bpy.context.scene
editor = scene.sequence_editor
strips = getattr(editor, "strips", None)
strips = editor.sequences if strips is None else strips


def positions(mesh_object: bpy.types.Object) -> np.ndarray:
    """Evaluated vertices, (count, 3)."""
    mesh = mesh_object.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
    flat = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.attributes["position"].data.foreach_get("vector", flat)
    return flat.reshape(-1, 3)


animated = {}
for mesh_object in [item for item in bpy.data.objects if item.type == "MESH"]:
    scene.frame_set(scene.frame_start)
    first = positions(mesh_object).copy()
    scene.frame_set(scene.frame_end)
    animated[mesh_object.name] = float(np.abs(positions(mesh_object) - first).max())
places = []
for frame in (scene.frame_start, scene.frame_end):
    scene.frame_set(frame)
    places.append(list(scene.camera.matrix_world.translation))
print(
    json.dumps(
        {
            "extension": "bl_ext.user_default.ex4d" in bpy.context.preferences.addons,
            "size_px": [scene.render.resolution_x, scene.render.resolution_y],
            "rate": scene.render.fps / scene.render.fps_base,
            "range": [scene.frame_start, scene.frame_end],
            "camera_travel": float(np.linalg.norm(np.subtract(*places))),
            "movement": animated,
            "strips": [
                {
                    "name": strip.name,
                    "type": strip.type,
                    "channel": strip.channel,
                    "first": strip.frame_final_start,
                    "count": strip.frame_final_duration,
                    "files": len(strip.elements),
                }
                for strip in strips
            ],
        }
    )
)
