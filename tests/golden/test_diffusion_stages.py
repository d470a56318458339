"""Every stage of the ex4d engine against what the reference code computed in float32.

EX4D_GOLDEN=<dir> pytest tests/golden -k diffusion   runs them on any other set of this layout.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from engine_tests import needs_engine
from golden import GOLDEN, arrays_of, models_of

needs_engine()

import torch
from plain_blocks import PlainBlocks

from ex4d.diffusion.wan import adapter, conditioning, denoise, loading
from ex4d.diffusion.wan.loading import WanModels
from ex4d.diffusion.wan.modes import PreparedDit, prepare
from ex4d.diffusion.wan.text import PromptEncoder
from ex4d.protocol.documents import REFERENCE_NEGATIVE_PROMPT, REFERENCE_PROMPT
from ex4d.weights.checkpoints import tensor_shapes

TOLERANCE = 2e-5
LAST_LATENTS_TOLERANCE = 5e-5
FLOAT16_TOLERANCE = 5e-4
#: Of 8-bit values, those that may be one off.
DIFFERING_LEVELS = 2 / 10_000
#: In latents, of the tiled runs in `vae_tiled.npz`.
TILE, TILE_STRIDE = (6, 10), (4, 6)
CPU = torch.device("cpu")


def error_of(found: torch.Tensor | np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference; shapes must agree."""
    found = found.numpy() if isinstance(found, torch.Tensor) else found
    assert found.shape == expected.shape
    return float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max())


def assert_levels_agree(found: np.ndarray, expected: np.ndarray) -> None:
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert np.mean(difference > 0) <= DIFFERING_LEVELS


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def models() -> WanModels:
    return loading.load_models(models_of(), device=CPU, dtype=torch.float32)


def golden_inputs() -> conditioning.ModelInputs:
    image, camera = arrays_of("fp32/image_cond.npz"), arrays_of("fp32/camera.npz")
    return conditioning.ModelInputs(
        torch.from_numpy(image["y"]),
        torch.from_numpy(image["clip_fea"]),
        torch.from_numpy(camera["ray_latent"]),
    )


def golden_contexts(models: WanModels) -> tuple[torch.Tensor, torch.Tensor]:
    text, image = arrays_of("fp32/text.npz"), arrays_of("fp32/image_cond.npz")
    tokens = torch.from_numpy(image["clip_fea"])
    prompt, negative = (
        denoise.embed_context(models, torch.from_numpy(text[name]), tokens)
        for name in ("emb_posi", "emb_nega")
    )
    return prompt, negative


def predict(models: WanModels, **changes: Any) -> torch.Tensor:
    """The first step's prediction for the prompt."""
    arrays = arrays_of("fp32/inputs.npz")
    step = torch.from_numpy(arrays_of("fp32/dit_step0.npz")["timestep"])
    inputs = golden_inputs()
    if "camera" in changes:
        inputs = conditioning.ModelInputs(
            inputs.first_frame, inputs.image_tokens, changes["camera"]
        )
    context = changes.get("context", golden_contexts(models)[0])
    share = denoise.Share.of(models, inputs, [context])
    (velocity,) = denoise.predict([share], torch.from_numpy(arrays["noise"]), step)
    return velocity


def test_there_are_golden_files() -> None:
    assert list(GOLDEN.glob("fp32/*.npz")), f"no golden arrays in {GOLDEN}; set EX4D_GOLDEN"
    assert list(GOLDEN.glob("models/*")), f"no golden models in {GOLDEN}; set EX4D_GOLDEN"


# --- text ----------------------------------------------------------------------------------------


def test_prompts_are_the_references() -> None:
    arrays = arrays_of("fp32/inputs.npz")
    assert str(arrays["prompt"]) == REFERENCE_PROMPT
    assert str(arrays["negative_prompt"]) == REFERENCE_NEGATIVE_PROMPT


def test_text(tmp_path: Path) -> None:
    arrays, truth = arrays_of("fp32/inputs.npz"), arrays_of("fp32/text.npz")
    prompts = [str(arrays["prompt"]), str(arrays["negative_prompt"])]
    encoder = PromptEncoder(models_of(), tmp_path, device=CPU, dtype=torch.float32)
    ids, attention = encoder.token_ids(prompts)
    for index, name in enumerate(("posi", "nega")):
        np.testing.assert_array_equal(ids[index : index + 1].numpy(), truth[f"ids_{name}"])
        np.testing.assert_array_equal(attention[index : index + 1].numpy(), truth[f"mask_{name}"])
    for name, value in zip(("posi", "nega"), encoder.embed(prompts), strict=True):
        assert error_of(value, truth[f"emb_{name}"]) <= TOLERANCE


