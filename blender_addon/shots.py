# SPDX-License-Identifier: GPL-3.0-or-later
"""Shots: what the extension keeps on the object that a shot hangs from, and its switches."""

import math
from pathlib import Path

import bpy

from . import camera_binding, field_of_view, material
from ._vendor.errors import InputError


def _folder(shot: "EX4D_PG_shot") -> str:
    # Blender itself keeps the paths of images right when files move; one more copy would go stale.
    if shot.clip_image is None:
        return ""
    first = bpy.path.abspath(shot.clip_image.filepath, library=shot.clip_image.library)
    return str(Path(first).resolve().parent.parent)


def _apply_frame_start(shot: "EX4D_PG_shot", _context: bpy.types.Context) -> None:
    for mesh_object in (shot.mesh, shot.proxy, shot.surround):
        if mesh_object is not None:
            for modifier in mesh_object.modifiers:
                if modifier.type == "MESH_CACHE":
                    modifier.frame_start = shot.frame_start
    node = _own_clip_node(shot)
    if node is not None:
        node.image_user.frame_start = shot.frame_start


def _apply_switches(shot: "EX4D_PG_shot", _context: bpy.types.Context) -> None:
    if shot.proxy is not None and shot.mesh is not None:
        shot.proxy.hide_viewport = not shot.use_proxy
        shot.mesh.hide_viewport = shot.use_proxy
    if shot.surround is not None:
        shot.surround.hide_viewport = shot.surround.hide_render = not shot.show_surround
    node = _own_clip_node(shot)
    if node is not None:
        node.image = shot.marked_image if shot.show_marks else shot.clip_image


def _apply_field_of_view(shot: "EX4D_PG_shot", _context: bpy.types.Context) -> None:
    # Both know of shots themselves.
    from . import pump, runtime

    field_of_view.apply(shot)
    # Its marked pictures will be others.
    _own_clip_node(shot)
    runtime.get().repainter.look()
    pump.wake()


def _own_clip_node(shot: "EX4D_PG_shot") -> bpy.types.ShaderNodeTexImage | None:
    """The texture of the shot alone: copies share theirs until something of it changes."""
    others = [item.ex4d_shot for item in bpy.data.objects if item.ex4d_shot.is_shot]
    shown = _clip_node(shot)
    if shown is None or not any(
        other.mesh != shot.mesh and _clip_node(other) == shown for other in others
    ):
        return shown
    if shot.marked_image is not None:
        shot.marked_image = shot.marked_image.copy()
    own = shot.mesh.active_material.copy()
    for mesh_object in (shot.mesh, shot.proxy):
        if mesh_object is not None and mesh_object.active_material is not None:
            slot = mesh_object.material_slots[mesh_object.active_material_index]
            # Linked duplicates share the mesh, which has the material.
            slot.link = "OBJECT"
            slot.material = own
    node = material.clip_node(own)
    if node is not None:
        node.image = shot.marked_image if shot.show_marks else shot.clip_image
    return node


def _clip_node(shot: "EX4D_PG_shot") -> bpy.types.ShaderNodeTexImage | None:
    if shot.mesh is None or shot.mesh.active_material is None:
        return None
    return material.clip_node(shot.mesh.active_material)


def _is_camera(_shot: "EX4D_PG_shot", candidate: bpy.types.Object) -> bool:
    return candidate.type == "CAMERA"


