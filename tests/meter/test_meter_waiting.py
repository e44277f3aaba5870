"""I6: no call waits longer than its budget, whatever its journal or its ledger does."""

import asyncio
import sqlite3
import threading
import time

import pytest

from countwerk_meter._metering import commits
from countwerk_meter.errors import JournalError, LedgerUnavailableError
from countwerk_meter.journal import MemoryJournal
from countwerk_meter.journal.outcome import Outcome


class SlowJournal(MemoryJournal):
    """Carries steps out in their order, but answers some of them only when it is told to go on."""

    def __init__(self, *names):
        super().__init__()
        self.names = names
        self.waiting = []

    def submit(self, operation):
        done = super().submit(operation)
        if type(operation).__name__ not in self.names:
            return done
        late = Outcome()
        self.waiting.append((late, done))
        return late

    def go_on(self):
        self.names = ()
        for late, done in self.waiting:
            late.set_result(done.result())


@pytest.mark.parametrize("step", ["Begin", "MarkHeld"])
def test_a_gate_does_not_wait_for_a_journal_that_hangs(bench, style, step):
    """It fails closed, within its budget, and what it began is given up: no hold and no open charge stay."""
    journal = SlowJournal(step)
    meter = bench.meter(journal=journal, reserve_timeout=0.4)
    start = time.monotonic()
    with pytest.raises(JournalError, match="did not answer in time"):
        style.block(meter.reserve(bench.account, "app.chat", amount=5), lambda _: None)
    assert time.monotonic() - start < 3
    journal.go_on()
    assert 0 == bench.settled(meter)
    assert ["cancelled"] == [charge.state for charge in meter.charges()]


def test_a_deduct_does_not_wait_for_a_journal_that_hangs(bench):
    """Nothing was sent, nothing is charged."""
    journal = SlowJournal("Direct")
    meter = bench.meter(journal=journal, reserve_timeout=0.4)
    with pytest.raises(JournalError, match="did not answer in time"):
        meter.deduct(bench.account, "app.export", 3)
    journal.go_on()
    assert 0 == bench.settled(meter)


def test_a_file_that_another_process_locks_holds_up_no_gate(bench):
    """SQLite waits for its lock by itself; the gate does not wait for SQLite."""
    meter = bench.meter(reserve_timeout=0.3)
    other = sqlite3.connect(bench.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    start = time.monotonic()
    with pytest.raises(JournalError, match="did not answer in time"):
        meter.reserve(bench.account, "app.chat", amount=5).begin()
    assert time.monotonic() - start < 3
    other.execute("ROLLBACK")
    other.close()
    assert 0 == bench.settled(meter)


def test_what_the_ledger_said_is_told_though_the_journal_hangs_behind_it(bench, style):
    """Why a gate stayed closed is the ledger's doubt, which is queued, and written as soon as the journal writes."""
    journal = SlowJournal("Fail")
    meter = bench.meter(journal=journal, reserve_timeout=0.3)
    bench.control.faults([{"path": "/api/credits/reserve", "kind": "status", "status": 503, "times": 1}])
    start = time.monotonic()
    with pytest.raises(LedgerUnavailableError) as caught:
        style.block(meter.reserve(bench.account, "app.chat", amount=5), lambda _: None)
    assert caught.value.in_doubt
    assert time.monotonic() - start < 3
    journal.go_on()
    assert 0 == bench.settled(meter)
    assert ["orphaned"] == [charge.state for charge in meter.charges()]


def test_closing_does_not_wait_for_a_journal_that_hangs(bench):
    """It says that something may be left."""
    journal = SlowJournal("Due")
    meter = bench.meter(journal=journal, settlement="inline")
    start = time.monotonic()
    assert not meter.close(0.3)
    assert time.monotonic() - start < 3


def test_a_commit_kept_in_memory_does_not_hold_up_the_next_gate(bench):
    """Rule 7: it is tried again first, within the budget, and the gate stays closed."""
    journal = SlowJournal()
    meter = bench.meter(journal=journal, reserve_timeout=0.3, settlement="inline")
    block = meter.reserve(bench.account, "app.chat", amount=5).begin()
    failing = MemoryJournal.submit

    def full(self, operation):
        if operation.durable:
            late = Outcome()
            late.set_exception(JournalError("disk full"))
            return late
        return failing(self, operation)

    SlowJournal.submit, kept = full, SlowJournal.submit
    try:
        block.finish()
    finally:
        SlowJournal.submit = kept
    journal.names = ("Commit",)
    start = time.monotonic()
    with pytest.raises(JournalError, match="no new call"):
        meter.reserve(bench.account, "app.chat", amount=5).begin()
    assert time.monotonic() - start < 3
    journal.go_on()
    with meter.reserve(bench.account, "app.chat", amount=1):
        pass
    assert 6 == bench.settled(meter)


async def test_a_slow_ledger_holds_up_no_async_gate(bench):
    """A hundred calls at once on a ledger that answers late: each within its budget, none is let through."""
    # Wide enough that a busy machine has written all hundred into the journal by then.
    meter = bench.meter(reserve_timeout=2.0)
    bench.control.faults([{"path": "/api/credits/reserve", "kind": "delay", "seconds": 30, "times": 100}])
    start = time.monotonic()

    async def call():
        async with meter.reserve(bench.account, "app.chat", amount=1):
            raise AssertionError("let through")

    told = await asyncio.gather(*(call() for _ in range(100)), return_exceptions=True)
    assert {LedgerUnavailableError} == {type(error) for error in told}
    assert time.monotonic() - start < 10


def test_threads_that_wait_for_one_journal_wait_side_by_side(bench):
    """Not one behind the other."""
    journal = SlowJournal("Begin")
    meter = bench.meter(journal=journal, reserve_timeout=0.4)
    told = []

    def call():
        try:
            meter.reserve(bench.account, "app.chat", amount=1).begin()
        except JournalError as error:
            told.append(error)

    start = time.monotonic()
    threads = [threading.Thread(target=call) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 20 == len(told)
    assert time.monotonic() - start < 5
    journal.go_on()
    assert 0 == bench.settled(meter)


@pytest.mark.parametrize("settlement", ["background", "inline"])
def test_an_answer_goes_back_though_the_journal_hangs(bench, style, monkeypatch, settlement):
    """Its commit is queued, and the charge is made when the journal goes on (money rule 7)."""
    monkeypatch.setattr(commits, "COMMIT_SECONDS", 0.3)
    journal = SlowJournal("Commit")
    meter = bench.meter(journal=journal, settlement=settlement)
    start = time.monotonic()
    style.block(meter.reserve(bench.account, "app.chat", amount=5), lambda reservation: reservation.settle(3))
    assert time.monotonic() - start < 5
    journal.go_on()
    assert 3 == bench.settled(meter)
