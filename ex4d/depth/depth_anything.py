# pyright: reportMissingImports=false
"""Depth-Anything-V2 Small on transformers, frame by frame: for single images and quick looks.

Frames know nothing of each other, so that a moving clip flickers.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation

from ex4d.errors import InputError
from ex4d.framestore import new_frames, release
from ex4d.kept import KeptParts
from ex4d.protocol.documents import UsedPart
from ex4d.task import Task
from ex4d.weights.checkpoints import tensor_shapes
from ex4d.weights.files import weights_identity

from . import Estimate, EstimateKind
from .device import chosen_device
from .models import DEPTH_ANYTHING
from .video_depth_anything.estimator import INPUT_SIDE_PX, STAGE, input_size, network_input

#: Of the Small model's backbone; the larger ones may not be used in production.
_SMALL_WIDTH = 384
_MAX_CONFIG_BYTES = 1 << 20
#: Frames that are kept together for another attempt.
_KEPT_FRAMES = 16


class DepthAnything:
    """See `DepthEstimator`.

    Args:
        folder: The models folder.
    """

    name = DEPTH_ANYTHING.name
    licence = DEPTH_ANYTHING.licence
    kind: EstimateKind = "affine_disparity"

    def __init__(self, folder: Path) -> None:
        self._config, self._path = (folder / file.relative_path for file in DEPTH_ANYTHING.files)
        self._device, self._dtype = chosen_device()

    @property
    def weights(self) -> UsedPart:
        """The published files together."""
        return UsedPart(
            role="depth weights",
            name=self._path.parent.name,
            version=weights_identity(self._config, self._path),
            licence=self.licence,
        )

    def check_files(self) -> str:
        """Compare the file with the network; see `DepthEstimator`."""
        values = load_network(self._config, self._path).state_dict().values()
        return f"{len(values)} tensors of {sum(value.numel() for value in values):,} numbers"

    @torch.inference_mode()
    def estimate(self, frames: NDArray[np.uint8], *, task: Task) -> Estimate:
        """Estimate the frames of a clip, each for itself; see `DepthEstimator`.

        Pictures are resized and normalised as for Video-Depth-Anything, whose sizes and means are
        this network's; longer ones than 16:9 get its smaller size.
        """
        network = load_network(self._config, self._path).to(self._device)
        _, height_px, width_px, _ = frames.shape
        size = input_size(height_px, width_px, INPUT_SIDE_PX)
        values = new_frames(frames.shape[:3], np.float32)
        kept = KeptParts.of(task, frames, self.name, self.weights.version, size, self._dtype)
        for number, start in enumerate(range(0, len(frames), _KEPT_FRAMES)):
            part = range(start, min(start + _KEPT_FRAMES, len(frames)))
            found = kept.load("frames", number, (len(part), *size))
            is_known = found is not None
            if found is None:
                found = np.empty((len(part), *size), np.float32)
            for place, index in enumerate(part):
                if not is_known:
                    found[place] = self._found(network, network_input(frames[index], size))
                resized = functional.interpolate(
                    torch.from_numpy(found[place, None, None]),
                    (height_px, width_px),
                    mode="bilinear",
                    align_corners=True,
                )
                values[index] = resized[0, 0].numpy()
                release(frames)
                release(values)
                task.step(STAGE, index + 1, len(frames))
            if not is_known:
                kept.save("frames", number, found)
        return Estimate(values, self.kind)

    def _found(self, network: Any, picture: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the network says of one picture of its size."""
        pixels = torch.from_numpy(picture).to(self._device)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            found = network(pixels[None]).predicted_depth
        return found[0].float().cpu().numpy()


def load_network(config_path: Path, path: Path) -> Any:
    """The network with its values, in float32, on the CPU.

    The library reads the file itself, since its own names of tensors change between versions and
    it knows how to tell them from the published ones; what it found is checked strictly.

    Raises:
        InputError: `checkpoint_damaged`, `checkpoint_keys`, or `checkpoint_size` for a larger
            variant, which is under another licence.
    """
    config = _read_config(config_path)
    width = config.backbone_config.hidden_size
    if width > _SMALL_WIDTH:
        msg = (
            f"expected Depth-Anything-V2 Small in {path.parent.name}, {_SMALL_WIDTH} wide, found a "
            f"network {width} wide; the larger ones may not be used in production: fetch the small "
            "one"
        )
        raise InputError("checkpoint_size", msg)
    # Before the library does: whether the file is whole.
    shapes = tensor_shapes(path)
    network, found = DepthAnythingForDepthEstimation.from_pretrained(
        path.parent,
        config=config,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        # Refused below, with the rest.
        ignore_mismatched_sizes=True,
    )
    wrong = {
        kind: sorted(str(entry) for entry in found[f"{kind}_keys"])
        for kind in ("unexpected", "missing", "mismatched")
        if found[f"{kind}_keys"]
    }
    if wrong:
        counts = ", ".join(f"{len(names)} {kind} ({names[0]})" for kind, names in wrong.items())
        msg = (
            f"expected in {path.name} the tensors of Depth-Anything-V2, found among its "
            f"{len(shapes)}: {counts}; fetch the file again from where the model is published"
        )
        raise InputError("checkpoint_keys", msg)
    return network.float().eval().requires_grad_(False)


def _read_config(path: Path) -> DepthAnythingConfig:
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(_MAX_CONFIG_BYTES))
        # Another backbone would be looked for on the hub.
        if fields["backbone_config"]["model_type"] != "dinov2" or fields.get("backbone"):
            raise ValueError("another backbone than DINOv2")  # noqa: TRY301 - one message for all
        return DepthAnythingConfig.from_dict(fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = (
            f"expected the configuration of Depth-Anything-V2 in {path.name}, found none ({error});"
            " fetch it again"
        )
        raise InputError("checkpoint_damaged", msg) from error
