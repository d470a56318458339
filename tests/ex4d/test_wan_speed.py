"""What makes the DiT fast, on the processor: the same numbers as diffsynth's own modules."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from engine_tests import needs_engine

needs_engine()

import torch
from diffsynth.models import wan_video_dit
from torch import Tensor, nn

from ex4d.bench import generate
from ex4d.diffusion.wan import modes
from ex4d.diffusion.wan.attention import available_attention, choose_attention
from ex4d.diffusion.wan.blocks import (
    Residual,
    attend_to_context,
    attend_to_itself,
    project_context,
    step_tensors,
)
from ex4d.diffusion.wan.denoise import Step, rotary_table
from ex4d.diffusion.wan.fp8 import Fp8Linear, check_card
from ex4d.diffusion.wan.fused import normalise_heads, quantise_rows
from ex4d.diffusion.wan.latent_preview import LatentPreview
from ex4d.diffusion.wan.rotary import real_table
from ex4d.diffusion.wan.streaming import StreamedBlocks
from ex4d.errors import InputError

CPU = torch.device("cpu")
GRID = (3, 4, 5)
TOKENS = 60
DIM, HEADS = 96, 4


def tiny_dit(layers: int = 3) -> nn.Module:
    torch.manual_seed(0)
    dit = wan_video_dit.WanModel(
        dim=DIM,
        in_dim=36,
        ffn_dim=192,
        out_dim=16,
        text_dim=32,
        freq_dim=256,
        eps=1e-6,
        patch_size=(1, 2, 2),
        num_heads=HEADS,
        num_layers=layers,
        has_image_input=True,
    )
    for parameter in dit.parameters():
        nn.init.normal_(parameter, std=0.1)
    return dit.eval().requires_grad_(requires_grad=False)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, embedded context, modulation."""
    torch.manual_seed(1)
    return torch.randn(1, TOKENS, DIM), torch.randn(1, 257 + 20, DIM), torch.randn(1, 6, DIM)


def complex_table(head_size: int) -> Tensor:
    """diffsynth's own table of complex numbers."""
    dit = nn.Module()
    dit.freqs = wan_video_dit.precompute_freqs_cis_3d(head_size)
    return rotary_table(dit, *GRID)


