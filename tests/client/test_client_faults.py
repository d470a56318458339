"""Whatever the network does, a job ends with the right bytes at both ends."""

import tempfile
from contextlib import closing
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from model_server import JOB_ID, ModelServer, file_ref, written
from raw_client import render_job

from ex4d.client import Client, JobPhase, RemoteJob
from ex4d.client.transport import Received
from ex4d.protocol.messages import BlobChunk, BlobCredit, Limits

UP = bytes(range(251)) * 200
DOWN = bytes(range(241)) * 250
RESULTS = {"frames/0001.png": DOWN, "frames/0002.png": DOWN[::-1], "mask/0001.png": b""}


class Run:
    """One job from its submission to its end, over a network that tests disturb."""

    def __init__(self, server: ModelServer, client: Client, folder: Path) -> None:
        self.server = server
        self.client = client
        source = folder / "file"
        source.write_bytes(UP)
        client.connect()
        self.job: RemoteJob = client.submit(render_job, {"scene.json": source}, folder / "result")

    def act(self, action: str) -> None:
        """Something happens."""
        server, incoming = self.server, self.server.link.incoming
        match action:
            case "poll":
                # One slice only, so that faults fall between any two.
                self.client.poll(0.0)
            case "serve":
                server.serve()
            case "wait":
                server.clock.now_s += 1.0
            case "finish":
                if server.events and server.events[JOB_ID].state == "queued":
                    server.finish(JOB_ID)
            case "cut":
                server.cut()
            case "repeat" if incoming and not _grants(incoming[-1]):
                incoming.append(incoming[-1])
            case "swap" if len(incoming) >= 2:
                incoming[0], incoming[1] = incoming[1], incoming[0]
            case "lose" if incoming:
                incoming.popleft()
            case _:
                pass

    def check_end(self) -> None:
        """The network recovers; all is there."""
        server = self.server
        server.run(self.client, lambda: bool(server.events) or self.job.is_over)
        if server.events[JOB_ID].state == "queued":
            server.finish(JOB_ID)
        server.run(self.client, lambda: self.job.is_over)
        assert self.job.phase is JobPhase.DONE, self.job.error
        assert server.blobs[file_ref("x", UP).sha256] == UP
        assert written(self.job.folder) == RESULTS
        assert len(server.events) == 1, "it was submitted once"


def _grants(item: object) -> bool:
    """Whether repeating this would make the client exceed what the server takes."""
    return isinstance(item, Received) and isinstance(item.message, BlobCredit)


def play(actions: list[str], limits: Limits) -> ModelServer:
    with (
        tempfile.TemporaryDirectory() as folder,
        ModelServer(limits) as server,
        closing(server.client()) as client,
    ):
        server.results = dict(RESULTS)
        run = Run(server, client, Path(folder))
        for action in actions:
            run.act(action)
        run.check_end()
    return server


STEPS = ["poll"] * 6 + ["serve"] * 3 + ["wait", "finish"]
WINDOWS = st.sampled_from([4096, 6000, 20_000])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*STEPS, "cut"]), min_size=50, max_size=300), WINDOWS)
def test_lost_connections_cost_no_byte_twice(actions: list[str], window: int) -> None:
    server = play(actions, Limits(max_chunk_bytes=4096, window_bytes=window))
    assert sum(count for _, count in server.chunks_stored) == len(UP)
    assert sum(count for _, count in server.chunks_arrived) == 2 * len(DOWN)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([*STEPS, "cut", "repeat", "swap", "lose"]), min_size=50, max_size=300),
    WINDOWS,
)
def test_muddled_messages_do_no_harm(actions: list[str], window: int) -> None:
    server = play(actions, Limits(max_chunk_bytes=4096, window_bytes=window))
    assert sum(count for _, count in server.chunks_stored) == len(UP)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_spoilt_chunks_never_reach_the_folder(data: st.DataObject) -> None:
    """One byte of one chunk is turned over: the whole is fetched anew, or refused."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ModelServer() as server,
        closing(server.client()) as client,
    ):
        server.results = dict(RESULTS)
        run = Run(server, client, Path(folder))
        server.run(client, lambda: run.job.phase is JobPhase.QUEUED)
        server.finish(JOB_ID)
        for _ in range(data.draw(st.integers(2, 20))):
            server.step(client)
        items = [item for item in server.link.incoming if isinstance(item, Received)]
        chunks = [item for item in items if isinstance(item.message, BlobChunk)]
        if chunks:
            victim = data.draw(st.sampled_from(chunks))
            where = data.draw(st.integers(0, len(victim.payload) - 1))
            spoilt = bytearray(victim.payload)
            spoilt[where] ^= 1
            index = next(i for i, item in enumerate(server.link.incoming) if item is victim)
            server.link.incoming[index] = Received(victim.message, memoryview(spoilt))
        server.run(client, lambda: run.job.is_over)
        if chunks:
            assert run.job.error is not None
            assert run.job.error.code == "blob_corrupt"
            assert not run.job.folder.exists()
        else:
            assert written(run.job.folder) == RESULTS
