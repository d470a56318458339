"""Depth-Anything-V2: a small network in the published layout, as transformers writes it."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from engine_tests import needs_estimators

needs_estimators()

import torch
from safetensors.torch import load_file, save_file
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

from ex4d.cli import main
from ex4d.depth import create_estimator, depth_anything
from ex4d.depth.units import depth_of
from ex4d.depth.video_depth_anything import estimator
from ex4d.errors import CancelledError, InputError
from ex4d.images import write_png
from ex4d.scene import Scene
from ex4d.task import Progress, Task

FOLDER = "Depth-Anything-V2-Small-hf"


def written(folder: Path, width: int = 48) -> Path:
    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=70,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=width,
        patch_size=14,
        neck_hidden_sizes=[8, 12, 16, 24],
        fusion_hidden_size=16,
        head_hidden_size=8,
    )
    network = DepthAnythingForDepthEstimation(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        # Above 0, so that the last rectifier does not hide what the network says.
        network.head.conv3.weight *= 200
        network.head.conv3.bias += 50
    network.save_pretrained(folder / FOLDER)
    return folder


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr("ex4d.depth.depth_anything.INPUT_SIDE_PX", 56)
    return written(tmp_path / "models")


def clip(frame_count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frame_count, 56, 84, 3), np.uint8)


def test_frames_are_estimated_each_for_itself(models: Path) -> None:
    reports: list[Progress] = []
    frames = clip(3)
    depth = create_estimator("depth-anything")
    found = depth.estimate(frames, task=Task(reports.append))
    assert (found.kind, depth.licence) == ("affine_disparity", "Apache-2.0")
    assert found.values.shape == (3, 56, 84)
    assert reports == [Progress(estimator.STAGE, n, 3) for n in (1, 2, 3)]
    alone = depth.estimate(frames[2:], task=Task()).values[0]
    np.testing.assert_array_equal(found.values[2], alone)


@pytest.mark.parametrize(("value", "words"), [(1.0, "that varies"), (float("nan"), "finite")])
def test_network_that_sees_nothing(models: Path, value: float, words: str) -> None:
    path = models / FOLDER / "model.safetensors"
    weights = load_file(path)
    weights["head.conv3.weight"] *= 0
    weights["head.conv3.bias"][:] = value
    save_file(weights, path, {"format": "pt"})
    depth = create_estimator("depth-anything")
    with pytest.raises(InputError, match=words) as caught:
        depth_of(depth.estimate(clip(2), task=Task()), depth)
    assert caught.value.code == "depth_values"


def test_frames_of_an_earlier_attempt_are_taken(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depth_anything, "_KEPT_FRAMES", 2)
    frames, kept = clip(5), tmp_path / "kept"
    expected = create_estimator("depth-anything").estimate(frames, task=Task()).values
    load, count = depth_anything.load_network, 0

    def counted(*paths: Path) -> torch.nn.Module:
        def count_call(*_arguments: object) -> None:
            nonlocal count
            count += 1

        network = load(*paths)
        network.register_forward_pre_hook(count_call)
        return network

    monkeypatch.setattr(depth_anything, "load_network", counted)

    def attempt(frames: np.ndarray, stops_after: int = -1) -> tuple[np.ndarray | None, int]:
        """The values, if it gets that far, and how many frames were computed."""
        nonlocal count
        count = 0

        def is_stopped() -> bool:
            return count == stops_after

        values = None
        with contextlib.suppress(CancelledError):
            task = Task(is_cancelled=is_stopped, kept_folder=kept)
            values = create_estimator("depth-anything").estimate(frames, task=task).values
        return values, count

    assert attempt(frames, stops_after=4) == (None, 4)
    # Of two and two frames, the second part had not been finished.
    values, computed = attempt(frames)
    assert computed == 3
    np.testing.assert_array_equal(values, expected)
    assert attempt(frames)[1] == 0
    changed = frames.copy()
    changed[4, 0, 0, 0] ^= 1
    assert attempt(changed)[1] == 5
    path = models / FOLDER / "model.safetensors"
    weights = load_file(path)
    weights["head.conv3.bias"] += 1
    save_file(weights, path, {"format": "pt"})
    assert attempt(frames)[1] == 5


def test_numbers_are_those_of_the_published_class(models: Path) -> None:
    frames = clip(1)
    found = create_estimator("depth-anything").estimate(frames, task=Task()).values[0]
    network = DepthAnythingForDepthEstimation.from_pretrained(models / FOLDER).eval()
    # 56 x 84 needs no resizing.
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = ((frames[0] / 255 - mean) / deviation).transpose(2, 0, 1)[None].astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(pixels)).predicted_depth[0].numpy()
    assert expected.std() > 1e-2
    assert np.abs(found - expected).max() <= 1e-2 * expected.std()


def test_single_image_becomes_a_scene(models: Path, tmp_path: Path) -> None:
    write_png(tmp_path / "still.png", clip(1)[0])
    arguments = ["recon", "--input_video", str(tmp_path / "still.png"), "--cam", "30"]
    output = ["--output_dir", str(tmp_path / "out"), "--estimator", "depth-anything"]
    assert main([*arguments, *output]) == 0
    scene = Scene(tmp_path / "out" / "scene")
    assert len(scene) == 1
    assert scene.document.depth.source == "depth-anything"
    assert scene.depth(0).std() > 0.01


def test_models_commands_know_it(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ["models", "--folder", str(tmp_path / "other")]
    assert main([*other, "download", "depth-anything", "--mirror", str(models)]) == 0
    assert main([*other, "list", "depth-anything"]) == 0
    assert main([*other, "check", "depth-anything"]) == 0
    assert "ok  depth-anything: " in capsys.readouterr().out


def test_wrong_files_are_refused(models: Path) -> None:
    path, config = models / FOLDER / "model.safetensors", models / FOLDER / "config.json"
    whole = path.read_bytes()

    def code() -> str:
        with pytest.raises(InputError) as caught:
            create_estimator("depth-anything").estimate(clip(1), task=Task())
        return caught.value.code

    path.write_bytes(whole[:5000])
    assert code() == "checkpoint_damaged"
    path.write_bytes(whole)
    fields = json.loads(config.read_text())
    for change in ({"fusion_hidden_size": 32}, {"head_hidden_size": 4}):
        config.write_text(json.dumps({**fields, **change}))
        assert code() == "checkpoint_keys"
    backbone = {**fields["backbone_config"], "num_hidden_layers": 5}
    config.write_text(json.dumps({**fields, "backbone_config": backbone}))
    assert code() == "checkpoint_keys"
    config.write_text(json.dumps({**fields, "backbone": "some/other", "backbone_config": None}))
    assert code() == "checkpoint_damaged"
    config.unlink()
    with pytest.raises(InputError) as caught:
        create_estimator("depth-anything")
    assert caught.value.code == "model_missing"


def test_larger_variant_is_refused(models: Path) -> None:
    written(models, width=768)
    with pytest.raises(InputError) as caught:
        create_estimator("depth-anything").check_files()
    assert caught.value.code == "checkpoint_size"