# --- condition -----------------------------------------------------------------------------------


def test_video_and_mask() -> None:
    arrays = arrays_of("fp32/inputs.npz")
    video, mask = conditioning.condition_tensors(
        arrays["frames_u8"], arrays["masks_u8"][..., 0] > 127, CPU
    )
    assert error_of(video, arrays["video"]) <= TOLERANCE
    assert error_of(mask, arrays["mask"]) <= TOLERANCE


def test_conditioning_frame_is_truncated() -> None:
    arrays, truth = arrays_of("fp32/inputs.npz"), arrays_of("fp32/image_cond.npz")
    frame = conditioning.conditioning_frame(torch.from_numpy(arrays["video"]))
    np.testing.assert_array_equal(frame, truth["first_frame_u8"])
    assert error_of(conditioning.frame_tensor(frame), truth["first_frame"]) <= TOLERANCE
    rounded = np.round((arrays["video"][0, :, 0] + 1) * 127.5).transpose(1, 2, 0)
    assert (rounded != truth["first_frame_u8"]).any()


def test_image_tokens(models: WanModels) -> None:
    truth = arrays_of("fp32/image_cond.npz")
    tokens = conditioning.image_tokens(models, torch.from_numpy(truth["first_frame"]))
    assert error_of(tokens, truth["clip_fea"]) <= TOLERANCE


def test_first_frame_latents(models: WanModels) -> None:
    arrays, truth = arrays_of("fp32/inputs.npz"), arrays_of("fp32/image_cond.npz")
    frame = torch.from_numpy(truth["first_frame"])
    latents = conditioning.first_frame_latents(models, frame, int(arrays["num_frames"]))
    assert error_of(latents, truth["y"]) <= TOLERANCE


def test_video_latents(models: WanModels) -> None:
    arrays, truth = arrays_of("fp32/inputs.npz"), arrays_of("fp32/camera.npz")
    latents = conditioning.encode_video(models, torch.from_numpy(arrays["video"]))
    assert error_of(latents, truth["video_latent"]) <= TOLERANCE
    mask = torch.from_numpy(truth["mask_input"])
    assert error_of(conditioning.encode_video(models, mask), truth["mask_latent"]) <= TOLERANCE


def test_camera_tokens(models: WanModels) -> None:
    arrays, truth = arrays_of("fp32/inputs.npz"), arrays_of("fp32/camera.npz")
    video, mask = torch.from_numpy(arrays["video"]), torch.from_numpy(arrays["mask"])
    hidden: list[torch.Tensor] = []
    handle = models.camera_encoder.latent_encoder.register_forward_hook(
        lambda module, arguments, result: hidden.append(result)
    )
    tokens = conditioning.camera_tokens(models, video, mask)
    handle.remove()
    assert error_of(hidden[0], truth["cam_latent"]) <= TOLERANCE
    assert error_of(tokens, truth["ray_latent"]) <= TOLERANCE


def test_mask_scaled_once_differs(models: WanModels) -> None:
    arrays, truth = arrays_of("fp32/inputs.npz"), arrays_of("fp32/camera.npz")
    video, mask = torch.from_numpy(arrays["video"]), torch.from_numpy(arrays["mask"])
    # (mask + 1) / 2 is scaled to the mask itself: {-1, 1} instead of {-3, 1}.
    tokens = conditioning.camera_tokens(models, video, (mask + 1) / 2)
    assert error_of(tokens, truth["ray_latent"]) > 100 * TOLERANCE


def test_erosion() -> None:
    arrays = arrays_of("fp32/mask_erode.npz")
    for side_px in range(conditioning.EROSION_PX[0], conditioning.EROSION_PX[1] + 1):
        eroded = conditioning.erode_mask(arrays["mask_u8"], side_px)
        np.testing.assert_array_equal(eroded, arrays[f"eroded_k{side_px}"])


# --- transformer ---------------------------------------------------------------------------------


