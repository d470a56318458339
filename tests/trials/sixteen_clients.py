"""Sixteen clients at once, one of which asks for everything and never reads.

The fifteen get all that they came for, and the server's memory stays bounded.
"""

import threading
import time
from pathlib import Path

import psutil
from ex4d_server.keys import FolderKeys
from raw_client import RawClient, file_ref, new_id, random_bytes, render_job
from server_process import ServerProcess, make_key_pair

from ex4d.protocol.messages import BlobCredit, BlobFetch, JobSubmit

FULL = 64
SHORT = 8
#: Sixteen users' windows, half of which is seldom filled, and what libzmq queues for the stalled.
MEMORY_BOUND_BYTES = 512 << 20
_CLIENTS = 16


def run(folder: Path, megabytes: int) -> dict[str, float]:
    """Each client uploads, runs a job and downloads.

    Args:
        folder: An empty one.
        megabytes: What each uploads and downloads, in MiB.
    """
    with ServerProcess(folder / "data", "--fake-frame-s", "0") as server:
        process = psutil.Process(server.pid)
        before_bytes = process.memory_info().rss
        keys = [make_key_pair() for _ in range(_CLIENTS)]
        for number, pair in enumerate(keys):
            FolderKeys(server.data).authorise(f"user-{number}", pair.public_key)
        failures: list[BaseException] = []
        started_s = time.monotonic()
        with RawClient(server, keys[0]) as stalled:
            _stall(stalled, megabytes)

            def work(number: int) -> None:
                try:
                    with RawClient(server, keys[number]) as client:
                        _up_and_down(client, megabytes)
                except BaseException as error:
                    failures.append(error)

            threads = [threading.Thread(target=work, args=(n,)) for n in range(1, _CLIENTS)]
            for thread in threads:
                thread.start()
            peak_bytes = before_bytes
            while any(thread.is_alive() for thread in threads):
                peak_bytes = max(peak_bytes, process.memory_info().rss)
                time.sleep(0.02)
        seconds = time.monotonic() - started_s
        assert not failures, failures
        assert "internal_error" not in server.log_text()
    assert peak_bytes < MEMORY_BOUND_BYTES, f"{peak_bytes >> 20} MiB"
    moved = (_CLIENTS - 1) * 2 * megabytes
    return {
        "clients": _CLIENTS,
        "stalled": 1,
        "moved, MiB": moved,
        "MiB/s": moved / seconds,
        "memory at rest, MiB": before_bytes / 2**20,
        "peak memory, MiB": peak_bytes / 2**20,
    }


def _stall(client: RawClient, megabytes: int) -> None:
    """Ask for far too much, and read no more."""
    client.hello()
    content = random_bytes(megabytes << 20)
    client.upload([content], chunk_bytes=1 << 20)
    file = file_ref("scene.json", content)
    for _ in range(50):
        client.send(BlobFetch(request_id=new_id(), sha256=file.sha256, offset_bytes=0))
        client.send(BlobCredit(grant_bytes=1 << 40))
    for _ in range(20):
        client.send(JobSubmit(request_id=new_id(), job=render_job([file], frame_count=10)))


def _up_and_down(client: RawClient, megabytes: int) -> None:
    client.hello()
    content = random_bytes(megabytes << 20)
    client.upload([content], chunk_bytes=1 << 20)
    file = file_ref("scene.json", content)
    event = client.wait_for_end(client.submit(render_job([file])), timeout_s=60)
    assert event.state == "done", event
    assert client.fetch(file) == content
