"""Small depth networks whose weights follow from their names, as the golden arrays want them.

Weights are integers of at most eleven bits times a power of two and a factor, from a generator that
NumPy keeps for ever, rounded to float16: the same on every machine. Nothing is stored.
"""

import zlib
from pathlib import Path

import numpy as np
import torch

from ex4d.depth import models
from ex4d.depth.video_depth_anything.network import Dimensions, Network

VIDEO_DEPTH_ANYTHING = Dimensions(width=48, depth=4, features=32, channels=(16, 24, 32, 64))
_STEPS = 1024


def write_video_depth_anything(folder: Path, *, metric: bool = False) -> Path:
    """Write the small network's file into a models folder."""
    network = Network(VIDEO_DEPTH_ANYTHING)
    values = dict(network.named_buffers())
    for name, parameter in network.named_parameters():
        values[name] = _rounded(_of_video_depth_anything(name, parameter))
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
    if name == "head.scratch.output_conv2.2.bias":
        # Above 0, so that the last rectifier does not hide what the network says.
        return (drawn * 0.15).abs() + 0.6
    if parameter.dim() == 1:
        return 1 + 0.3 * drawn if name.endswith("weight") else 0.15 * drawn
    # Transposed convolutions have their inputs first.
    is_transposed = "resize_layers.0" in name or "resize_layers.1" in name
    inputs = len(parameter) if is_transposed else parameter[0].numel()
    return drawn * (3.0 / inputs) ** 0.5 * (1.5 if "motion" in name else 1.0)


def _drawn(name: str, shape: torch.Size) -> torch.Tensor:
    """Float64 numbers in [-1, 1]."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    integers = random.randint(-_STEPS, _STEPS + 1, size=max(1, shape.numel()))
    return torch.from_numpy(integers / _STEPS).reshape(shape)


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return values.half().float()
