"""
The journal of apps on many machines: PostgreSQL, written by one thread a process that groups commits.

Transactions are SERIALIZABLE: as if they were carried out one after the other, so that what holds in SQLite holds here;
one that met another is carried out again. Commits of money rules 4 and 7 wait for the server's disk; the others need
only survive this process. Sync and async callers share the writer thread: psycopg's own async connection would wait
behind it all the same.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import threading
import time
import uuid
import weakref
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

from pydantic import SecretStr

from countwerk_meter.errors import JournalError
from countwerk_meter.journal.groups import Result, deliver, gathered, writes
from countwerk_meter.journal.outcome import Outcome
from countwerk_meter.journal.port import Journal, refused
from countwerk_meter.journal.postgres_books import PostgresBooks
from countwerk_meter.journal.postgres_owners import BEAT_SECONDS, LEASE_SECONDS, Heart, IsDead, Join, Leave
from countwerk_meter.journal.postgres_server import PATIENCE, SCHEMA_VERSION, Server, said
from countwerk_meter.journal.postgres_watch import Watch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from countwerk_meter._flow.books import Operation
    from countwerk_meter.journal.postgres_server import Connection

T = TypeVar("T")

_GROUP: Final = 64
# A group is tried again for so long, in seconds: after conflicts, restarts of the server, broken connections.
PATIENT_SECONDS: Final = 5.0
_PAUSE: Final = 0.05
_ALONE_AFTER: Final = 2
_READ_ONLY: Final = "25006"
_WRITTEN: Final = "SELECT written FROM countwerk_writer WHERE id = %s"
# A transaction that makes no way for so long, because its backend hangs say, is cut off by this side.
CUT_AFTER_SECONDS: Final = 15.0
_JOURNALS: weakref.WeakSet[PostgresJournal] = weakref.WeakSet()

_Job: TypeAlias = "tuple[Operation[Any], Future[Any]]"
_Results: TypeAlias = "list[Result]"


class _Mark(NamedTuple):
    """What a transaction is known by afterwards: its id on the server, its connection's row, its number there."""

    xid: str
    writer: str
    number: int


class _UndoneError(Exception):
    """Nothing was carried out, and another try may succeed."""


class _RefusedError(Exception):
    """One of a group cannot be carried out, whenever it is tried."""


class _UnreachableError(_UndoneError):
    """No server answers: one operation has no better luck than all of them."""


class PostgresJournal(Journal):
    """
    A journal in a PostgreSQL database, 13 or newer.

    Args:
        url: `postgresql://user:password@host:port/database`, with libpq's parameters.
        lease: Seconds after its last beat that an owner is dead to the others.

    Raises:
        ConfigurationError: psycopg is not installed, or the URL cannot be read.
        JournalError: The server cannot be reached, its tables cannot be made, or are of a newer version.

    """

    def __init__(self, url: str | SecretStr, *, lease: float = LEASE_SECONDS) -> None:
        # First of all: a crash report shows the local variables of this frame.
        url = url if isinstance(url, SecretStr) else SecretStr(url)
        self._server = Server(url)
        self._lease = lease
        self._lock = threading.RLock()
        self._closed = False
        self._start(self._server.opened())
        _JOURNALS.add(self)

    @property
    def name(self) -> str:
        return self._server.name

    @property
    def schema_version(self) -> int:
        return SCHEMA_VERSION

    def _start(self, connection: Connection | None) -> None:
        self._pid = os.getpid()
        self._heart = Heart(self._server, min(BEAT_SECONDS, self._lease / 3))
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        writer = _Writer(self._server, self._lease, self._queue, connection)
        self._thread = threading.Thread(target=writer.run, name="countwerk-journal", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation[T]) -> Future[T]:
        future: Future[T] = Outcome()
        # Made out here: in there nothing is to be collected.
        job = operation, future
        with self._lock:
            closed = self._closed
            if not closed:
                if self._pid != os.getpid():
                    # Forked: thread and connection stayed in the parent, and must not be touched from here.
                    self._start(None)
                self._queue.put(job)
        if closed:
            future.set_exception(JournalError(f"the journal {self.name} is closed"))
        return future

    def join(self, owner: str) -> None:
        self.run(Join(owner))
        self._heart.take(owner)

    def is_alive(self, owner: str) -> bool:
        return not self.run(IsDead(owner))

    def leave(self, owner: str) -> None:
        self._heart.release(owner)
        with contextlib.suppress(JournalError, TimeoutError):
            # If that fails, or the server hangs, the lease runs out by itself.
            self.submit(Leave(owner)).result(PATIENT_SECONDS)

    def close(self, timeout: float | None = None) -> None:
        if self._pid == os.getpid() and not self._closed:
            for owner in self._heart.stop():
                self.submit(Leave(owner))
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        if self._pid == os.getpid():
            self._thread.join(2 * PATIENT_SECONDS if timeout is None else timeout)


