# SPDX-License-Identifier: GPL-3.0-or-later
"""What Generate sends and how long a take should take, known before: measured, or not said.

A scene's files are counted in slices. Which scenes a server was sent is kept in a file of the
extension's private folder; it tells of the past alone, since servers drop what nobody uses.
"""

import hashlib
import os
from collections.abc import Generator
from pathlib import Path

import msgspec

from ._vendor.client import JobPhase
from ._vendor.errors import InputError
from ._vendor.protocol import take_time
from ._vendor.protocol.documents import EngineSettings
from ._vendor.protocol.messages import GenerateJob, TakeTime
from .jobs import Job, JobBoard, Stage
from .scene_files import DOCUMENT_NAME, SEQUENCES, read_document
from .wording import duration_text

#: Files whose sizes are asked for at once: well under a millisecond.
_SLICE_FILES = 200
#: Scenes that are remembered of each server, the newest.
_MAX_SENT = 500
#: All files of a job are at the server.
_DELIVERED = (JobPhase.QUEUED, JobPhase.RUNNING, JobPhase.DOWNLOADING, JobPhase.DONE)


class SceneSize(msgspec.Struct, frozen=True):
    """What a scene's files take."""

    size_bytes: int
    #: SHA-256 of its `scene.json`; empty where there is none.
    scene_sha256: str


class SceneSizes:
    """The sizes of the scenes that panels asked for, each counted once as long as it is the same.

    What could not be read is tried again when it is next asked for.
    """

    def __init__(self) -> None:
        #: By folder and time of the document's last change.
        self._known: dict[tuple[str, int], SceneSize] = {}
        self._wanted: dict[tuple[str, int], Generator[None, None, SceneSize]] = {}

    @property
    def is_counting(self) -> bool:
        """Whether there is something to do."""
        return bool(self._wanted)

    def find(self, folder: str) -> SceneSize | None:
        """The size of a scene; None at first, when counting it is still to be done."""
        if not folder:
            return None
        key = (folder, _changed_ns(Path(folder)))
        known = self._known.get(key)
        if (known is None or not known.size_bytes) and key not in self._wanted:
            self._wanted[key] = _count(Path(folder))
        return known

    def advance(self) -> bool:
        """Do one slice; true if another size is known."""
        key, counting = next(iter(self._wanted.items()))
        try:
            next(counting)
        except StopIteration as end:
            del self._wanted[key]
            is_new = self._known.get(key) != end.value
            self._known[key] = end.value
            # Drawn again for the same failure, panels would ask again, without end.
            return is_new
        return False


def _changed_ns(folder: Path) -> int:
    try:
        return (folder / DOCUMENT_NAME).stat().st_mtime_ns
    except OSError:
        return 0


def _count(folder: Path) -> Generator[None, None, SceneSize]:
    """Count what `ops_jobs.take_sources` would send; what cannot be read counts as nothing."""
    size_bytes, scene_sha256 = 0, ""
    try:
        content = read_document(folder)
        size_bytes, scene_sha256 = len(content), hashlib.sha256(content).hexdigest()
        for name, suffix in SEQUENCES.items():
            with os.scandir(folder / name) as entries:
                for place, entry in enumerate(entries):
                    if entry.name.endswith(suffix):
                        size_bytes += entry.stat().st_size
                    if place % _SLICE_FILES == _SLICE_FILES - 1:
                        yield
            yield
    except (OSError, InputError):
        # Sending says what is wrong.
        return SceneSize(0, "")
    return SceneSize(size_bytes, scene_sha256)


class SentScenes:
    """Which scenes each server was sent, or made itself.

    Args:
        path: Where that is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._noted: set[str] = set()
        try:
            self._sent = msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
        except (OSError, ValueError):
            # Worth one wrong word in a panel, no more.
            self._sent = {}

    def has(self, server: str, scene_sha256: str) -> bool:
        """Whether a server once had a scene."""
        return scene_sha256 in self._sent.get(server, ())

    def note(self, jobs: JobBoard) -> bool:
        """Remember the scenes of jobs whose files have arrived; true if there is a new one."""
        changed = False
        for job in jobs:
            if job.record.request_id in self._noted or not _is_delivered(job):
                continue
            self._noted.add(job.record.request_id)
            changed = self._add(job.record.server, _scene_folder(job)) or changed
        return changed

    def _add(self, server: str, folder: Path | None) -> bool:
        try:
            content = b"" if folder is None else read_document(folder)
            scene_sha256 = hashlib.sha256(content).hexdigest()
            if not content or self.has(server, scene_sha256):
                return False
            self._sent[server] = [scene_sha256, *self._sent.get(server, [])][:_MAX_SENT]
            temporary = self._path.with_suffix(".part")
            temporary.write_bytes(msgspec.json.encode(self._sent))
            temporary.replace(self._path)
        except (OSError, InputError):
            # As above.
            return False
        return True


def _is_delivered(job: Job) -> bool:
    if job.stage in (Stage.ARRIVED, Stage.DONE):
        return True
    is_take = isinstance(job.record.request, GenerateJob)
    return is_take and job.remote is not None and job.remote.phase in _DELIVERED


def _scene_folder(job: Job) -> Path | None:
    """The scene's own folder: the document of a changed field of view lies elsewhere."""
    if not isinstance(job.record.request, GenerateJob):
        return job.folder
    first = next((path for path in job.record.sources.values() if path.endswith(".exr")), None)
    return None if first is None else Path(first).parent.parent


def sending_text(size: SceneSize | None, *, was_sent: bool) -> str:
    """What goes to the server with a take.

    Args:
        size: Of the scene; None while it is not known.
        was_sent: Whether the server had the scene before.
    """
    if size is None:
        return "Sends the path; counting the scene"
    if not size.size_bytes:
        return "Sends the path, and the scene where the server lacks it"
    if was_sent:
        return "Sends the path: the scene was sent"
    return f"Sends {size.size_bytes / 1e6:.1f} MB: the scene, once"


def time_text(
    times: tuple[TakeTime, ...],
    settings: EngineSettings,
    size_px: tuple[int, int],
    frame_count: int,
) -> str:
    """How long the server should take, as it measured takes before.

    Args:
        times: Measured there.
        settings: Of the take.
        size_px: Width and height of the take.
        frame_count: Of the take.
    """
    work = take_time.work_of(settings, *size_px, frame_count)
    expected_s = take_time.expected_s(times, take_time.kind_of(settings), work)
    if expected_s is None:
        return "Time not known: no take like it yet"
    return f"Takes about {duration_text(expected_s)}, as others took"
