"""Video-Depth-Anything against what the published code computed in float32.

EX4D_GOLDEN=<dir> pytest tests/golden -k depth   runs them on any other set of this layout.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engine_tests import needs_estimators
from golden import golden_files, required

needs_estimators()

import tiny_depth
import torch

from ex4d.depth.video_depth_anything import estimator, network
from ex4d.task import Task

#: Of the range of the published code's numbers.
TOLERANCE = 3e-5
#: Of the input, whose standard deviation is about 1.
INPUT_TOLERANCE = 2e-6
#: Places in a window whose raw numbers the arrays hold.
RAW_PLACES = (0, 1, 9, 12, 31)
CPU = torch.device("cpu")


class Case:
    """A clip of a file, with what the published code made of it."""

    def __init__(self, path: Path, name: str) -> None:
        with np.load(path) as arrays:
            values = {key[2:]: arrays[key] for key in arrays.files if key.startswith(f"{name}_")}
        self.frames = values["frames_u8"]
        self.depth = values["depth"]
        self.raw = values["net_out"]
        self.first_input = values["net_in_f0"]
        self.size = estimator.input_size(*self.frames.shape[1:3], int(values["size"]))

    def error_of(self, found: np.ndarray) -> float:
        """Largest difference as a share of the range."""
        assert found.shape == self.depth.shape
        return float(np.abs(found - self.depth).max() / np.ptp(self.depth))


def cases() -> list[object]:
    parameters = []
    for parameter in golden_files("depth/vda*.npz"):
        (path,) = parameter.values
        names = ["none"] if path is None else sorted({key[0] for key in np.load(path).files})
        parameters += [pytest.param(path, name, id=f"{parameter.id} {name}") for name in names]
    return parameters


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> network.Network:
    path = tiny_depth.write_video_depth_anything(tmp_path_factory.mktemp("models"))
    return estimator.load_network(path, CPU)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def estimated(tiny: network.Network, case: Case, dtype: torch.dtype = torch.float32) -> np.ndarray:
    return estimator.estimate_frames(
        tiny, case.frames, size=case.size, dtype=dtype, is_metric=False, task=Task()
    )


@pytest.mark.parametrize(("path", "name"), cases())
def test_input(path: Path | None, name: str) -> None:
    case = Case(required(path), name)
    found = estimator.network_input(case.frames[0], case.size)
    assert found.shape == case.first_input.shape
    assert np.abs(found - case.first_input).max() <= INPUT_TOLERANCE


@pytest.mark.parametrize(("path", "name"), cases())
def test_every_window(path: Path | None, name: str, tiny: network.Network) -> None:
    case = Case(required(path), name)
    windows = estimator.windows_of(len(case.frames))
    assert len(windows) == len(case.raw)
    inputs = np.stack([estimator.network_input(frame, case.size) for frame in case.frames])
    features = tiny.encode(torch.from_numpy(inputs))
    for window, expected in zip(windows, case.raw, strict=True):
        of_window = [level[list(window.frames)] for level in features]
        found = tiny.decode(of_window, RAW_PLACES).numpy()
        assert np.abs(found - expected).max() <= TOLERANCE * np.ptp(expected)


@pytest.mark.parametrize(("path", "name"), cases())
def test_whole_clip(path: Path | None, name: str, tiny: network.Network) -> None:
    case = Case(required(path), name)
    assert case.error_of(estimated(tiny, case)) <= TOLERANCE


# --- mistakes that must show ---------------------------------------------------------------------


@pytest.mark.parametrize(("path", "name"), cases())
def test_bfloat16_differs(path: Path | None, name: str, tiny: network.Network) -> None:
    case = Case(required(path), name)
    assert case.error_of(estimated(tiny, case, torch.bfloat16)) > 30 * TOLERANCE


@pytest.mark.parametrize(("path", "name"), cases())
def test_positions_without_the_offset_differ(
    path: Path | None, name: str, tiny: network.Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(required(path), name)
    monkeypatch.setattr(network, "_GRID_OFFSET", 0.0)
    assert case.error_of(estimated(tiny, case)) > 30 * TOLERANCE


def several_windows() -> list[object]:
    return [
        parameter
        for parameter in cases()
        if parameter.values[0] is None or len(Case(*parameter.values).raw) > 1
    ]


@pytest.mark.parametrize(("path", "name"), several_windows())
def test_windows_that_are_not_fitted_differ(
    path: Path | None, name: str, tiny: network.Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(required(path), name)
    monkeypatch.setattr(estimator, "fitted_scale_and_shift", lambda found, target: (1.0, 0.0))
    assert case.error_of(estimated(tiny, case)) > 30 * TOLERANCE


@pytest.mark.parametrize(("path", "name"), several_windows())
def test_windows_without_key_frames_differ(
    path: Path | None, name: str, tiny: network.Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(required(path), name)
    # The ten frames before, none of them far away.
    monkeypatch.setattr(estimator, "KEPT_FRAMES", tuple(range(22, 32)))
    assert case.error_of(estimated(tiny, case)) > 30 * TOLERANCE