class _Writer:
    """The one thread that talks to the server."""

    def __init__(
        self, server: Server, lease: float, waiting: queue.SimpleQueue[_Job | None], connection: Connection | None
    ) -> None:
        self._server = server
        self._lease = lease
        self._waiting = waiting
        self._db = connection
        self._random = random.SystemRandom()
        self._id = uuid.uuid4().hex
        self._number = 0
        self._watch = Watch(CUT_AFTER_SECONDS)

    def run(self) -> None:
        """Carry out what is queued, in its order, until there is no more."""
        writes()
        done = False
        while not done:
            group = gathered(self._waiting, _GROUP)
            done = None in group
            jobs = [job for job in group if job is not None]
            if jobs:
                self._carry_out(jobs, time.monotonic() + PATIENT_SECONDS)
        self._let_go()
        self._watch.stop()

    def _carry_out(self, jobs: Sequence[_Job], until: float) -> None:
        """Carry out a group in one transaction, again and again if need be; whoever waits hears what became of it."""
        attempt = 0
        while True:
            try:
                results = self._once(jobs)
            except _UndoneError as error:
                attempt += 1
                if len(jobs) > 1 and attempt >= _ALONE_AFTER and not isinstance(error, _UnreachableError):
                    # Once the time is up, each of them has one try.
                    for job in jobs:
                        self._carry_out([job], until)
                    return
                pause = self._random.uniform(0, _PAUSE * min(attempt, 10))
                if time.monotonic() + pause < until:
                    time.sleep(pause)
                    continue
                results = self._failed(jobs, str(error))
            except Exception as error:  # noqa: BLE001 - this thread must go on, or every later commit would wait for ever
                self._let_go()
                results = self._failed(jobs, said(error))
            break
        deliver(results)

    def _failed(self, jobs: Sequence[_Job], why: str) -> _Results:
        failure = JournalError(f"the journal {self._server.name} cannot be written: {why}")
        return [(future, None, failure) for _, future in jobs]

    def _once(self, jobs: Sequence[_Job], *, apart: bool = False) -> _Results:
        """Carry out a group in one transaction; `apart`: each so that it can be undone alone."""
        import psycopg

        mark: _Mark | None = None
        results: _Results = []
        committing = False
        try:
            db = self._connection()
            self._watch.begin(db)
            reads = all(operation.reads for operation, _ in jobs)
            mark = self._begin(db, reads=reads, durable=any(operation.durable for operation, _ in jobs))
            books = PostgresBooks(db, self._lease, reads=reads)
            for operation, future in jobs:
                results.append(self._step(db, books, operation, future, apart=apart, alone=len(jobs) == 1))
            committing = True
            db.execute("COMMIT")
        except _RefusedError:
            # One of them cannot be carried out, which is rare: once more, so that it is undone alone.
            self._roll_back()
            return self._once(jobs, apart=True)
        except psycopg.Error as error:
            if committing and mark is not None and not _is_refusal(error):
                # The answer to the commit is lost. What became of it, the server knows.
                self._let_go()
                if self._was_committed(mark):
                    return results
                raise _UndoneError(said(error)) from None
            self._roll_back()
            if getattr(error, "sqlstate", None) == _READ_ONLY:
                raise JournalError(said(error)) from None
            raise _UndoneError(said(error)) from None
        finally:
            self._watch.end()
        return results

    def _begin(self, db: Connection, *, reads: bool, durable: bool) -> _Mark | None:
        """
        Open a transaction; return what it is known by if it writes.

        Its id says whether it is over, its number what became of it: ids that no disk has seen are given out again
        after a crash of the server.
        """
        if reads:
            db.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {PATIENCE}".encode())
            return None
        sync = "on" if durable else "off"
        self._number += 1
        cursor = db.execute(
            # Both values are ours: a hexadecimal id, a count. One message takes no parameters.
            f"BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE; {PATIENCE}; SET LOCAL synchronous_commit = {sync};"  # noqa: S608
            f" INSERT INTO countwerk_writer (id, written, at) VALUES ('{self._id}', {self._number}, clock_timestamp())"
            " ON CONFLICT (id) DO UPDATE SET written = excluded.written, at = excluded.at"
            " RETURNING pg_current_xact_id()::text".encode()
        )
        while cursor.nextset():
            pass
        row = cursor.fetchone()
        return None if row is None else _Mark(str(row[0]), self._id, self._number)

    def _step(
        self,
        db: Connection,
        books: PostgresBooks,
        operation: Operation[Any],
        future: Future[Any],
        *,
        apart: bool,
        alone: bool,
    ) -> Result:
        """Carry out one operation; one that is refused is undone alone, or asks to be carried out apart."""
        import psycopg

        if apart:
            db.execute("SAVEPOINT one")
        try:
            result = operation.apply(books)
        except Exception as error:
            if isinstance(error, psycopg.Error) and not _is_its_own(error):
                raise
            if not apart and not alone:
                raise _RefusedError from None
            db.execute("ROLLBACK TO one" if apart else "ROLLBACK")
            return future, None, self._refused(error)
        if apart:
            db.execute("RELEASE one")
        return future, result, None

    def _refused(self, error: Exception) -> Exception:
        import psycopg

        if isinstance(error, psycopg.Error):
            return JournalError(f"the journal {self._server.name} refused a step: {said(error)}")
        return refused(self._server.name, error)

    def _connection(self) -> Connection:
        if self._db is None or self._db.closed:
            try:
                self._db = self._server.opened()
            except JournalError as error:
                raise _UnreachableError(str(error)) from None
        return self._db

    def _was_committed(self, mark: _Mark) -> bool:
        """Ask a new connection. In progress: the old one has not noticed yet that nobody listens, so ask again."""
        import psycopg

        until = time.monotonic() + PATIENT_SECONDS
        while True:
            with contextlib.suppress(psycopg.Error, _UndoneError):
                if not self._in_progress(mark.xid):
                    found = self._connection().execute(_WRITTEN, (mark.writer,)).fetchone()
                    return found is not None and found[0] == mark.number
            if time.monotonic() > until:
                raise JournalError("nobody knows whether it was committed")
            time.sleep(_PAUSE)

    def _in_progress(self, xid: str) -> bool:
        import psycopg

        try:
            found = self._connection().execute("SELECT pg_xact_status(%s::xid8)", (xid,)).fetchone()
        except psycopg.errors.InvalidParameterValue:
            # In the future: the server has forgotten that it ever gave this id out.
            return False
        return found is not None and found[0] == "in progress"

    def _roll_back(self) -> None:
        import psycopg

        if self._db is None:
            return
        try:
            self._db.execute("ROLLBACK")
        except psycopg.Error:
            self._let_go()

    def _let_go(self) -> None:
        import psycopg

        self._watch.end()
        if self._db is not None:
            with contextlib.suppress(psycopg.Error):
                self._db.close()
        self._db = None
        # Its backend may go on, and keep its row locked.
        self._id = uuid.uuid4().hex


def _is_its_own(error: Exception) -> bool:
    """Whether one step ran into a constraint, and not into another transaction or a server that failed."""
    import psycopg

    state = getattr(error, "sqlstate", None)
    if state is None:
        # Never sent: text that no database takes, say.
        return isinstance(error, psycopg.DataError | psycopg.ProgrammingError)
    return state[:2] in {"22", "23"} and state != "23505"


def _is_refusal(error: Exception) -> bool:
    """Whether the server itself answered a commit: then it was not carried out."""
    state = getattr(error, "sqlstate", None) or ""
    return state[:2] in {"23", "40"}


def _after_fork() -> None:
    """Another thread of the parent may have held a lock at the fork, and here nobody would let go of it."""
    for journal in list(_JOURNALS):
        journal._lock = threading.RLock()  # pyright: ignore[reportPrivateUsage]


os.register_at_fork(after_in_child=_after_fork)
