# SPDX-License-Identifier: GPL-3.0-or-later
"""What the panels ask for before a job is sent."""

import bpy
import msgspec

from . import pump, runtime
from ._vendor import trained
from ._vendor.errors import InputError
from ._vendor.protocol.documents import Ex4dSettings, PreviewSettings

ENGINES = (
    (
        "preview",
        "Preview",
        "Fills from other frames of the video, then by smoothing; quick, without a model",
    ),
    ("ex4d", "EX-4D", "Imagines what was never seen, with EX-4D on Wan2.1; needs a large card"),
)
SIZES = (
    ("CLIP", "As the Clip", "The clip's own size"),
    (
        "FITTING",
        "As Trained",
        "The clip's aspect with about as many pixels as the EX-4D model was trained at",
    ),
    ("SCENE", "As the Scene", "The scene's render size, its percentage included"),
    ("CUSTOM", "Custom", "Any size, framed as Blender would frame it"),
)
#: What becomes of a range whose frames are not 4k + 1.
LENGTHS = (
    ("SHORTER", "End Earlier", "Leave out the last frames of the range"),
    ("LONGER", "End Later", "Go on after the range; after its end the video stands still"),
)
MODES = (
    ("exact", "Exact", "As the reference computes"),
    ("fast", "Fast", "With 8-bit products: quicker, a little different"),
    ("draft", "Draft", "Few steps, with a step-distilled LoRA and a guidance of 1"),
)
_DEFAULTS = Ex4dSettings()


def _on_condition(settings: "EX4D_PG_generate", _context: bpy.types.Context) -> None:
    if settings.show_condition:
        runtime.get()
    # The pump shows it, and takes it away.
    if runtime.peek() is not None:
        pump.wake()


class EX4D_PG_generate(bpy.types.PropertyGroup):
    """How takes of a Blender scene are made."""

    engine: bpy.props.EnumProperty(
        name="Engine",
        description="What fills in the parts that the video never saw",
        items=ENGINES,
        options=set(),
    )
    size: bpy.props.EnumProperty(
        name="Size", description="Size of the take", items=SIZES, options=set()
    )
    width_px: bpy.props.IntProperty(
        name="Width",
        description="In pixels",
        min=16,
        max=4096,
        step=16,
        default=trained.SIDE_PX,
        options=set(),
    )
    height_px: bpy.props.IntProperty(
        name="Height",
        description="In pixels",
        min=16,
        max=4096,
        step=16,
        default=trained.SIDE_PX,
        options=set(),
    )
    length: bpy.props.EnumProperty(
        name="Length",
        description="The EX-4D model makes 4k + 1 frames: what becomes of another number",
        items=LENGTHS,
        options=set(),
    )
    seed: bpy.props.IntProperty(
        name="Seed",
        description="The same seed makes the same take again",
        min=0,
        options=set(),
    )
    mode: bpy.props.EnumProperty(
        name="Mode", description="Exactness against time", items=MODES, options=set()
    )
    steps: bpy.props.IntProperty(
        name="Steps",
        description="Steps from noise to picture; more take longer",
        min=1,
        max=100,
        default=_DEFAULTS.steps,
        options=set(),
    )
    guidance: bpy.props.FloatProperty(
        name="Guidance",
        description="How closely the prompt is followed; 1 leaves the negative prompt out, which "
        "halves the time",
        min=1.0,
        max=20.0,
        default=_DEFAULTS.guidance,
        options=set(),
    )
    prompt: bpy.props.StringProperty(
        name="Prompt",
        description="What the shot shall look like",
        maxlen=2000,
        default=_DEFAULTS.prompt,
        options=set(),
    )
    negative_prompt: bpy.props.StringProperty(
        name="Negative",
        description="What the shot shall not look like",
        maxlen=2000,
        default=_DEFAULTS.negative_prompt,
        options=set(),
    )
    loras: bpy.props.StringProperty(
        name="LoRAs",
        description="Names under which the server's owner registered additional LoRAs, with commas "
        "between them",
        maxlen=600,
        options=set(),
    )

    show_preview: bpy.props.BoolProperty(
        name="Show Preview",
        description="Show what the take looks like so far in front of the shot's camera while the "
        "server makes it",
        default=True,
        options=set(),
    )

    show_condition: bpy.props.BoolProperty(
        name="Show Condition",
        description="Show over the camera view, at the present frame, what the engine is given: "
        "the video where it was seen, magenta where it has to invent; estimated",
        options=set(),
        update=_on_condition,
    )

    def engine_settings(self) -> PreviewSettings | Ex4dSettings:
        """The same as the protocol says it.

        Raises:
            InputError: `settings_invalid` if a LoRA's name is none.
        """
        if self.engine == "preview":
            return PreviewSettings(seed=self.seed)
        names = tuple(name.strip() for name in self.loras.split(",") if name.strip())
        chosen = Ex4dSettings(
            mode=self.mode,
            steps=self.steps,
            guidance=self.guidance,
            seed=self.seed,
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            loras=names,
        )
        try:
            return msgspec.convert(msgspec.to_builtins(chosen), Ex4dSettings)
        except msgspec.ValidationError as error:
            message = f"expected names of LoRAs with commas between them, found {error}; mend them"
            raise InputError("settings_invalid", message) from error

    def size_px(self, clip_width_px: int, clip_height_px: int) -> tuple[int, int]:
        """Width and height of a take of a clip.

        Raises:
            InputError: `take_size` if the engine cannot make it.
        """
        if self.size == "CLIP":
            size_px = (clip_width_px, clip_height_px)
        elif self.size == "FITTING":
            size_px = trained.fitting_size_px(clip_width_px, clip_height_px)
        elif self.size == "SCENE":
            render = self.id_data.render
            # Blender drops fractions too.
            size_px = (
                render.resolution_x * render.resolution_percentage // 100,
                render.resolution_y * render.resolution_percentage // 100,
            )
        else:
            size_px = (self.width_px, self.height_px)
        if self.engine == "ex4d" and any(side_px % trained.SIDE_STEP_PX for side_px in size_px):
            width_px, height_px = trained.nearest_size_px(*size_px)
            message = (
                f"expected sides in steps of {trained.SIDE_STEP_PX} px, found {size_px[0]} x "
                f"{size_px[1]}; choose As Trained, or {width_px} x {height_px}"
            )
            raise InputError("take_size", message)
        return size_px

    def frame_count(self, wanted: int) -> int:
        """How many frames a take has where so many are wanted."""
        if self.engine == "preview":
            return wanted
        if self.length == "LONGER":
            wanted += -(wanted - 1) % trained.FRAME_STEP
        return trained.fitting_frame_count(wanted)


_register_classes, _unregister_classes = bpy.utils.register_classes_factory((EX4D_PG_generate,))


def register() -> None:
    """Attach the settings to where they live."""
    _register_classes()
    bpy.types.Scene.ex4d_generate = bpy.props.PointerProperty(type=EX4D_PG_generate)


def unregister() -> None:
    """Take them away."""
    del bpy.types.Scene.ex4d_generate
    _unregister_classes()
