"""Mixed precision, with CUDA's rules emulated on the CPU, against the reference's float32.

EX4D_GOLDEN=<dir> pytest tests/golden -k diffusion   runs them on any other set of this layout.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_tests import needs_engine
from golden import arrays_of, models_of

needs_engine()

import torch
from cuda_autocast import cuda_rules

from ex4d.diffusion.wan import conditioning, denoise, loading
from ex4d.diffusion.wan.loading import WanModels
from ex4d.diffusion.wan.text import PromptEncoder

#: Relative error of the last latents against float32.
TOLERANCE = 0.03
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _as_on_cuda() -> Iterator[None]:
    with torch.no_grad(), cuda_rules():
        yield


@pytest.fixture(scope="module")
def models() -> WanModels:
    return loading.load_models(models_of(), device=CPU, dtype=torch.bfloat16)


def relative_error(found: torch.Tensor, expected: np.ndarray) -> float:
    difference = found.float().numpy().astype(np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected.astype(np.float64)))


def last_latents(models: WanModels, folder: Path) -> torch.Tensor:
    """A whole run in mixed precision, from the condition's frames on."""
    arrays = arrays_of("fp32/inputs.npz")
    video, mask = torch.from_numpy(arrays["video"]), torch.from_numpy(arrays["mask"])
    frame = conditioning.frame_tensor(conditioning.conditioning_frame(video))
    inputs = conditioning.ModelInputs(
        conditioning.first_frame_latents(models, frame, video.shape[2]),
        conditioning.image_tokens(models, frame),
        conditioning.camera_tokens(models, video, mask),
    )
    encoder = PromptEncoder(models_of(), folder, device=CPU, dtype=torch.bfloat16)
    prompts = [str(arrays["prompt"]), str(arrays["negative_prompt"])]
    scale = float(arrays["cfg_scale"])
    return denoise.denoise(
        models,
        torch.from_numpy(arrays["noise"]),
        inputs,
        denoise.embed_guidance(models, encoder.embed(prompts), inputs.image_tokens, scale),
        steps=int(arrays["num_inference_steps"]),
    )


def test_weights_are_rounded_but_for_the_islands(models: WanModels) -> None:
    types = {name: value.dtype for name, value in models.dit.named_parameters()}
    islands = {name for name, dtype in types.items() if dtype == torch.float32}
    assert islands == {name for name in types if name.startswith(loading.FLOAT32_PARTS)}
    assert set(types.values()) == {torch.float32, torch.bfloat16}


@pytest.fixture(scope="module")
def own_latents(models: WanModels, tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    return last_latents(models, tmp_path_factory.mktemp("prompts"))


def test_last_latents(own_latents: torch.Tensor) -> None:
    truth = arrays_of("fp32/denoise.npz")["latents"][-1]
    assert own_latents.dtype == torch.float32
    assert relative_error(own_latents, truth) <= TOLERANCE


def test_no_worse_than_the_reference(own_latents: torch.Tensor) -> None:
    """The reference's own mixed precision is about as far from its float32."""
    truth = arrays_of("fp32/denoise.npz")["latents"][-1]
    theirs = torch.from_numpy(arrays_of("bf16/bf16_emulated.npz")["latents"][-1])
    assert relative_error(own_latents, truth) <= 2 * relative_error(theirs, truth)


def test_rounded_time_step_is_noticed(
    models: WanModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = arrays_of("fp32/denoise.npz")["latents"][-1]
    predict = denoise.predict

    def with_rounded_step(
        models: WanModels, latents: Any, time_step: torch.Tensor, *rest: Any, **options: Any
    ) -> list[torch.Tensor]:
        return predict(models, latents, time_step.bfloat16().float(), *rest, **options)

    monkeypatch.setattr(denoise, "predict", with_rounded_step)
    assert relative_error(last_latents(models, tmp_path), truth) > TOLERANCE
