"""What only a CUDA card can show of DepthCrafter: its kernels against what they stand for."""

import pytest
from engine_tests import needs_estimators

needs_estimators()

import torch
from torch import Tensor, nn

from ex4d.depth.depthcrafter import group_norm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")
TYPES = [torch.float32, torch.float16]


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator(CUDA).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=CUDA).to(dtype)


def made_norm(channels: int, dtype: torch.dtype) -> nn.GroupNorm:
    norm = nn.GroupNorm(32, channels, eps=1e-5, device=CUDA, dtype=dtype)
    norm.weight.data, norm.bias.data = normal(channels, seed=3), normal(channels, seed=4)
    return norm.to(dtype).requires_grad_(requires_grad=False)


def exact(frames: Tensor, norm: nn.GroupNorm, monkeypatch, **options) -> Tensor:
    """The same in float64, by PyTorch."""
    shift = options.pop("shift", None)
    wide = nn.GroupNorm(norm.num_groups, norm.num_channels, norm.eps, device=CUDA).double()
    wide.weight.data, wide.bias.data = norm.weight.double(), norm.bias.double()
    monkeypatch.setattr(group_norm, "_has_triton", lambda: False)
    if shift is not None:
        shift = shift.double()
    return group_norm.normalise(frames.double(), wide, shift=shift, **options)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(5, 64, 96, 80), (3, 320, 7, 9), (2, 32, 3, 1)], ids=str)
@pytest.mark.parametrize("over_frames", [False, True])
@pytest.mark.parametrize("shifts", [0, 1, None])
def test_group_norm(monkeypatch, dtype, shape, over_frames: bool, shifts: int | None) -> None:
    # A mean far from zero must not cost digits.
    frames = (3 * normal(*shape) + 20).to(dtype)
    norm = made_norm(shape[1], dtype)
    options = {"over_frames": over_frames, "margin": 1}
    if shifts != 0:
        options["shift"] = normal(shifts or shape[0], shape[1], seed=1).to(dtype)
    found = group_norm.normalise(frames, norm, **options)
    assert found.dtype == dtype
    assert torch.equal(group_norm.normalise(frames, norm, **options), found)
    expected = exact(frames, norm, monkeypatch, **options)
    limit = 2e-5 if dtype is torch.float32 else 1e-2
    assert (found.double() - expected).abs().max() <= limit
    assert not found[0].any()
    assert not found[-1].any()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(5, 64, 96, 80), (3, 320, 7, 9)], ids=str)
@pytest.mark.parametrize("shared", [False, True])
def test_sum_at_the_end_of_a_block(dtype, shape, shared: bool) -> None:
    frames, update = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)
    bias = normal(shape[1], dtype=dtype, seed=2)
    share = torch.full((1,), 0.3, device=CUDA) if shared else None
    expected = frames.double() + (0.3 if shared else 1) * (update + bias[:, None, None]).double()
    found = group_norm.add_update(frames, update, bias, share)
    limit = 2e-6 if dtype is torch.float32 else 5e-3
    assert (found.double() - expected).abs().max() <= limit
