# pyright: reportMissingImports=false
"""The estimator: DepthCrafter's stages over a clip."""

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ex4d.depth import Estimate, EstimateKind
from ex4d.depth.device import chosen_device
from ex4d.depth.models import DEPTHCRAFTER
from ex4d.diffusion.warm import WarmModels
from ex4d.kept import NOTHING_KEPT, KeptParts
from ex4d.protocol.documents import UsedPart
from ex4d.task import Task
from ex4d.weights.files import weights_identity

from . import stages
from .loading import CrafterModels, build_networks, load_models
from .stages import Settings


class DepthCrafter:
    """See `DepthEstimator`.

    Args:
        folder: The models folder.
        warm: Keeps the networks between jobs.
        settings: What the network is told.
    """

    name = DEPTHCRAFTER.name
    licence = DEPTHCRAFTER.licence
    kind: EstimateKind = "affine_disparity"

    def __init__(self, folder: Path, warm: WarmModels, settings: Settings | None = None) -> None:
        self._folder = folder
        self._warm = warm
        self._settings = settings or Settings()
        self._device, self._dtype = chosen_device()

    @property
    def weights(self) -> UsedPart:
        """The published files together."""
        paths = [self._folder / file.relative_path for file in DEPTHCRAFTER.files]
        return UsedPart(
            role="depth weights",
            name="DepthCrafter",
            version=weights_identity(*paths),
            licence=self.licence,
        )

    def check_files(self) -> str:
        """Compare the files with the networks; see `DepthEstimator`."""
        values = [
            value for network, _ in build_networks(self._folder) for value in network.parameters()
        ]
        count = sum(value.numel() for value in values)
        return f"{len(values)} tensors of {count:,} numbers"

    def estimate(self, frames: NDArray[np.uint8], *, task: Task) -> Estimate:
        """Estimate the frames of a clip; see `DepthEstimator`."""
        version = self.weights.version
        key = (self.name, version, str(self._device))
        kept = KeptParts.of(task, frames, self.name, version, self._settings, self._dtype)

        def load() -> CrafterModels:
            return load_models(self._folder, self._device, self._dtype)

        with self._warm.borrow(key, load) as models:
            values = estimate_frames(models, frames, self._settings, task, kept)
        return Estimate(values, self.kind)


@torch.inference_mode()
def estimate_frames(
    models: CrafterModels,
    frames: NDArray[np.uint8],
    settings: Settings,
    task: Task,
    kept: KeptParts = NOTHING_KEPT,
) -> NDArray[np.float32]:
    """Disparity of a clip, up to scale and shift: (frames, height, width) float32.

    Args:
        models: The networks.
        frames: (frames, height, width, 3) uint8.
        settings: What the network is told.
        task: Told about every chunk and step.
        kept: What each stage made of frames in an earlier attempt.
    """
    _, height_px, width_px, _ = frames.shape
    size = stages.network_size(height_px, width_px)
    pictures = stages.resized_frames(frames, size)
    random = torch.Generator("cpu").manual_seed(settings.seed)
    tokens = stages.describe(models, pictures, task, kept)
    clip_latents = stages.encode(models, pictures, random, task, kept)
    noise = stages.window_noise(settings, len(frames), clip_latents.shape[-2:], random)
    latents = stages.denoise(models, tokens, clip_latents, noise, settings, task, kept)
    disparity = stages.decode(models, latents, task, kept)
    if size == (height_px, width_px):
        return disparity
    resized = np.empty(frames.shape[:3], np.float32)
    for target, source in zip(resized, disparity, strict=True):
        cv2.resize(source, (width_px, height_px), dst=target, interpolation=cv2.INTER_LINEAR)
    return resized
