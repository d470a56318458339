"""The same reconstruction is not done twice."""

from collections.abc import Callable
from pathlib import Path

import pytest
from ex4d_server import results
from ex4d_server.blobs import BlobStore, Quotas
from ex4d_server.results import KnownResults
from raw_client import RawClient, file_ref, random_bytes

from ex4d.protocol.documents import FileRef
from ex4d.protocol.messages import ReconstructJob


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


@pytest.fixture
def keep(store: BlobStore, tmp_path: Path) -> Callable[..., FileRef]:
    def kept(text: str, user: str = "ada") -> FileRef:
        path = tmp_path / "result"
        path.write_text(text)
        key, size_bytes = store.take_file(user, path)
        store.adopt_part(key, size_bytes)
        return FileRef(path="scene.json", sha256=key[1], size_bytes=size_bytes)

    return kept


def job_named(name: str) -> ReconstructJob:
    return ReconstructJob(files=(), clip="clip.mp4", name=name)


def test_results_belong_to_a_user(store: BlobStore, keep: Callable[[str], FileRef]) -> None:
    known = KnownResults(store)
    known.add("ada", job_named("a"), (keep("a"),))
    assert known.find("ada", job_named("a")) == (keep("a"),)
    assert known.find("bob", job_named("a")) is None
    assert known.find("ada", job_named("b")) is None


def test_removed_results_are_made_again(store: BlobStore, keep: Callable[[str], FileRef]) -> None:
    known = KnownResults(store)
    file = keep("a")
    known.add("ada", job_named("a"), (file,))
    store._remove(("ada", file.sha256))
    assert known.find("ada", job_named("a")) is None
    assert len(known) == 0


def test_few_results_are_remembered(
    store: BlobStore, keep: Callable[[str], FileRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "MAX_KNOWN", 2)
    known = KnownResults(store)
    for name in "ab":
        known.add("ada", job_named(name), (keep(name),))
    # The one used last stays longest.
    assert known.find("ada", job_named("a"))
    known.add("ada", job_named("c"), (keep("c"),))
    assert known.find("ada", job_named("b")) is None
    assert known.find("ada", job_named("a"))
    assert len(known) == 2


def test_many_results_of_one_user_push_out_no_others(
    store: BlobStore, keep: Callable[..., FileRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "MAX_KNOWN", 4)
    known = KnownResults(store)
    known.add("bob", job_named("first"), (keep("first", "bob"),))
    for number in range(20):
        known.add("ada", job_named(f"{number}"), (keep(f"{number}"),))
    assert len(known) == 4
    assert known.find("bob", job_named("first"))
    assert [number for number in range(20) if known.find("ada", job_named(f"{number}"))] == [
        17,
        18,
        19,
    ]
    # Who has fewest may take from who has most, until both have as many.
    for name in ("second", "third"):
        known.add("bob", job_named(name), (keep(name, "bob"),))
    found = [name for name in ("first", "second", "third") if known.find("bob", job_named(name))]
    assert len(found) == 2
    assert len(known) == 4
