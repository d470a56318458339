"""DepthCrafter against what the published code computed in float32.

EX4D_GOLDEN=<dir> pytest tests/golden -k depth   runs them on any other set of this layout. A clip
whose arrays have no frames belongs to another one, whose name begins alike or is `single`.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_tests import needs_estimators
from golden import golden_files, required, sibling

needs_estimators()

import tiny_depth
import torch

from ex4d.depth import Estimate
from ex4d.depth.depthcrafter import estimator, stages
from ex4d.depth.depthcrafter.loading import CrafterModels, load_models
from ex4d.depth.units import NEAREST_DEPTH, depth_of
from ex4d.framestore import value_range
from ex4d.task import Task

TOLERANCE = 1e-4
#: Of a pass without the clip, as guidance makes it: norms divide what is nearly constant by nearly
#: nothing, so that one thread or two differ by 4e-4 in it (and by 1e-5 in the latents that follow).
#: A pass with the clip is 2.6 away.
BLIND_TOLERANCE = 5e-3
#: So much larger must a mistake's error be, to be sure that the tests see it.
CLEARLY = 10
CPU = torch.device("cpu")
BASE = "single.npz"


def clip_files() -> list[object]:
    """All files but those of other stages, which have no latents."""
    parameters = []
    for parameter in golden_files("depth/*.npz"):
        (path,) = parameter.values
        if path is None or "latents_all" in np.load(path).files:
            parameters.append(parameter)
    return parameters


class Clip:
    """A clip with what the published code made of it."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as arrays:
            self.arrays = {name: arrays[name] for name in arrays.files}
        base = self.arrays
        if "frames_u8" not in base:
            with np.load(sibling(path, BASE)) as arrays:
                base = {name: arrays[name] for name in arrays.files}
        self.base = base
        count = self.arrays["latents_all"].shape[1]
        self.frames = base["frames_u8"][:count]
        self.settings = stages.Settings(
            steps=int(self.arrays["steps"]),
            guidance=float(self.arrays["guidance"]),
            window=int(self.arrays["window"]),
            overlap=int(self.arrays["overlap"]),
            seed=int(self.arrays["seed"]),
        )

    @property
    def depth(self) -> np.ndarray:
        return self.arrays["depth_norm"]

    def steps(self) -> list[np.ndarray]:
        """The latents after each step of each window."""
        ends = np.cumsum(self.arrays["lens"])[:-1]
        return np.split(self.arrays["latents_steps"], ends)


def error_of(found: torch.Tensor | np.ndarray, expected: np.ndarray) -> float:
    found = found.numpy() if isinstance(found, torch.Tensor) else found
    assert found.shape == expected.shape
    return float(np.abs(found.astype(np.float64) - expected).max())


def normalised(disparity: np.ndarray) -> np.ndarray:
    low, high = value_range(disparity)
    return (disparity - low) / (high - low)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_depth.write_depthcrafter(folder)
    return folder


@pytest.fixture(scope="module")
def models(folder: Path) -> CrafterModels:
    return load_models(folder, CPU, torch.float32)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def depth_by(models: CrafterModels, clip: Clip) -> np.ndarray:
    return normalised(estimator.estimate_frames(models, clip.frames, clip.settings, Task()))


