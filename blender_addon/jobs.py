# SPDX-License-Identifier: GPL-3.0-or-later
"""The jobs of this Blender: sent, watched, fetched, and found again after a restart.

Knows nothing of Blender's data. What a job needs to be sent again, in the same words and thus as
the same job, is kept in a file of the extension's private folder; the .blend file names the job by
its id alone, so that a .blend from elsewhere can make Blender neither send nor write anything.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import msgspec

from ._vendor.client import Client, JobPhase, RemoteJob
from ._vendor.errors import Ex4dError, InputError
from ._vendor.protocol.documents import FileRef
from ._vendor.protocol.messages import GenerateJob, JobRequest, ReconstructJob
from .connection import Connection

#: `server` of a job of the local server, whose key is new at each start.
LOCAL = "local"
#: Longer than any job runs and any server keeps results.
RECORD_LIFE_S = 60 * 24 * 3600.0


class JobRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is stored of a job."""

    request_id: str
    #: Given by the server; empty before.
    job_id: str = ""
    #: Public key of the job's server, or LOCAL.
    server: str
    #: For people.
    title: str
    #: The request without its files, which are hashed when it is sent.
    request: GenerateJob | ReconstructJob
    #: Path on the server -> file here.
    sources: dict[str, str]
    #: Where the results go.
    folder: str
    #: Of the shot for a take; empty for a scene, and in records of older versions.
    shot_id: str = ""
    #: Name of the shot's object when the job was started; empty for a scene.
    shot_name: str = ""
    #: Every how many frames of the Blender scene a take has a picture.
    frame_step: int = 1


class Stage(Enum):
    """How far a job has come, as seen from Blender."""

    #: No session with its server at the moment.
    WAITING = "waiting"
    ACTIVE = "active"
    #: The results are here and not yet in the Blender scene.
    ARRIVED = "arrived"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = (Stage.DONE, Stage.FAILED, Stage.CANCELLED)


@dataclass
class Job:
    """A job of the open file."""

    record: JobRecord
    #: `ID.session_uid` of the Blender scene that it belongs to: survives undo and renaming.
    scene_uid: int
    stage: Stage = Stage.WAITING
    error: Ex4dError | None = None
    #: Set while there is a session with the job's server.
    remote: RemoteJob | None = None
    #: The session that `remote` belongs to.
    client: Client | None = None
    #: Whether the server had lost the job, which was therefore sent once more.
    was_resent: bool = False

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return Path(self.record.folder)


