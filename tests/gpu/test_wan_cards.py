"""What only a CUDA card can show of the fast DiT: kernels, 8-bit layers, streaming, attention."""

import pytest
from engine_tests import needs_engine

needs_engine()

import torch
from diffsynth.models import wan_video_dit
from torch import Tensor, nn

from ex4d.bench import generate
from ex4d.diffusion.wan import denoise, fused, modes, two_cards
from ex4d.diffusion.wan.attention import available_attention, choose_attention
from ex4d.diffusion.wan.blocks import step_tensors
from ex4d.diffusion.wan.conditioning import ModelInputs
from ex4d.diffusion.wan.denoise import rotary_table
from ex4d.diffusion.wan.fp8 import Fp8Linear, quantise_block
from ex4d.diffusion.wan.rotary import real_table

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")
GRID = (3, 8, 10)
TOKENS, DIM, HEADS = 240, 512, 4
SMALL = generate.Architecture(
    dim=DIM,
    ffn_dim=1024,
    heads=HEADS,
    layers=3,
    text_dim=64,
    camera_dim=64,
    vae_dim=16,
    clip={"dim": 64, "num_heads": 4, "num_layers": 2},
)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator(CUDA).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=CUDA).to(dtype)


def both_ways(monkeypatch: pytest.MonkeyPatch, call) -> tuple:
    """What a function of `fused` gives by Triton and by PyTorch."""
    by_triton = call()
    monkeypatch.setattr(fused, "_has_triton", lambda: False)
    return by_triton, call()


def assert_rows_alike(found: fused.QuantisedRows, expected: fused.QuantisedRows) -> None:
    assert torch.allclose(found.scale, expected.scale, rtol=1e-5)
    values, wanted = found.values.float() * found.scale, expected.values.float() * expected.scale
    # The order of sums may turn a rounding to one of e4m3's neighbours, an eighth away at most.
    different = (values - wanted).abs() > 1e-5 * wanted.abs() + 1e-7
    assert different.float().mean() < 0.002
    assert ((values - wanted).norm() / wanted.norm()) < 2e-3


@pytest.mark.parametrize("columns", [512, 5120, 13824])
@pytest.mark.parametrize("activated", [False, True])
def test_quantised_rows(monkeypatch, columns: int, activated: bool) -> None:
    values = normal(70, columns, dtype=torch.bfloat16)
    found, expected = both_ways(
        monkeypatch, lambda: fused.quantise_rows(values, activated=activated)
    )
    assert_rows_alike(found, expected)


@pytest.mark.parametrize("columns", [96, 5120])
@pytest.mark.parametrize("case", ["no update", "update", "gated"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, fused.FP8], ids=str)
def test_add_and_normalise(monkeypatch, columns: int, case: str, dtype: torch.dtype) -> None:
    update = None if case == "no update" else normal(70, columns, dtype=torch.bfloat16, seed=1)
    gate = normal(columns, seed=2) if case == "gated" else None
    streams = []

    def call():
        tokens = 5 * normal(70, columns) + 3
        streams.append(tokens)
        weight, bias = normal(columns, seed=3), normal(columns, seed=4)
        return fused.add_and_normalise(
            tokens, update, gate, weight, bias, epsilon=1e-6, dtype=dtype
        )

    found, expected = both_ways(monkeypatch, call)
    assert torch.allclose(streams[0], streams[1], rtol=1e-6, atol=1e-6)
    if dtype is fused.FP8:
        assert_rows_alike(found, expected)
    else:
        limit = 1e-5 if dtype is torch.float32 else 1e-2
        assert torch.allclose(found.float(), expected.float(), rtol=limit, atol=limit)


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_normalised_heads(monkeypatch, dtype: torch.dtype, turned: bool) -> None:
    values, weight = normal(TOKENS, 5120, dtype=dtype), normal(5120, dtype=dtype, seed=1)
    holder = nn.Module()
    holder.freqs = wan_video_dit.precompute_freqs_cis_3d(128)
    table = real_table(rotary_table(holder, *GRID)).to(CUDA) if turned else None
    found, expected = both_ways(
        monkeypatch, lambda: fused.normalise_heads(values, weight, 1e-6, table)
    )
    limit = 1e-5 if dtype is torch.float32 else 2e-2
    assert torch.allclose(found.float(), expected.float(), rtol=limit, atol=limit)


