"""What a worker process is made to do in tests; the job's focal length says what."""

import os
import time
from pathlib import Path

from ex4d.errors import InputError
from ex4d.protocol.messages import JobRequest, RenderJob
from ex4d.task import Task

FINISH, FAIL, CRASH, SLEEP, DEAF, BUG, CHATTER = (float(code) for code in range(1, 8))


def run_test_job(request: JobRequest, inputs: Path, output: Path, task: Task) -> None:
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
    task.step("writing", 1, 1)
    output.mkdir()
    (output / "pid.txt").write_text(str(os.getpid()))
