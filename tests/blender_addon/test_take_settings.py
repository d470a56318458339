"""What the panel asks for becomes what the engine is told, or a refusal with the reason."""

import pytest
from scene_writer import write_scene
from shot_tools import exhaust

pytestmark = pytest.mark.bpy


@pytest.fixture
def shot(addon, empty_file, tmp_path):
    """A shot of 32 x 24 px and five frames, from frame 1."""
    import bpy

    folder = write_scene(tmp_path / "scene")
    found = exhaust(addon("scene_import").import_scene(bpy.context, folder, frame_start=1))
    bpy.context.scene.frame_start, bpy.context.scene.frame_end = 1, 4
    return found


@pytest.fixture
def chosen(shot):
    import bpy

    return bpy.context.scene.ex4d_generate


def test_defaults_are_the_references(addon, chosen):
    documents = addon("_vendor.protocol.documents")
    assert chosen.engine_settings() == documents.PreviewSettings()
    chosen.engine = "ex4d"
    assert chosen.engine_settings() == documents.Ex4dSettings()


def test_everything_reaches_the_engine(addon, chosen):
    chosen.engine, chosen.mode, chosen.steps, chosen.guidance = "ex4d", "draft", 6, 1.0
    chosen.seed, chosen.prompt, chosen.negative_prompt = 7, "a garden", "rain"
    chosen.loras = " quick , warm-light,"
    assert chosen.engine_settings() == addon("_vendor.protocol.documents").Ex4dSettings(
        mode="draft",
        steps=6,
        guidance=1.0,
        seed=7,
        prompt="a garden",
        negative_prompt="rain",
        loras=("quick", "warm-light"),
    )


def test_path_is_no_name_of_a_lora(addon, chosen):
    chosen.engine, chosen.loras = "ex4d", "../secret"
    with pytest.raises(addon("_vendor.errors").InputError, match="LoRAs") as caught:
        chosen.engine_settings()
    assert caught.value.code == "settings_invalid"


@pytest.mark.parametrize(
    ("engine", "size", "size_px", "frame_count"),
    [
        ("preview", "CLIP", (32, 24), 4),
        ("preview", "FITTING", (592, 448), 4),
        ("preview", "CUSTOM", (100, 50), 4),
        ("ex4d", "FITTING", (592, 448), 1),
        ("ex4d", "CUSTOM", (112, 48), 1),
    ],
)
def test_take_has_the_size_and_length_asked_for(
    addon, shot, chosen, engine, size, size_px, frame_count
):
    import bpy

    chosen.engine, chosen.size = engine, size
    chosen.width_px, chosen.height_px = size_px
    trajectory = addon("ops_jobs").take_trajectory(bpy.context, shot)
    assert (trajectory.width_px, trajectory.height_px) == size_px
    assert len(trajectory.poses) == frame_count
    text = addon("panels").take_text(bpy.context, shot)
    assert f"{frame_count}, {size_px[0]} x {size_px[1]} px" in text
    assert ("4k + 1" in text) == (engine == "ex4d")


def test_size_that_the_model_cannot_make_is_refused_with_the_nearest(addon, shot, chosen):
    import bpy

    chosen.engine, chosen.size = "ex4d", "CLIP"
    with pytest.raises(addon("_vendor.errors").InputError, match="32 x 32") as caught:
        addon("ops_jobs").take_trajectory(bpy.context, shot)
    assert caught.value.code == "take_size"


def test_another_aspect_is_framed_and_not_squeezed(addon, shot, chosen):
    import bpy

    chosen.size, chosen.width_px, chosen.height_px = "CUSTOM", 96, 24
    pose = addon("ops_jobs").take_trajectory(bpy.context, shot).poses[0]
    assert pose.fx_px == pytest.approx(pose.fy_px)
    assert (pose.cx_px, pose.cy_px) == pytest.approx((48.0, 12.0), abs=1e-4)