@pytest.mark.parametrize("text_tokens", [1, 54, 220, 512])
@pytest.mark.parametrize("head_size", [64, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_attention_to_the_context(
    monkeypatch, dtype: torch.dtype, head_size: int, text_tokens: int
) -> None:
    query = normal(TOKENS, 3, head_size, dtype=dtype)
    heads = [
        normal(tokens, 3, head_size, dtype=dtype, seed=seed)
        for seed, tokens in enumerate((text_tokens, text_tokens, 257, 257), 1)
    ]
    context = fused.ContextHeads(*heads, 513 - text_tokens)
    plain = choose_attention(CUDA, torch.float32, "torch")
    by_triton = fused.attend_to_context(query, context, plain)
    wide = fused.ContextHeads(*(tensor.float() for tensor in heads), context.last_text_count)
    expected = fused.attend_to_context(query.float(), wide, plain)
    error = (by_triton.float() - expected).norm() / expected.norm()
    monkeypatch.setattr(fused, "_has_triton", lambda: False)
    by_torch = fused.attend_to_context(query, context, plain)
    torch_error = (by_torch.float() - expected).norm() / expected.norm()
    print(f"{text_tokens} tokens: error {float(error):.5f}, by PyTorch {float(torch_error):.5f}")
    assert error < 0.004
    assert error < 1.1 * torch_error


def test_an_fp8_layer_is_close_to_the_layer() -> None:
    linear = nn.Linear(1024, 512, device=CUDA, dtype=torch.bfloat16).requires_grad_(False)
    values = normal(256, 1024, dtype=torch.bfloat16)
    expected = nn.functional.linear(values.float(), linear.weight.float(), linear.bias.float())
    error = (Fp8Linear(linear)(values).float() - expected).norm() / expected.norm()
    print(f"fp8 layer: error {float(error):.4f}")
    assert error < 0.05


@pytest.mark.parametrize("keys", [240, 257, 512])
def test_every_attention_agrees_with_float32(keys: int) -> None:
    query = normal(1, TOKENS, 8, 128, dtype=torch.bfloat16)
    key, value = (normal(1, keys, 8, 128, dtype=torch.bfloat16, seed=seed) for seed in (1, 2))
    wide = choose_attention(CUDA, torch.float32, "torch")
    expected = wide(query.float(), key.float(), value.float())
    names = available_attention(CUDA, torch.bfloat16)
    assert names
    for name in names:
        attention = choose_attention(CUDA, torch.bfloat16, name)
        error = (attention(query, key, value).float() - expected).norm() / expected.norm()
        print(f"{name}: error {float(error):.4f}")
        assert error < (0.01 if attention.is_exact else 0.1)


def random_dit_in(mode: modes.Mode, *arguments) -> nn.Module:
    """The same in a mode's types."""
    dit = random_dit(*arguments)
    if modes.quantises(mode, CUDA):
        for block in dit.blocks:
            quantise_block(block.to(CUDA))
    return dit


def random_dit(layers: int, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    torch.manual_seed(0)
    dit = wan_video_dit.WanModel(
        dim=DIM, in_dim=36, ffn_dim=1024, out_dim=16, text_dim=32, freq_dim=256, eps=1e-6,
        patch_size=(1, 2, 2), num_heads=HEADS, num_layers=layers, has_image_input=True,
    )  # fmt: skip
    for name, parameter in dit.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif "norm" in name and name.endswith("weight"):
            nn.init.ones_(parameter)
    return dit.eval().requires_grad_(requires_grad=False).to(dtype)


def run(prepared: modes.PreparedDit, dit: nn.Module) -> Tensor:
    context = normal(1, 257 + 512, DIM, dtype=torch.bfloat16, seed=1)
    table = rotary_table(dit, *GRID).to(CUDA)
    contexts = [prepared.project_context(context), prepared.project_context(-context)]
    modulation = 0.3 * normal(1, 6, DIM, seed=2)
    # As they come: a view of the patches.
    tokens = normal(1, DIM, TOKENS).transpose(1, 2)
    *_, residuals = prepared.run_blocks([tokens, tokens], contexts, modulation, table)
    return torch.cat([residual.tokens() for residual in residuals])


@pytest.mark.parametrize("mode", modes.MODES)
def test_streamed_blocks_are_bit_equal_to_resident_ones(mode: modes.Mode, monkeypatch) -> None:
    plain = random_dit_in(mode, 9)
    expected = run(modes.prepare(plain, mode, CUDA, tokens=TOKENS), plain)
    # Room for blocks alone: about half of them stay.
    monkeypatch.setattr(modes, "_needed_beside_blocks", lambda *_: 0)
    dit = random_dit_in(mode, 9)
    block_bytes = sum(tensor.nbytes for tensor in step_tensors(plain.blocks[0]))
    capped = modes.prepare(dit, mode, CUDA, tokens=TOKENS, memory_cap_bytes=int(6.5 * block_bytes))
    assert 3 <= len(capped._steps.streamed) <= 6
    for _ in range(3):
        assert torch.equal(run(capped, dit), expected)
    capped.park()
    assert torch.equal(run(capped, dit), expected)
    capped.close()


def test_modes_are_close_to_float32() -> None:
    wide = random_dit(4, torch.float32)
    expected = run(modes.prepare(wide, "exact", CUDA, tokens=TOKENS, attention="torch"), wide)
    for mode, limit in (("exact", 0.01), ("fast", 0.06)):
        dit = random_dit_in(mode, 4)
        error = (run(modes.prepare(dit, mode, CUDA, tokens=TOKENS), dit) - expected).norm()
        print(f"{mode}: error {float(error / expected.norm()):.4f}")
        assert error / expected.norm() < limit


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two cards")
@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_two_cards_give_the_bytes_of_one(mode: modes.Mode) -> None:
    plan = generate.Plan(width_px=64, height_px=48, frame_count=9, steps=2)
    models = generate.build_models(SMALL, plan, mode, CUDA)
    random = torch.Generator().manual_seed(0)
    inputs = ModelInputs(
        torch.randn(1, 20, 3, 6, 8, generator=random).to(CUDA),
        torch.randn(1, 257, SMALL.clip["dim"], generator=random).to(CUDA),
        torch.randn(1, SMALL.dim, 3, 3, 4, generator=random).to(CUDA),
    )
    embeddings = [torch.randn(n, SMALL.text_dim, generator=random) for n in (5, 9)]
    noise = torch.randn(1, 16, 3, 6, 8, generator=random)

    def take() -> Tensor:
        guidance = denoise.embed_guidance(models, embeddings, inputs.image_tokens, 5.0)
        return denoise.denoise(models, noise, inputs, guidance, steps=2)

    with torch.no_grad():
        expected = take()
        two_cards.use_second_card(models, plan.tokens)
        assert models.second is not None
        assert next(models.second.dit.parameters()).device == torch.device("cuda", 1)
        assert torch.equal(take(), expected)
