"""Uploads and downloads, interrupted in every way."""

import hashlib
import sys
import time
from collections.abc import Callable

import psutil
import pytest
from raw_client import RawClient, file_ref, new_id, random_bytes, render_job
from server_process import ServerProcess
from server_users import add_user

from ex4d.protocol.documents import FileRef
from ex4d.protocol.messages import (
    BlobAbort,
    BlobChunk,
    BlobCredit,
    BlobDone,
    BlobFetch,
    BlobOffer,
    BlobWant,
    Error,
    Ping,
    Pong,
)

Connect = Callable[..., RawClient]
MIB = 1 << 20


def offer(*contents: bytes) -> BlobOffer:
    return BlobOffer(request_id=new_id(), blobs=tuple(file_ref("x", item) for item in contents))


def have(client: RawClient, content: bytes) -> int | None:
    """How much of a blob the server has; None: all of it."""
    needs = client.ask(offer(content), BlobWant).needs
    return needs[0].have_bytes if needs else None


def wait_until_written(server: ServerProcess, content: bytes, size_bytes: int) -> None:
    """Wait until so much of a blob is on the disk, and not merely received."""
    name = f"{hashlib.sha256(content).hexdigest()}.part"
    deadline_s = time.monotonic() + 10
    while [part.stat().st_size for part in server.data.rglob(name)] != [size_bytes]:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def wait_until_stored(client: RawClient, content: bytes, size_bytes: int) -> None:
    deadline_s = time.monotonic() + 10
    while have(client, content) != size_bytes:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("size", "chunk"),
    [(1, 1), (4096, 4096), (100_000, 4096), (3 * MIB + 17, 1 << 18), (20 * MIB, MIB)],
)
def test_what_goes_up_comes_down(client: RawClient, size: int, chunk: int) -> None:
    content = random_bytes(size)
    client.upload([content], chunk_bytes=chunk)
    assert have(client, content) is None, "it is there now"
    assert client.fetch(file_ref("x", content)) == content
    assert client.fetch(file_ref("x", content), offset_bytes=size // 2) == content[size // 2 :]


def test_empty_blob_needs_nothing(client: RawClient) -> None:
    assert have(client, b"") is None


def test_same_content_under_two_names_is_wanted_once(client: RawClient) -> None:
    content = random_bytes(100)
    assert len(client.ask(offer(content, content), BlobWant).needs) == 1


def test_many_small_files(client: RawClient) -> None:
    contents = [random_bytes(200) for _ in range(300)]
    client.upload(contents)
    assert client.ask(offer(*contents), BlobWant).needs == ()


def test_upload_resumes_after_the_client_was_gone(
    server: ServerProcess, client: RawClient, connect: Connect
) -> None:
    content = random_bytes(5 * MIB)
    client.ask(offer(content), BlobWant)
    client.send_blob(content, end=3 * MIB)
    wait_until_written(server, content, 3 * MIB)
    client.close_socket()
    again = connect(server, client.keys)
    again.hello()
    assert have(again, content) == 3 * MIB
    again.send_blob(content, start=3 * MIB)
    again.wait_for(BlobDone)
    assert again.fetch(file_ref("x", content)) == content


def test_upload_resumes_after_the_server_was_killed(
    own_server: Callable[..., ServerProcess], connect: Connect
) -> None:
    server = own_server()
    _, keys = add_user(server)
    client = connect(server, keys)
    client.hello()
    content = random_bytes(5 * MIB)
    client.ask(offer(content), BlobWant)
    client.send_blob(content, end=4 * MIB)
    wait_until_written(server, content, 4 * MIB)
    server.kill()
    client.close_socket()
    server.start()
    again = connect(server, keys)
    again.hello()
    assert have(again, content) == 4 * MIB, "no byte is sent twice"
    again.send_blob(content, start=4 * MIB)
    again.wait_for(BlobDone)
    assert again.fetch(file_ref("x", content)) == content


def test_upload_killed_at_any_byte_ends_right(
    own_server: Callable[..., ServerProcess], connect: Connect
) -> None:
    """Killed in full flight, not at rest: what is stored then is some prefix."""
    server = own_server()
    _, keys = add_user(server)
    content = random_bytes(12 * MIB)
    client = connect(server, keys)
    client.hello()
    client.ask(offer(content), BlobWant)
    client.send_blob(content, end=11 * MIB, chunk_bytes=1 << 16)
    server.kill()
    client.close_socket()
    server.start()
    again = connect(server, keys)
    again.hello()
    (need,) = again.ask(offer(content), BlobWant).needs
    assert 0 <= need.have_bytes <= 11 * MIB
    again.send_blob(content, start=need.have_bytes)
    again.wait_for(BlobDone)
    assert again.fetch(file_ref("x", content)) == content


def test_two_sessions_send_the_same_blob(
    server: ServerProcess, client: RawClient, connect: Connect
) -> None:
    second = connect(server, client.keys)
    second.hello()
    content = random_bytes(4 * MIB)
    for sender in (client, second):
        assert sender.ask(offer(content), BlobWant).needs[0].have_bytes == 0
    client.send_blob(content, end=2 * MIB)
    wait_until_stored(second, content, 2 * MIB)
    # The first one vanishes; the second starts at the beginning, as it was told.
    client.close_socket()
    second.send_blob(content)
    second.wait_for(BlobDone)
    assert second.fetch(file_ref("x", content)) == content


def test_both_senders_hear_of_the_end(
    server: ServerProcess, client: RawClient, connect: Connect
) -> None:
    second = connect(server, client.keys)
    second.hello()
    content = random_bytes(MIB)
    client.ask(offer(content), BlobWant)
    second.ask(offer(content), BlobWant)
    client.send_blob(content)
    client.wait_for(BlobDone)
    second.wait_for(BlobDone)


def test_changed_file_is_refused_and_leaves_nothing(client: RawClient) -> None:
    content = random_bytes(MIB)
    request = offer(content)
    client.ask(request, BlobWant)
    sha256 = request.blobs[0].sha256
    client.send_blob(content[:-1] + b"?", sha256=sha256)
    error = client.wait_for(Error)
    assert (error.code, error.in_reply_to) == ("blob_corrupt", request.request_id)
    assert have(client, content) == 0
    fetch = BlobFetch(request_id=new_id(), sha256=sha256, offset_bytes=0)
    assert client.ask_error(fetch) == "not_found"
    client.upload([content])


def test_half_a_blob_is_not_served(client: RawClient) -> None:
    content = random_bytes(MIB)
    client.ask(offer(content), BlobWant)
    client.send_blob(content, end=MIB // 2)
    wait_until_stored(client, content, MIB // 2)
    sha256 = hashlib.sha256(content).hexdigest()
    fetch = BlobFetch(request_id=new_id(), sha256=sha256, offset_bytes=0)
    assert client.ask_error(fetch) == "not_found"


def test_hole_is_refused(client: RawClient) -> None:
    content = random_bytes(MIB)
    request = offer(content)
    client.ask(request, BlobWant)
    client.send_blob(content, start=4096)
    assert client.wait_for(Error).in_reply_to == request.request_id
    assert client.ask(Ping(request_id=new_id()), Pong), "the session goes on"


def test_sending_beyond_the_end_is_refused(client: RawClient) -> None:
    content = random_bytes(10_000)
    client.ask(offer(content), BlobWant)
    sha256 = hashlib.sha256(content).hexdigest()
    client.send(BlobChunk(sha256=sha256, offset_bytes=0), content + b"more")
    assert client.wait_for(Error).code == "chunk_offset"


def test_chunks_nobody_wants_cost_nothing(client: RawClient) -> None:
    """They may have been on their way when the upload ended: credit comes back."""
    content = random_bytes(MIB)
    sha256 = hashlib.sha256(content).hexdigest()
    for _ in range(40):
        client.ask(offer(content), BlobWant)
        client.send(BlobAbort(sha256=sha256))
        client.send_blob(content, chunk_bytes=MIB)
    assert have(client, content) == 0
    client.upload([content])


@pytest.mark.parametrize("window", [4096, 10_000, 1 << 20], ids=str)
def test_small_windows_do_not_lock_up(client: RawClient, window: int) -> None:
    """Full chunks between odd ones, in a window that holds hardly more than one chunk."""
    client.hello(window_bytes=window, max_chunk_bytes=4096)
    client.credit_bytes = 0
    for size in (1, 4096, 300, 4096, 3000, 2000, 4096, 50_000):
        client.upload([random_bytes(size)], chunk_bytes=4096)


@pytest.mark.parametrize(
    ("is_granted", "count", "code"),
    [(False, 1, "credit_exceeded"), (True, 0, "chunk_size"), (True, MIB + 1, "chunk_size")],
    ids=["beyond_credit", "empty", "too_big"],
)
def test_breaking_the_rules_of_flow_ends_the_session(
    server: ServerProcess,
    client: RawClient,
    connect: Connect,
    is_granted: bool,
    count: int,
    code: str,
) -> None:
    content = random_bytes(2 * MIB)
    if is_granted:
        client.ask(offer(content), BlobWant)
    chunk = BlobChunk(sha256=hashlib.sha256(content).hexdigest(), offset_bytes=0)
    client.send(chunk, content[:count])
    assert client.wait_for(Error).code == code
    client.send(Ping(request_id=new_id()))
    with pytest.raises(TimeoutError):
        client.receive(timeout_s=0.3)
    connect(server, client.keys).hello()


def test_size_cannot_be_made_up(client: RawClient) -> None:
    content = random_bytes(1000)
    client.upload([content])
    lie = FileRef(path="x", sha256=hashlib.sha256(content).hexdigest(), size_bytes=10**12)
    assert client.ask_error(BlobOffer(request_id=new_id(), blobs=(lie,))) == "blob_size"


def test_quota_is_checked_before_a_byte_is_sent(
    own_server: Callable[..., ServerProcess], connect: Connect
) -> None:
    server = own_server("--quota-gib", str(10 * MIB / 2**30))
    first, second = connect(server, add_user(server)[1]), connect(server, add_user(server)[1])
    assert first.hello().quota_left_bytes == 10 * MIB
    second.hello()
    first.upload([random_bytes(6 * MIB)])
    assert first.ask_error(offer(random_bytes(6 * MIB))) == "quota_exceeded"
    assert first.hello().quota_left_bytes == 4 * MIB
    first.upload([random_bytes(4 * MIB)])
    second.upload([random_bytes(6 * MIB)])


@pytest.mark.skipif(sys.platform != "linux", reason="sets another process's limits")
def test_disk_that_fills_up_is_told_and_the_rest_resumes(
    own_server: Callable[..., ServerProcess], connect: Connect
) -> None:
    """A limit on the size of files stands for the full disk: the same call fails."""
    import resource

    server = own_server()
    client = connect(server, add_user(server)[1])
    client.hello()
    content = random_bytes(4 * MIB)
    process, (_, hard) = psutil.Process(server.pid), resource.getrlimit(resource.RLIMIT_FSIZE)
    process.rlimit(resource.RLIMIT_FSIZE, (2 * MIB, hard))
    request = offer(content)
    client.ask(request, BlobWant)
    client.send_blob(content)
    error = client.wait_for(Error)
    assert (error.code, error.in_reply_to) == ("disk_full", request.request_id)
    client.upload([random_bytes(1000)])
    process.rlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert have(client, content) == 2 * MIB, "what was written is kept"
    client.upload([content])
    assert client.fetch(file_ref("x", content)) == content


def test_too_large_a_blob_is_refused(client: RawClient) -> None:
    huge = FileRef(path="x", sha256="1" * 64, size_bytes=2**40)
    assert client.ask_error(BlobOffer(request_id=new_id(), blobs=(huge,))) == "blob_too_large"


def test_download_sends_no_more_than_was_granted(client: RawClient) -> None:
    content = random_bytes(3 * MIB)
    client.upload([content])
    file = file_ref("x", content)
    client.send(BlobFetch(request_id=new_id(), sha256=file.sha256, offset_bytes=0))
    client.send(BlobCredit(grant_bytes=100_000))
    assert client.wait_for(BlobChunk).offset_bytes == 0
    assert len(client.last_payload) == 100_000
    with pytest.raises(TimeoutError):
        client.receive(timeout_s=0.3)
    client.send(BlobAbort(sha256=file.sha256))
    assert client.fetch(file) == content


def test_stalled_client_costs_bounded_memory(
    server: ServerProcess, client: RawClient, connect: Connect
) -> None:
    """It grants far too much, asks for everything, and does not read."""
    content = random_bytes(64 * MIB)
    client.upload([content], chunk_bytes=MIB)
    process = psutil.Process(server.pid)
    before_bytes = process.memory_info().rss
    stalled = connect(server, client.keys)
    stalled.hello()
    sha256 = hashlib.sha256(content).hexdigest()
    for _ in range(50):
        stalled.send(BlobFetch(request_id=new_id(), sha256=sha256, offset_bytes=0))
        stalled.send(BlobCredit(grant_bytes=1 << 40))
    # Meanwhile its jobs tell far more than fits through.
    stalled.submit(render_job([file_ref("scene.json", content)], frame_count=40))
    time.sleep(1.0)
    assert client.ask(Ping(request_id=new_id()), Pong), "the others notice nothing"
    assert process.memory_info().rss - before_bytes < 64 << 20


def test_server_never_loads_what_the_worker_needs(server: ServerProcess, client: RawClient) -> None:
    libraries = {
        mapped.path.rpartition("/")[2] for mapped in psutil.Process(server.pid).memory_maps()
    }
    assert any("zmq" in name for name in libraries), "this looked at the wrong process"
    assert not [
        name for name in libraries if "numpy" in name or "torch" in name or "multiarray" in name
    ]