class JobBoard:
    """The jobs of the open file, in the order in which they were started.

    Args:
        folder: Private folder of the records.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._jobs: dict[str, Job] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def get(self, request_id: str) -> Job | None:
        """The job with this id, if it is of the open file."""
        return self._jobs.get(request_id)

    @property
    def has_unfinished(self) -> bool:
        """Whether a job still has something to wait for."""
        return any(job.stage not in ENDED for job in self._jobs.values())

    @property
    def is_transferring(self) -> bool:
        """Whether bytes are moving."""
        return any(
            job.remote is not None and job.remote.phase in _TRANSFERRING
            for job in self._jobs.values()
            if job.stage is Stage.ACTIVE
        )

    def add(self, record: JobRecord, scene_uid: int) -> Job:
        """Take up a new job, stored before anything is sent."""
        self._store(record)
        job = Job(record, scene_uid)
        self._jobs[record.request_id] = job
        return job

    def restore(self, request_id: str, scene_uid: int) -> bool:
        """Take up a job that a .blend file names; false if this computer knows nothing of it."""
        if request_id in self._jobs:
            return True
        record = self._load(request_id)
        if record is None:
            return False
        self._jobs[request_id] = Job(record, scene_uid)
        return True

    def forget_all(self) -> None:
        """Another file is being opened: its jobs come in place of these, whose records stay."""
        self._jobs.clear()

    def cancel(self, job: Job) -> None:
        """Ask for the end of a job; one that no server knows of any more ends at once.

        Raises:
            InputError: `not_connected` if the job's server must be asked and cannot be.
        """
        if job.remote is not None and job.client is not None:
            job.client.cancel(job.remote)
        elif job.stage is Stage.WAITING and job.record.job_id:
            message = "expected a connection to the job's server, found none; connect, then cancel"
            raise InputError("not_connected", message)
        else:
            self.finish(job, Stage.CANCELLED)

    def dismiss(self, job: Job) -> None:
        """Take a job off the list; at the server it goes on, if it still runs."""
        del self._jobs[job.record.request_id]
        self._record_path(job.record.request_id).unlink(missing_ok=True)

    def finish(self, job: Job, stage: Stage, error: Ex4dError | None = None) -> None:
        """End a job. Its record stays until the file that names it is saved without it."""
        job.stage = stage
        job.error = error
        job.remote = job.client = None

    def drop_ended_records(self) -> None:
        """The open file was saved with what the jobs brought: their records are of no more use."""
        for job in self:
            if job.stage in ENDED:
                self._record_path(job.record.request_id).unlink(missing_ok=True)

    def drop_old_records(self) -> None:
        """Remove the records of jobs whose file was never saved or is gone."""
        for path in self._folder.glob("*.json"):
            if time.time() - path.stat().st_mtime > RECORD_LIFE_S:
                path.unlink(missing_ok=True)

    def advance(self, connection: Connection) -> bool:
        """Send what waits and note what came; true if anything changed."""
        changed = False
        for job in self:
            before = job.stage
            if job.stage is Stage.ACTIVE:
                self._follow(job, connection)
            if job.stage is Stage.WAITING:
                self._begin(job, connection)
            changed = changed or job.stage is not before
        return changed

    def _begin(self, job: Job, connection: Connection) -> None:
        client = connection.client
        if job.folder.exists():
            # Blender ended between the download, which is atomic, and the import.
            job.stage = Stage.ARRIVED
        elif (
            client is not None
            and connection.is_ready
            and job.record.server == server_id(connection)
        ):
            if job.record.job_id:
                job.remote = client.attach(job.record.job_id, job.folder)
            else:
                job.remote = client.submit(
                    _with_files(job.record.request),
                    {name: Path(path) for name, path in job.record.sources.items()},
                    job.folder,
                    request_id=job.record.request_id,
                )
            job.client = client
            job.stage = Stage.ACTIVE

    def _follow(self, job: Job, connection: Connection) -> None:
        remote = job.remote
        if remote is None or connection.client is not job.client:
            # The session was ended; the next one finds the job again.
            job.remote = job.client = None
            job.stage = Stage.WAITING
            return
        if remote.job_id and not job.record.job_id:
            job.record = msgspec.structs.replace(job.record, job_id=remote.job_id)
            self._store(job.record)
        if remote.phase is JobPhase.DONE:
            job.remote = job.client = None
            job.stage = Stage.ARRIVED
        elif remote.phase is JobPhase.FAILED and self._is_lost(job, remote):
            job.record = msgspec.structs.replace(job.record, job_id="")
            job.was_resent = True
            job.remote = job.client = None
            job.stage = Stage.WAITING
        elif remote.phase is JobPhase.FAILED:
            self.finish(job, Stage.FAILED, remote.error)
        elif remote.phase is JobPhase.CANCELLED:
            self.finish(job, Stage.CANCELLED)

    @staticmethod
    def _is_lost(job: Job, remote: RemoteJob) -> bool:
        """Whether the server does not know the job: its journal is another one than then."""
        unknown = remote.error is not None and remote.error.code == "not_found"
        return unknown and bool(job.record.job_id) and not job.was_resent

    def _record_path(self, request_id: str) -> Path:
        return self._folder / f"{request_id}.json"

    def _store(self, record: JobRecord) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._record_path(record.request_id)
        temporary = path.with_suffix(".part")
        temporary.write_bytes(msgspec.json.encode(record))
        temporary.replace(path)

    def _load(self, request_id: str) -> JobRecord | None:
        # The id comes from a .blend file: it must not lead out of the folder.
        if re.fullmatch(r"[0-9a-f]{32}", request_id) is None:
            return None
        path = self._record_path(request_id)
        if not path.exists():
            return None
        try:
            return msgspec.json.decode(path.read_bytes(), type=JobRecord)
        except ValueError as error:
            message = f"expected a job's record in {path}, found: {error}; delete the file"
            raise InputError("job_record", message) from error


_TRANSFERRING = (JobPhase.HASHING, JobPhase.UPLOADING, JobPhase.DOWNLOADING)


def server_id(connection: Connection) -> str:
    """What a record says of the server of the present session.

    Raises:
        InputError: `not_connected` if there is none.
    """
    if connection.endpoint is None:
        raise InputError("not_connected", "expected a connection to a server, found none; connect")
    return LOCAL if connection.is_local else connection.endpoint.server_public_key


def _with_files(request: JobRequest):
    field = "files" if isinstance(request, ReconstructJob) else "scene"

    def build(files: tuple[FileRef, ...]) -> JobRequest:
        return msgspec.structs.replace(request, **{field: files})

    return build
