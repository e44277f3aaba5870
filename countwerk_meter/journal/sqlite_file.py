"""
Opening a SQLite journal: making it, knowing it again, bringing it to this version, and refusing what it is not.

A file that cannot be read as a journal is never replaced by a new one: its charges may not have been settled (I3).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from importlib import resources
from typing import TYPE_CHECKING, Final

from countwerk_meter.errors import JournalError

if TYPE_CHECKING:
    from pathlib import Path

APPLICATION_ID: Final = 0x43574D31
SCHEMA_VERSION: Final = 6
BUSY_SECONDS: Final = 5.0
_CHECKED_BYTES: Final = 64 << 20
_ELSEWHERE: Final = "or name another file with COUNTWERK_JOURNAL=sqlite:///path"


def opened(path: Path) -> sqlite3.Connection:
    """Open the file, making it if it is not there, and bring it to this version."""
    if str(path) == ":memory:":
        raise JournalError("the journal :memory: would forget every charge unsaid; name a file, or write memory:")
    _made(path)
    try:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise _unusable(path, str(error)) from None
    try:
        _checked(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _made(path: Path) -> None:
    """
    Make the file, readable by its owner alone.

    One that is there is not opened and closed here: that would let go of every lock that this process holds on it
    through another connection (POSIX), and so damage it.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not path.is_file():
            raise _unusable(path, "it is no file") from None
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from None
    else:
        return
    if not os.access(path, os.R_OK | os.W_OK) or not os.access(path.parent, os.W_OK | os.X_OK):
        raise _unusable(path, "it or its directory cannot be written")
    # In this order: whoever makes the file just now makes these when it is no longer empty.
    if any(path.with_name(path.name + end).exists() for end in (".owners", "-wal")) and path.stat().st_size == 0:
        raise _damaged(path, "it was a journal and is empty now")


def _checked(db: sqlite3.Connection, path: Path) -> None:
    try:
        version, kind, tables = _marks(db)
        if kind != APPLICATION_ID and (tables or kind or version):
            raise JournalError(
                f"{path} is a database, but no journal of countwerk-meter; name another file with "
                "COUNTWERK_JOURNAL=sqlite:///path"
            )
        if version > SCHEMA_VERSION:
            raise JournalError(
                f"the journal {path} has schema version {version}, and this countwerk-meter knows up to "
                f"{SCHEMA_VERSION}; upgrade countwerk-meter, {_ELSEWHERE}"
            )
        if path.stat().st_size <= _CHECKED_BYTES:
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise _damaged(path, str(verdict))
        _write_ahead(db)
        if version < SCHEMA_VERSION:
            _migrate(db, version)
            # Another process may have done it meanwhile; a query that names an index does not look again by itself.
            db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        # What must be on the disk is synced behind its commit.
        db.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.OperationalError as error:
        raise _unusable(path, str(error)) from None
    except sqlite3.DatabaseError as error:
        raise _damaged(path, str(error)) from None
    except OSError as error:
        # Somebody takes it away just now.
        raise _unusable(path, error.strerror or str(error)) from None


def _marks(db: sqlite3.Connection) -> tuple[int, int, int]:
    """Read schema version, application id and how many tables at one moment: another process may be making them."""
    try:
        db.execute("BEGIN")
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        kind: int = db.execute("PRAGMA application_id").fetchone()[0]
        tables: int = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    finally:
        # What went wrong before it is the better word.
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
    return version, kind, tables


def _write_ahead(db: sqlite3.Connection) -> None:
    """Switch to WAL. Two processes that make one file at once meet here, where SQLite does not wait by itself."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            if mode != "wal":
                raise sqlite3.OperationalError("its file system keeps no write-ahead log")
            return


def _unusable(path: Path, why: str) -> JournalError:
    return JournalError(
        f"the journal {path} cannot be opened: {why}; make it and its directory writable for this user, {_ELSEWHERE}"
    )


def _damaged(path: Path, why: str) -> JournalError:
    return JournalError(
        f"the journal {path} cannot be read ({why}); its charges may not have been settled: keep the file, restore it "
        f"from a backup or repair it with sqlite3's .recover, {_ELSEWHERE}"
    )


def _migrate(db: sqlite3.Connection, version: int) -> None:
    """Bring the schema forward, one named file a version, in one transaction."""
    db.execute("BEGIN EXCLUSIVE")
    try:
        current: int = db.execute("PRAGMA user_version").fetchone()[0]
        for number in range(max(version, current) + 1, SCHEMA_VERSION + 1):
            script = resources.files("countwerk_meter.journal").joinpath("sql", f"sqlite_{number:03}.sql").read_text()
            for statement in _statements(script):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {number}")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute("COMMIT")
    except BaseException:
        # On a full disk SQLite has rolled back by itself, and what is raised must be that the disk is full.
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def _statements(script: str) -> list[str]:
    statements: list[str] = []
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            statements.append(statement)
            statement = ""
    return statements
