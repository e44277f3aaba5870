"""A journal of an earlier version is brought forward, with every row in it."""

import sqlite3
from dataclasses import fields
from importlib import resources

import pytest

from countwerk_meter._flow.rows import ReservationRow
from countwerk_meter._flow.states import ChargeState, ReservationState
from countwerk_meter.errors import JournalError
from countwerk_meter.journal import SqliteJournal, sqlite_file
from countwerk_meter.testing.conformance import Do, Look, a_charge, a_reservation

_NEW = {"closed_as", "note", "closed_at"}


def insert(db, row):
    table = "reservation" if isinstance(row, ReservationRow) else "charge"
    names = [field.name for field in fields(row) if field.name not in _NEW]
    marks = ", ".join("?" * len(names))
    db.execute(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", [getattr(row, name) for name in names])


@pytest.fixture
def first_version(path):
    """A journal as version 1 made it."""
    db = sqlite3.connect(path)
    db.executescript(resources.files("countwerk_meter.journal").joinpath("sql", "sqlite_001.sql").read_text())
    for state in set(ReservationState) - {ReservationState.CLOSED}:
        insert(db, a_reservation(state, state=state, reservation_id=f"r-{state}"))
    for state in set(ChargeState) - {ChargeState.CLOSED, ChargeState.LOST}:
        insert(db, a_charge(state, state=state, amount=3, lines="[1]"))
    db.execute("PRAGMA user_version = 1")
    db.execute(f"PRAGMA application_id = {0x43574D31}")
    db.commit()
    db.close()
    return path


def schema(path):
    db = sqlite3.connect(path)
    found = set(db.execute("SELECT type, name, tbl_name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"))
    columns = {
        table: [(name, kind) for _, name, kind, *_ in db.execute(f"PRAGMA table_info({table})")]
        for table in ("reservation", "charge", "carry", "output_history")
    }
    db.close()
    return found, columns


def test_a_file_of_version_1_keeps_its_rows(opened, first_version):
    """Every one of them, with nothing in the new columns."""
    journal = opened()
    rows = journal.run(Look(lambda books: books.charges("l", None, 99)))
    expected = {a_charge(s, state=s, amount=3, lines="[1]") for s in set(ChargeState) - {"closed", "lost"}}
    assert expected == set(rows)
    holds = journal.run(Look(lambda books: books.reservations("l", frozenset(ReservationState), 99)))
    expected = {a_reservation(s, state=s, reservation_id=f"r-{s}") for s in set(ReservationState) - {"closed"}}
    assert expected == set(holds)


def test_a_file_of_version_1_becomes_what_a_new_one_is(opened, first_version, tmp_path):
    """The same tables, columns, indexes and triggers."""
    opened()
    opened(tmp_path / "new.db")
    assert schema(tmp_path / "new.db") == schema(first_version)


def test_a_file_of_version_1_learns_the_new_steps(opened, first_version):
    """And goes on to refuse the others."""
    journal = opened()
    journal.run(Do(lambda books: books.save_charge(a_charge("unresolved", state=ChargeState.CLOSED, amount=3))))
    with pytest.raises(JournalError, match="forbidden"):
        journal.run(Do(lambda books: books.save_charge(a_charge("settled", state=ChargeState.CLOSED, amount=3))))


def test_a_migration_that_fails_leaves_the_file_as_it_was(opened, first_version, monkeypatch):
    """All of it happens, or nothing."""
    statements = sqlite_file._statements
    monkeypatch.setattr(sqlite_file, "_statements", lambda script: [*statements(script), "CREATE NONSENSE"])
    before = schema(first_version)
    with pytest.raises(JournalError):
        opened()
    assert before == schema(first_version)
    db = sqlite3.connect(first_version)
    assert (1,) == db.execute("PRAGMA user_version").fetchone()
    db.close()


def test_a_file_that_another_migrates_meanwhile_is_looked_at_anew(opened, first_version, monkeypatch):
    """A query that names an index does not look again by itself, and would not find it as it was."""
    write_ahead = sqlite_file._write_ahead

    def meanwhile(db):
        monkeypatch.undo()
        SqliteJournal(first_version).close()
        write_ahead(db)

    monkeypatch.setattr(sqlite_file, "_write_ahead", meanwhile)
    assert opened().run(Look(lambda books: books.next_due("l", "o", 0.0))) is None
