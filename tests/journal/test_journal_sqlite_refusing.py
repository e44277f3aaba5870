"""What is no journal of ours, or cannot be read or written, is refused by name, with what to do, and never replaced."""

import os
import sqlite3
import subprocess
import sys

import pytest

from countwerk_meter.errors import JournalError
from countwerk_meter.journal import sqlite_file
from countwerk_meter.testing.conformance import Do, a_charge


@pytest.fixture
def refused(opened, path):
    """Open the file, expect a refusal that names it and what to do, and expect it untouched."""

    def check(*words, at=path):
        before = at.read_bytes() if at.is_file() else None
        with pytest.raises(JournalError) as caught:
            opened(at)
        text = str(caught.value)
        assert str(at) in text
        for word in (*words, "COUNTWERK_JOURNAL"):
            assert word in text
        assert before == (at.read_bytes() if at.is_file() else None)

    return check


@pytest.fixture
def written(opened, path):
    """A journal with something in it, closed."""
    journal = opened()
    for number in range(200):
        journal.run(Do(lambda books, number=number: books.save_charge(a_charge(f"c{number}", lines="x" * 500))))
    journal.close()
    return path


def test_a_file_that_is_no_database(path, refused):
    """Somebody's notes."""
    path.write_text("these are my notes, and there are quite a lot of them\n" * 40)
    refused("cannot be read", "keep the file")


def test_a_database_that_is_not_ours(path, refused):
    """Another application's, with tables or with a mark of its own."""
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE t (x)")
    db.commit()
    refused("no journal of countwerk-meter")
    db.execute("DROP TABLE t")
    db.execute("PRAGMA application_id = 77")
    db.commit()
    db.close()
    refused("no journal of countwerk-meter")


def test_a_newer_schema(written, refused):
    """An older version must not write to it."""
    db = sqlite3.connect(written)
    db.execute(f"PRAGMA user_version = {sqlite_file.SCHEMA_VERSION + 1}")
    db.close()
    refused(f"version {sqlite_file.SCHEMA_VERSION + 1}", f"knows up to {sqlite_file.SCHEMA_VERSION}", "upgrade")


@pytest.mark.parametrize("size", [50, 4096, 20000])
def test_a_truncated_file(written, refused, size):
    """Cut in its header, or after a page."""
    os.truncate(written, size)
    refused("cannot be read", "keep the file", ".recover")


def test_a_journal_that_was_emptied(opened, written, refused):
    """An empty file beside the locks of owners was a journal: it is not made anew over their charges."""
    journal = opened()
    journal.join("me")
    journal.close()
    os.truncate(written, 0)
    refused("empty now", "keep the file")


def test_an_empty_file_that_never_was_a_journal_becomes_one(opened, path):
    """A first start that was killed, or `touch`."""
    path.touch()
    opened().run(Do(lambda books: books.save_charge(a_charge("c"))))


def test_a_corrupt_file(written, refused):
    """Pages overwritten with rubbish."""
    with written.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xde\xad\xbe\xef" * 4096)
    refused("cannot be read", "keep the file", ".recover")


def test_a_corrupt_header(written, refused):
    """The first bytes are gone."""
    with written.open("r+b") as file:
        file.write(b"\0" * 64)
    refused("cannot be read", "keep the file")


def test_a_directory(path, refused):
    """It is no file."""
    path.mkdir()
    refused("no file")


def test_a_directory_that_is_a_file(path, refused):
    """Its directory cannot be made."""
    path.write_text("in the way")
    refused("cannot be opened", "writable", at=path / "journal.db")


def test_memory_in_disguise(opened):
    """SQLite would take the name for a database that forgets."""
    with pytest.raises(JournalError, match="forget"):
        opened(":memory:")


_AS_NOBODY = """
import os
from countwerk_meter.errors import JournalError
from countwerk_meter.journal import SqliteJournal
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    SqliteJournal("journal.db")
except JournalError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["file", "directory", "new file"])
def test_what_cannot_be_written(opened, tmp_path, what):
    """A file or a directory without write permission: said at once, not at the first charge."""
    place = tmp_path / "place"
    place.mkdir()
    target = place / "journal.db"
    if what != "new file":
        opened(target).close()
        target.chmod(0o444 if what == "file" else 0o666)
    place.chmod(0o777 if what == "file" else 0o555)
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY], check=False, cwd=place, capture_output=True, text=True, timeout=60
    )
    place.chmod(0o755)
    for word in ("journal.db", "writable", "COUNTWERK_JOURNAL"):
        assert word in done.stdout, done.stderr


def test_a_file_that_sqlite_cannot_open(monkeypatch, refused, path):
    """Whatever its reason is."""

    def fail(*_, **__):
        raise sqlite3.OperationalError("unable to open database file")

    path.touch()
    monkeypatch.setattr(sqlite3, "connect", fail)
    refused("unable to open", "writable")


def test_a_file_that_stays_locked_while_it_is_opened(monkeypatch, opened, written):
    """A bounded wait, then a refusal."""
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.1)
    db = sqlite3.connect(written, isolation_level=None)
    db.execute("PRAGMA journal_mode = DELETE")
    db.execute("BEGIN EXCLUSIVE")
    with pytest.raises(JournalError, match="locked"):
        opened()
    db.execute("ROLLBACK")
    db.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="locked"):
        opened()
    db.execute("ROLLBACK")
    db.close()
    opened()


def test_a_migration_that_fails_leaves_nothing_half_made(monkeypatch, opened, path):
    """One transaction: the next start begins where this one did."""
    real = sqlite_file._statements
    monkeypatch.setattr(sqlite_file, "_statements", lambda script: [*real(script)[:3], "CREATE NONSENSE"])
    with pytest.raises(JournalError):
        opened()
    monkeypatch.undo()
    opened().run(Do(lambda books: books.save_charge(a_charge("c"))))


@pytest.mark.parametrize("name", ["open", "access"])
def test_what_the_operating_system_refuses(monkeypatch, opened, path, name):
    """As the tests with another user do, and for users who may do everything."""
    if name == "access":
        path.touch()
    else:
        path.unlink(missing_ok=True)

    def refuse(*_):
        if name == "access":
            return False
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, name, refuse)
    with pytest.raises(JournalError, match="writable") as caught:
        opened()
    assert str(path) in str(caught.value)


_NO_ROOM = """
import resource, sys
from countwerk_meter.errors import JournalError
from countwerk_meter.journal import SqliteJournal
most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, most))
try:
    SqliteJournal(sys.argv[1])
except JournalError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
SqliteJournal(sys.argv[1]).close()
"""


def test_a_disk_that_fills_up_while_the_journal_is_made_is_named(path):
    """SQLite has rolled back by itself then; once there is room, the same file is made."""
    command = [sys.executable, "-c", _NO_ROOM, str(path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert f"the journal {path} cannot be opened: disk I/O error" in told
