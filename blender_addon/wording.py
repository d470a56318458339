# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress in words, the same in every place that shows it."""

import bpy

from ._vendor.client import JobPhase, RemoteJob
from .jobs import Job, Stage

_PHASES = {
    JobPhase.HASHING: "Reading files",
    JobPhase.UPLOADING: "Sending",
    JobPhase.SUBMITTING: "Submitting",
    JobPhase.QUEUED: "Queued",
    JobPhase.RUNNING: "Working",
    JobPhase.CANCELLING: "Cancelling",
    JobPhase.DOWNLOADING: "Fetching",
    # Until the next tick notes it; a job that the server has not heard of is cancelled at once.
    JobPhase.DONE: "Done",
    JobPhase.FAILED: "Failed",
    JobPhase.CANCELLED: "Cancelled",
}
_STAGES = {
    Stage.WAITING: "Waiting for the connection",
    Stage.ACTIVE: "Starting",
    Stage.ARRIVED: "Importing",
    Stage.DONE: "Done",
    Stage.FAILED: "Failed",
    Stage.CANCELLED: "Cancelled",
}


def job_text(job: Job) -> str:
    """What a job is doing and how long it will still take."""
    if job.stage is not Stage.ACTIVE or job.remote is None:
        return _STAGES[job.stage]
    text = _phase_text(job.remote)
    if job.remote.eta_s is not None:
        return f"{text} · {duration_text(job.remote.eta_s)} left"
    return text


def _phase_text(remote: RemoteJob) -> str:
    if remote.phase is JobPhase.RUNNING and remote.stage:
        return remote.stage.capitalize()
    if remote.phase in (JobPhase.UPLOADING, JobPhase.DOWNLOADING) and remote.bytes_total:
        moved, total = remote.bytes_moved / 1e6, remote.bytes_total / 1e6
        return f"{_PHASES[remote.phase]} {moved:.0f} of {total:.0f} MB"
    return _PHASES[remote.phase]


def duration_text(duration_s: float) -> str:
    """Round a duration to what a waiting person wants to know."""
    if duration_s < 90:
        return f"{max(1, round(duration_s))} s"
    if duration_s < 90 * 60:
        return f"{round(duration_s / 60)} min"
    return f"{round(duration_s / 3600)} h"


def wrapped(text: str, width: int = 36) -> list[str]:
    """Break a text into lines that fit a sidebar, since Blender's labels do not wrap."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            if line and len(line) + 1 + len(word) > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}".strip()
        lines.append(line)
    return lines


def draw_text(layout: bpy.types.UILayout, text: str, icon: str = "NONE") -> None:
    """Draw a text over several lines, the icon before the first; nothing if it is empty."""
    if text:
        column = layout.column(align=True)
        for index, line in enumerate(wrapped(text)):
            column.label(text=line, icon="NONE" if index else icon)
