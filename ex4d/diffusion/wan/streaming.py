# pyright: reportMissingImports=false
"""Weights that do not fit on the card: kept in main memory, fetched block by block just in time.

Some blocks stay on the card, as many as a limit allows; the others share a few buffers there. While
one block computes, a second stream copies the weights of the next streamed one. Resident and
streamed blocks alternate as evenly as they can, which gives each copy the longest time to finish.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from weakref import finalize

import torch
from torch import Tensor, nn

#: Two let one be filled while the other is in use.
_BUFFER_COUNT = 2
#: Every tensor begins at a multiple of this in a buffer: enough for any kernel.
_ALIGNMENT_BYTES = 256


class ResidentBlocks:
    """Blocks that all stay on the card: the same interface as `StreamedBlocks`."""

    def __init__(self, blocks: Iterable[nn.Module], device: torch.device) -> None:
        self._blocks = [block.to(device) for block in blocks]

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self._blocks)

    def park(self) -> None:
        """Nothing: they stay."""

    def close(self) -> None:
        """Nothing: no memory is pinned."""


def all_tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return list(chain(module.parameters(), module.buffers()))


class PackedBlock:
    """The tensors of one block, side by side in one buffer of main memory.

    Args:
        block: What they belong to.
        tensors: They become views of the packed memory.
        pinned: Register the memory with CUDA, so that copies from it run beside computation.
    """

    def __init__(self, block: nn.Module, tensors: list[Tensor], *, pinned: bool) -> None:
        self.block = block
        self._tensors = tensors
        self._offsets: list[int] = []
        size_bytes = 0
        for tensor in self._tensors:
            self._offsets.append(size_bytes)
            size_bytes += -(-tensor.nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        self.host = torch.empty(size_bytes, dtype=torch.uint8)
        self._unpin = None
        if pinned:
            # Pinned allocations are rounded up to a power of two; registered ones are not.
            _check_cuda(torch.cuda.cudart().cudaHostRegister(self.host.data_ptr(), size_bytes, 0))
            # Also when nobody closes it: memory must not be freed while CUDA knows it.
            self._unpin = finalize(self, _unpin, self.host)
        sources = [tensor.detach() for tensor in self._tensors]
        self.point_to(self.host)
        for tensor, source in zip(self._tensors, sources, strict=True):
            tensor.copy_(source)

    def point_to(self, memory: Tensor) -> None:
        """Make the block's tensors views of a buffer that holds its bytes.

        Args:
            memory: (bytes,) uint8, as long as `host` or longer.
        """
        for tensor, offset in zip(self._tensors, self._offsets, strict=True):
            part = memory[offset : offset + tensor.nbytes]
            tensor.data = part.view(tensor.dtype).view(tensor.shape)

    def close(self) -> None:
        """Give the registration back."""
        if self._unpin is not None:
            self._unpin()


def _unpin(memory: Tensor) -> None:
    _check_cuda(torch.cuda.cudart().cudaHostUnregister(memory.data_ptr()))


def _check_cuda(status: int) -> None:
    if int(status) != 0:
        msg = f"CUDA could not pin main memory (error {int(status)}); free some, or raise the limit"
        raise MemoryError(msg)


class StreamedBlocks:
    """Iterates over blocks whose weights are on the card while each is in use.

    Args:
        blocks: Of one shape each; they keep their weights in main memory from now on.
        device: Where they compute. Without CUDA everything happens in order.
        limit_bytes: For resident blocks and buffers together; the buffers are always made.
        tensors_of: Which tensors of a block to look after.
        buffer_count: Buffers that the streamed blocks share.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        device: torch.device,
        limit_bytes: int,
        *,
        tensors_of: Callable[[nn.Module], list[Tensor]] = all_tensors,
        buffer_count: int = _BUFFER_COUNT,
    ) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        pinned = self._copies is not None
        self._packed = [PackedBlock(block, tensors_of(block), pinned=pinned) for block in blocks]
        self.block_bytes = self._packed[0].host.nbytes
        count = len(self._packed)
        self.streamed = _spread(count, limit_bytes // self.block_bytes, buffer_count)
        self._buffer_count = buffer_count if self.streamed else 0
        self._resident: dict[int, Tensor] = {}
        self._free: list[Tensor] = []
        #: Copies under way or finished, in the order in which they will be used.
        self._fetched: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()
        self._next = 0
        self._is_parked = True

    @property
    def smallest_bytes(self) -> int:
        """The least that the blocks need on the card: the buffers."""
        return self.block_bytes * min(_BUFFER_COUNT, len(self._packed))

    def park(self) -> None:
        """Free all memory on the card, for a stage that needs it; the next use brings it back."""
        if self._copies is not None:
            torch.cuda.synchronize(self._device)
        for index in self._resident:
            self._packed[index].point_to(self._packed[index].host)
        self._resident.clear()
        self._fetched.clear()
        self._free.clear()
        self._is_parked = True
        if self._copies is not None:
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Unpin the main memory; the blocks are on the CPU afterwards."""
        self.park()
        for packed in self._packed:
            packed.close()

    def __iter__(self) -> Iterator[nn.Module]:
        """Yield every block in order, its weights on the card until the next is asked for."""
        self._restore()
        for index, packed in enumerate(self._packed):
            if index in self._resident:
                yield packed.block
                continue
            buffer = self._take(index)
            packed.point_to(buffer)
            try:
                yield packed.block
            finally:
                packed.point_to(packed.host)
                self._free.append(buffer)
                self._fetch()

    def _restore(self) -> None:
        if not self._is_parked:
            return
        self._is_parked = False
        self._free = [
            torch.empty(self.block_bytes, dtype=torch.uint8, device=self._device)
            for _ in range(self._buffer_count)
        ]
        for index in sorted(set(range(len(self._packed))) - set(self.streamed)):
            packed = self._packed[index]
            self._resident[index] = packed.host.to(self._device, non_blocking=True, copy=True)
            packed.point_to(self._resident[index])

    def _take(self, index: int) -> Tensor:
        """The buffer with a block's weights, once they have arrived."""
        # After an iteration that was broken off, other blocks' weights may lie ready.
        while self._fetched and self._fetched[0][0] != index:
            self._free.append(self._fetched.popleft()[1])
        if not self._fetched:
            self._next = self.streamed.index(index)
            self._fetch()
        _, buffer, arrived = self._fetched.popleft()
        if arrived is not None:
            torch.cuda.current_stream(self._device).wait_event(arrived)
        return buffer

    def _fetch(self) -> None:
        """Start copies into all free buffers, the next forward pass's first blocks included."""
        while self._free:
            index = self.streamed[self._next]
            self._next = (self._next + 1) % len(self.streamed)
            buffer = self._free.pop()
            arrived = None
            if self._copies is None:
                buffer.copy_(self._packed[index].host)
            else:
                # What was queued so far may still read from the buffer.
                self._copies.wait_stream(torch.cuda.current_stream(self._device))
                with torch.cuda.stream(self._copies):
                    buffer.copy_(self._packed[index].host, non_blocking=True)
                    arrived = torch.cuda.Event()
                    arrived.record(self._copies)
            self._fetched.append((index, buffer, arrived))


def _spread(count: int, fitting: int, buffer_count: int) -> list[int]:
    """Which blocks to stream, spread evenly; none where all fit, buffers not being needed then."""
    if fitting >= count:
        return []
    streamed = count - max(0, fitting - buffer_count)
    # A block is streamed where the running share passes a whole number.
    return [i for i in range(count) if (i + 1) * streamed // count > i * streamed // count]
