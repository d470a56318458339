"""Sizes and lengths that the model takes."""

import pytest

from ex4d import trained


@pytest.mark.parametrize(
    ("clip", "size"),
    [
        ((512, 512), (512, 512)),
        ((1920, 1080), (688, 384)),
        ((1080, 1920), (384, 688)),
        ((720, 576), (576, 464)),
        ((64, 48), (592, 448)),
        ((10_000, 10), (16_192, 16)),
    ],
    ids=str,
)
def test_size_keeps_the_aspect_at_the_trained_pixel_count(
    clip: tuple[int, int], size: tuple[int, int]
) -> None:
    found = trained.fitting_size_px(*clip)
    assert found == size
    assert not any(side % trained.SIDE_STEP_PX for side in found)
    if max(clip) < 4 * min(clip):
        assert found[0] / found[1] == pytest.approx(clip[0] / clip[1], rel=0.03)
        assert found[0] * found[1] == pytest.approx(trained.SIDE_PX**2, rel=0.04)


def test_tokens_as_trained() -> None:
    assert trained.TOKENS == 13_312


@pytest.mark.parametrize(
    ("wanted", "count"), [(1, 1), (4, 1), (5, 5), (48, 45), (49, 49), (80, 77), (81, 81), (500, 81)]
)
def test_frames_are_4k_plus_1(wanted: int, count: int) -> None:
    assert trained.fitting_frame_count(wanted) == count