def run_diffsynth(dit: nn.Module) -> Tensor:
    tokens, context, modulation = inputs()
    for block in dit.blocks:
        tokens = block(tokens, context, modulation, complex_table(DIM // HEADS))
    return tokens


def after_blocks(
    prepared: modes.PreparedDit, *arguments: Any, before_block: Callable[[], None] = lambda: None
) -> list[Tensor]:
    """The branches after the last block."""
    *_, residuals = prepared.run_blocks(*arguments, before_block=before_block)
    return [residual.tokens() for residual in residuals]


def run_prepared(prepared: modes.PreparedDit) -> Tensor:
    tokens, context, modulation = inputs()
    contexts = [prepared.project_context(context)]
    table = complex_table(DIM // HEADS)
    return after_blocks(prepared, [tokens], contexts, modulation, table)[0]


@pytest.mark.parametrize("head_size", [24, 32, 128])
def test_rotary_equals_the_complex_one(head_size: int) -> None:
    values = torch.randn(TOKENS, 3 * head_size)
    table = complex_table(head_size)
    norm = wan_video_dit.RMSNorm(3 * head_size, eps=1e-6)
    nn.init.normal_(norm.weight)
    theirs = wan_video_dit.rope_apply(norm(values[None]), table, 3)[0]
    ours = normalise_heads(values, norm.weight, norm.eps, real_table(table))
    assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()


def test_blocks_equal_diffsynths() -> None:
    dit = tiny_dit()
    expected = run_diffsynth(dit)
    prepared = modes.prepare(dit, "exact", CPU, tokens=TOKENS)
    assert (run_prepared(prepared) - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_tokens_may_be_a_view_of_the_patches() -> None:
    """Patches have their channels outermost, tokens innermost: a view must not be misread."""
    prepared = modes.prepare(tiny_dit(), "exact", CPU, tokens=TOKENS)
    tokens, context, modulation = inputs()
    view = tokens.transpose(1, 2).contiguous().transpose(1, 2)
    assert not view.is_contiguous()
    contexts = [prepared.project_context(context)]
    found = after_blocks(prepared, [view], contexts, modulation, complex_table(DIM // HEADS))[0]
    assert torch.equal(found, run_prepared(prepared))


def test_both_branches_are_independent() -> None:
    prepared = modes.prepare(tiny_dit(), "exact", CPU, tokens=TOKENS)
    tokens, context, modulation = inputs()
    table = complex_table(DIM // HEADS)
    contexts = [prepared.project_context(context), prepared.project_context(-context)]
    together = after_blocks(prepared, [tokens, tokens], contexts, modulation, table)
    for branch in range(2):
        alone = after_blocks(prepared, [tokens], contexts[branch : branch + 1], modulation, table)[
            0
        ]
        assert torch.equal(together[branch], alone)
    assert not torch.allclose(together[0], together[1])
    # Where they are not one tensor, nothing is shared, and nothing differs.
    apart = after_blocks(prepared, [tokens, tokens.clone()], contexts, modulation, table)
    assert all(torch.equal(one, other) for one, other in zip(together, apart, strict=True))


def test_before_block_can_cancel_between_blocks() -> None:
    prepared = modes.prepare(tiny_dit(), "exact", CPU, tokens=TOKENS, memory_cap_bytes=10 << 30)
    tokens, context, modulation = inputs()
    contexts = [prepared.project_context(context)]
    table = complex_table(DIM // HEADS)
    calls = []

    def cancel() -> None:
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        after_blocks(prepared, [tokens], contexts, modulation, table, before_block=cancel)
    again = after_blocks(prepared, [tokens], contexts, modulation, table)[0]
    assert torch.equal(again, run_prepared(prepared))


# --- attention ---


def test_attention_on_the_processor_is_torchs() -> None:
    assert available_attention(CPU, torch.float32) == ["torch"]
    chosen = choose_attention(CPU, torch.float32)
    assert (chosen.name, chosen.is_exact) == ("torch", True)


def test_attention_obeys_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EX4D_ATTENTION", "flash3")
    with pytest.raises(InputError, match="flash3") as caught:
        choose_attention(CPU, torch.float32)
    assert caught.value.code == "attention_unavailable"
    # An argument goes first.
    assert choose_attention(CPU, torch.float32, "torch").name == "torch"


# --- fp8 ---


def test_quantised_rows_are_close_whatever_their_size() -> None:
    torch.manual_seed(2)
    values = torch.randn(64, 512) * torch.logspace(-6, 6, 64)[:, None]
    quantised, scale = quantise_rows(values)
    errors = (quantised.float() * scale - values).norm(dim=1) / values.norm(dim=1)
    assert quantised.dtype == torch.float8_e4m3fn
    # Three bits after the leading one: 2.5 % of a value as a rule, never all of it.
    assert errors.max() < 0.04
    # A scale for the whole tensor loses the small rows.
    one_scale = values.abs().max() / 448
    coarse = (values / one_scale).to(torch.float8_e4m3fn).float() * one_scale
    assert ((coarse - values).norm(dim=1) / values.norm(dim=1)).max() > 0.5


def test_rows_of_zeros_stay_zeros() -> None:
    quantised, scale = quantise_rows(torch.zeros(2, 16))
    assert torch.equal(quantised.float() * scale, torch.zeros(2, 16))


def test_an_fp8_layer_holds_a_close_weight_in_a_quarter_of_the_memory() -> None:
    linear = nn.Linear(256, 128)
    layer = Fp8Linear(linear)
    weight = layer.weight.float() * layer.weight_scale
    assert (weight - linear.weight).norm() / linear.weight.norm() < 0.04
    assert layer.weight.nbytes * 4 == linear.weight.nbytes


def test_fp8_is_refused_where_the_card_has_none() -> None:
    with pytest.raises(InputError, match=r"expected a CUDA card.*found a cpu device"):
        check_card(CPU)
    with pytest.raises(InputError) as caught:
        modes.prepare(tiny_dit(), "fast", CPU, tokens=TOKENS)
    assert caught.value.code == "fp8_unsupported"


# --- streaming ---


@pytest.mark.parametrize("fitting", [0, 3, 4, 6, 7])
def test_streamed_blocks_are_bit_equal_to_resident_ones(fitting: int) -> None:
    """One code for both devices: without CUDA its copies happen in order."""
    layers = 7
    expected = run_prepared(modes.prepare(tiny_dit(layers), "exact", CPU, tokens=TOKENS))
    dit = tiny_dit(layers)
    attention = choose_attention(CPU, torch.float32)
    tokens, context, modulation = inputs()
    contexts = [project_context(block, context) for block in dit.blocks]
    table = complex_table(DIM // HEADS)
    block_bytes = StreamedBlocks(dit.blocks, CPU, 0, tensors_of=step_tensors).block_bytes
    streamed = StreamedBlocks(dit.blocks, CPU, fitting * block_bytes, tensors_of=step_tensors)
    assert len(streamed.streamed) == {0: 7, 3: 6, 4: 5, 6: 3, 7: 0}[fitting]

    def run() -> Tensor:
        residual = Residual(tokens)
        for block, heads in zip(streamed, contexts, strict=True):
            attend_to_itself(block, residual, modulation, real_table(table), attention)
            attend_to_context(block, residual, heads, modulation, attention)
        return residual.tokens()

    for _ in range(3):
        assert torch.equal(run(), expected)
    streamed.park()
    assert torch.equal(run(), expected)


def test_a_streamed_block_leaves_when_the_next_is_asked_for() -> None:
    """Otherwise a passing test would show nothing: the weights must really come and go."""
    dit = tiny_dit(5)
    original = copy.deepcopy(dit.blocks)
    streamed = StreamedBlocks(dit.blocks, CPU, 0)
    seen: list[Tensor] = []
    for index, block in enumerate(streamed):
        weight = block.ffn[0].weight
        assert torch.equal(weight, original[index].ffn[0].weight)
        seen.append(weight.data)
    # Two buffers: the first block's has held three more blocks since.
    assert seen[0].data_ptr() == seen[2].data_ptr() == seen[4].data_ptr()
    assert torch.equal(dit.blocks[0].ffn[0].weight, original[0].ffn[0].weight)


def test_a_broken_off_iteration_starts_again_from_the_first_block() -> None:
    dit = tiny_dit(5)
    original = copy.deepcopy(dit.blocks)
    streamed = StreamedBlocks(dit.blocks, CPU, 0)
    for index, _ in enumerate(streamed):
        if index == 2:
            break
    for index, block in enumerate(streamed):
        assert torch.equal(block.ffn[2].weight, original[index].ffn[2].weight)


def test_a_cap_too_small_for_any_streaming_is_refused() -> None:
    with pytest.raises(InputError, match="expected at least") as caught:
        modes.prepare(tiny_dit(), "exact", CPU, tokens=TOKENS, memory_cap_bytes=1 << 20)
    assert caught.value.code == "memory_cap"


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        modes.prepare(tiny_dit(), "quick", CPU, tokens=TOKENS)
    assert caught.value.code == "mode_unknown"


# --- preview of latents ---


def test_the_map_to_colours_is_found_where_there_is_one() -> None:
    """An encoder that is linear in colours is undone by the map, on frames it never saw."""
    torch.manual_seed(3)
    mixing = torch.randn(16, 3)

    def encode(clip: Tensor) -> Tensor:
        small = nn.functional.avg_pool3d(clip, (1, 8, 8))
        first, rest = small[:, :, :1], small[:, :, 1:].unflatten(2, (-1, 4)).mean(3)
        colors = torch.cat([first, rest], dim=2)
        return torch.einsum("kc,bcfyx->bkfyx", mixing, colors) + 0.3

    preview = LatentPreview.fit(encode, CPU)
    clip = torch.rand(1, 3, 5, 64, 48) * 2 - 1
    frames = preview.frames(encode(clip))
    assert frames.shape == (2, 8, 6, 3)
    first = (nn.functional.avg_pool2d(clip[0, :, 0], 8).permute(1, 2, 0) + 1) * 127.5
    assert (torch.from_numpy(frames[0]).float() - first).abs().max() <= 2.0


def test_denoised_is_the_end_of_a_straight_line() -> None:
    clean, noise = torch.randn(4), torch.randn(4)
    level = 0.7
    latents = (1 - level) * clean + level * noise
    assert torch.allclose(Step(1, latents, noise - clean, level).denoised(), clean, atol=1e-6)


# --- benchmark ---


def test_the_benchmark_runs_end_to_end_on_a_small_model(capsys) -> None:
    architecture = generate.Architecture(
        dim=96,
        ffn_dim=192,
        heads=4,
        layers=3,
        text_dim=32,
        camera_dim=16,
        vae_dim=8,
        clip={"dim": 64, "num_heads": 4, "num_layers": 2},
    )
    plan = generate.Plan(48, 32, 5, steps=2, preview=True)
    rates = generate.Rates(1e12, None, 1e12, 1e10)
    measured = generate.measure_take(architecture, plan, "exact", CPU)
    capped = generate.measure_take(
        architecture, dataclasses.replace(plan, cap_bytes=8 << 30, preview=False), "exact", CPU
    )
    assert torch.equal(capped.latents, measured.latents)
    assert measured.latents.shape == (1, 16, 2, 4, 6)
    assert measured.latents.isfinite().all()
    generate.print_take(architecture, plan, "exact", rates, measured)
    assert "take of 2 steps" in capsys.readouterr().out


def test_operations_of_the_real_model() -> None:
    """Counted by hand: 318 TFLOP in linear layers, 149 in attention."""
    linear, attention = generate.forward_operations(generate.Architecture(), 13_312)
    assert linear == pytest.approx(318.3e12, rel=1e-3)
    assert attention == pytest.approx(149.5e12, rel=1e-3)
