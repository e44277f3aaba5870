"""
Where a process may die: before and after each commit, send and receive, and wherever a scenario says so.

Every boundary has a name and a number of its own (`commit Commit after #1`), so that a dry run can list them and a
trial can meet exactly one of them again, whatever else its threads do meanwhile. Nothing here knows which journal it
watches.
"""

import contextlib
import contextvars
import sqlite3
import threading
from collections import Counter

from countwerk_meter._drivers import deadline, sockets
from countwerk_meter._drivers.fast_async_transport import AsyncFastTransport, Connection
from countwerk_meter._drivers.fast_transport import FastTransport
from countwerk_meter._drivers.transport import AsyncHttpxTransport, HttpxTransport
from countwerk_meter._flow.books import Operation
from countwerk_meter._flow.learning import Learn
from countwerk_meter.journal import Journal
from countwerk_meter.journal.outcome import Outcome


class Boundaries:
    """Notes every boundary that is reached, and acts at one of them."""

    def __init__(self, note, at=None, act=None):
        self._note, self._at, self._act = note, at, act
        self._lock = threading.Lock()
        self._times = Counter()

    def disarm(self):
        """Act at none of them any more."""
        self._at = None

    def reach(self, name):
        with self._lock:
            self._times[name] += 1
            label = f"{name} #{self._times[name]}"
            self._note({"at": label})
        if label == self._at:
            self._act()


def is_a_commit(label):
    """Whether a boundary lies inside a transaction."""
    return label.startswith("commit ") and " before #" in label


class _Watched(Operation):
    """One operation, with a boundary inside its transaction: carried out, and not committed yet."""

    def __init__(self, operation, reach):
        self.reads, self.durable = operation.reads, operation.durable
        self._operation, self._reach = operation, reach

    def apply(self, books):
        result = self._operation.apply(books)
        self._reach("before")
        return result


class WatchedJournal(Journal):
    """Any journal, with a boundary before each commit, and one after it, before anybody hears of it."""

    def __init__(self, inner, boundaries):
        self._inner, self._boundaries = inner, boundaries
        self._writing = 0
        self._changed = threading.Condition()
        self._telling = threading.local()
        self.on_failure = lambda: None

    @property
    def name(self):
        return self._inner.name

    def submit(self, operation):
        if operation.reads or isinstance(operation, Learn):
            # What is learned of outputs is a statistic, written now and then: no money depends on when.
            return self._inner.submit(operation)

        def reach(when):
            self._boundaries.reach(f"commit {type(operation).__name__} {when}")

        told = Outcome()

        def done(future):
            error = future.exception()
            if error is None:
                self._telling.now = True
                reach("after")
                self._telling.now = False
            else:
                self.on_failure()
            self._written(-1)
            if error is None:
                told.set_result(future.result())
            else:
                told.set_exception(error)

        self._written(1)
        self._inner.submit(_Watched(operation, reach)).add_done_callback(done)
        return told

    def _written(self, more):
        with self._changed:
            self._writing += more
            self._changed.notify_all()

    def quiet(self):
        """Wait until no transaction is open: a process that is stopped inside one keeps every other from writing."""
        if getattr(self._telling, "now", False):
            return
        with self._changed:
            assert self._changed.wait_for(lambda: not self._writing, 30)

    def join(self, owner):
        self._inner.join(owner)

    def is_alive(self, owner):
        return self._inner.is_alive(owner)

    def leave(self, owner):
        self._inner.leave(owner)

    def close(self):
        self._inner.close()


@contextlib.contextmanager
def sql_watched(boundaries):
    """Put boundaries around every statement of the connections that are opened meanwhile, for as long as it lasts."""
    watching = True

    class Connection(sqlite3.Connection):
        def execute(self, sql, *parameters):
            if not watching:
                return super().execute(sql, *parameters)
            name = " ".join(sql.split()[:3])
            boundaries.reach(f"sql {name} before")
            result = super().execute(sql, *parameters)
            boundaries.reach(f"sql {name} after")
            return result

    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **options: connect(*args, factory=Connection, **options)
    try:
        yield
    finally:
        watching = False
        sqlite3.connect = connect


class _Exchange:
    """One request on its way: which one it is, and how much of it has passed."""

    def __init__(self, name):
        self.name = name
        self.written = 0
        self.answered = False


