"""The job journal: what was asked for and how far it came, in SQLite.

Every row holds the request and the newest event. Changes of state are on the disk before anybody
hears of them; progress in between is not written, so a restart skips as many sequence numbers as
may have gone unwritten.

A row that cannot be decoded stops nobody else: its job counts as failed, and the row stays as it
was until it is as old as finished jobs may get.
"""

import hashlib
import sqlite3
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from ex4d.errors import InputError, ProtocolError
from ex4d.protocol.messages import FINAL_STATES, JobEvent, JobRequest

_log = structlog.get_logger(__name__)

#: What each version of the schema added; a journal of an older one is brought up to date at the
#: start. A step that was released is never changed.
_STEPS = (
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY,
        user TEXT NOT NULL,
        request_id TEXT NOT NULL,
        body BLOB NOT NULL,
        body_sha256 TEXT NOT NULL,
        is_final INTEGER NOT NULL,
        lost INTEGER NOT NULL,
        event BLOB NOT NULL,
        created_s REAL NOT NULL,
        updated_s REAL NOT NULL,
        UNIQUE (user, request_id)
    ) STRICT;
    CREATE INDEX jobs_by_user ON jobs (user, created_s);
    CREATE INDEX jobs_unfinished ON jobs (is_final, created_s);
    """,
    # Old jobs are found without reading all.
    "CREATE INDEX jobs_by_end ON jobs (is_final, updated_s);",
)
_SCHEMA_VERSION = len(_STEPS)

#: What `is_final` holds.
_UNFINISHED, _FINAL, _SET_ASIDE = 0, 1, 2

#: An event is written at least every so many.
SEQ_STEP = 100
#: More events, and more attempts, than any job has.
_BEYOND_ALL = 1 << 62
#: Finished jobs that a user may keep.
_KEPT_JOBS = 1000


@dataclass
class JobRecord:
    """A job as the journal knows it."""

    id: str
    user: str
    request: JobRequest
    #: The newest event; it holds the state, the attempt and the results.
    event: JobEvent
    #: Attempts that ended without a word, because a worker or the server died.
    lost: int = 0

    def advance(self, **changes: object) -> None:
        """Replace the newest event by its successor."""
        self.event = msgspec.structs.replace(self.event, seq=self.event.seq + 1, **changes)


class Journal:
    """The database; one process has it at a time.

    Args:
        path: Its file; made if absent.
        wait_s: How long to wait for a server that is just ending.

    Raises:
        InputError: `data_in_use` if another server has it, `journal_version` if a newer one wrote
            it.
    """

    def __init__(self, path: Path, wait_s: float = 3.0) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, timeout=wait_s)
        try:
            # Held until this process ends, however it ends.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("BEGIN IMMEDIATE")
            self._prepare()
            self._database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._database.close()
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            msg = f"expected {path.parent} to be free, found another server using it; stop that one"
            raise InputError("data_in_use", msg) from error
        except InputError:
            self._database.close()
            raise
        path.chmod(0o600)

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def find_request(self, user: str, request_id: str, request: JobRequest) -> str | None:
        """The job that a request made before; None if it is new.

        Args:
            user: Who asks.
            request_id: Name of the request, made up by the client.
            request: What to do.

        Raises:
            ProtocolError: `conflict` if the request's name was used for another job.
        """
        row = self._database.execute(
            "SELECT id, body_sha256 FROM jobs WHERE user = ? AND request_id = ?", (user, request_id)
        ).fetchone()
        if row is None:
            return None
        if row[1] != _digest(msgspec.json.encode(request)):
            msg = (
                f"expected request {request_id} to be the job it was before, found another; "
                "make up a new request_id for it"
            )
            raise ProtocolError("conflict", msg)
        return row[0]

    def add(self, user: str, request_id: str, request: JobRequest) -> JobRecord:
        """Write a new job down.

        Args:
            user: Who asks.
            request_id: Name of the request, which `find_request` does not know.
            request: What to do.

        Raises:
            InputError: `disk_full`; the job is not taken on then.
        """
        body = msgspec.json.encode(request)
        event = JobEvent(
            job_id=uuid.uuid4().hex,
            seq=0,
            state="queued",
            attempt=0,
            stage="waiting",
            done=0,
            total=0,
            eta_s=None,
            error_code="",
            error_message="",
            files=(),
        )
        now_s = time.time()
        self._write(
            "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, ?)",
            (
                event.job_id,
                user,
                request_id,
                body,
                _digest(body),
                _UNFINISHED,
                msgspec.json.encode(event),
                now_s,
                now_s,
            ),
        )
        return JobRecord(event.job_id, user, request, event)

    def save(self, record: JobRecord) -> None:
        """Write a job's newest event down.

        Raises:
            InputError: `disk_full`.
        """
        is_final = record.event.state in FINAL_STATES
        self._write(
            # The request is of no use any more, and may be large.
            "UPDATE jobs SET event = ?, lost = ?, is_final = ?, updated_s = ?,"
            " body = CASE WHEN ? THEN x'' ELSE body END WHERE id = ?",
            (
                msgspec.json.encode(record.event),
                record.lost,
                _FINAL if is_final else _UNFINISHED,
                time.time(),
                is_final,
                record.id,
            ),
        )

    def find(self, user: str, job_id: str) -> JobEvent | None:
        """The newest event of a job of this user; another user's does not exist."""
        rows = self._database.execute(
            "SELECT id, event, is_final FROM jobs WHERE user = ? AND id = ?", (user, job_id)
        ).fetchall()
        return _event_of(*rows[0]) if rows else None

    def unfinished(self) -> list[JobRecord]:
        """What was waiting or running when the last server ended, oldest first.

        Rows that cannot be decoded are left out and set aside.
        """
        rows = self._database.execute(
            "SELECT id, user, body, event, lost FROM jobs WHERE is_final = ? ORDER BY created_s",
            (_UNFINISHED,),
        ).fetchall()
        records: list[JobRecord] = []
        for job_id, user, body, event, lost in rows:
            try:
                record = JobRecord(
                    id=job_id,
                    user=user,
                    request=msgspec.json.decode(body, type=JobRequest),
                    event=msgspec.json.decode(event, type=JobEvent),
                    lost=lost,
                )
            except ValueError as error:
                _log.error("job_set_aside", job=job_id, user=user, problem=str(error))
                self._set_aside(job_id)
                continue
            # Progress may have been told that was not written.
            record.event = msgspec.structs.replace(record.event, seq=record.event.seq + SEQ_STEP)
            records.append(record)
        return records

    def count_set_aside(self) -> int:
        """How many jobs were set aside and are still there."""
        row = self._database.execute(
            "SELECT count(*) FROM jobs WHERE is_final = ?", (_SET_ASIDE,)
        ).fetchone()
        return row[0]

    def newest(self, user: str, limit: int) -> list[JobEvent]:
        """The newest event of each of a user's jobs, newest job first."""
        rows = self._database.execute(
            "SELECT id, event, is_final FROM jobs WHERE user = ? ORDER BY created_s DESC LIMIT ?",
            (user, limit),
        )
        return [_event_of(*row) for row in rows]

    def remove_old(self, keep_s: float) -> None:
        """Forget jobs that ended long ago, and the oldest of those who have very many.

        Raises:
            InputError: `disk_full`.
        """
        self._write(
            "DELETE FROM jobs WHERE is_final != ? AND (updated_s < ? OR id IN ("
            " SELECT id FROM (SELECT id, row_number() OVER"
            " (PARTITION BY user ORDER BY created_s DESC) AS place FROM jobs) WHERE place > ?))",
            (_UNFINISHED, time.time() - keep_s, _KEPT_JOBS),
        )

    def _set_aside(self, job_id: str) -> None:
        try:
            self._write(
                "UPDATE jobs SET is_final = ?, updated_s = ? WHERE id = ?",
                (_SET_ASIDE, time.time(), job_id),
            )
        except InputError as error:
            # The next start does it.
            _log.warning("journal_not_written", job=job_id, code=error.code)

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            self._database.execute(statement, values)
        except sqlite3.OperationalError as error:
            # Out of room says "full"; a limit on the size of files, "input/output error".
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise
            msg = (
                "expected room to write the job down, found the server's disk full; ask the "
                "server's owner to make room, then submit again"
            )
            raise InputError("disk_full", msg) from error

    def _prepare(self) -> None:
        """Bring the schema up to date, in the transaction that is open."""
        version: int = self._database.execute("PRAGMA user_version").fetchone()[0]
        if not 0 <= version <= _SCHEMA_VERSION:
            msg = (
                f"expected a job journal of version {_SCHEMA_VERSION} or older, found {version}; "
                "start the version of ex4d that wrote it, or choose another data folder"
            )
            raise InputError("journal_version", msg)
        if version == _SCHEMA_VERSION:
            # Nothing to write, which a full disk would refuse.
            return
        for step in _STEPS[version:]:
            # Not `executescript`: it would end the transaction.
            for statement in step.split(";"):
                self._database.execute(statement)
        self._database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")


def _event_of(job_id: str, event: bytes, is_final: int) -> JobEvent:
    """The newest event of a row, or that the job failed where the row cannot be decoded."""
    seq = attempt = 0
    try:
        known = msgspec.json.decode(event, type=JobEvent)
        if is_final != _SET_ASIDE:
            return known
        # After whatever was told and not written.
        seq, attempt = known.seq + SEQ_STEP, known.attempt
    except ValueError:
        # Nobody knows what was told: clients take only what is newer.
        seq = attempt = _BEYOND_ALL
    return JobEvent(
        job_id=job_id,
        seq=seq,
        state="failed",
        attempt=attempt,
        stage="",
        done=0,
        total=0,
        eta_s=None,
        error_code="job_unreadable",
        error_message=(
            "expected a job that this server can read in its journal, found it damaged or of "
            "another version; start it again"
        ),
        files=(),
    )


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
