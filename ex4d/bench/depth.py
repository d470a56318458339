# pyright: reportMissingImports=false
"""The depth networks at full size, stage by stage, against plain matrix products.

The bound of a stage is the arithmetic that it asks for, counted while it runs for the first time,
at the rate of a large matrix product in the stage's precision, measured in the same run.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from ex4d.depth import create_estimator
from ex4d.depth.device import chosen_device
from ex4d.depth.models import DEPTHCRAFTER, VIDEO_DEPTH_ANYTHING
from ex4d.depth.video_depth_anything import estimator as video_depth_anything
from ex4d.depth.video_depth_anything.network import SMALL, Network
from ex4d.errors import InputError
from ex4d.task import Task
from ex4d.weights.files import models_folder

from .timing import best_s

#: Sides of the matrices: large enough to be as quick as the machine gets.
_MATRIX_SIDE = {"cuda": 8192, "cpu": 1536}
#: What the published configurations say where the libraries' usual values say otherwise.
_VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "sample_size": 768,
}
_IMAGE_ENCODER = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}
_SCHEDULER = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}


class Stages:
    """Times and arithmetic of the stages of a run.

    Args:
        device: Waited for before a clock is read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = {}
        self.operations: dict[str, float] = {}
        self.is_counting = True

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what the block computes, or time it; blocks of one name are added up."""
        self._wait()
        start_s = time.perf_counter()
        if self.is_counting:
            with FlopCounterMode(display=False) as counter:
                yield
            self._add(self.operations, name, float(counter.get_total_flops()))
            return
        yield
        self._wait()
        self._add(self.seconds, name, time.perf_counter() - start_s)

    def _add(self, sums: dict[str, float], name: str, value: float) -> None:
        sums[name] = sums.get(name, 0.0) + value

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def run(
    *,
    estimator: str,
    random_weights: bool,
    accept_research_licence: bool,
    size: str,
    frames: int,
    side_px: int,
) -> None:
    """Print all figures of one estimator.

    Args:
        estimator: Its name.
        random_weights: Of full size, instead of the published ones.
        accept_research_licence: As for `create_estimator`; random weights have no licence.
        size: Width and height of the clip, as `512x512`.
        frames: How many.
        side_px: Shorter side of Video-Depth-Anything's input.
    """
    device, dtype = chosen_device()
    clip = _clip(frames, *_parsed(size))
    if not random_weights:
        # Refuses what is missing or not accepted.
        create_estimator(estimator, accepts_research_licence=accept_research_licence)
    print(f"{_name_of(device)}, {frames} frames of {size}, {str(dtype).removeprefix('torch.')}")
    rates = {kind: _rate(device, kind) for kind in {dtype, torch.float32}}
    for kind, rate in rates.items():
        print(f"matrix product in {str(kind).removeprefix('torch.'):8} {rate / 1e12:9.2f} TFLOP/s")
    measure = _depthcrafter if estimator == DEPTHCRAFTER.name else _video_depth_anything
    function, precisions = measure(
        clip, device, dtype, random_weights=random_weights, side_px=side_px
    )
    measured = Stages(device)
    with torch.inference_mode():
        function(measured)
        measured.is_counting = False
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start_s = time.perf_counter()
        function(measured)
        total_s = time.perf_counter() - start_s
    _report(measured, total_s, {name: rates[kind] for name, kind in precisions.items()})
    print(f"{frames / total_s:.2f} frames a second; peak memory {_peak_bytes(device) / 1e9:.2f} GB")


_Measured = tuple[Callable[[Stages], object], dict[str, torch.dtype]]


def _video_depth_anything(
    clip: NDArray[np.uint8],
    device: torch.device,
    dtype: torch.dtype,
    *,
    random_weights: bool,
    side_px: int,
) -> _Measured:
    if random_weights:
        with torch.device(device):
            network = Network(SMALL).eval().requires_grad_(False)
    else:
        path = models_folder() / VIDEO_DEPTH_ANYTHING.files[0].relative_path
        network = video_depth_anything.load_network(path, device)
    _, height_px, width_px, _ = clip.shape
    input_size = video_depth_anything.input_size(height_px, width_px, side_px)
    print(f"network input {input_size[1]}x{input_size[0]}, {_count(network)} M weights")
    encode, decode = network.encode, network.decode

    def estimate(measured: Stages) -> None:
        def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                with measured.stage(name):
                    return function(*arguments)

            return call

        network.encode, network.decode = timed("encoder", encode), timed("head", decode)
        video_depth_anything.estimate_frames(
            network, clip, size=input_size, dtype=dtype, is_metric=False, task=Task()
        )

    return estimate, {"encoder": dtype, "head": dtype}


def _depthcrafter(
    clip: NDArray[np.uint8],
    device: torch.device,
    dtype: torch.dtype,
    *,
    random_weights: bool,
    side_px: int,
) -> _Measured:
    from ex4d.depth.depthcrafter import stages
    from ex4d.depth.depthcrafter.loading import load_models

    models = (
        _random_crafter(device, dtype)
        if random_weights
        else load_models(models_folder(), device, dtype)
    )
    settings = stages.Settings()
    _, height_px, width_px, _ = clip.shape
    pictures = stages.resized_frames(clip, stages.network_size(height_px, width_px))
    print(f"network input {pictures.shape[2]}x{pictures.shape[1]}, {settings.steps} steps")

    def estimate(measured: Stages) -> None:
        task, random = Task(), torch.Generator().manual_seed(settings.seed)
        with measured.stage("describing (CLIP)"):
            tokens = stages.describe(models, pictures, task)
        with measured.stage("encoding (VAE)"):
            latents = stages.encode(models, pictures, random, task)
        noise = stages.window_noise(settings, len(clip), latents.shape[-2:], random)
        with measured.stage("denoising (UNet)"):
            found = stages.denoise(models, tokens, latents, noise, settings, task)
        with measured.stage("decoding (VAE)"):
            stages.decode(models, found, task)

    return estimate, {
        "describing (CLIP)": dtype,
        "encoding (VAE)": torch.float32,
        "denoising (UNet)": dtype,
        "decoding (VAE)": dtype,
    }


def _random_crafter(device: torch.device, dtype: torch.dtype) -> Any:
    """Networks as large as the published ones."""
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from ex4d.depth.depthcrafter.loading import CrafterModels, FrameTokens
    from ex4d.depth.depthcrafter.residual import use_own_blocks

    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            networks: list[Any] = [
                UNetSpatioTemporalConditionModel(),
                AutoencoderKLTemporalDecoder(**_VAE),
                CLIPVisionModelWithProjection(CLIPVisionConfig(**_IMAGE_ENCODER)),
            ]
    finally:
        torch.set_default_dtype(usual)
    # Some parameters are made on the processor whatever the default device is.
    unet, vae, image_encoder = (
        network.to(device, dtype).eval().requires_grad_(False) for network in networks
    )
    use_own_blocks(unet)
    use_own_blocks(vae)
    counts = " + ".join(_count(network) for network in (unet, vae, image_encoder))
    print(f"{counts} M weights")
    return CrafterModels(
        unet=FrameTokens(unet),
        vae=vae,
        image_encoder=image_encoder,
        scheduler=_SCHEDULER,
        device=device,
        dtype=dtype,
    )


def _report(measured: Stages, total_s: float, rates: dict[str, float]) -> None:
    print(f"{'':20}{'TFLOP':>10}{'seconds':>10}{'bound':>10}{'':>8}")
    rest_s, bound_sum_s = total_s, 0.0
    for name, seconds in measured.seconds.items():
        operations = measured.operations[name]
        bound_s = operations / rates[name]
        rest_s, bound_sum_s = rest_s - seconds, bound_sum_s + bound_s
        print(
            f"{name:20}{operations / 1e12:10.2f}{seconds:10.2f}{bound_s:10.2f}"
            f"{seconds / bound_s:7.1f}x"
        )
    print(f"{'all else':20}{'':10}{rest_s:10.2f}")
    total = sum(measured.operations.values()) / 1e12
    print(
        f"{'total':20}{total:10.2f}{total_s:10.2f}{bound_sum_s:10.2f}{total_s / bound_sum_s:7.1f}x"
    )


def _rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product."""
    side = _MATRIX_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def multiply() -> None:
        torch.matmul(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize()

    multiply()
    return 2 * side**3 / best_s(multiply)


def _clip(frame_count: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
    """Noise: what the networks see does not change how long they take."""
    shape = (frame_count, height_px, width_px, 3)
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def _parsed(size: str) -> tuple[int, int]:
    width, separator, height = size.partition("x")
    if not (separator and width.isdigit() and height.isdigit() and int(width) and int(height)):
        msg = f"expected a size such as 512x512, found {size}; give width and height in pixels"
        raise InputError("bench_size", msg)
    return int(width), int(height)


def _count(network: Any) -> str:
    return f"{sum(value.numel() for value in network.parameters()) / 1e6:.1f}"


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"processor, {torch.get_num_threads()} threads"


def _peak_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:
        # Windows.
        return float("nan")
    # Linux counts in KiB, macOS in bytes.
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes)
