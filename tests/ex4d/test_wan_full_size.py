"""The published model's own names and shapes, in files without values: nothing here is large."""

import json
import math
from pathlib import Path

import pytest
from engine_tests import needs_engine

needs_engine()

import torch

from ex4d.diffusion.wan import adapter, fp8, loading, memory
from ex4d.diffusion.wan import engine as engine_module
from ex4d.diffusion.wan.files import converted_layout, published_layout
from ex4d.errors import InputError
from ex4d.weights.checkpoints import Shape, write_safetensors

#: https://huggingface.co/Wan-AI/Wan2.1-I2V-14B-480P: config.json, and what it does not say.
CONFIG = {"dim": 5120, "num_heads": 40, "num_layers": 40, "ffn_dim": 13824, "eps": 1e-6}
TENSORS, NUMBERS = 1303, 16_394_878_784
LORA_LAYERS, LORA_NUMBERS = 400, 76_677_120
CAMERA_TENSORS, CAMERA_NUMBERS, CAMERA_HIDDEN = 8, 23_109_632, 1024


def numbers(shapes: dict[str, Shape]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())


@pytest.fixture(scope="module")
def dit_shapes() -> dict[str, Shape]:
    from diffsynth.models.wan_video_dit import WanModel

    with torch.device("meta"):
        model = WanModel(
            **CONFIG,
            in_dim=36,
            out_dim=16,
            text_dim=4096,
            freq_dim=256,
            patch_size=(1, 2, 2),
            has_image_input=True,
        )
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def write_holes(path: Path, shapes: dict[str, Shape]) -> None:
    """A file of the right length that takes next to no room on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    layout = {name: (shape, torch.bfloat16) for name, shape in shapes.items()}
    write_safetensors(path, layout, [], {"format": "pt"})


def test_transformer_is_built_from_shapes(dit_shapes: dict[str, Shape], tmp_path: Path) -> None:
    files = converted_layout(tmp_path)
    write_holes(files.dit[0], dit_shapes)
    files.config.write_text(json.dumps(CONFIG))
    found = loading.check_dit(files)
    assert (len(found), numbers(found)) == (TENSORS, NUMBERS)
    model = loading.build_dit(CONFIG, found)
    assert model.blocks[0].self_attn.head_dim == 128
    # Frames, rows and columns of a head's 64 pairs of channels.
    assert [table.shape[1] for table in model.freqs] == [22, 21, 21]


def test_adapter_of_the_published_size(dit_shapes: dict[str, Shape], tmp_path: Path) -> None:
    values: dict[str, torch.Tensor] = {}
    zero = torch.zeros(1)
    for block in range(40):
        for target in adapter.TARGETS:
            layer = f"blocks.{block}.{target}"
            out_dim, in_dim = dit_shapes[f"{layer}.weight"]
            # Expanded, so that the file holds one number of each.
            values[f"{layer}.lora_A.default.weight"] = zero.expand(16, in_dim)
            values[f"{layer}.lora_B.default.weight"] = zero.expand(out_dim, 16)
    lora = {name: tuple(value.shape) for name, value in values.items()}
    assert (len(lora), numbers(lora)) == (2 * LORA_LAYERS, LORA_NUMBERS)
    with torch.device("meta"):
        encoder = adapter.CameraEncoder(CAMERA_HIDDEN, CONFIG["dim"])
    camera = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    assert (len(camera), numbers(camera)) == (CAMERA_TENSORS, CAMERA_NUMBERS)
    values.update({name: zero.expand(shape) for name, shape in camera.items()})
    path = tmp_path / "ex4d.ckpt"
    torch.save(values, path)
    adapter.check_adapter(path, dit_shapes)
    assert len(adapter.read_adapter(path, dit_shapes).lora) == LORA_LAYERS


def test_machine_that_is_too_small(dit_shapes: dict[str, Shape], tmp_path: Path) -> None:
    files = converted_layout(tmp_path)
    write_holes(files.dit[0], dit_shapes)
    halves, floats = (
        engine_module._transformer(files, dtype) for dtype in (torch.bfloat16, torch.float32)
    )
    assert halves.block_count == memory.WAN_14B.block_count
    assert halves.weights_bytes == pytest.approx(memory.WAN_14B.weights_bytes, rel=0.01)
    where = {"is_quantised": False, "card_bytes": None, "main_bytes": 64 * 2.0**30}
    assert memory.plan(halves, 13_312, **where) is None
    with pytest.raises(InputError, match="expected about 68 GiB") as caught:
        memory.plan(floats, 13_312, **where)
    assert caught.value.code == "memory_too_small"


def test_quantised_weights_need_two_thirds(dit_shapes: dict[str, Shape]) -> None:
    shapes = fp8.quantised_shapes(dit_shapes)
    stored_bytes = sum(
        math.prod(shape) * loading.stored_type(name, torch.bfloat16, is_quantised=True).itemsize
        for name, shape in shapes.items()
    )
    share = stored_bytes / memory.WAN_14B.weights_bytes
    assert share == pytest.approx(memory.QUANTISED_SHARE, rel=0.01)
    # A card of 16 GiB, weights streamed, in a machine of 32.
    where = {"card_bytes": 16 * 2.0**30, "main_bytes": 32 * 2.0**30}
    cap_bytes = memory.plan(memory.WAN_14B, 13_312, is_quantised=True, **where)
    assert cap_bytes == int(0.95 * 16 * 2**30)
    with pytest.raises(InputError, match=r"expected about 31 GiB of main memory.*choose fast"):
        memory.plan(memory.WAN_14B, 13_312, is_quantised=False, **where)


def test_published_shards_are_seven(tmp_path: Path) -> None:
    names = [path.name for path in published_layout(tmp_path).dit]
    assert names[0] == "diffusion_pytorch_model-00001-of-00007.safetensors"
    assert len(set(names)) == 7
