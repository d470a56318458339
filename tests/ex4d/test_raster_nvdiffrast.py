"""What of the CUDA rasteriser a processor can show: how results come back from the card."""

from types import SimpleNamespace
from typing import Any

import pytest
from engine_tests import needs_engine

needs_engine()

import torch

from ex4d.raster.nvdiffrast import NvdiffrastRasteriser, _parts, _sizes_bytes


def test_parts_follow_each_other_in_one_piece_of_memory() -> None:
    # Sizes that are no multiples of anything.
    size = (25, 33)
    layout = ((torch.float32, size), (torch.uint8, (*size, 3)), (torch.bool, size))
    memory = torch.zeros(sum(_sizes_bytes(layout)), dtype=torch.uint8)
    assert memory.nbytes == 25 * 33 * 8
    depth, color, mask = _parts(memory, layout)
    assert [(part.dtype, tuple(part.shape)) for part in (depth, color, mask)] == list(layout)
    depth[-1, -1], color[0, 0, 0], mask[0, 0] = 1.5, 7, True
    assert memory.count_nonzero() == 4
    assert memory[25 * 33 * 4] == 7
    assert memory[25 * 33 * 7] == 1


def test_results_are_copies_that_later_frames_leave_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    reused = torch.empty(25 * 33 * 8, dtype=torch.uint8)

    def empty(shape: Any, **options: Any) -> torch.Tensor:
        """As PyTorch does, hand out the same pinned memory for every frame."""
        assert options == {"dtype": torch.uint8, "pin_memory": True}
        return reused[: shape[0]]

    stream = SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    rasteriser = object.__new__(NvdiffrastRasteriser)
    rasteriser._torch, rasteriser._device = torch, torch.device("cpu")
    frames = []
    for size in ((25, 33), (7, 5), (25, 33)):
        layout = ((torch.float32, size), (torch.uint8, (*size, 3)), (torch.bool, size))
        card = torch.randint(0, 2, (sum(_sizes_bytes(layout)),), dtype=torch.uint8)
        frames.append((_parts(card, layout), rasteriser._to_host(card, layout)))
    for tensors, arrays in frames:
        for tensor, array in zip(tensors, arrays, strict=True):
            assert torch.equal(torch.from_numpy(array), tensor)
