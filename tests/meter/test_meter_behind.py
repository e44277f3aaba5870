"""What settles behind the app, when a journal fails or a ledger is slow; and what a flush may call settled."""

import sqlite3
import threading
import time

from countwerk_meter._metering import settlement as settling

from .moody import Moody
from .waiting import until

CONFIRM = "/api/credits/confirm-reservation"
OP = "app.chat.reply"


def charge(bench, meter, amount=1):
    with meter.reserve(bench.account, OP, amount=amount):
        pass


def test_what_was_read_ahead_for_a_slow_ledger_is_read_again(bench, monkeypatch):
    """More was due than fitted, and the ledger took longer than such a reading is good for: nothing waits for a notice."""
    monkeypatch.setattr(settling, "_AGAIN_SECONDS", 0.1)
    meter = bench.meter(settlement_concurrency=2)
    charge(bench, meter)
    assert meter.flush(20)
    bench.control.faults([{"path": CONFIRM, "kind": "delay", "seconds": 0.15, "times": 999}])
    threads = [threading.Thread(target=charge, args=(bench, meter)) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: 25 == bench.books()["spent"], 10)


def test_a_journal_that_failed_once_is_read_again_soon(bench):
    """And not when the next half a minute is over: nobody gives notice of a row that waits already."""
    journal = Moody()
    meter = bench.meter(journal=journal)
    charge(bench, meter)
    assert meter.flush(20)
    bench.control.faults([{"path": CONFIRM, "kind": "status", "status": 429, "times": 1}])
    charge(bench, meter, 2)
    journal.fails = {"Due": 1, "Load": 1}
    until(lambda: 3 == bench.books()["spent"], 10)


def test_a_flush_does_not_call_settled_what_a_locked_journal_left_in_memory(bench, monkeypatch):
    """The commit was queued, and failed, before the flush asked: it is kept, and closing then would lose it (I3)."""
    meter = bench.meter()
    charge(bench, meter)
    assert meter.flush(20)
    inside, go = threading.Event(), threading.Event()

    def call():
        with meter.reserve(bench.account, OP, amount=7):
            inside.set()
            go.wait(10)

    thread = threading.Thread(target=call)
    thread.start()
    assert inside.wait(10)
    lock = sqlite3.connect(bench.path, isolation_level=None, timeout=1)
    lock.execute("BEGIN IMMEDIATE")
    go.set()
    time.sleep(0.3)
    flushed = []
    flushing = threading.Thread(target=lambda: flushed.append(meter.flush(20)))
    flushing.start()
    # Longer than SQLite waits for the file.
    time.sleep(5.5)
    assert [] == flushed
    lock.execute("ROLLBACK")
    lock.close()
    flushing.join(20)
    thread.join(20)
    assert [True] == flushed
    assert 8 == bench.books()["spent"]
    assert 0 == bench.books()["reserved"]