_exchange = contextvars.ContextVar("exchange", default=None)
_PARTS = ("head", "body")


def watch_sends(boundaries):
    """
    Put boundaries around every request of this process, for good.

    `send X before`: nothing has left. `send X head`, `send X body`: that much has. `receive X before`: the ledger has
    answered, and nobody has looked at it. `receive X after`: the answer was read, and the flow has not heard of it.
    """

    def wrote(data):
        exchange = _exchange.get()
        if exchange is not None and data and exchange.written < len(_PARTS):
            exchange.written += 1
            boundaries.reach(f"send {exchange.name} {_PARTS[exchange.written - 1]}")

    def read():
        exchange = _exchange.get()
        if exchange is not None and not exchange.answered:
            exchange.answered = True
            boundaries.reach(f"receive {exchange.name} before")

    _watch_sync(boundaries, wrote, read)
    _watch_async(boundaries, wrote, read)
    _watch_fast(boundaries, wrote, read)
    _watch_fast_async(boundaries, wrote, read)


def _halves(data):
    """Head and body of a request, which every transport sends in one piece."""
    at = data.index(b"\r\n\r\n") + 4
    return data[:at], data[at:]


@contextlib.contextmanager
def _exchanged(boundaries, request):
    """Reach the boundaries around a request, and let its pieces be known as its own."""
    boundaries.reach(f"send {request.name} before")
    token = _exchange.set(_Exchange(request.name))
    try:
        yield
    finally:
        _exchange.reset(token)
    boundaries.reach(f"receive {request.name} after")


def _watch_fast(boundaries, wrote, read):
    send, sock_read, sock_write = FastTransport.send, FastTransport._read, FastTransport._write

    def watched_send(self, request, until):
        with _exchanged(boundaries, request):
            return send(self, request, until)

    def watched_read(sock, until):
        data = sock_read(sock, until)
        read()
        return data

    def watched_write(sock, data, until):
        for part in _halves(data):
            sock_write(sock, part, until)
            wrote(part)

    FastTransport.send = watched_send
    FastTransport._read = staticmethod(watched_read)
    FastTransport._write = staticmethod(watched_write)


def _watch_fast_async(boundaries, wrote, read):
    send, write, received = AsyncFastTransport.send, Connection._write, Connection.data_received

    async def watched_send(self, request, until):
        with _exchanged(boundaries, request):
            return await send(self, request, until)

    def watched_write(self, data):
        # Whose answer comes in is not told to the loop that reads it.
        self.watched = _exchange.get()
        for part in _halves(data):
            write(self, part)
            wrote(part)

    def watched_received(self, data):
        token = _exchange.set(getattr(self, "watched", None))
        try:
            read()
        finally:
            _exchange.reset(token)
        received(self, data)

    AsyncFastTransport.send = watched_send
    Connection._write = watched_write
    Connection.data_received = watched_received


def _watch_sync(boundaries, wrote, read):
    send, stream_read, stream_send = HttpxTransport.send, deadline._Stream.read, deadline._Stream._send

    def watched_send(self, request, until):
        with _exchanged(boundaries, request):
            return send(self, request, until)

    def watched_read(self, *args, **kwargs):
        data = stream_read(self, *args, **kwargs)
        read()
        return data

    def watched_write(self, data, timeout):
        for part in _halves(data):
            stream_send(self, part, timeout)
            wrote(part)

    HttpxTransport.send = watched_send
    deadline._Stream.read = watched_read
    deadline._Stream._send = watched_write


def _watch_async(boundaries, wrote, read):
    send, stream_read, stream_send = AsyncHttpxTransport.send, sockets._Stream.read, sockets._Stream._send

    async def watched_send(self, request, until):
        with _exchanged(boundaries, request):
            return await send(self, request, until)

    async def watched_read(self, *args, **kwargs):
        data = await stream_read(self, *args, **kwargs)
        read()
        return data

    def watched_write(self):
        for part in _halves(self._unsent):
            self._unsent = part
            stream_send(self)
            wrote(part)

    AsyncHttpxTransport.send = watched_send
    sockets._Stream.read = watched_read
    sockets._Stream._send = watched_write
