"""What the SQLite tests share: a path, and journals that are closed whatever happens."""

import threading
from pathlib import Path

import pytest

from countwerk_meter.journal import SqliteJournal, sqlite_file, write_ahead
from countwerk_meter.journal import sqlite as module
from countwerk_meter.testing.conformance import Look


@pytest.fixture
def path(tmp_path):
    """Where the journal is."""
    return tmp_path / "journal.db"


@pytest.fixture
def opened(path):
    """Open the journal at `path`; closed at the end."""
    journals = []

    def make(at=path, **options):
        journals.append(SqliteJournal(at, **options))
        return journals[-1]

    yield make
    for journal in journals:
        journal.close()


@pytest.fixture
def traced(monkeypatch):
    """Every statement that a journal's connection runs, in order."""
    statements = []
    real = sqlite_file.opened

    def opened(path):
        connection = real(path)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(module, "opened", opened)
    return statements


@pytest.fixture
def synced(monkeypatch):
    """The files that a journal brought to the disk itself, in order."""
    files = []
    real = write_ahead._to_disk

    def to_disk(number):
        files.append(str(Path(f"/proc/self/fd/{number}").readlink()))
        real(number)

    monkeypatch.setattr(write_ahead, "_to_disk", to_disk)
    return files


@pytest.fixture
def held(opened):
    """A journal whose writer is busy until `.release()`, so that what is submitted meanwhile forms a group."""
    journal = opened()
    entered, go = threading.Event(), threading.Event()

    def wait(_):
        entered.set()
        go.wait(10)

    journal.submit(Look(wait))
    assert entered.wait(10)
    journal.release = go.set
    yield journal
    go.set()