def test_first_step(models: WanModels) -> None:
    """As the engine computes it."""
    truth = arrays_of("fp32/dit_step0.npz")
    for name, context in zip(("out_posi", "out_nega"), golden_contexts(models), strict=True):
        assert error_of(predict(models, context=context), truth[name]) <= TOLERANCE, name


def test_first_step_stage_by_stage(models: WanModels) -> None:
    """By the same weights in diffsynth's own blocks, whose layers can be watched."""
    models = dataclasses.replace(models, blocks=cast("PreparedDit", PlainBlocks(models.dit)))
    truth = arrays_of("fp32/dit_step0.npz")
    dit = models.dit
    found: dict[str, torch.Tensor] = {}

    def keep(name: str, module: Any, *, argument: bool = False) -> Any:
        if argument:
            return module.register_forward_pre_hook(
                lambda module, arguments: found.__setitem__(name, arguments[0])
            )
        return module.register_forward_hook(
            lambda module, arguments, result: found.__setitem__(name, result)
        )

    first = dit.blocks[0]
    handles = [
        keep("patch_in", dit.patch_embedding, argument=True),
        keep("patch_embedding", dit.patch_embedding),
        keep("tokens_with_ray", first, argument=True),
        keep("t_sinusoid", dit.time_embedding, argument=True),
        keep("t_emb", dit.time_embedding),
        keep("t_mod", dit.time_projection),
        keep("block0_self_attn_in", first.self_attn, argument=True),
        keep("block0_self_attn", first.self_attn),
        keep("block0_cross_attn", first.cross_attn),
        keep("block0_ffn", first.ffn),
        *(keep(f"block{index}", block) for index, block in enumerate(dit.blocks)),
        keep("head", dit.head),
    ]
    found["out_posi"] = predict(models)
    for handle in handles:
        handle.remove()
    prompt, negative = golden_contexts(models)
    image_tokens = truth["img_emb"].shape[1]
    found["img_emb"] = prompt[:, :image_tokens]
    found["text_emb_posi"] = prompt[:, image_tokens:]
    found["text_emb_nega"] = negative[:, image_tokens:]
    found["out_nega"] = predict(models, context=negative)
    assert found.keys() >= {name for name in truth.files if name.startswith("block")}
    for name, value in found.items():
        assert error_of(value, truth[name]) <= TOLERANCE, name


def test_first_step_without_the_condition_differs(models: WanModels) -> None:
    truth = arrays_of("fp32/dit_step0.npz")
    found = predict(models, camera=torch.zeros_like(golden_inputs().camera))
    assert error_of(found, truth["out_posi"]) > 1000 * TOLERANCE
    assert error_of(found, truth["out_posi_noray"]) <= TOLERANCE


def test_first_step_without_the_lora_differs(models: WanModels) -> None:
    truth = arrays_of("fp32/dit_step0.npz")
    bare = loading.load_dit(models_of(), [], device=CPU, dtype=torch.float32)
    without = dataclasses.replace(models, dit=bare, blocks=prepare(bare, "exact", CPU, tokens=0))
    found = predict(without)
    assert error_of(found, truth["out_posi"]) > 1000 * TOLERANCE
    assert error_of(found, truth["out_posi_nolora"]) <= TOLERANCE
    nothing = torch.zeros_like(golden_inputs().camera)
    bare_found = predict(without, camera=nothing)
    assert error_of(bare_found, truth["out_posi_nolora_noray"]) <= TOLERANCE


def test_every_layer_of_the_lora_is_fused() -> None:
    files = models_of()
    shapes = {name: shape for path in files.dit for name, shape in tensor_shapes(path).items()}
    assert files.adapter is not None
    lora = adapter.read_adapter(files.adapter, shapes).lora
    assert len(lora) == 10 * adapter.block_count(shapes)
    fused = dict(loading.fused_tensors(files, [lora], device=CPU))
    bare = dict(loading.fused_tensors(files, [], device=CPU))
    changed = {name for name, value in fused.items() if not torch.equal(value, bare[name])}
    assert changed == lora.keys()


# --- denoising -----------------------------------------------------------------------------------


