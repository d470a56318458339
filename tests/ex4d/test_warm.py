"""Models that stay loaded between jobs."""

import time

import pytest

from ex4d.diffusion.warm import WarmModels
from ex4d.errors import CancelledError


class Loader:
    """Counts what is loaded."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def run(self, warm: WarmModels, key: str) -> object:
        with warm.borrow(key, lambda: self._load(key)) as models:
            return models

    def _load(self, key: str) -> list[str]:
        self.loaded.append(key)
        return [key]


def test_the_same_models_are_loaded_once() -> None:
    loader, warm = Loader(), WarmModels()
    assert loader.run(warm, "a") is loader.run(warm, "a")
    assert loader.run(warm, "b") == ["b"]
    loader.run(warm, "a")
    assert loader.loaded == ["a", "b", "a"]
    warm.free()
    assert not warm.is_loaded


def test_kept_for_a_while() -> None:
    loader, warm = Loader(), WarmModels(idle_s=0.2)
    loader.run(warm, "a")
    time.sleep(0.1)
    loader.run(warm, "a")
    assert loader.loaded == ["a"]
    deadline_s = time.monotonic() + 5
    while warm.is_loaded and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not warm.is_loaded
    loader.run(warm, "a")
    assert loader.loaded == ["a", "a"]
    warm.free()


def test_a_job_longer_than_the_time_out_keeps_its_models() -> None:
    loader, warm = Loader(), WarmModels(idle_s=0.05)
    loader.run(warm, "a")
    with warm.borrow("a", lambda: pytest.fail("loaded again")):
        time.sleep(0.2)
        assert warm.is_loaded
    warm.free()


def test_not_kept_at_all() -> None:
    warm = WarmModels(idle_s=0)
    Loader().run(warm, "a")
    assert not warm.is_loaded


@pytest.mark.parametrize(
    ("error", "kept"), [(CancelledError(), True), (ZeroDivisionError(), False)]
)
def test_after_a_failure(error: Exception, kept: bool) -> None:
    warm = WarmModels()
    with pytest.raises(type(error)), warm.borrow("a", lambda: ["a"]):
        raise error
    assert warm.is_loaded == kept
    warm.free()


def test_failed_loading_leaves_nothing() -> None:
    loader, warm = Loader(), WarmModels()
    loader.run(warm, "a")
    with pytest.raises(ZeroDivisionError), warm.borrow("b", lambda: 1 // 0):
        pass
    assert not warm.is_loaded
    loader.run(warm, "b")
    warm.free()
