"""The time of a take is told from measured ones of its kind and about its size, or not at all."""

import pytest
from message_examples import CLIENT_EXAMPLES

from ex4d.protocol.documents import Ex4dSettings, PreviewSettings
from ex4d.protocol.messages import TakeTime
from ex4d.protocol.take_time import expected_s, kind_of, measured, work_of


@pytest.mark.parametrize(
    ("settings", "kind", "steps"),
    [
        (PreviewSettings(), "preview", 1),
        (Ex4dSettings(), "ex4d exact guided", 25),
        (Ex4dSettings(mode="draft", steps=4, guidance=1.0), "ex4d draft", 4),
    ],
    ids=["preview", "guided", "unguided"],
)
def test_work_is_pixels_times_steps(settings, kind: str, steps: int) -> None:
    assert kind_of(settings) == kind
    assert work_of(settings, 512, 256, 49) == 512 * 256 * 49 * steps


def test_measured_take_tells_its_own_time() -> None:
    job = CLIENT_EXAMPLES["job_submit generate"].job
    time = measured(job.settings, job.trajectory, 12.5)
    assert expected_s([time], time.kind, time.work) == 12.5


def test_nearest_of_the_kind_is_scaled_and_nothing_is_made_up() -> None:
    times = [
        TakeTime(kind="ex4d exact", work=1000, time_s=100.0),
        TakeTime(kind="ex4d fast", work=1000, time_s=60.0),
        TakeTime(kind="ex4d exact", work=8000, time_s=1600.0),
    ]
    assert expected_s(times, "ex4d exact", 2000) == 200.0
    assert expected_s(times, "ex4d exact", 4000) == 800.0
    assert expected_s(times, "ex4d fast", 500) == 30.0
    assert expected_s(times, "preview", 1000) is None
    assert expected_s(times, "ex4d fast", 4001) is None, "too far from what was measured"
    assert expected_s(times, "ex4d fast", 249) is None
    assert expected_s([], "preview", 1) is None