class EX4D_PG_shot(bpy.types.PropertyGroup):
    """What makes an empty object a shot. Everything that plays works without it."""

    is_shot: bpy.props.BoolProperty(options=set())  # type: ignore[valid-type]
    #: Fixed, in hex: see `shot_ids`. Empty for a moment in shots of older versions.
    shot_id: bpy.props.StringProperty(options=set())  # type: ignore[valid-type]
    folder: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Scene Folder", description="Folder with the scene's files", get=_folder
    )
    frame_start: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Start Frame",
        description="Frame that shows the first frame of the clip",
        default=1,
        options=set(),
        update=_apply_frame_start,
    )
    frame_count: bpy.props.IntProperty(options=set())  # type: ignore[valid-type]
    frame_rate: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Frame Rate", description="Frames per second of the clip", options=set()
    )
    width_px: bpy.props.IntProperty(options=set())  # type: ignore[valid-type]
    height_px: bpy.props.IntProperty(options=set())  # type: ignore[valid-type]
    pixel_aspect: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Pixel Aspect", description="Width of a pixel over its height", options=set()
    )
    is_metric: bpy.props.BoolProperty(options=set())  # type: ignore[valid-type]
    #: Of the scene's files, in radians; 0 in shots of older versions.
    scene_field_of_view: bpy.props.FloatProperty(options=set())  # type: ignore[valid-type]
    #: By how much `field_of_view` has stretched the lenses already.
    applied_zoom: bpy.props.FloatProperty(default=1.0, options=set())  # type: ignore[valid-type]
    field_of_view: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Field of View",
        description=(
            "Angle along the long side of the video. Spreads the mesh and the lenses of its "
            "cameras together, and the takes that follow; depth stays as it is"
        ),
        subtype="ANGLE",
        min=field_of_view.MIN_RAD,
        max=field_of_view.MAX_RAD,
        default=math.radians(60.0),
        options=set(),
        update=_apply_field_of_view,
    )
    radius: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Pivot Distance",
        description=(
            "How far in front of the source camera the point lies that moves turn around; at "
            "first the depth of what is nearest in the first frame"
        ),
        min=1e-6,
        default=1.0,
        options=set(),
    )
    pivot_offset: bpy.props.FloatVectorProperty(  # type: ignore[valid-type]
        name="Pivot Offset",
        description=(
            "How far to the right and above the middle of the source camera's view the point lies "
            "that orbits turn around; EX-4D's own moves turn around the middle"
        ),
        size=2,
        subtype="XYZ",
        options=set(),
    )
    source_camera: bpy.props.PointerProperty(  # type: ignore[valid-type]
        type=bpy.types.Object, poll=_is_camera, options=set()
    )
    camera: bpy.props.PointerProperty(  # type: ignore[valid-type]
        name="Camera",
        description="The camera that takes are made with",
        type=bpy.types.Object,
        poll=_is_camera,
        options=set(),
    )
    mesh: bpy.props.PointerProperty(type=bpy.types.Object, options=set())  # type: ignore[valid-type]
    proxy: bpy.props.PointerProperty(type=bpy.types.Object, options=set())  # type: ignore[valid-type]
    surround: bpy.props.PointerProperty(type=bpy.types.Object, options=set())  # type: ignore[valid-type]
    clip_image: bpy.props.PointerProperty(type=bpy.types.Image, options=set())  # type: ignore[valid-type]
    marked_image: bpy.props.PointerProperty(type=bpy.types.Image, options=set())  # type: ignore[valid-type]
    use_proxy: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Proxy",
        description="Show a coarser mesh in the viewport; renders keep the full one",
        options=set(),
        update=_apply_switches,
    )
    show_marks: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Mark Unseen",
        description="Paint what the video never saw, and a take has to invent",
        default=True,
        options=set(),
        update=_apply_switches,
    )
    show_surround: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Surround",
        description="Show the walls around the video, which can hide it from the side in a take",
        options=set(),
        update=_apply_switches,
    )

    @property
    def frame_end(self) -> int:
        """Frame that shows the last frame of the clip."""
        return self.frame_start + self.frame_count - 1


class EX4D_PG_scene(bpy.types.PropertyGroup):
    """What a Blender scene knows of its shots."""

    shot: bpy.props.PointerProperty(  # type: ignore[valid-type]
        name="Shot",
        description="The shot that the panels show while none of its objects is active",
        type=bpy.types.Object,
        poll=lambda _scene, candidate: candidate.ex4d_shot.is_shot,
        options=set(),
    )


