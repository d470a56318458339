"""Files of the model that are refused, and LoRAs."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_tests import GOLDEN_MODELS, needs_engine

needs_engine()

import torch
from safetensors.torch import load_file, save_file

from ex4d.diffusion.wan import adapter, loading
from ex4d.diffusion.wan.files import ModelFiles, find_models
from ex4d.errors import InputError
from ex4d.weights.checkpoints import tensor_shapes, tensors, write_safetensors

CPU = torch.device("cpu")
Values = dict[str, torch.Tensor]


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    """A model of its own, which the test may damage."""
    shutil.copytree(GOLDEN_MODELS, tmp_path / "models")
    return find_models(tmp_path / "models")


def load(files: ModelFiles, loras: tuple[str, ...] = ()) -> loading.WanModels:
    return loading.load_models(files, device=CPU, dtype=torch.float32, loras=loras)


def refusal(action: Callable[[], object]) -> InputError:
    with pytest.raises(InputError) as caught:
        action()
    return caught.value


def change_ckpt(path: Path, change: Callable[[Values], None]) -> None:
    values = torch.load(path, weights_only=True)
    change(values)
    torch.save(values, path)


def change_shard(path: Path, change: Callable[[Values], None]) -> None:
    values = load_file(path)
    change(values)
    save_file(values, path)


def last_name(values: Values) -> str:
    """A tensor that is needed and that does not tell how large the model is."""
    return [name for name in values if not name.startswith("textual.")][-1]


def add_unknown(values: Values) -> None:
    values["stray.weight"] = torch.zeros(3, 5)


def take_away(values: Values) -> None:
    del values[last_name(values)]


def reshape(values: Values) -> None:
    values[last_name(values)] = torch.zeros(7, 9)


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["dit", "adapter", "vae", "image_encoder", "text_encoder"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_checkpoint_cut_short(files: ModelFiles, part: str, kept: float) -> None:
    path = files.dit[2] if part == "dit" else getattr(files, part)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])

    def action() -> object:
        if part == "text_encoder":
            return loading.load_text_encoder(path, device=CPU, dtype=torch.float32)
        return load(files)

    error = refusal(action)
    assert error.code == "checkpoint_damaged"
    assert path.name in error.message
    assert "cut short" in error.message


def test_pickled_code_is_never_run(files: ModelFiles, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "attacked",)  # type: ignore[return-value]

    assert files.adapter is not None
    torch.save({"weights": Attack()}, files.adapter)
    assert refusal(lambda: load(files)).code == "checkpoint_damaged"
    assert not (tmp_path / "attacked").exists()


def test_something_else_than_tensors(files: ModelFiles) -> None:
    assert files.adapter is not None
    torch.save({"epoch": 3}, files.adapter)
    assert refusal(lambda: load(files)).code == "checkpoint_damaged"


@pytest.mark.parametrize("content", ["", "{}", '{"num_heads": "many", "eps": 1e-6}', "[1]"])
def test_damaged_config(files: ModelFiles, content: str) -> None:
    files.config.write_text(content)
    error = refusal(lambda: load(files))
    assert (error.code, "config.json" in error.message) == ("checkpoint_damaged", True)


# --- wrong keys ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (add_unknown, "1 unknown: stray.weight [3, 5]"),
        (take_away, "1 missing: "),
        (reshape, "1 misshaped: "),
    ],
    ids=["unknown", "missing", "misshaped"],
)
@pytest.mark.parametrize("part", ["dit", "adapter", "vae", "text_encoder", "image_encoder"])
def test_wrong_keys(
    files: ModelFiles, part: str, change: Callable[[Values], None], words: str
) -> None:
    path = files.dit[0] if part == "dit" else getattr(files, part)
    (change_shard if part == "dit" else change_ckpt)(path, change)
    error = refusal(
        lambda: (load(files), loading.load_text_encoder(path, device=CPU, dtype=torch.float32))
    )
    assert error.code == "checkpoint_keys"
    assert words in error.message
    assert path.name in error.message


def test_adapter_without_its_camera(files: ModelFiles) -> None:
    assert files.adapter is not None

    def change(values: Values) -> None:
        for name in [name for name in values if name.startswith("latent_")]:
            del values[name]

    change_ckpt(files.adapter, change)
    assert "8 missing: latent_encoder.0.bias" in refusal(lambda: load(files)).message


def test_adapter_of_a_deeper_model(files: ModelFiles) -> None:
    assert files.adapter is not None

    def change(values: Values) -> None:
        for name in [name for name in values if name.startswith("blocks.2.")]:
            values[name.replace("blocks.2.", "blocks.3.")] = values[name]

    change_ckpt(files.adapter, change)
    assert "20 unknown: blocks.3.cross_attn.k.lora_A" in refusal(lambda: load(files)).message


# --- LoRAs ---------------------------------------------------------------------------------------


def register(files: ModelFiles, name: str, values: Values) -> None:
    files.loras.mkdir(exist_ok=True)
    save_file(values, files.loras / f"{name}.safetensors")


def factors(rank: int = 4, width: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(rank, width, generator=generator),
        torch.randn(width, rank, generator=generator),
    )


@pytest.mark.parametrize(
    ("prefix", "down_name", "up_name"),
    [
        ("", "lora_A.default.weight", "lora_B.default.weight"),
        ("diffusion_model.", "lora_A.weight", "lora_B.weight"),
        ("diffusion_model.", "lora_down.weight", "lora_up.weight"),
    ],
)
@pytest.mark.parametrize("alpha", [None, 2.0])
def test_lora_is_added(
    files: ModelFiles, prefix: str, down_name: str, up_name: str, alpha: float | None
) -> None:
    down, up = factors()
    layer = f"{prefix}blocks.1.cross_attn.k_img"
    values = {f"{layer}.{down_name}": down, f"{layer}.{up_name}": up}
    if alpha is not None:
        values[f"{layer}.alpha"] = torch.tensor(alpha)
    register(files, "style", values)
    before = load(files).dit.blocks[1].cross_attn.k_img.weight
    after = load(files, ("style",)).dit.blocks[1].cross_attn.k_img.weight
    scale = 1.0 if alpha is None else alpha / 4
    torch.testing.assert_close(after - before, scale * up @ down, rtol=0, atol=1e-5)


def test_two_loras_add_up(files: ModelFiles) -> None:
    down, up = factors()
    layer = "blocks.0.ffn.0"
    wide_up = torch.cat([up, up])
    for name in ("one", "two"):
        register(files, name, {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": wide_up})
    plain, once, twice = (
        load(files, loras).dit.blocks[0].ffn[0].weight for loras in ((), ("one",), ("one", "two"))
    )
    torch.testing.assert_close(twice - once, once - plain, rtol=0, atol=1e-5)
    assert (once - plain).abs().max() > 0.1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {
                "blocks.30.ffn.0.lora_A.weight": torch.zeros(4, 96),
                "blocks.30.ffn.0.lora_B.weight": torch.zeros(192, 4),
            },
            "blocks.30.ffn.0, which this model does not have",
        ),
        (
            {
                "blocks.0.self_attn.q.lora_A.weight": torch.zeros(4, 5120),
                "blocks.0.self_attn.q.lora_B.weight": torch.zeros(5120, 4),
            },
            "factors [5120, 4] and [4, 5120] for a layer of [96, 96]",
        ),
        ({"blocks.0.self_attn.q.lora_A.weight": torch.zeros(4, 96)}, "only down of"),
        ({"transformer_blocks.0.attn.weight": torch.zeros(4)}, "unknown transformer_blocks.0"),
        (
            {
                "patch_embedding.lora_A.weight": torch.zeros(4, 36),
                "patch_embedding.lora_B.weight": torch.zeros(96, 4),
            },
            "no linear layer",
        ),
        ({}, "no LoRA tensors"),
    ],
    ids=["deeper", "wider", "half", "other", "convolution", "empty"],
)
def test_lora_of_another_model(files: ModelFiles, values: Values, words: str) -> None:
    register(files, "other", values)
    error = refusal(lambda: load(files, ("other",)))
    assert error.code == "lora_invalid"
    assert words in error.message


def test_lora_cut_short(files: ModelFiles) -> None:
    register(files, "style", {"blocks.0.ffn.0.lora_A.weight": torch.zeros(4, 96)})
    path = files.loras / "style.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal(lambda: load(files, ("style",))).code == "checkpoint_damaged"


def test_lora_that_meets_no_weight(files: ModelFiles) -> None:
    """A LoRA is never left out without a word."""
    stray = {"blocks.9.ffn.0.weight": adapter.LowRank(*factors(), scale=1.0)}
    error = refusal(lambda: loading.load_dit(files, [stray], device=CPU, dtype=torch.float32))
    assert (error.code, "blocks.9.ffn.0.weight" in error.message) == ("lora_not_fused", True)


# --- reading and writing -------------------------------------------------------------------------


def test_each_tensor_is_read_once(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(path: Path, *, is_for_card: bool = False) -> object:
        for name, value in tensors(path, is_for_card=is_for_card):
            read.append(f"{path.name} {name}")
            yield name, value

    monkeypatch.setattr(loading, "tensors", counted)
    load(files)
    assert len(read) == len(set(read))
    assert len(read) > 200


def test_written_file_reads_back(tmp_path: Path) -> None:
    values = {
        "a": torch.randn(3, 5),
        "b": torch.randn(7).bfloat16(),
        "c": torch.tensor(2.0),
        "d": torch.zeros(0, 4),
    }
    layout = {name: (tuple(value.shape), value.dtype) for name, value in values.items()}
    path = tmp_path / "values.safetensors"
    write_safetensors(path, layout, reversed(values.items()), {"format": "pt"})
    found = load_file(path)
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    assert tensor_shapes(path) == {name: shape for name, (shape, _) in layout.items()}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 9]}}, "contradicts itself"),
        ({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, "contradicts itself"),
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, "ends before a"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "longer than"),
        ({"a": {"dtype": "F7", "shape": [2], "data_offsets": [0, 8]}}, "nothing that is known"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "nothing that is known"),
        ({"a": 3}, "nothing that is known"),
        ([], "its header is none"),
    ],
)
def test_headers_that_lie(tmp_path: Path, header: object, reason: str) -> None:
    path = tmp_path / "lie.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    error = refusal(lambda: tensor_shapes(path))
    assert error.code == "checkpoint_damaged"
    assert reason in error.message
    assert refusal(lambda: dict(tensors(path))).code == "checkpoint_damaged"


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 64, struct.pack("<Q", 60) + b"{"])
def test_headers_that_are_cut(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content)
    assert "its header is cut off" in refusal(lambda: tensor_shapes(path)).message


def test_larger_tensors_are_read_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ex4d.weights.checkpoints._SLICE_BYTES", 1000)
    values = {"a": torch.randn(57, 91), "b": torch.randn(3), "c": torch.randn(2000).bfloat16()}
    path = tmp_path / "values.safetensors"
    save_file(values, path)
    found = dict(tensors(path))
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert torch.equal(found[name], value)


def test_file_without_tensors(tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    save_file({}, path)
    assert dict(tensors(path)) == tensor_shapes(path) == {}
