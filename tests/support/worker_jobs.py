"""What a worker process is made to do in tests; the job's focal length says what."""

import os
import signal
import time
from pathlib import Path

import msgspec
import numpy as np

from ex4d.errors import InputError
from ex4d.protocol.messages import JobRequest, RenderJob
from ex4d.task import Task

FINISH, FAIL, CRASH, SLEEP, DEAF, BUG, CHATTER, SHOW, SHOW_WRONG, SHOW_TOO_MUCH, HUNGRY, STOPPED = (
    float(code) for code in range(1, 13)
)
#: What SHOW shows: so many previews, each of one level, which is its number.
PREVIEWS = 50
PREVIEW_SHAPE = (13, 64, 64, 3)


def run_test_job(  # noqa: C901 - one short case for each
    request: JobRequest, inputs: Path, output: Path, task: Task
) -> None:
    assert isinstance(request, RenderJob)
    match request.trajectory.poses[0].fx_px:
        case 2.0:
            raise InputError("depth_size", "expected another size")
        case 3.0:
            os.kill(os.getpid(), 9)
        case 4.0:
            for step in range(1000):
                task.step("sleeping", step, 1000)
                time.sleep(0.02)
        case 5.0:
            time.sleep(60)
        case 6.0:
            raise ZeroDivisionError
        case 7.0:
            print("a library that prints")
        case 8.0:
            for level in range(PREVIEWS):
                task.show(np.full(PREVIEW_SHAPE, level, np.uint8))
        case 9.0:
            _send_preview(task, width_px=64, height_px=64, frame_count=2)
            time.sleep(60)
        case 10.0:
            _send_preview(task, width_px=8192, height_px=8192, frame_count=1)
            time.sleep(60)
        case what if what >= HUNGRY:
            _fall_silent(what)
    task.step("writing", 1, 1)
    output.mkdir()
    (output / "pid.txt").write_text(str(os.getpid()))


def _fall_silent(what: float) -> None:
    """Run out of memory, or stop."""
    import resource

    if what == STOPPED:
        os.kill(os.getpid(), signal.SIGSTOP)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, hard))
    np.ones(8 << 30, np.uint8)


def _send_preview(task: Task, *, width_px: int, height_px: int, frame_count: int) -> None:
    """Send what no worker would of itself: too few pixels for the size, or too many for a pipe."""
    show = task._show
    assert show is not None
    (connection,) = (
        cell.cell_contents
        for cell in show.__closure__ or ()
        if hasattr(cell.cell_contents, "send_bytes")
    )
    pixels = "AAAA" * min(width_px * height_px, 4 << 20)
    plain = {
        "type": "preview",
        "preview": {
            "width_px": width_px,
            "height_px": height_px,
            "frame_count": frame_count,
            "pixels": pixels,
        },
    }
    connection.send_bytes(msgspec.json.encode(plain))
