"""The job journal by itself."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from ex4d_server.journal import SEQ_STEP, JobRecord, Journal
from raw_client import new_id, render_job

from ex4d.errors import InputError

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
    with pytest.raises(InputError, match="version 1, found 7") as caught:
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