@pytest.mark.parametrize("path", clip_files())
def test_every_stage(path: Path | None, models: CrafterModels) -> None:
    clip = Clip(required(path))
    arrays, base = clip.arrays, clip.base
    random = torch.Generator().manual_seed(clip.settings.seed)
    tokens = stages.describe(models, clip.frames, Task())
    assert error_of(tokens, base["embeds"][: len(tokens)]) <= TOLERANCE
    if "noise_aug_f0" in arrays:
        drawn = torch.randn(
            arrays["noise_aug_f0"].shape,
            generator=torch.Generator().manual_seed(clip.settings.seed),
        )
        assert error_of(drawn, arrays["noise_aug_f0"]) == 0
    latents = stages.encode(models, clip.frames, random, Task())
    if len(clip.frames) == len(base["frames_u8"]):
        assert error_of(latents, base["video_latents"]) <= TOLERANCE
    noise = stages.window_noise(clip.settings, len(clip.frames), latents.shape[-2:], random)
    if "noise_latent" in base and noise.shape == base["noise_latent"].shape:
        assert error_of(noise, base["noise_latent"]) == 0
    found: list[torch.Tensor] = []
    stitched = stages.denoise(
        models, tokens, latents, noise, clip.settings, Task(), on_step=found.append
    )
    for step, expected in zip(found, clip.steps(), strict=True):
        assert error_of(step[0], expected) <= TOLERANCE * max(1.0, float(np.abs(expected).max()))
    assert error_of(stitched, arrays["latents_all"]) <= TOLERANCE
    pictures: list[torch.Tensor] = []
    disparity = stages.decode(models, stitched, Task(), on_chunk=pictures.append)
    decoded = torch.cat(pictures)
    for name in [name for name in arrays if name.startswith("decoded_f")]:
        assert error_of(decoded[int(name.removeprefix("decoded_f"))], arrays[name]) <= TOLERANCE
    low, high = value_range(disparity)
    assert low == pytest.approx(float(arrays["res_min"]), abs=TOLERANCE)
    assert high == pytest.approx(float(arrays["res_max"]), abs=TOLERANCE)
    assert error_of(normalised(disparity), clip.depth) <= TOLERANCE


@pytest.mark.parametrize("path", clip_files())
def test_scheduler(path: Path | None, models: CrafterModels) -> None:
    from diffusers import EulerDiscreteScheduler

    arrays = Clip(required(path)).arrays
    scheduler: Any = EulerDiscreteScheduler.from_config(models.scheduler)
    scheduler.set_timesteps(int(arrays["steps"]))
    assert error_of(scheduler.sigmas, arrays["sigmas"]) <= 1e-6 * float(arrays["sigmas"].max())
    assert error_of(scheduler.timesteps, arrays["timesteps"]) <= 1e-6
    assert float(scheduler.init_noise_sigma) == pytest.approx(float(arrays["init_noise_sigma"]))
    assert arrays["added_time_ids"][0].tolist() == pytest.approx(
        [stages._RATE, stages._MOTION, stages.AUGMENTATION]
    )


