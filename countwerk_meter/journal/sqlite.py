"""
The journal on one host: SQLite in WAL mode, written by one thread that groups commits.

Charges that are committed at the same time share one fsync. Operations of money rules 4 and 7 are synced to the disk
before they are answered; the others need only survive the process. The file is readable by its owner alone.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
from concurrent.futures import Future
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from countwerk_meter.errors import CountwerkError, JournalError
from countwerk_meter.journal.owners import OwnerLocks
from countwerk_meter.journal.port import Journal
from countwerk_meter.journal.sqlite_rows import SqliteBooks

if TYPE_CHECKING:
    from countwerk_meter._flow.books import Operation

T = TypeVar("T")

APPLICATION_ID: Final = 0x43574D31
SCHEMA_VERSION: Final = 1
_GROUP: Final = 256
_CHECKED_BYTES: Final = 64 << 20
_BUSY_SECONDS: Final = 5.0


class SqliteJournal(Journal):
    """
    A journal in one file.

    Args:
        path: The file. Its directory is made if it is not there.
        synchronous: True syncs the commits of money rules 4 and 7 to the disk. False trusts the operating system:
            a power cut may then lose the newest charges.

    Raises:
        JournalError: The file cannot be opened or written, is damaged, is not a journal, or is of a newer version.
            It is never replaced by a new one.

    """

    def __init__(self, path: str | os.PathLike[str], *, synchronous: bool = True) -> None:
        self._path = Path(path)
        self._synchronous = synchronous
        self._locks = OwnerLocks(self._path.with_name(self._path.name + ".owners"))
        self._lock = threading.Lock()
        self._closed = False
        self._start()

    @property
    def name(self) -> str:
        return str(self._path)

    def _start(self) -> None:
        self._pid = os.getpid()
        self._queue: queue.SimpleQueue[tuple[Operation[Any], Future[Any]] | None] = queue.SimpleQueue()
        connection = _opened(self._path)
        self._thread = threading.Thread(
            target=self._write, args=(connection, self._queue), name="countwerk-journal", daemon=True
        )
        self._thread.start()

    def submit(self, operation: Operation[T]) -> Future[T]:
        future: Future[T] = Future()
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    # Forked: the thread stayed in the parent, and its connection must not be touched from here.
                    self._start()
        with self._lock:
            if self._closed:
                future.set_exception(JournalError(f"the journal {self.name} is closed"))
            else:
                self._queue.put((operation, future))
        return future

    def join(self, owner: str) -> None:
        try:
            self._locks.take(owner)
        except OSError as error:
            raise JournalError(f"cannot lock {self.name}.owners: {error.strerror}; make its directory writable") from None

    def is_alive(self, owner: str) -> bool:
        return self._locks.is_held(owner)

    def leave(self, owner: str) -> None:
        self._locks.release(owner)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        if self._pid == os.getpid():
            self._thread.join()
        self._locks.release_all()

    def _write(
        self,
        connection: sqlite3.Connection,
        waiting: queue.SimpleQueue[tuple[Operation[Any], Future[Any]] | None],
    ) -> None:
        books = SqliteBooks(connection)
        done = False
        while not done:
            group = [waiting.get()]
            while len(group) < _GROUP:
                try:
                    group.append(waiting.get_nowait())
                except queue.Empty:
                    break
            done = None in group
            jobs = [job for job in group if job is not None]
            if jobs:
                self._commit(connection, books, jobs)
        connection.close()

    def _commit(
        self, db: sqlite3.Connection, books: SqliteBooks, jobs: list[tuple[Operation[Any], Future[Any]]]
    ) -> None:
        """Carry out a group in one transaction; one that fails is undone alone."""
        results: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            reads_only = all(operation.reads for operation, _ in jobs)
            durable = self._synchronous and any(operation.durable for operation, _ in jobs)
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            db.execute("BEGIN" if reads_only else "BEGIN IMMEDIATE")
            for operation, future in jobs:
                db.execute("SAVEPOINT one")
                try:
                    results.append((future, operation.apply(books), None))
                except (CountwerkError, AssertionError, sqlite3.IntegrityError) as error:
                    db.execute("ROLLBACK TO one")
                    results.append((future, None, error))
                db.execute("RELEASE one")
            db.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - a full disk, a locked file: whoever waits must hear of it
            if db.in_transaction:
                db.execute("ROLLBACK")
            failure = JournalError(f"the journal {self.name} cannot be written: {error}")
            results = [(future, None, failure) for _, future in jobs]
        for future, result, error in results:
            if error is None:
                future.set_result(result)
            elif isinstance(error, CountwerkError):
                future.set_exception(error)
            else:
                future.set_exception(JournalError(f"the journal {self.name} refused a step: {error}"))


def _opened(path: Path) -> sqlite3.Connection:
    """Open the file, making it if it is not there, and bring it to this version."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise JournalError(
            f"the journal {path} cannot be opened: {error.strerror}; make it writable for this user, "
            "or name another file with COUNTWERK_JOURNAL=sqlite:///path"
        ) from None
    try:
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise JournalError(f"the journal {path} cannot be opened: {error}") from None
    try:
        _checked(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _checked(db: sqlite3.Connection, path: Path) -> None:
    try:
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        kind: int = db.execute("PRAGMA application_id").fetchone()[0]
        tables: int = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if tables and kind != APPLICATION_ID:
            raise JournalError(f"{path} is a database, but no journal of countwerk-meter; name another file")
        if version > SCHEMA_VERSION:
            raise JournalError(
                f"the journal {path} has schema version {version}, and this countwerk-meter knows up to "
                f"{SCHEMA_VERSION}; upgrade countwerk-meter"
            )
        if path.stat().st_size <= _CHECKED_BYTES:
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise _damaged(path, str(verdict))
        db.execute("PRAGMA journal_mode = WAL")
        if version < SCHEMA_VERSION:
            _migrate(db, version)
    except sqlite3.DatabaseError as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, why: str) -> JournalError:
    return JournalError(
        f"the journal {path} cannot be read ({why}); its charges may not have been settled: keep the file, restore it "
        "from a backup or repair it with sqlite3's .recover, or name another file with COUNTWERK_JOURNAL=sqlite:///path"
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
