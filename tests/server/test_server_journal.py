"""The job journal by itself."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from ex4d_server.journal import SEQ_STEP, JobRecord, Journal
from raw_client import new_id, render_job

from ex4d.errors import InputError, ProtocolError

DAY_S = 86400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite3"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    journal = Journal(path)
    yield journal
    journal.close()


def finish(journal: Journal, record: JobRecord) -> None:
    record.advance(state="done")
    journal.save(record)


def test_jobs_outlive_the_process(journal: Journal, path: Path) -> None:
    record = journal.add("anna", new_id(), render_job([]))
    record.advance(state="running", attempt=1, done=2, total=3)
    record.lost = 1
    journal.save(record)
    journal.close()
    again = Journal(path)
    (found,) = again.unfinished()
    assert (found.id, found.user, found.request, found.lost) == (
        record.id,
        "anna",
        record.request,
        1,
    )
    assert found.event == msgspec.structs.replace(record.event, seq=1 + SEQ_STEP)
    again.close()


def test_finished_jobs_are_not_run_again(journal: Journal) -> None:
    finish(journal, journal.add("anna", new_id(), render_job([])))
    assert journal.unfinished() == []


def test_request_of_a_finished_job_is_dropped_and_still_known(journal: Journal, path: Path) -> None:
    request_id, request = new_id(), render_job([], frame_count=1000)
    record = journal.add("anna", request_id, request)
    finish(journal, record)
    assert journal.find_request("anna", request_id, request) == record.id
    with pytest.raises(ProtocolError) as caught:
        journal.find_request("anna", request_id, render_job([], frame_count=999))
    assert caught.value.code == "conflict"
    journal.close()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT length(body) FROM jobs").fetchall() == [(0,)]


def test_journal_belongs_to_one_process(journal: Journal, path: Path) -> None:
    with pytest.raises(InputError) as caught:
        Journal(path, wait_s=0.1)
    assert caught.value.code == "data_in_use"
    journal.close()
    Journal(path).close()


def test_journal_of_another_version_is_left_alone(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 7")
    database.close()
    with pytest.raises(InputError, match="version 2 or older, found 7") as caught:
        Journal(path)
    assert caught.value.code == "journal_version"
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA user_version").fetchone() == (7,)
    database.close()


def test_old_finished_jobs_are_forgotten(journal: Journal) -> None:
    done = journal.add("anna", new_id(), render_job([]))
    finish(journal, done)
    waiting = journal.add("anna", new_id(), render_job([]))
    journal.remove_old(keep_s=DAY_S)
    assert journal.find("anna", done.id)
    journal.remove_old(keep_s=-1.0)
    assert journal.find("anna", done.id) is None
    assert journal.find("anna", waiting.id), "unfinished ones stay"


#: As the first version wrote it.
FIRST_SCHEMA = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, user TEXT NOT NULL, request_id TEXT NOT NULL, body BLOB NOT NULL,
    body_sha256 TEXT NOT NULL, is_final INTEGER NOT NULL, lost INTEGER NOT NULL,
    event BLOB NOT NULL, created_s REAL NOT NULL, updated_s REAL NOT NULL,
    UNIQUE (user, request_id)
) STRICT;
CREATE INDEX jobs_by_user ON jobs (user, created_s);
CREATE INDEX jobs_unfinished ON jobs (is_final, created_s);
PRAGMA user_version = 1;
"""
OLD_ID = "0123456789abcdef0123456789abcdef"
OLD_BODY = b'{"type":"reconstruct","files":[],"clip":"clip.mp4","depth":"depth.npz","name":"old"}'
OLD_EVENT = (
    b'{"type":"job_event","job_id":"0123456789abcdef0123456789abcdef","seq":3,"state":"queued",'
    b'"attempt":1,"stage":"waiting","done":0,"total":0,"eta_s":null,"error_code":"",'
    b'"error_message":"","files":[]}'
)


def old_journal(path: Path) -> None:
    database = sqlite3.connect(path)
    database.executescript(FIRST_SCHEMA)
    database.execute(
        "INSERT INTO jobs VALUES (?, 'anna', ?, ?, 'x', 0, 1, ?, 1.0, 2.0)",
        (OLD_ID, "f" * 32, OLD_BODY, OLD_EVENT),
    )
    database.commit()
    database.close()


def schema(path: Path) -> tuple[int, list[str]]:
    database = sqlite3.connect(path)
    version = database.execute("PRAGMA user_version").fetchone()[0]
    names = database.execute("SELECT name FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
    found = version, [row[0] for row in names]
    database.close()
    return found


def test_journal_of_the_first_version_is_brought_up_to_date(path: Path, tmp_path: Path) -> None:
    old_journal(path)
    journal = Journal(path)
    (found,) = journal.unfinished()
    assert (found.id, found.user, found.lost, found.event.attempt) == (OLD_ID, "anna", 1, 1)
    finish(journal, found)
    journal.close()
    fresh = tmp_path / "fresh.sqlite3"
    Journal(fresh).close()
    assert schema(path) == schema(fresh), "whether old or new, it is the same"
    assert schema(path)[0] == 2
    again = Journal(path)
    assert again.find("anna", OLD_ID)
    again.close()


def test_upgrade_that_fails_changes_nothing(path: Path) -> None:
    old_journal(path)
    database = sqlite3.connect(path)
    # In the way of what the second version adds.
    database.execute("CREATE TABLE jobs_by_end (x)")
    database.commit()
    database.close()
    before = schema(path)
    with pytest.raises(sqlite3.OperationalError):
        Journal(path)
    assert schema(path) == before


@pytest.mark.parametrize("column", ["body", "event"])
@pytest.mark.parametrize(
    "damage", [b'{"type":"of another time"}', b'{"type":"\xff"}', b""], ids=repr
)
def test_row_that_cannot_be_decoded_is_set_aside(path: Path, column: str, damage: bytes) -> None:
    journal = Journal(path)
    damaged = journal.add("anna", new_id(), render_job([]))
    damaged.advance(state="running", attempt=2)
    journal.save(damaged)
    whole = journal.add("anna", new_id(), render_job([]))
    journal._database.execute(f"UPDATE jobs SET {column} = ? WHERE id = ?", (damage, damaged.id))
    assert [record.id for record in journal.unfinished()] == [whole.id]
    assert journal.count_set_aside() == 1
    told = journal.find("anna", damaged.id)
    assert told is not None
    assert (told.state, told.error_code) == ("failed", "job_unreadable")
    # Or clients would take it for older than what they know.
    assert told.seq > damaged.event.seq
    assert told.attempt >= damaged.event.attempt
    assert told in journal.newest("anna", 10)
    assert journal.find("ben", damaged.id) is None
    journal.close()
    again = Journal(path)
    assert [record.id for record in again.unfinished()] == [whole.id]
    rows = again._database.execute(f"SELECT {column} FROM jobs WHERE id = ?", (damaged.id,))
    assert rows.fetchone() == (damage,), "kept as it was"
    again.remove_old(keep_s=DAY_S)
    assert again.count_set_aside() == 1
    again.remove_old(keep_s=-1.0)
    assert again.count_set_aside() == 0
    again.close()


def test_full_disk_refuses_new_jobs_and_loses_none(path: Path) -> None:
    journal = Journal(path)
    record = journal.add("anna", new_id(), render_job([]))
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count = {pages}")
    # More than a page that is there could take.
    large = render_job([], frame_count=400)
    with pytest.raises(InputError, match="disk full") as caught:
        journal.add("anna", new_id(), large)
    assert caught.value.code == "disk_full"
    assert journal.find("anna", record.id)
    journal.close()
