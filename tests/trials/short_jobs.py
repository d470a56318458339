"""Many short jobs over one connection: neither memory nor descriptors nor folders grow."""

import time
from pathlib import Path

import psutil
from ex4d_server.keys import FolderKeys
from raw_client import RawClient, file_ref, random_bytes, render_job
from server_process import ServerProcess, make_key_pair

FULL = 1100
SHORT = 60
#: Before the first measure, so that what is made once is there.
_WARM_UP = 20
_GROWTH_BYTES = 24 << 20


def run(folder: Path, count: int) -> dict[str, float]:
    """Run so many jobs, one after another.

    Args:
        folder: An empty one.
        count: How many.
    """
    with ServerProcess(folder / "data", "--fake-frame-s", "0") as server:
        pair = make_key_pair()
        FolderKeys(server.data).authorise("anna", pair.public_key)
        process = psutil.Process(server.pid)
        with RawClient(server, pair) as client:
            client.hello()
            content = random_bytes(1000)
            client.upload([content])
            job = render_job([file_ref("scene.json", content)], frame_count=1)
            for _ in range(_WARM_UP):
                client.wait_for_end(client.submit(job))
            before = _held(process)
            started_s = time.monotonic()
            for _ in range(count):
                event = client.wait_for_end(client.submit(job))
                assert event.state == "done", event
                client.unread.clear()
            seconds = time.monotonic() - started_s
            time.sleep(0.2)
            after = _held(process)
        assert not list((server.data / "work").iterdir())
        assert "internal_error" not in server.log_text()
    assert after[0] - before[0] < _GROWTH_BYTES
    assert after[1:] <= before[1:]
    return {
        "jobs": count,
        "jobs/s": count / seconds,
        "memory growth, MiB": (after[0] - before[0]) / 2**20,
        "descriptors more": after[1] - before[1],
        "threads more": after[2] - before[2],
    }


def _held(process: psutil.Process) -> tuple[int, int, int]:
    """Bytes of memory, descriptors and threads."""
    return process.memory_info().rss, process.num_fds(), process.num_threads()
