"""Whether a take fits into a card, whole or with streamed weights. No torch: doctor asks too."""

import math
import os
from dataclasses import dataclass

from ex4d.errors import InputError

#: What a forward takes beside the transformer's weights: for each token, and in all, with the
#: autoencoder and CLIP. Measured with `ex4d bench generate`.
BYTES_PER_TOKEN = 200_000
OVERHEAD_BYTES = 4 << 30
#: Of a card's memory and of the machine's, what the engine may take.
_CARD_SHARE = 0.95
_MAIN_SHARE = 0.8
#: Of the transformer's bytes once its large layers are in 8 bits: a quarter of the weights, which
#: make keys and values of the context, once a take, stay in 16.
QUANTISED_SHARE = 0.65
_SMALLER = "choose fast, a smaller size or a larger machine"
#: Blocks of the transformer on the card at once, at least.
_LEAST_BLOCKS = 2


@dataclass(frozen=True)
class Transformer:
    """What counts of it.

    Attributes:
        weights_bytes: All of them, before any are quantised.
        block_count: Of its blocks, which hold nearly all.
    """

    weights_bytes: int
    block_count: int


#: Wan2.1-I2V-14B in bfloat16.
WAN_14B = Transformer(2 * 16_394_878_784, 40)


def plan(
    transformer: Transformer,
    tokens: int,
    *,
    is_quantised: bool,
    card_bytes: float | None,
    main_bytes: float,
) -> int | None:
    """How much of the card a take may have; None where everything fits.

    Args:
        transformer: The model's.
        tokens: Of the video.
        is_quantised: Whether its layers are in 8 bits when they compute.
        card_bytes: Of the card; None where the processor computes.
        main_bytes: Of the machine.

    Raises:
        InputError: `memory_too_small`.
    """
    weights_bytes = transformer.weights_bytes
    if is_quantised:
        weights_bytes = int(QUANTISED_SHARE * weights_bytes)
    beside_bytes = tokens * BYTES_PER_TOKEN + OVERHEAD_BYTES
    usable_main_bytes = _MAIN_SHARE * main_bytes
    if card_bytes is None:
        where = "in this machine, which has no CUDA card"
        _check_room(where, weights_bytes + beside_bytes, usable_main_bytes)
        return None
    usable_bytes = _CARD_SHARE * card_bytes
    if weights_bytes + beside_bytes <= usable_bytes:
        return None
    least_bytes = beside_bytes + _LEAST_BLOCKS * weights_bytes / transformer.block_count
    _check_room("on the card", least_bytes, usable_bytes)
    where = "of main memory, from which the weights are fetched,"
    _check_room(where, weights_bytes, usable_main_bytes)
    return int(usable_bytes)


def main_memory_bytes() -> float:
    """Of this machine; infinite where the system does not say."""
    if not hasattr(os, "sysconf"):
        return math.inf
    return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")


def _check_room(where: str, needed_bytes: float, usable_bytes: float) -> None:
    """Refuse a take that cannot fit.

    Raises:
        InputError: `memory_too_small`.
    """
    if needed_bytes > usable_bytes:
        msg = (
            f"expected about {needed_bytes / 2**30:.0f} GiB {where} for this take, found "
            f"{usable_bytes / 2**30:.0f} that may be used; {_SMALLER}"
        )
        raise InputError("memory_too_small", msg)
