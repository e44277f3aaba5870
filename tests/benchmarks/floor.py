"""
What the least would take that the rules allow: the statements of a charge and its exchanges, in straight-line code.

The statements are those that a meter executed, recorded from one charge and carried out with new ids by a thread that
one lock wakes: rows before each request, so that a kill loses nothing, and not on the caller's thread, so that a disk
that hangs holds nobody up for longer than its deadline. An exchange is httpx's own, or for `fast` two system calls on
an open socket. Nothing is checked, priced, derived, bounded in time, told or learned. What a meter takes beyond it is
its own code.
"""

import contextlib
import json
import queue
import socket
import sqlite3
import threading
import time
import uuid
from urllib.parse import urlsplit

import httpx
from frame import KEY, Figure, cpu, folder, per_call, turns
from gate import AIMS, RESERVE, bare_pair, bare_reserve, metered

from countwerk_meter import Meter


@contextlib.contextmanager
def _recording(said):
    """Note every statement that a connection made meanwhile executes, with its values."""
    connect = sqlite3.connect

    class Recording(sqlite3.Connection):
        def execute(self, statement, values=()):
            said.append((statement, tuple(values)))
            return super().execute(statement, values)

    sqlite3.connect = lambda file, **options: connect(file, factory=Recording, **options)
    try:
        yield
    finally:
        sqlite3.connect = connect


def _writing(said):
    """Part statements into transactions; return those that write."""
    found, transaction = [], []
    for statement in said:
        transaction.append(statement)
        if statement[0] == "COMMIT":
            found.append(transaction)
            transaction = []
    return [transaction for transaction in found if transaction[0][0] == "BEGIN IMMEDIATE"]


def _recorded(url, file):
    """Return the transactions of one settled call, and those of one that draws on an open block."""
    said = []
    with _recording(said), Meter("product", api_key=KEY, base_url=url, journal=f"sqlite:///{file}") as meter:

        def calls():
            for _ in range(3):
                del said[:]
                metered(meter)
                meter.flush(5)
                # The connection's thread is behind what it has told.
                time.sleep(0.1)
            return _writing(said)

        alone = calls()
        with meter.reserve("acct", "bench.call", amount=1000):
            return alone, calls()


def _names(transactions):
    """Return the ids that a call's transactions are about: the charge's; and where it holds, the hold's and its id."""
    charge, *more = next(values for said, values in transactions[0] if said.startswith("INSERT INTO charge"))
    if len(transactions) == 1:
        # It draws on a hold that is there.
        return (charge,)
    return charge, more[10], next(values[1] for said, values in transactions[1] if said.startswith("SELECT 1 "))


def _anew(transactions, names):
    """Return transactions with new ids."""
    new = {name: uuid.uuid4().hex + name[32:] for name in names}
    return [
        [(said, tuple([new.get(value, value) if type(value) is str else value for value in values])) for said, values in one]
        for one in transactions
    ]  # fmt: skip


class _Writer:
    """A thread that carries out one transaction at a time, while whoever asked for it waits."""

    def __init__(self, file):
        self._asked, self._done = queue.SimpleQueue(), threading.Lock()
        self._done.acquire()
        self._thread = threading.Thread(target=self._write, args=(file,), daemon=True)
        self._thread.start()

    def _write(self, file):
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = NORMAL")
            while (transaction := self._asked.get()) is not None:
                for statement, values in transaction:
                    found = db.execute(statement, values)
                    if statement.startswith(("SELECT", "PRAGMA")):
                        found.fetchone()
                self._done.release()

    def run(self, transaction):
        self._asked.put(transaction)
        self._done.acquire()

    def close(self):
        self._asked.put(None)
        self._thread.join()


def _posting(url, transport, http):
    """Return what sends one request, and waits for its answer."""
    if transport == "httpx":
        return lambda path, body: http.post(path, json=body).json()
    at = urlsplit(url)
    line = socket.create_connection((at.hostname, at.port))
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(path, body):
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: ledger\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
        line.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        return json.loads(line.recv(65536).partition(b"\r\n\r\n")[2])

    return post


def measure(url, transport, rounds):
    """Four figures."""
    with folder() as path, httpx.Client(base_url=url, headers={"X-API-Key": KEY}) as http:
        call, draw = _recorded(url, f"{path}/a.db")
        of_call, of_draw = _names(call), _names(draw)
        writer, post = _Writer(f"{path}/a.db"), _posting(url, transport, http)

        def let_through(transactions):
            writer.run(transactions[0])
            held = post("/api/credits/reserve", RESERVE)["data"]["reservationId"]
            writer.run(transactions[1])
            writer.run(transactions[2])
            return held

        def critical():
            let_through(_anew(call[:3], of_call))

        def both():
            transactions = _anew(call, of_call)
            body = {"reservationId": let_through(transactions), "actualAmount": 1}
            post("/api/credits/confirm-reservation", body)
            writer.run(transactions[3])

        one, pair, least, least_of_both, drawn, nothing = turns(
            rounds,
            lambda: bare_reserve(http),
            lambda: bare_pair(http),
            critical,
            both,
            lambda: writer.run(_anew(draw[:1], of_draw)[0]),
            lambda: None,
        )
        base, used = zip(
            *[
                (per_call(lambda: bare_pair(http), rounds // 5, cpu), per_call(both, rounds // 5, cpu))
                for _ in range(5)
            ],
            strict=True,
        )
        writer.close()
    micro = 1e6
    aims = AIMS[transport]
    figures = [
        ("least of a critical path", "one bare POST", one, least, aims[0]),
        ("least of reserve + confirm", "two bare POSTs", pair, least_of_both, aims[1]),
        ("least CPU of a call", "CPU of two bare POSTs", sorted(base)[2], sorted(used)[2], aims[2]),
    ]
    if transport == "fast":
        figures.append(("least of a draw", "nothing", nothing, drawn, "one commit"))
    return [
        Figure(name, transport, against, seconds * micro, taken * micro, "µs", aim)
        for name, against, seconds, taken, aim in figures
    ]