def is_meant(shot: bpy.types.Object, shot_id: str, shot_name: str) -> bool:
    """Whether a take or a job is of a shot: by its id, or where either has none by its name."""
    own_id = shot.ex4d_shot.shot_id
    return shot_id == own_id if shot_id and own_id else shot_name == shot.name


def active_shot(context: bpy.types.Context) -> bpy.types.Object | None:
    """The shot that the active object belongs to, otherwise the last one imported."""
    candidate = context.active_object
    while candidate is not None and not candidate.ex4d_shot.is_shot:
        candidate = candidate.parent
    if candidate is None:
        candidate = context.scene.ex4d.shot
    # A deleted object lives on as long as something points to it.
    if candidate is None or context.scene.objects.get(candidate.name) != candidate:
        return None
    return candidate


def required_shot(context: bpy.types.Context) -> bpy.types.Object:
    """The active shot.

    Raises:
        InputError: `no_shot` if there is none.
    """
    shot = active_shot(context)
    if shot is None:
        raise InputError("no_shot", "expected a shot, found none; import a video first")
    return shot


def has_shot(operator: type, context: bpy.types.Context) -> bool:
    """Whether there is an active shot; else the operator's button says what is missing."""
    if active_shot(context) is None:
        operator.poll_message_set("Import a video or a scene first")  # pyright: ignore[reportAttributeAccessIssue]
        return False
    return True


class NeedsShot:
    """What operators on the active shot share."""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only with a shot."""
        return has_shot(cls, context)


def take_frames(context: bpy.types.Context, shot: bpy.types.Object) -> tuple[int, int]:
    """First and last frame of a take: the part of the scene's range that the clip covers.

    Of the frames that the scene's Step leaves, as renders do, it begins with the first one. Where
    markers switch to a camera that hangs from another shot, the take ends or has not begun;
    of several such parts it is the first.

    Raises:
        InputError: `range_empty` if the scene's range lies outside the clip, if all of it is seen
            through cameras of other shots, or if the Step leaves none of it.
    """
    scene, clip = context.scene, shot.ex4d_shot
    first = max(scene.frame_start, clip.frame_start)
    last = min(scene.frame_end, clip.frame_end)
    if first > last:
        message = (
            f"expected the scene's frames to meet the clip's, {clip.frame_start} to "
            f"{clip.frame_end}, found {scene.frame_start} to {scene.frame_end}; change the range"
        )
        raise InputError("range_empty", message)
    own: list[camera_binding.Stretch] = []
    for stretch in camera_binding.stretches(scene, shot, first, last):
        if not camera_binding.is_of_another_shot(stretch.camera, shot):
            own.append(stretch)
        elif own:
            break
    if not own:
        message = (
            f"expected a camera for {shot.name} between frames {first} and {last}, found markers "
            "that bind cameras of other shots; bind one of its own"
        )
        raise InputError("range_empty", message)
    first, last = own[0].first, own[-1].last
    first += skipped_frames(scene, first)
    if first > last:
        message = (
            f"expected a frame between {own[0].first} and {last} in the scene's Step of "
            f"{scene.frame_step}, found none; change the range or the Step"
        )
        raise InputError("range_empty", message)
    return first, last


def scene_step(scene: bpy.types.Scene) -> int:
    """Every how many frames there is one that a render, and so a take, shows."""
    # Blender lets scripts set 0.
    return max(1, scene.frame_step)


def skipped_frames(scene: bpy.types.Scene, frame: int) -> int:
    """How many frames after this one the scene's Step has the next; 0 where it has this one."""
    return (scene.frame_start - frame) % scene_step(scene)