@pytest.mark.parametrize("path", clip_files())
def test_first_and_last_pass_of_the_network(path: Path | None, models: CrafterModels) -> None:
    clip = Clip(required(path))
    if "unet_in_0" not in clip.arrays:
        pytest.skip(f"{required(path).name} has no passes of the network")
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Watched:
        def predict(self, latents: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
            velocity = models.unet.predict(latents, *others)
            calls.append((latents, velocity))
            return velocity

    watched = dataclasses.replace(models, unet=Watched())
    depth_by(watched, clip)
    arrays = clip.arrays
    assert error_of(calls[0][0], arrays["unet_in_0"]) <= TOLERANCE
    assert error_of(calls[0][1], arrays["unet_out_0"]) <= TOLERANCE
    is_guided = clip.settings.guidance > 1
    last_tolerance = BLIND_TOLERANCE if is_guided else TOLERANCE
    assert error_of(calls[-1][1], arrays["unet_out_last"]) <= last_tolerance
    if is_guided:
        assert error_of(calls[1][1], arrays["unet_out_uncond_0"]) <= BLIND_TOLERANCE


@pytest.mark.parametrize("path", clip_files())
def test_depth_in_the_references_units(path: Path | None, models: CrafterModels) -> None:
    clip = Clip(required(path))
    if "depth_ex4d" not in clip.arrays:
        pytest.skip(f"{required(path).name} has no depth in the reference's units")

    class Named:
        name, licence = "depthcrafter", ""
        weights = tiny_depth.NO_WEIGHTS

    values = estimator.estimate_frames(models, clip.frames, clip.settings, Task())
    found = depth_of(Estimate(values, "affine_disparity"), Named(), "min_max").values  # pyright: ignore[reportArgumentType]
    # In disparity, since far depth magnifies any difference.
    assert error_of(NEAREST_DEPTH / found, NEAREST_DEPTH / clip.arrays["depth_ex4d"]) <= TOLERANCE


@pytest.mark.parametrize("path", golden_files("depth/resize*.npz"))
def test_pictures_for_the_image_encoder(path: Path | None) -> None:
    with np.load(required(path)) as arrays:
        sizes = [name.removeprefix("blocks_") for name in arrays.files if "blocks_" in name]
        assert sizes
        for size in sizes:
            blocks = torch.from_numpy(arrays[f"blocks_{size}"]).float() / 127.5 - 1
            pictures = blocks.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
            found = stages.clip_pictures(pictures)[0, :, ::7, ::7]
            assert error_of(found, arrays[f"out_{size}"]) <= TOLERANCE, size


@pytest.mark.parametrize("path", clip_files())
def test_first_picture_for_the_image_encoder(path: Path | None, models: CrafterModels) -> None:
    clip = Clip(required(path))
    if "clip_resized_f0" not in clip.arrays:
        pytest.skip(f"{required(path).name} has no picture for the image encoder")
    pictures = stages.clip_pictures(stages._pictures(models, clip.frames[:1]))
    # In -1..1, whatever the arrays' description says.
    assert error_of(pictures, clip.arrays["clip_resized_f0"]) <= TOLERANCE


# --- mistakes that must show ---------------------------------------------------------------------


def assert_clearly_wrong(found: np.ndarray, clip: Clip) -> None:
    assert error_of(found, clip.depth) > CLEARLY * TOLERANCE


def smallest_clip() -> list[object]:
    """A processor takes its time over bfloat16."""
    parameters = [parameter for parameter in clip_files() if parameter.values[0] is not None]
    with_frames = [one for one in parameters if "frames_u8" in np.load(one.values[0]).files]
    return sorted(with_frames, key=lambda one: Clip(one.values[0]).frames.size)[:1] or clip_files()


@pytest.mark.parametrize("path", smallest_clip())
def test_bfloat16_differs(path: Path | None, folder: Path) -> None:
    clip = Clip(required(path))
    assert_clearly_wrong(depth_by(load_models(folder, CPU, torch.bfloat16), clip), clip)


@pytest.mark.parametrize("path", clip_files())
def test_other_chunks_of_the_decoder_differ(
    path: Path | None, models: CrafterModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = Clip(required(path))
    # Any chunk of 8 or more holds the whole of a shorter clip.
    monkeypatch.setattr(stages, "CHUNK_FRAMES", 14 if len(clip.frames) > 8 else 4)
    assert_clearly_wrong(depth_by(models, clip), clip)


@pytest.mark.parametrize("path", clip_files())
def test_normalising_each_frame_differs(path: Path | None, models: CrafterModels) -> None:
    clip = Clip(required(path))
    disparity = estimator.estimate_frames(models, clip.frames, clip.settings, Task())
    assert_clearly_wrong(np.stack([normalised(frame) for frame in disparity]), clip)


@pytest.mark.parametrize("path", clip_files())
def test_one_token_for_all_frames_differs(
    path: Path | None, models: CrafterModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = Clip(required(path))
    describe = stages.describe

    def repeated(*arguments: Any) -> torch.Tensor:
        tokens = describe(*arguments)
        return tokens[:1].expand_as(tokens)

    monkeypatch.setattr(stages, "describe", repeated)
    assert_clearly_wrong(depth_by(models, clip), clip)


@pytest.mark.parametrize("path", clip_files())
def test_frames_encoded_without_noise_differ(
    path: Path | None, models: CrafterModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = Clip(required(path))
    monkeypatch.setattr(stages, "AUGMENTATION", 0.0)
    assert_clearly_wrong(depth_by(models, clip), clip)
