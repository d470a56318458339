"""How long a take should take, from takes that were measured on the same server."""

import math
from collections.abc import Iterable

from .documents import EngineSettings, Ex4dSettings, TrajectoryDocument
from .messages import TakeTime

#: How many times as large or as small a take may be as one that was measured. Attention grows
#: faster than the number of pixels, and loading does not grow at all: beyond this nothing is said.
MAX_RATIO = 4.0


def kind_of(settings: EngineSettings) -> str:
    """What must be the same for two takes to go equally fast: the engine, its mode, guidance.

    On two cards guidance costs no time, on one it doubles the work.
    """
    engine = str(settings.__struct_config__.tag)
    if not isinstance(settings, Ex4dSettings):
        return engine
    return f"{engine} {settings.mode}" + (" guided" if settings.guidance > 1.0 else "")


def work_of(settings: EngineSettings, width_px: int, height_px: int, frame_count: int) -> int:
    """What a take of a kind has to compute: its pixels, times the steps of the model."""
    passes = 1
    if isinstance(settings, Ex4dSettings):
        passes = settings.steps
    return width_px * height_px * frame_count * passes


def measured(settings: EngineSettings, trajectory: TrajectoryDocument, time_s: float) -> TakeTime:
    """Note how long a take took.

    Args:
        settings: Of the take.
        trajectory: Of the take.
        time_s: Measured.
    """
    frame_count = len(trajectory.poses)
    work = work_of(settings, trajectory.width_px, trajectory.height_px, frame_count)
    return TakeTime(kind=kind_of(settings), work=work, time_s=time_s)


def expected_s(times: Iterable[TakeTime], kind: str, work: int) -> float | None:
    """How long a take should take, in proportion to the measured one nearest in size.

    Args:
        times: Measured on the server, the newest first.
        kind: `kind_of` the take's settings.
        work: `work_of` the take.

    Returns:
        Seconds; None where no take of the kind and about the size was measured.
    """
    alike = [time for time in times if time.kind == kind]
    if not alike:
        return None
    nearest = min(alike, key=lambda time: abs(math.log(time.work / work)))
    ratio = work / nearest.work
    return nearest.time_s * ratio if 1 / MAX_RATIO <= ratio <= MAX_RATIO else None
