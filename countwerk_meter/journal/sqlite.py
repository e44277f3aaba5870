"""
The journal on one host: SQLite in WAL mode, written by one thread that groups commits.

Charges that are committed at the same time share one fsync. Operations of money rules 4 and 7 are synced to the disk
before they are answered; the others need only survive the process. The file is readable by its owner alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sqlite3
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from countwerk_meter.errors import JournalError
from countwerk_meter.journal.forking import Pause, Writer, opening
from countwerk_meter.journal.groups import Result, deliver, gathered, writes
from countwerk_meter.journal.outcome import Outcome
from countwerk_meter.journal.owners import OwnerLocks
from countwerk_meter.journal.port import Journal, refused
from countwerk_meter.journal.sqlite_file import BUSY_SECONDS, SCHEMA_VERSION, opened
from countwerk_meter.journal.sqlite_rows import SqliteBooks
from countwerk_meter.journal.write_ahead import WriteAheadLog

if TYPE_CHECKING:
    from concurrent.futures import Future

    from countwerk_meter._flow.books import Operation

T = TypeVar("T")

_LOG: Final = logging.getLogger("countwerk_meter.journal")
_GROUP: Final = 256
# Between two tries to bring to the disk what it did not take.
_AGAIN_SECONDS: Final = 0.1

_Step: TypeAlias = "tuple[Operation[Any], Future[Any]]"
_Job: TypeAlias = "_Step | Pause | None"


class SqliteJournal(Journal, Writer):
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
        # The file itself: a process that knows it by another name must find the same locks, and one that changes its
        # directory before a fork (a daemon) the same file.
        self._file = self._path if str(path) == ":memory:" else Path(os.path.realpath(path))
        self._locks = OwnerLocks(self._file.with_name(self._file.name + ".owners"))
        self._lock = threading.RLock()
        self._closed = self._pausing = False
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self.announce()
        self._start()

    @property
    def name(self) -> str:
        return str(self._path)

    @property
    def schema_version(self) -> int:
        return SCHEMA_VERSION

    def _start(self) -> None:
        with opening():
            connection = opened(self._file)
            self._pid = os.getpid()
            # Its thread waits for `opening()`, and has nothing open then.
            self._reopens = False
            self._queue: queue.SimpleQueue[_Job] = queue.SimpleQueue()
            self._thread = threading.Thread(
                target=self._write, args=(connection, self._queue), name="countwerk-journal", daemon=True
            )
            self._thread.start()

    def _reopened(self) -> sqlite3.Connection:
        self._reopens = True
        with opening():
            try:
                return opened(self._file)
            finally:
                self._reopens = False

    def submit(self, operation: Operation[T]) -> Future[T]:
        future: Future[T] = Outcome()
        failure: JournalError | None = None
        # Made out here: in there nothing is to be collected.
        job = operation, future
        with self._lock:
            try:
                self._awake()
                self._queue.put(job)
            except JournalError as error:
                failure = error
        if failure is not None:
            future.set_exception(failure)
        return future

    def _awake(self) -> None:
        if self._closed:
            raise JournalError(f"the journal {self.name} is closed")
        if self._pid != os.getpid():
            # Forked: the thread stayed in the parent, and its connection must not be touched from here.
            self._start()

    def join(self, owner: str) -> None:
        try:
            self._locks.take(owner)
        except OSError as error:
            raise JournalError(
                f"cannot lock {self.name}.owners: {error.strerror}; make its directory writable"
            ) from None

    def is_alive(self, owner: str) -> bool:
        return self._locks.is_held(owner)

    def leave(self, owner: str) -> None:
        self._locks.release(owner)

    def close(self, timeout: float | None = None) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        if self._pid == os.getpid() and self._thread is not None:
            # Bounded: a disk that hangs must not keep the process from ending; what was committed is there.
            self._thread.join(2 * BUSY_SECONDS if timeout is None else timeout)
        self._locks.release_all()

    def _write(
        self,
        connection: sqlite3.Connection,
        waiting: queue.SimpleQueue[_Job],
    ) -> None:
        db: sqlite3.Connection | None = connection
        books = SqliteBooks(connection, self._locks.is_held)
        log = WriteAheadLog(connection)
        del connection
        writes()
        done = False
        while not done:
            group = gathered(waiting, _GROUP)
            done = None in group
            jobs = [job for job in group if isinstance(job, tuple)]
            if jobs and db is None:
                try:
                    db = self._reopened()
                    books, log = SqliteBooks(db, self._locks.is_held), WriteAheadLog(db)
                except Exception as error:  # noqa: BLE001 - this thread must go on, as below
                    failure = error if isinstance(error, JournalError) else self._unwritable(error)
                    for _, future in jobs:
                        future.set_exception(failure)
                    jobs = []
            if jobs and db is not None:
                self._commit(db, books, log, jobs)
            pauses = [job for job in group if isinstance(job, Pause)]
            if pauses and db is not None:
                log.close()
                db.close()
                db = None
            for pause in pauses:
                pause.paused.set()
                pause.over.wait()
        log.close()
        if db is not None:
            db.close()

    def _commit(self, db: sqlite3.Connection, books: SqliteBooks, log: WriteAheadLog, jobs: list[_Step]) -> None:
        """
        Carry out a group and bring it to the disk, if a step of it is durable; then tell who waits.

        Nobody here hears of any of it before that, nor of what was only read: a deduct leaves because a commit is seen.
        It is seen by then, so a disk that fails is one that hangs: whoever waits is told that it failed only where the
        connection ends. An attempt that failed, and is open for everybody else, would be taken for one that left.
        """
        results = self._carried_out(db, books, jobs)
        if self._synchronous and any(operation.durable for operation, _ in jobs):
            try:
                self._sync(log)
            except (OSError, sqlite3.Error) as problem:
                failure = self._unwritable(problem)
                results = [
                    (future, None, failure) if operation.durable and error is None else (future, result, error)
                    for (operation, _), (future, result, error) in zip(jobs, results, strict=True)
                ]
        deliver(results)

    def _sync(self, log: WriteAheadLog) -> None:
        """Bring the log to the disk, however often that takes."""
        told = False
        while True:
            try:
                log.sync()
            except (OSError, sqlite3.Error) as problem:
                if self._closed or self._pausing:
                    raise
                if not told:
                    told = True
                    _LOG.error("the journal %s answers nothing until its disk takes it: %s", self.name, problem)
                time.sleep(_AGAIN_SECONDS)
            else:
                return

    def _unwritable(self, error: Exception) -> JournalError:
        return JournalError(f"the journal {self.name} cannot be written: {error}")

    def _carried_out(self, db: sqlite3.Connection, books: SqliteBooks, jobs: list[_Step]) -> list[Result]:
        """Carry out a group in one transaction; one that fails is undone alone. Reads do not fail with a write."""
        results: list[Result] = []
        try:
            begin = "BEGIN" if all(operation.reads for operation, _ in jobs) else "BEGIN IMMEDIATE"
            books.begin(begin)
            try:
                results = [(future, operation.apply(books), None) for operation, future in jobs]
                books.write()
            except Exception as error:
                if _is_the_stores(error):
                    raise
                # One cannot be carried out, which is rare: once more, so that it is undone alone.
                db.execute("ROLLBACK")
                books.forget_rows()
                books.begin(begin)
                results = self._one_by_one(db, books, jobs)
            db.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - a full disk, a locked file: whoever waits must hear of it
            # This thread must go on, or every later commit would wait for ever.
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            books.forget_rows()
            failure = self._unwritable(error)
            reads = [job for job in jobs if job[0].reads]
            read = iter(self._carried_out(db, books, reads)) if 0 < len(reads) < len(jobs) else None
            # A full disk can still be read: the state of a charge, say, by an app that waits for it.
            results = [
                next(read) if read is not None and operation.reads else (future, None, failure)
                for operation, future in jobs
            ]
        return results

    def _one_by_one(self, db: sqlite3.Connection, books: SqliteBooks, jobs: list[_Step]) -> list[Result]:
        results: list[Result] = []
        for operation, future in jobs:
            books.forget_rows()
            db.execute("SAVEPOINT one")
            try:
                result = operation.apply(books)
                books.write()
                results.append((future, result, None))
            except Exception as error:
                if _is_the_stores(error):
                    raise
                db.execute("ROLLBACK TO one")
                books.forget_rows()
                results.append((future, None, refused(self.name, error)))
            db.execute("RELEASE one")
        return results

    def writes(self) -> bool:
        thread = self._thread
        if thread is None or self._pid != os.getpid() or thread is threading.current_thread():
            return False
        return thread.is_alive() and not self._reopens

    def let_go(self, pause: Pause) -> None:
        self._pausing = True
        # What is submitted meanwhile waits behind it; behind the end of the queue nobody takes it, and the thread ends.
        self._queue.put(pause)

    def resume(self) -> None:
        self._pausing = False

    def forked(self) -> None:
        self._lock = threading.RLock()


def _is_the_stores(error: Exception) -> bool:
    """Whether the file failed, and with it the whole group, and not the one step that ran into it."""
    mine = sqlite3.IntegrityError | sqlite3.DataError | sqlite3.ProgrammingError | sqlite3.InterfaceError
    return isinstance(error, sqlite3.Error) and not isinstance(error, mine)