def sampled_frames(context: bpy.types.Context, shot: bpy.types.Object) -> range:
    """The frames of the scene that a take has pictures of.

    Every so many of the range as the scene's Step says, in the number that the engine makes of it.

    Raises:
        InputError: As of `take_frames`.
    """
    scene = context.scene
    first, last = take_frames(context, shot)
    step = scene_step(scene)
    count = scene.ex4d_generate.frame_count(len(range(first, last + 1, step)))
    return range(first, first + count * step, step)


def show_video(view: bpy.types.SpaceView3D, shot: bpy.types.Object) -> None:
    """Show the clip's own colors on the mesh, quickly, and look through the shot's camera."""
    view.shading.type = "SOLID"
    view.shading.light = "FLAT"
    view.shading.color_type = "TEXTURE"
    if bpy.context.scene.camera != shot.ex4d_shot.camera:
        # Set first: without it, a view's camera is the scene's, which would change.
        view.use_local_camera = True
        view.camera = shot.ex4d_shot.camera
    view.region_3d.view_perspective = "CAMERA"
    view.clip_end = max(view.clip_end, shot.ex4d_shot.camera.data.clip_end)


class EX4D_OT_match_scene(NeedsShot, bpy.types.Operator):
    """Give the scene what is ticked of the clip: nothing of it is set without asking"""

    bl_idname = "ex4d.match_scene"
    bl_label = "Match Scene to Clip"
    bl_options = {"REGISTER", "UNDO"}

    use_size: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Render Size", description="Render as many pixels as the clip has"
    )
    use_rate: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Frame Rate", description="Play at the clip's frames per second"
    )
    use_range: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Frame Range", description="Start and end with the clip"
    )
    use_camera: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Active Camera", description="Look and render through the shot's camera"
    )
    use_view: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Standard View",
        description="Show the clip's own colors: other view transforms change them",
    )

    use_viewport: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="3D View",
        description="Show the video on its mesh in this view, seen through the shot's camera",
    )

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """Offer all of it at first, later what was ticked last."""
        for name in type(self).__annotations__:
            if not self.properties.is_property_set(name):
                setattr(self, name, True)
        return context.window_manager.invoke_props_dialog(self)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Set what is ticked."""
        shot = active_shot(context)
        if shot is None:
            return {"CANCELLED"}
        clip = shot.ex4d_shot
        scene, render = context.scene, context.scene.render
        if self.use_size:
            render.resolution_x, render.resolution_y = clip.width_px, clip.height_px
            render.resolution_percentage = 100
            # A clip whose pixels are not square has a focal length for each side.
            render.pixel_aspect_x = max(1.0, clip.pixel_aspect)
            render.pixel_aspect_y = max(1.0, 1.0 / clip.pixel_aspect)
        if self.use_rate:
            # Blender divides a whole number by a base: 30 / 1.001 is 30000 / 1001.
            render.fps = max(1, round(clip.frame_rate))
            render.fps_base = render.fps / clip.frame_rate
        if self.use_range:
            scene.frame_start, scene.frame_end = clip.frame_start, clip.frame_end
        if self.use_camera:
            scene.camera = clip.camera
        if self.use_view:
            scene.view_settings.view_transform = "Standard"
        if self.use_viewport and isinstance(context.space_data, bpy.types.SpaceView3D):
            show_video(context.space_data, shot)
        return {"FINISHED"}


_register_classes, _unregister_classes = bpy.utils.register_classes_factory(
    (EX4D_PG_shot, EX4D_PG_scene, EX4D_OT_match_scene)
)


def register() -> None:
    """Attach the properties to objects and scenes."""
    _register_classes()
    bpy.types.Object.ex4d_shot = bpy.props.PointerProperty(type=EX4D_PG_shot)
    bpy.types.Scene.ex4d = bpy.props.PointerProperty(type=EX4D_PG_scene)


def unregister() -> None:
    """Take them away; what is saved in files stays there."""
    del bpy.types.Scene.ex4d
    del bpy.types.Object.ex4d_shot
    _unregister_classes()
