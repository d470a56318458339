"""Render the sample: a toy room with true depth, from the source camera and from an orbiting one.

    python render_sample.py OUTPUT [--frames 1-49] [--size 512] [--samples 16]

Runs in any Python that has Blender as a module, with the repository on its path. Writes multilayer
EXR files `source_0001.exr` and `orbit_0001.exr`; `pack_sample.py` turns them into the sample.
Everything is procedural and nothing is random, so that the same Blender renders the same pictures.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import bpy
from mathutils import Matrix, Vector
from settings import (
    CAMERA_HEIGHT_M,
    FOCAL_SHARE,
    FRAME_COUNT,
    FRAME_RATE,
    ORBIT_DEG,
    RADIUS_M,
)

from ex4d import moves

Color = tuple[float, float, float]


def material(
    name: str, texture: str, dark: Color, light: Color, scale: float, **settings: object
) -> bpy.types.Material:
    """Two colours in a pattern, lit by the sun and by a little light from everywhere.

    The second is an emission, so that nothing has to be sampled and nothing is noisy.
    """
    result = bpy.data.materials.new(name)
    result.use_nodes = True
    nodes, links = result.node_tree.nodes, result.node_tree.links
    nodes.clear()
    coordinates = nodes.new("ShaderNodeTexCoord")
    pattern = nodes.new(f"ShaderNodeTex{texture}")
    pattern.inputs["Scale"].default_value = scale
    for key, value in settings.items():
        if key in pattern.inputs:
            pattern.inputs[key].default_value = value
        else:
            setattr(pattern, key, value)
    ramp = nodes.new("ShaderNodeValToRGB")
    ramp.color_ramp.interpolation = "LINEAR"
    ramp.color_ramp.elements[0].position, ramp.color_ramp.elements[1].position = 0.42, 0.58
    ramp.color_ramp.elements[0].color = (*dark, 1.0)
    ramp.color_ramp.elements[1].color = (*light, 1.0)
    links.new(coordinates.outputs["Object"], pattern.inputs["Vector"])
    links.new(pattern.outputs["Fac" if "Fac" in pattern.outputs else 0], ramp.inputs["Fac"])
    diffuse, ambient = nodes.new("ShaderNodeBsdfDiffuse"), nodes.new("ShaderNodeEmission")
    ambient.inputs["Strength"].default_value = 0.42
    total, output = nodes.new("ShaderNodeAddShader"), nodes.new("ShaderNodeOutputMaterial")
    for shader in (diffuse, ambient):
        links.new(ramp.outputs["Color"], shader.inputs["Color"])
    links.new(diffuse.outputs[0], total.inputs[0])
    links.new(ambient.outputs[0], total.inputs[1])
    links.new(total.outputs[0], output.inputs["Surface"])
    return result


def add(operator: Callable[..., object], paint: bpy.types.Material, **settings: object):
    """Add a primitive with a material; the object."""
    operator(**settings)
    thing = bpy.context.object
    thing.data.materials.append(paint)
    return thing


def box(
    paint: bpy.types.Material, size: tuple[float, float, float], at: tuple[float, float, float]
):
    """A box with slightly rounded edges, standing with its centre at a point."""
    thing = add(bpy.ops.mesh.primitive_cube_add, paint, size=1.0, location=at)
    thing.scale = size
    bpy.ops.object.transform_apply(scale=True, location=False, rotation=False)
    rounding = thing.modifiers.new("Rounded", "BEVEL")
    rounding.width, rounding.segments = 0.02, 3
    return thing


def smooth(thing: bpy.types.Object) -> None:
    """Shade without facets."""
    for polygon in thing.data.polygons:
        polygon.use_smooth = True


def build_room() -> None:
    """Floor, four walls and a carpet."""
    floor = material("Floor", "Checker", (0.36, 0.20, 0.10), (0.62, 0.40, 0.22), 2.0)
    wall = material(
        "Wall", "Wave", (0.10, 0.30, 0.36), (0.16, 0.42, 0.46), 1.6, bands_direction="X"
    )
    side = material("Side", "Brick", (0.52, 0.24, 0.16), (0.74, 0.56, 0.42), 1.4)
    carpet = material("Carpet", "Voronoi", (0.55, 0.07, 0.10), (0.92, 0.72, 0.40), 5.0)
    plane = bpy.ops.mesh.primitive_plane_add
    add(plane, floor, size=14.0)
    add(plane, wall, size=14.0, location=(0, 3.4, 0), rotation=(math.pi / 2, 0, 0))
    add(plane, wall, size=14.0, location=(0, -6.0, 0), rotation=(math.pi / 2, 0, 0))
    for x in (-4.6, 4.6):
        add(plane, side, size=14.0, location=(x, 0, 0), rotation=(0, math.pi / 2, 0))
    rug = add(bpy.ops.mesh.primitive_cylinder_add, carpet, radius=1.9, depth=0.03, vertices=96)
    rug.location = (0, 0.35, 0.015)


def build_things() -> None:
    """What stands and moves in the room."""
    red = material("Red", "Wave", (0.60, 0.02, 0.03), (0.95, 0.25, 0.12), 5.0)
    blue = material("Blue", "Checker", (0.03, 0.10, 0.55), (0.20, 0.45, 0.95), 6.0)
    yellow = material("Yellow", "Voronoi", (0.90, 0.45, 0.02), (1.00, 0.85, 0.15), 9.0)
    green = material("Green", "Noise", (0.02, 0.22, 0.06), (0.25, 0.70, 0.15), 9.0)
    white = material("White", "Checker", (0.75, 0.10, 0.15), (0.95, 0.93, 0.88), 4.0)
    dark = material("Dark", "Noise", (0.02, 0.02, 0.03), (0.12, 0.12, 0.14), 20.0)
    fur = material("Fur", "Noise", (0.50, 0.28, 0.11), (0.74, 0.48, 0.24), 16.0)
    build_tower((blue, yellow, red, green))
    build_train(red, yellow, dark)
    build_windmill(white, blue)
    hero = add(bpy.ops.mesh.primitive_monkey_add, fur, size=0.95, location=(0.05, 0.25, 0.98))
    rounding = hero.modifiers.new("Smooth", "SUBSURF")
    rounding.render_levels = 2
    smooth(hero)
    key_rotation(hero, (0, 0, -0.55), (0, 0, 0.55))
    add(
        bpy.ops.mesh.primitive_cylinder_add,
        white,
        radius=0.34,
        depth=0.52,
        location=(0.05, 0.3, 0.28),
    )
    ball = add(bpy.ops.mesh.primitive_uv_sphere_add, white, radius=0.3, segments=64, ring_count=32)
    smooth(ball)
    for index in range(7):
        frame = 1 + index * 8
        height = 0.33 if index % 2 else 1.35
        ball.location = (1.25 - 0.05 * index, 0.75, height)
        ball.rotation_euler = (0.0, 0.5 * index, 0.3 * index)
        ball.keyframe_insert("location", frame=frame)
        ball.keyframe_insert("rotation_euler", frame=frame)
    tree = add(bpy.ops.mesh.primitive_cone_add, green, radius1=0.42, depth=1.1, vertices=48)
    tree.location = (-1.75, 1.7, 1.0)
    add(
        bpy.ops.mesh.primitive_cylinder_add,
        dark,
        radius=0.1,
        depth=0.5,
        location=(-1.75, 1.7, 0.25),
    )


def build_tower(paints: tuple[bpy.types.Material, ...]) -> None:
    """Blocks on top of each other."""
    for level, paint in enumerate(paints):
        block = box(paint, (0.42, 0.42, 0.36), (-1.05, 0.6, 0.21 + 0.37 * level))
        block.rotation_euler = (0, 0, 0.35 * level - 0.3)


def build_train(
    body: bpy.types.Material, trim: bpy.types.Material, wheel: bpy.types.Material
) -> None:
    """A toy engine with a wagon that crosses the picture in front of everything."""
    parts = [
        box(body, (0.62, 0.30, 0.20), (0.0, 0.0, 0.24)),
        box(trim, (0.26, 0.32, 0.30), (-0.2, 0.0, 0.46)),
        box(trim, (0.52, 0.32, 0.26), (-0.72, 0.0, 0.28)),
    ]
    boiler = add(bpy.ops.mesh.primitive_cylinder_add, body, radius=0.13, depth=0.42, vertices=48)
    boiler.location, boiler.rotation_euler = (0.13, 0.0, 0.42), (0, math.pi / 2, 0)
    chimney = add(bpy.ops.mesh.primitive_cylinder_add, wheel, radius=0.05, depth=0.2)
    chimney.location = (0.25, 0.0, 0.62)
    parts += [boiler, chimney]
    for x in (-0.88, -0.56, -0.2, 0.2):
        for y in (-0.18, 0.18):
            disc = add(bpy.ops.mesh.primitive_cylinder_add, wheel, radius=0.1, depth=0.05)
            disc.location, disc.rotation_euler = (x, y, 0.12), (math.pi / 2, 0, 0)
            parts.append(disc)
    carrier = bpy.data.objects.new("Train", None)
    bpy.context.scene.collection.objects.link(carrier)
    for part in parts:
        part.parent = carrier
    for frame, x in ((1, -1.25), (FRAME_COUNT, 1.55)):
        carrier.location = (x, -0.75, 0.0)
        carrier.keyframe_insert("location", frame=frame)


def build_windmill(sail: bpy.types.Material, tower: bpy.types.Material) -> None:
    """Four turning sails before the back wall."""
    trunk = add(bpy.ops.mesh.primitive_cone_add, tower, radius1=0.4, radius2=0.2, depth=1.7)
    trunk.location = (1.75, 2.2, 0.85)
    hub = bpy.data.objects.new("Hub", None)
    bpy.context.scene.collection.objects.link(hub)
    hub.location = (1.75, 1.85, 1.6)
    for index in range(4):
        blade = box(sail, (0.16, 0.03, 0.75), (0, 0, 0))
        turn = Matrix.Rotation(index * math.pi / 2, 4, "Y")
        blade.matrix_local = turn @ Matrix.Translation((0.0, 0.0, 0.42))
        blade.parent = hub
    key_rotation(hub, (0, 0, 0), (0, 2.4, 0))


def key_rotation(thing: bpy.types.Object, start: Color, end: Color) -> None:
    """Turn from the first frame to the last."""
    for frame, angles in ((1, start), (FRAME_COUNT, end)):
        thing.rotation_euler = angles
        thing.keyframe_insert("rotation_euler", frame=frame)


def build_lights() -> None:
    """A sun with hard shadows: one sample knows it exactly."""
    sun = bpy.data.lights.new("Sun", "SUN")
    sun.energy, sun.angle, sun.color = 2.6, 0.0, (1.0, 0.94, 0.84)
    thing = bpy.data.objects.new("Sun", sun)
    thing.rotation_euler = (math.radians(38), math.radians(24), 0)
    bpy.context.scene.collection.objects.link(thing)
    # The ceiling is open: the sun comes in over the walls, which must not stop it.
    for wall in bpy.data.objects:
        if wall.type == "MESH" and max(wall.dimensions) > 10:
            wall.visible_shadow = False


def build_camera() -> bpy.types.Object:
    """The camera, with square pixels and the lens of both views."""
    data = bpy.data.cameras.new("Camera")
    data.sensor_width = 36.0
    data.lens = 36.0 * FOCAL_SHARE
    data.clip_start, data.clip_end = 0.01, 100.0
    camera = bpy.data.objects.new("Camera", data)
    bpy.context.scene.collection.objects.link(camera)
    bpy.context.scene.camera = camera
    return camera


def world_from_source() -> Matrix:
    """From the source camera's OpenCV axes (x right, y down, z forward) to Blender's world."""
    turn = Matrix(((1, 0, 0), (0, 0, 1), (0, -1, 0))).to_4x4()
    return Matrix.Translation((0.0, -RADIUS_M, CAMERA_HEIGHT_M)) @ turn


def place(camera: bpy.types.Object, index: int, *, is_orbit: bool) -> None:
    """Put the camera where it is in a frame, counted from 0."""
    amount = ORBIT_DEG
    shown = index if is_orbit else 0
    pose = moves.pose("orbit_right", shown, FRAME_COUNT, RADIUS_M, amount)
    # Blender's camera looks along -z with y up.
    columns = (Vector(pose.right), -Vector(pose.down), -Vector(pose.forward), Vector(pose.position))
    cam_to_source = Matrix([[*(column[row] for column in columns)] for row in range(3)]).to_4x4()
    camera.matrix_world = world_from_source() @ cam_to_source


def set_up_rendering(size_px: int, samples: int) -> None:
    """Cycles on the processor: direct light, no noise to remove, true depth."""
    scene = bpy.context.scene
    render = scene.render
    render.engine = "CYCLES"
    render.resolution_x = render.resolution_y = size_px
    render.resolution_percentage = 100
    render.fps = FRAME_RATE
    render.use_persistent_data = True
    render.use_motion_blur = False
    cycles = scene.cycles
    cycles.device, cycles.samples, cycles.seed = "CPU", samples, 0
    cycles.use_adaptive_sampling = cycles.use_denoising = False
    cycles.max_bounces = 0
    cycles.pixel_filter_type, cycles.filter_width = "BOX", 1.0
    scene.view_layers[0].use_pass_z = True
    settings = render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "MULTI_LAYER_IMAGE"
    settings.file_format = "OPEN_EXR_MULTILAYER"
    settings.color_depth, settings.exr_codec = "32", "ZIP"


def main(argv: list[str]) -> None:
    """Render the frames that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--frames", default=f"1-{FRAME_COUNT}", help="for example 1-49 or 17")
    parser.add_argument("--views", nargs="+", default=["source", "orbit"])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--samples", type=int, default=16)
    arguments = parser.parse_args(argv)
    first, _, last = arguments.frames.partition("-")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    build_room()
    build_things()
    build_lights()
    camera = build_camera()
    set_up_rendering(arguments.size, arguments.samples)
    scene = bpy.context.scene
    for view in arguments.views:
        for frame in range(int(first), int(last or first) + 1):
            scene.frame_set(frame)
            place(camera, frame - 1, is_orbit=view == "orbit")
            scene.render.filepath = str(arguments.output.resolve() / f"{view}_{frame:04d}.exr")
            bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    main(sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:])
