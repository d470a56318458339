"""Small depth networks whose weights follow from their names, as the golden arrays want them.

Weights are integers of at most eleven bits times a power of two and a factor, from a generator that
NumPy keeps for ever, rounded to float16: the same on every machine. Nothing is stored.
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ex4d.depth import models
from ex4d.depth.video_depth_anything.network import Dimensions, Network
from ex4d.protocol.documents import UsedPart
from ex4d.weights.checkpoints import write_safetensors

VIDEO_DEPTH_ANYTHING = Dimensions(width=48, depth=4, features=32, channels=(16, 24, 32, 64))
#: 64 channels at the first level: groups of one channel each would hide the time embedding.
UNET = {
    "sample_size": 96,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": [64, 32, 32, 32],
    "num_attention_heads": [2, 2, 4, 4],
    "layers_per_block": 1,
    "transformer_layers_per_block": 1,
    "cross_attention_dim": 24,
    "addition_time_embed_dim": 16,
    "projection_class_embeddings_input_dim": 48,
    "num_frames": 25,
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "block_out_channels": [32, 32, 32, 32],
    "layers_per_block": 1,
    "latent_channels": 4,
    "sample_size": 768,
    "scaling_factor": 0.18215,
    "force_upcast": True,
}
IMAGE_ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 224,
    "patch_size": 28,
    "projection_dim": 24,
    "hidden_act": "gelu",
}
SCHEDULER = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
#: Of what the network says, before it is cut off at 0.
LAST_BIAS = "head.scratch.output_conv2.2.bias"
#: Of an estimator that is none.
NO_WEIGHTS = UsedPart(role="depth weights", name="none", version="", licence="")
_STEPS = 1024


def write_video_depth_anything(
    folder: Path, *, metric: bool = False, size: Dimensions = VIDEO_DEPTH_ANYTHING
) -> Path:
    """Write a network's file into a models folder, as it is published but for its values."""
    network = Network(size)
    values = dict(network.named_buffers())
    for name, parameter in network.named_parameters():
        values[name] = _rounded(_of_video_depth_anything(name, parameter))
    if metric:
        # Metres, none of them 0.
        values[LAST_BIAS] += 50
    model = models.VIDEO_DEPTH_ANYTHING_METRIC if metric else models.VIDEO_DEPTH_ANYTHING
    path = folder / model.files[0].relative_path
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(values, path)
    return path


def _of_video_depth_anything(name: str, parameter: torch.Tensor) -> torch.Tensor:
    drawn = _drawn(f"vda.{name}", parameter.shape)
    if name.endswith(("pos_embed", "cls_token", "mask_token")):
        return drawn * 0.5
    if name.endswith("gamma"):
        return 0.5 + 0.3 * drawn
    if name == LAST_BIAS:
        # Above 0, so that the last rectifier does not hide what the network says.
        return (drawn * 0.15).abs() + 0.6
    if parameter.dim() == 1:
        return 1 + 0.3 * drawn if name.endswith("weight") else 0.15 * drawn
    # Transposed convolutions have their inputs first.
    is_transposed = "resize_layers.0" in name or "resize_layers.1" in name
    inputs = len(parameter) if is_transposed else parameter[0].numel()
    return drawn * (3.0 / inputs) ** 0.5 * (1.5 if "motion" in name else 1.0)


def write_depthcrafter(folder: Path) -> None:
    """Write the small networks' folders into a models folder, in float16 as they are published."""
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    def image_encoder(**config: Any) -> Any:
        return CLIPVisionModelWithProjection(CLIPVisionConfig(**config))

    parts: dict[str, tuple[str, Callable[..., Any], dict[str, Any]]] = {
        "DepthCrafter/diffusion_pytorch_model.safetensors": (
            "unet",
            UNetSpatioTemporalConditionModel,
            UNET,
        ),
        "vae/diffusion_pytorch_model.fp16.safetensors": ("vae", AutoencoderKLTemporalDecoder, VAE),
        "image_encoder/model.fp16.safetensors": ("clip", image_encoder, IMAGE_ENCODER),
    }
    for file in models.DEPTHCRAFTER.files:
        path = folder / file.relative_path
        path.parent.mkdir(parents=True, exist_ok=True)
        found = [part for ending, part in parts.items() if path.as_posix().endswith(ending)]
        for label, build, config in found:
            # A class that no library has: both must be told the class, not look for it.
            text = json.dumps({"_class_name": "SomethingElse", **config})
            path.with_name("config.json").write_text(text)
            network = build(**config)
            values = {
                name: _of_depthcrafter(label, name, parameter).half()
                for name, parameter in network.named_parameters()
            }
            layout = {name: (tuple(value.shape), value.dtype) for name, value in values.items()}
            write_safetensors(path, layout, values.items(), {"format": "pt"})
        if path.name == "scheduler_config.json":
            path.write_text(json.dumps(SCHEDULER))


def _of_depthcrafter(label: str, name: str, parameter: torch.Tensor) -> torch.Tensor:
    drawn = _drawn(f"{label}.{name}", parameter.shape)
    if parameter.dim() == 1:
        if name.endswith("mix_factor"):
            return drawn * 1.25
        return 1 + drawn * 0.35 if name.endswith("weight") else drawn * 0.17
    values = drawn * (3.0 / parameter[0].numel()) ** 0.5 * (1.5 if label == "clip" else 1.0)
    if label == "unet" and (".attn2.to_v" in name or ".attn2.to_out.0.weight" in name):
        # So that the frames' tokens matter.
        values = values * 2
    if label == "vae" and name == "decoder.time_conv_out.weight":
        values = values * 0.75
    return values


def _drawn(name: str, shape: torch.Size) -> torch.Tensor:
    """Float64 numbers in [-1, 1]."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    integers = random.randint(-_STEPS, _STEPS + 1, size=max(1, shape.numel()))
    return torch.from_numpy(integers / _STEPS).reshape(shape)


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return values.half().float()
