"""Health and metrics."""

import re
import socket
import sqlite3
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import psutil
import pytest
from raw_client import RawClient, file_ref, new_id, random_bytes, render_job
from server_process import ServerProcess
from server_users import add_user

from ex4d.protocol.messages import JobSubmit

Connect = Callable[..., RawClient]
OwnServer = Callable[..., ServerProcess]


def metrics_port(server: ServerProcess) -> int:
    found = re.search(r'"port": (\d+), "event": "metrics"', server.log_text())
    assert found, server.log_text()
    return int(found[1])


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def numbers(port: int) -> dict[str, float]:
    status, text = get(port, "/metrics")
    assert status == 200
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_metrics_follow_what_happens(own_server: OwnServer, connect: Connect) -> None:
    server = own_server("--metrics-port", "0")
    port = metrics_port(server)
    before = numbers(port)
    assert (before["ex4d_sessions"], before["ex4d_jobs_done_total"]) == (0, 0)
    user, keys = add_user(server)
    client = connect(server, keys)
    client.hello()
    content = random_bytes(5000)
    client.upload([content])
    client.wait_for_end(client.submit(render_job([file_ref("scene.json", content)])))
    after = numbers(port)
    assert (after["ex4d_sessions"], after["ex4d_jobs_done_total"]) == (1, 1)
    assert after["ex4d_jobs_queued"] == 0
    assert after["ex4d_stored_bytes"] > 5000
    assert 0 < after["ex4d_resident_bytes"] < 1 << 30
    # A job is at work until its files are gone.
    deadline_s = time.monotonic() + 5
    while numbers(port)["ex4d_jobs_running"]:
        assert time.monotonic() < deadline_s
    assert user not in get(port, "/metrics")[1]
    assert get(port, "/health") == (200, "ok\n")
    assert get(port, "/")[0] == 404


def test_bad_requests_are_harmless(own_server: OwnServer) -> None:
    port = metrics_port(own_server("--metrics-port", "0"))
    for request in (b"POST /metrics HTTP/1.1\r\n\r\n", b"\r\n\r\n", b"x" * 100_000):
        with socket.create_connection(("127.0.0.1", port), 5) as plain:
            plain.sendall(request)
            try:
                answer = plain.recv(1000)
            except ConnectionResetError:
                answer = b""
            assert not answer or b" 405 " in answer
    idle = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(50)]
    for item in idle:
        item.close()
    time.sleep(0.2)
    assert get(port, "/health") == (200, "ok\n")


@pytest.mark.skipif(sys.platform != "linux", reason="sets another process's limits")
def test_full_disk_is_not_healthy(own_server: OwnServer, connect: Connect) -> None:
    import resource

    server = own_server("--metrics-port", "0", "--fake-frame-s", "0.1")
    port, client = metrics_port(server), connect(server, add_user(server)[1])
    client.hello()
    content = random_bytes(100)
    client.upload([content])
    job = render_job([file_ref("scene.json", content)])
    job_id = client.submit(job)
    process, (_, hard) = psutil.Process(server.pid), resource.getrlimit(resource.RLIMIT_FSIZE)
    size_bytes = (server.data / "journal.sqlite3-wal").stat().st_size
    process.rlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    client.wait_for_end(job_id)
    assert client.ask_error(JobSubmit(request_id=new_id(), job=job)) == "disk_full"
    assert get(port, "/health") == (503, "disk_full\n")
    process.rlimit(resource.RLIMIT_FSIZE, (hard, hard))
    deadline_s = time.monotonic() + 5
    while get(port, "/health")[0] != 200:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_job_that_cannot_be_read_stops_no_start(own_server: OwnServer, connect: Connect) -> None:
    """The others go on, its owner is told, and so is the server's."""
    server = own_server("--metrics-port", "0", "--fake-frame-s", "0.5")
    keys = add_user(server)[1]
    client = connect(server, keys)
    client.hello()
    content = random_bytes(100)
    client.upload([content])
    job = render_job([file_ref("scene.json", content)])
    damaged, whole = client.submit(job), client.submit(job)
    client.wait_for_state(damaged, "running")
    server.kill()
    database = sqlite3.connect(server.data / "journal.sqlite3")
    with database:
        database.execute("UPDATE jobs SET body = ? WHERE id = ?", (b"rubbish", damaged))
    database.close()
    server.log_path.unlink()
    server.start()
    client = connect(server, keys)
    client.hello()
    client.watch(damaged)
    event = client.wait_for_end(damaged)
    assert (event.state, event.error_code) == ("failed", "job_unreadable")
    client.watch(whole)
    assert client.wait_for_end(whole).state == "done"
    port = metrics_port(server)
    assert get(port, "/health") == (200, "ok\njobs_set_aside 1\n")
    assert numbers(port)["ex4d_jobs_set_aside"] == 1
    assert "job_set_aside" in server.log_text()


def test_nothing_listens_unless_asked(own_server: OwnServer) -> None:
    server = own_server()
    listening = [
        connection.laddr.port
        for connection in psutil.Process(server.pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == [server.port]
