"""The same reconstruction is not done twice."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ex4d_server import results
from ex4d_server.blobs import BlobStore, Quotas
from ex4d_server.config import FakeOptions
from ex4d_server.executors import Work
from ex4d_server.executors.fake import FakeExecutor
from ex4d_server.executors.local import LocalExecutor
from ex4d_server.results import KnownResults
from raw_client import RawClient, file_ref, new_id, random_bytes
from server_parts import running_scheduler
from worker_jobs import run_test_job

from ex4d.depth.models import DEPTH_MODELS
from ex4d.protocol.documents import FileRef
from ex4d.protocol.messages import FINAL_STATES, JobRequest, ReconstructJob


def uploaded(client: RawClient, *contents: bytes) -> tuple[FileRef, ...]:
    client.upload(list(contents))
    return tuple(file_ref(f"clip{n}.mp4", content) for n, content in enumerate(contents))


def test_same_clip_and_settings_are_answered_at_once(client: RawClient) -> None:
    files = uploaded(client, random_bytes(100), random_bytes(100))
    job = ReconstructJob(files=files, clip="clip0.mp4", name="shot", stride=2)
    first = client.wait_for_end(client.submit(job))
    again = client.wait_for_end(client.submit(job))
    assert (first.state, again.state) == ("done", "done")
    assert again.job_id != first.job_id
    assert again.files == first.files
    # The executor told of nothing it had done.
    assert (first.done, again.done) == (2, 0)
    for other in (
        ReconstructJob(files=files, clip="clip0.mp4", name="shot", stride=3),
        ReconstructJob(
            files=files, clip="clip0.mp4", name="shot", stride=2, estimator="depthcrafter"
        ),
        ReconstructJob(files=files, clip="clip1.mp4", name="shot", stride=2),
    ):
        assert client.wait_for_end(client.submit(other)).done == 2


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", Quotas())


def known_results(store: BlobStore) -> KnownResults:
    return KnownResults(store, lambda request: "")


@pytest.fixture
def keep(store: BlobStore, tmp_path: Path) -> Callable[..., FileRef]:
    def kept(text: str, user: str = "ada") -> FileRef:
        path = tmp_path / "result"
        path.write_text(text)
        key, size_bytes = store.take_file(user, path)
        store.adopt_part(key, size_bytes)
        return FileRef(path="scene.json", sha256=key[1], size_bytes=size_bytes)

    return kept


def test_results_belong_to_a_user(store: BlobStore, keep: Callable[[str], FileRef]) -> None:
    known = known_results(store)
    known.add("ada", b"a", (keep("a"),))
    assert known.find("ada", b"a") == (keep("a"),)
    assert known.find("bob", b"a") is None
    assert known.find("ada", b"b") is None


def test_removed_results_are_made_again(store: BlobStore, keep: Callable[[str], FileRef]) -> None:
    known = known_results(store)
    file = keep("a")
    known.add("ada", b"a", (file,))
    store._remove(("ada", file.sha256))
    assert known.find("ada", b"a") is None
    assert len(known) == 0


def test_few_results_are_remembered(
    store: BlobStore, keep: Callable[[str], FileRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "MAX_KNOWN", 2)
    known = known_results(store)
    for name in "ab":
        known.add("ada", name.encode(), (keep(name),))
    # The one used last stays longest.
    assert known.find("ada", b"a")
    known.add("ada", b"c", (keep("c"),))
    assert known.find("ada", b"b") is None
    assert known.find("ada", b"a")
    assert len(known) == 2


def test_many_results_of_one_user_push_out_no_others(
    store: BlobStore, keep: Callable[..., FileRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "MAX_KNOWN", 4)
    known = known_results(store)
    known.add("bob", b"first", (keep("first", "bob"),))
    for number in range(20):
        known.add("ada", b"%d" % number, (keep(f"{number}"),))
    assert len(known) == 4
    assert known.find("bob", b"first")
    assert [number for number in range(20) if known.find("ada", b"%d" % number)] == [
        17,
        18,
        19,
    ]
    # Who has fewest may take from who has most, until both have as many.
    for name in ("second", "third"):
        known.add("bob", name.encode(), (keep(name, "bob"),))
    found = [name for name in ("first", "second", "third") if known.find("bob", name.encode())]
    assert len(found) == 2
    assert len(known) == 4


@pytest.mark.parametrize(
    ("changes", "is_other"),
    [
        ({}, True),
        ({"estimator": "depth-anything"}, True),
        ({"depth": "depth.npz"}, False),
    ],
    ids=["usual estimator", "another", "depth from a file"],
)
def test_replaced_weights_make_another_result(
    changes: dict[str, Any],
    is_other: bool,
    store: BlobStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path))
    for model in DEPTH_MODELS:
        for file in model.files:
            (tmp_path / file.relative_path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file.relative_path).write_bytes(b"one")
    executor = LocalExecutor(run_job=run_test_job)
    known = KnownResults(store, executor.weights_state)
    job = ReconstructJob(files=(), clip="clip.mp4", name="shot", **changes)
    key = known.key_of(job)
    assert key == known.key_of(job)
    for name in (changes.get("estimator", "video-depth-anything"), "video-depth-anything-metric"):
        path = tmp_path / next(m for m in DEPTH_MODELS if m.name == name).files[-1].relative_path
        stat = path.stat()
        new = path.with_name("new")
        new.write_bytes(b"two")
        # As old and as large as the one before.
        os.utime(new, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        new.replace(path)
        assert (known.key_of(job) != key) == is_other
        key = known.key_of(job)
    path.unlink()
    assert (known.key_of(job) != key) == is_other


def test_weights_replaced_during_a_job_leave_nothing_to_remember(
    store: BlobStore, tmp_path: Path
) -> None:
    class Executor(FakeExecutor):
        state = "one"

        def weights_state(self, request: JobRequest) -> str:
            return self.state

        async def run(self, work: Work, *arguments: Any, **options: Any) -> None:
            await super().run(work, *arguments, **options)
            runs.append(work.job_id)
            if len(runs) == 1:
                self.state = "two"

    runs: list[str] = []
    (tmp_path / "clip").write_bytes(b"clip")
    key, size_bytes = store.take_file("ada", tmp_path / "clip")
    store.adopt_part(key, size_bytes)
    clip = FileRef(path="clip.mp4", sha256=key[1], size_bytes=size_bytes)
    job = ReconstructJob(files=(clip,), clip="clip.mp4", name="shot")

    async def scenario() -> None:
        executor = Executor(FakeOptions(frame_s=0.0))
        async with running_scheduler(tmp_path, store, executor) as scheduler:
            for ran in (1, 2, 2):
                event = scheduler.submit("ada", new_id(), job)
                while scheduler.event_of("ada", event.job_id).state not in FINAL_STATES:
                    await asyncio.sleep(0.01)
                assert scheduler.event_of("ada", event.job_id).state == "done"
                assert len(runs) == ran

    asyncio.run(scenario())