def test_noise_levels() -> None:
    truth = arrays_of("fp32/scheduler.npz")
    counts = [int(name.split("_")[1]) for name in truth.files if name.startswith("sigmas_")]
    assert counts
    for steps in counts:
        levels = denoise.noise_levels(steps)
        assert levels[-1] == 0
        assert error_of(levels[:-1], truth[f"sigmas_{steps}"]) <= 1e-7
        assert error_of(levels[:-1] * 1000, truth[f"timesteps_{steps}"]) <= 1e-4


def test_noise() -> None:
    arrays = arrays_of("fp32/inputs.npz")
    size = (int(arrays["num_frames"]), int(arrays["height"]), int(arrays["width"]))
    noise = denoise.make_noise(int(arrays["seed"]), *size)
    np.testing.assert_array_equal(noise.numpy(), arrays["noise"])


def test_denoising(models: WanModels) -> None:
    arrays, truth = arrays_of("fp32/inputs.npz"), arrays_of("fp32/denoise.npz")
    prompt, negative = golden_contexts(models)
    steps = int(arrays["num_inference_steps"])
    found: list[torch.Tensor] = []
    denoise.denoise(
        models,
        torch.from_numpy(arrays["noise"]),
        golden_inputs(),
        denoise.Guidance(prompt, negative, float(arrays["cfg_scale"])),
        steps=steps,
        on_step=lambda step: found.append(step.latents),
    )
    assert len(found) == len(truth["latents"]) == steps
    for index, latents in enumerate(found):
        tolerance = LAST_LATENTS_TOLERANCE if index == steps - 1 else TOLERANCE
        assert error_of(latents, truth["latents"][index]) <= tolerance


# --- decoding ------------------------------------------------------------------------------------


def test_decoding(models: WanModels) -> None:
    truth = arrays_of("fp32/decode.npz")
    video = conditioning.decode_latents(models, torch.from_numpy(truth["latents"]))
    assert error_of(video, truth["frames"]) <= TOLERANCE
    assert_levels_agree(conditioning.frames_of(video), truth["frames_u8"])


def test_larger_pictures_and_tiles(models: WanModels, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = arrays_of("fp32/vae_tiled.npz")
    latents = torch.from_numpy(arrays["z"])
    video = torch.from_numpy(arrays["x"].astype(np.float32))
    tiles = {"tiled": True, "tile_size": TILE, "tile_stride": TILE_STRIDE}
    assert error_of(conditioning.decode_latents(models, latents), arrays["dec"]) <= (
        FLOAT16_TOLERANCE
    )
    assert error_of(conditioning.encode_video(models, video), arrays["enc"]) <= TOLERANCE
    decoded = models.vae.decode(latents, CPU, **tiles)
    assert error_of(decoded, arrays["dec_tiled"]) <= FLOAT16_TOLERANCE
    assert error_of(models.vae.encode(video, CPU, **tiles), arrays["enc_tiled"]) <= TOLERANCE
    # diffsynth shows a bar for tiles.
    capsys.readouterr()


def test_whole_take(models: WanModels, tmp_path: Path) -> None:
    """From the condition's 8-bit frames to the shot's, with nothing golden in between."""
    arrays, truth = arrays_of("fp32/inputs.npz"), arrays_of("fp32/decode.npz")
    video, mask = conditioning.condition_tensors(
        arrays["frames_u8"], arrays["masks_u8"][..., 0] > 127, CPU
    )
    frame = conditioning.frame_tensor(conditioning.conditioning_frame(video))
    inputs = conditioning.ModelInputs(
        conditioning.first_frame_latents(models, frame, video.shape[2]),
        conditioning.image_tokens(models, frame),
        conditioning.camera_tokens(models, video, mask),
    )
    encoder = PromptEncoder(models_of(), tmp_path, device=CPU, dtype=torch.float32)
    prompts = [str(arrays["prompt"]), str(arrays["negative_prompt"])]
    scale = float(arrays["cfg_scale"])
    latents = denoise.denoise(
        models,
        denoise.make_noise(int(arrays["seed"]), *video.shape[2:]),
        inputs,
        denoise.embed_guidance(models, encoder.embed(prompts), inputs.image_tokens, scale),
        steps=int(arrays["num_inference_steps"]),
    )
    assert error_of(latents, truth["latents"]) <= LAST_LATENTS_TOLERANCE
    assert_levels_agree(
        conditioning.frames_of(conditioning.decode_latents(models, latents)), truth["frames_u8"]
    )
