# pyright: reportMissingImports=false
"""Runs the network over a clip of any length, window by window.

Every window of 32 frames begins with ten that were in the window before: two key frames, to whose
disparity its own is fitted, and eight that are cross-faded. Everything as in the published code's
offline mode, but that each frame is encoded once, and that only frames which are used are decoded.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ex4d.depth import Estimate, EstimateKind
from ex4d.depth.device import chosen_device
from ex4d.depth.models import VIDEO_DEPTH_ANYTHING_METRIC
from ex4d.errors import InputError
from ex4d.framestore import new_frames, release
from ex4d.kept import NOTHING_KEPT, KeptParts
from ex4d.protocol.documents import UsedPart
from ex4d.task import Task
from ex4d.weights.checkpoints import check_names_and_shapes, tensor_shapes, tensors
from ex4d.weights.files import PublishedModel, weights_identity

from .network import PATCH_PX, SMALL, WINDOW_FRAMES, Dimensions, Network

STAGE = "estimating depth"
#: Shorter side of the pictures that the network was trained on.
INPUT_SIDE_PX = 518
#: Frames of a window that begin the next one: two key frames, and those that the two share.
KEPT_FRAMES = (0, 12, 24, 25, 26, 27, 28, 29, 30, 31)
_KEY_FRAMES = 2
_NEW_FRAMES = WINDOW_FRAMES - len(KEPT_FRAMES)
#: Longer pictures are made with a shorter side that is smaller in proportion.
_LONGEST_ASPECT, _LONGEST_ASPECT_KEPT = 1.78, 1.777
#: Of ImageNet, by channel.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_ENCODED_AT_ONCE = 8


@dataclass(frozen=True)
class Window:
    """A window of a clip.

    Attributes:
        frames: For each place in the window, the frame of the clip; after the clip's end, the last
            one again.
        start: Frame of the clip at place 0, if no frame had been kept from the window before.
        used: Places that are decoded, in order.
    """

    frames: tuple[int, ...]
    start: int
    used: tuple[int, ...]


def windows_of(frame_count: int) -> list[Window]:
    """The windows of a clip, in order."""
    windows: list[Window] = []
    for start in range(0, frame_count, _NEW_FRAMES):
        frames = [min(start + place, frame_count - 1) for place in range(WINDOW_FRAMES)]
        used = {place for place in range(WINDOW_FRAMES) if start + place < frame_count}
        if windows:
            before = windows[-1].frames
            frames[: len(KEPT_FRAMES)] = [before[place] for place in KEPT_FRAMES]
            # To be fitted to the window before.
            used |= set(range(_KEY_FRAMES))
        # For the window after to be fitted to.
        if start + _NEW_FRAMES < frame_count:
            used |= set(KEPT_FRAMES[:_KEY_FRAMES])
        windows.append(Window(tuple(frames), start, tuple(sorted(used))))
    return windows


def input_size(height_px: int, width_px: int, side_px: int) -> tuple[int, int]:
    """Height and width of the network's input for a picture.

    Sides are multiples of 14 px near the picture's aspect; the shorter is at least `side_px`, or
    less in pictures longer than 16:9, so that none has many more pixels than 16:9 has.
    """
    aspect = max(height_px, width_px) / min(height_px, width_px)
    if aspect > _LONGEST_ASPECT:
        side_px = round(int(side_px * _LONGEST_ASPECT_KEPT / aspect) / PATCH_PX) * PATCH_PX
        side_px = max(side_px, PATCH_PX)
    scale = max(side_px / height_px, side_px / width_px)

    def rounded(side: float) -> int:
        nearest = round(side / PATCH_PX) * PATCH_PX
        return nearest if nearest >= side_px else math.ceil(side / PATCH_PX) * PATCH_PX

    return rounded(scale * height_px), rounded(scale * width_px)


def network_input(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """A frame as the network takes it: (3, height, width), ImageNet-normalised."""
    picture = frame.astype(np.float32) / np.float32(255)
    resized = cv2.resize(picture, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    normalised = (resized - _MEAN) / _DEVIATION
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def fitted_scale_and_shift(
    disparity: NDArray[np.float32], target: NDArray[np.float32]
) -> tuple[float, float]:
    """Scale and shift that bring disparity closest to a target, by least squares.

    Disparity that is the same everywhere fits anything, and stays.
    """
    x, y = disparity.astype(np.float64).ravel(), target.astype(np.float64).ravel()
    x_mean, y_mean = x.mean(), y.mean()
    variance = np.square(x - x_mean).mean()
    if variance == 0:
        return 1.0, 0.0
    scale = ((x - x_mean) * (y - y_mean)).mean() / variance
    return float(scale), float(y_mean - scale * x_mean)


class VideoDepthAnything:
    """The estimator; see `DepthEstimator`.

    Args:
        model: Which of its variants.
        folder: The models folder.
    """

    def __init__(self, model: PublishedModel, folder: Path) -> None:
        self.name = model.name
        self.licence = model.licence
        is_metric = model is VIDEO_DEPTH_ANYTHING_METRIC
        self.kind: EstimateKind = "metric_depth" if is_metric else "affine_disparity"
        self._path = folder / model.files[0].relative_path
        self._device, self._dtype = chosen_device()

    @property
    def weights(self) -> UsedPart:
        """The published file."""
        version = weights_identity(self._path)
        return UsedPart(
            role="depth weights", name=self._path.name, version=version, licence=self.licence
        )

    def check_files(self) -> str:
        """Compare the file with the network; see `DepthEstimator`."""
        network = build_network(self._path)
        count = sum(value.numel() for value in network.state_dict().values())
        return f"{len(network.state_dict())} tensors of {count:,} numbers"

    def estimate(self, frames: NDArray[np.uint8], *, task: Task) -> Estimate:
        """Estimate the frames of a clip; see `DepthEstimator`."""
        _, height_px, width_px, _ = frames.shape
        size = input_size(height_px, width_px, INPUT_SIDE_PX)
        # It loads in a second: not worth the place of a larger model that is kept.
        values = estimate_frames(
            load_network(self._path, self._device),
            frames,
            size=size,
            dtype=self._dtype,
            is_metric=self.kind == "metric_depth",
            task=task,
            kept=KeptParts.of(task, frames, self.name, self.weights.version, size, self._dtype),
        )
        return Estimate(values, self.kind)


def build_network(path: Path) -> Network:
    """The network that a file belongs to, without its values.

    Raises:
        InputError: `checkpoint_damaged`, `checkpoint_keys`, or `checkpoint_size` for a larger
            variant, which is under another licence.
    """
    shapes = tensor_shapes(path)
    try:
        size = Dimensions.of_shapes(shapes)
    except (KeyError, IndexError):
        size = SMALL
    if size.width > SMALL.width or size.depth > SMALL.depth:
        msg = (
            f"expected Video-Depth-Anything Small in {path.name}, {SMALL.width} wide, found a "
            f"network {size.width} wide; the larger ones may not be used in production: fetch the "
            "small one"
        )
        raise InputError("checkpoint_size", msg)
    with torch.device("meta"):
        network = Network(size)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    check_names_and_shapes(path.name, expected, shapes)
    return network


def load_network(path: Path, device: torch.device) -> Network:
    """The network with its values, in float32.

    Raises:
        InputError: As `build_network`.
    """
    network = build_network(path)
    values = {name: value.to(device, torch.float32, copy=True) for name, value in tensors(path)}
    network.load_state_dict(values, assign=True)
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def estimate_frames(
    network: Network,
    frames: NDArray[np.uint8],
    *,
    size: tuple[int, int],
    dtype: torch.dtype,
    is_metric: bool,
    task: Task,
    kept: KeptParts = NOTHING_KEPT,
) -> NDArray[np.float32]:
    """Run the network over a clip and join its windows.

    Args:
        network: On its device.
        frames: (frames, height, width, 3) uint8.
        size: Height and width of the network's input.
        dtype: float16 for mixed precision, or float32.
        is_metric: The network's numbers are metres: windows are not fitted to each other.
        task: Told about the start and every window.
        kept: What the network said of windows in an earlier attempt.

    Returns:
        (frames, height, width) float32, 0 or more: disparity, or depth in metres.
    """
    windows = windows_of(len(frames))
    joined = _Joined(frames.shape[:3], is_metric=is_metric)
    device = next(network.parameters()).device
    encoder = _Encoder(network, frames, size, task.check)
    # A window takes seconds, which shall not count as reading.
    task.step(STAGE, 0, len(windows))
    for index, window in enumerate(windows):
        known = kept.load("window", index, (len(window.used), *size))
        if known is None:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                found = network.decode(encoder.features(window), window.used)
            kept.save("window", index, found.cpu().numpy())
        else:
            found = torch.from_numpy(known).to(device)
        picture_size = frames.shape[1:3]
        resized = functional.interpolate(
            found[:, None], picture_size, mode="bilinear", align_corners=True
        )
        joined.add(window, resized[:, 0].cpu().numpy())
        release(frames)
        release(joined.values)
        task.step(STAGE, index + 1, len(windows))
    return joined.values


class _Encoder:
    """Encodes each frame of a clip once, and keeps what the next window needs again."""

    def __init__(
        self,
        network: Network,
        frames: NDArray[np.uint8],
        size: tuple[int, int],
        check: Callable[[], None],
    ) -> None:
        self._network = network
        self._frames = frames
        self._size = size
        self._check = check
        self._device = next(network.parameters()).device
        #: By frame of the clip, the four maps of features.
        self._known: dict[int, list[torch.Tensor]] = {}

    def features(self, window: Window) -> list[torch.Tensor]:
        """The four maps of features, of all frames of the window each."""
        self._known = {
            frame: self._known[frame] for frame in set(window.frames) & self._known.keys()
        }
        new = sorted(set(window.frames) - self._known.keys())
        with ThreadPoolExecutor(thread_name_prefix="resize") as pool:
            pictures = pool.map(lambda frame: network_input(self._frames[frame], self._size), new)
            for numbers in _batches(new):
                self._check()
                batch = np.stack([next(pictures) for _ in numbers])
                maps = self._network.encode(torch.from_numpy(batch).to(self._device))
                for place, frame in enumerate(numbers):
                    self._known[frame] = [level[place] for level in maps]
        return [
            torch.stack([self._known[frame][level] for frame in window.frames])
            for level in range(len(self._known[window.frames[0]]))
        ]


class _Joined:
    """The disparity of a clip as its windows come in."""

    def __init__(self, shape: tuple[int, ...], *, is_metric: bool) -> None:
        self.values = new_frames(shape, np.float32)
        self._is_metric = is_metric
        #: The first frame, and the second key frame of the last window.
        self._keys: list[NDArray[np.float32]] = []

    def add(self, window: Window, found: NDArray[np.float32]) -> None:
        """Join the next window: (used places, height, width)."""
        by_place = dict(zip(window.used, found, strict=True))
        if not self._keys:
            for place, picture in by_place.items():
                self.values[window.start + place] = picture
        else:
            if not self._is_metric:
                by_place = self._fitted(by_place)
            for place, picture in by_place.items():
                if place >= _KEY_FRAMES and window.start + place < len(self.values):
                    self._fade_in(window.start + place, place, picture)
        if KEPT_FRAMES[1] in by_place:
            first, second = (by_place[place] for place in KEPT_FRAMES[:_KEY_FRAMES])
            # The first key frame is the clip's first for ever, as the first window had it.
            self._keys = [self._keys[0] if self._keys else first, second]

    def _fitted(self, by_place: dict[int, NDArray[np.float32]]) -> dict[int, NDArray[np.float32]]:
        """A window's disparity, brought to that of the key frames before."""
        own = np.stack([by_place[place] for place in range(_KEY_FRAMES)])
        scale, shift = fitted_scale_and_shift(own, np.stack(self._keys))
        return {
            place: np.maximum(picture * np.float32(scale) + np.float32(shift), 0)
            for place, picture in by_place.items()
        }

    def _fade_in(self, frame: int, place: int, picture: NDArray[np.float32]) -> None:
        """Put in a frame of the clip, mixed with what is there if both windows have it."""
        shared_frames = len(KEPT_FRAMES) - _KEY_FRAMES
        share = np.float32(min(1.0, (place - _KEY_FRAMES) / (shared_frames - 1)))
        self.values[frame] = self.values[frame] * (1 - share) + picture * share


def _batches(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), _ENCODED_AT_ONCE):
        yield numbers[start : start + _ENCODED_AT_ONCE]
