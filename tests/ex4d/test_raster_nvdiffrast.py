"""What of the CUDA rasteriser a processor can show: how results come back from the card."""

from types import SimpleNamespace
from typing import Any

import pytest
from engine_tests import needs_engine

needs_engine()

import torch

from ex4d.raster.nvdiffrast import NvdiffrastRasteriser


def test_results_are_copies_that_later_frames_leave_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty

    def unpinned(*arguments: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        return empty(*arguments, **options)

    stream = SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(torch, "empty", unpinned)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    rasteriser = object.__new__(NvdiffrastRasteriser)
    rasteriser._torch, rasteriser._device = torch, torch.device("cpu")
    rasteriser._landing = empty(0, dtype=torch.uint8)
    frames = []
    # Sizes that are no multiples of anything.
    for height_px, width_px in ((25, 33), (7, 5), (25, 33)):
        color = torch.randint(0, 256, (height_px, width_px, 3), dtype=torch.uint8)
        mask, depth = torch.rand(height_px, width_px) > 0.5, torch.rand(height_px, width_px)
        frames.append(((color, mask, depth), rasteriser._to_host(color, mask, depth)))
    for tensors, arrays in frames:
        for tensor, array in zip(tensors, arrays, strict=True):
            assert torch.equal(torch.from_numpy(array), tensor)
