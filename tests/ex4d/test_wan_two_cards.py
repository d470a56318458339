"""Guidance on two cards: a copy of the transformer, the same numbers, and when it is made.

Both "cards" are the processor here; `tests/gpu` does it on real ones.
"""

from pathlib import Path
from typing import Any

import pytest
from engine_tests import GOLDEN_MODELS, needs_engine

needs_engine()

import torch

from ex4d.diffusion.wan import denoise, two_cards
from ex4d.diffusion.wan.conditioning import ModelInputs
from ex4d.diffusion.wan.files import find_models
from ex4d.diffusion.wan.loading import WanModels, load_models
from ex4d.diffusion.wan.streaming import all_tensors

CPU = torch.device("cpu")
FRAMES, ROWS, COLUMNS = 3, 6, 8


@pytest.fixture(name="models")
def _models(tmp_path: Path) -> WanModels:
    return load_models(find_models(GOLDEN_MODELS), device=CPU, dtype=torch.float32)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def take(models: WanModels, **options: Any) -> torch.Tensor:
    """Latents of a tiny take with guidance."""
    dim = models.dit.dim
    inputs = ModelInputs(
        normal(1, 20, FRAMES, ROWS, COLUMNS, seed=0),
        normal(1, 257, models.dit.img_emb.proj[1].in_features, seed=1),
        normal(1, dim, FRAMES, ROWS // 2, COLUMNS // 2, seed=2),
    )
    embeddings = [normal(5, models.dit.text_embedding[0].in_features, seed=s) for s in (3, 4)]
    guidance = denoise.embed_guidance(models, embeddings, inputs.image_tokens, 5.0)
    noise = normal(1, 16, FRAMES, ROWS, COLUMNS, seed=5)
    with torch.no_grad():
        return denoise.denoise(models, noise, inputs, guidance, steps=2, **options)


def test_same_numbers_from_a_copy_that_shares_nothing(models: WanModels) -> None:
    expected = take(models)
    second = two_cards.copy_transformer(models, CPU)
    own = {tensor.data_ptr() for tensor in all_tensors(models.dit)}
    assert not own & {tensor.data_ptr() for tensor in all_tensors(second.dit)}
    models.second = second
    assert torch.equal(take(models), expected)
    # It is the copy that takes the negative branch.
    for tensor in all_tensors(second.dit.blocks):
        tensor.zero_()
    assert not torch.equal(take(models), expected)


def test_work_is_given_in_turns_and_can_be_cancelled(models: WanModels) -> None:
    models.second = two_cards.copy_transformer(models, CPU)
    order: list[str] = []
    for name, dit in (("first", models.dit), ("second", models.second.dit)):
        for block in dit.blocks:
            block.self_attn.q.register_forward_pre_hook(lambda *_, name=name: order.append(name))

    def cancel() -> None:
        if len(order) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take(models, before_block=cancel)
    assert order == ["first", "second", "first"]


class Cards:
    """Stands in for `torch.cuda` on a machine with cards of some gigabytes free."""

    def __init__(self, *free_gb: float, names: str = "HHH") -> None:
        self.free_gb, self.names = free_gb, names

    def device_count(self) -> int:
        return len(self.free_gb)

    def get_device_name(self, index: int) -> str:
        return self.names[index]

    def mem_get_info(self, index: int) -> tuple[int, int]:
        return int(self.free_gb[index] * 1e9), 80 << 30


ENOUGH_GB = 40.0


@pytest.mark.parametrize(
    ("cards", "found"),
    [
        (Cards(1), None),
        (Cards(1, ENOUGH_GB), 1),
        (Cards(1, ENOUGH_GB - 2), None),
        (Cards(1, ENOUGH_GB - 2, ENOUGH_GB), 2),
        (Cards(1, ENOUGH_GB, names="HA"), None),
    ],
    ids=["one", "two", "full", "third", "another"],
)
def test_second_card_must_have_room_and_be_alike(
    monkeypatch: pytest.MonkeyPatch, cards: Cards, found: int | None
) -> None:
    monkeypatch.setattr(two_cards.torch, "cuda", cards)
    expected = None if found is None else torch.device("cuda", found)
    assert two_cards._second_card(torch.device("cuda"), 39_000_000_000) == expected


def test_no_second_card_without_a_first(models: WanModels) -> None:
    two_cards.use_second_card(models, tokens=1)
    assert models.second is None
