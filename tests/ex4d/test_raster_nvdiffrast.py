"""What of the CUDA rasteriser a processor can show: how results share a piece of memory."""

from engine_tests import needs_engine

needs_engine()

import torch

from ex4d.raster.nvdiffrast import _parts, _sizes_bytes


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
