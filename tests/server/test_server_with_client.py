"""The server and the real client together."""

import hashlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from raw_client import random_bytes, render_job
from server_process import ServerProcess, make_key_pair

from ex4d.client import Client, ConnectionState, JobPhase, KeyPair
from ex4d.protocol.link import parse_link


def poll_until(client: Client, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, (client.state, client.problem)
        client.wait(0.05)
        client.poll()


def test_pair_upload_run_download_over_a_restart(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess(tmp_path / "data", "--fake-frame-s", "0.1"))
        link = parse_link(server.pairing_link("anna"))
        keys = KeyPair(*make_key_pair())
        client = Client(link.endpoint, keys, app_version="test", client_name="laptop")
        stack.callback(client.close)
        client.pair(link.token)
        poll_until(client, lambda: client.state is ConnectionState.READY)
        source = tmp_path / "scene.json"
        source.write_bytes(random_bytes(3_000_000))
        target = tmp_path / "result"
        job = client.submit(
            lambda files: render_job(files, frame_count=5), {"scene.json": source}, target
        )
        poll_until(client, lambda: job.phase is JobPhase.RUNNING)
        server.kill()
        server.start()
        poll_until(client, lambda: job.is_over)
        assert job.phase is JobPhase.DONE, job.error
        assert len(list(target.rglob("*.png"))) == 10
        digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in target.rglob("*.png")}
        assert len(digests) == 6, "five colours and one mask"


def test_refusal_reaches_the_user(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess(tmp_path / "data", "--quota-gib", "0.001"))
        keys = server.authorise("anna")
        link = parse_link(server.pairing_link("ben"))
        client = Client(link.endpoint, KeyPair(*keys), app_version="test", client_name="laptop")
        stack.callback(client.close)
        client.connect()
        source = tmp_path / "scene.json"
        source.write_bytes(random_bytes(3_000_000))
        job = client.submit(render_job, {"scene.json": source}, tmp_path / "result")
        poll_until(client, lambda: job.is_over)
        assert job.error is not None
        assert job.error.code == "quota_exceeded"
