"""One account, one thread or one answer that fails: nobody else's settlement waits for it."""

import threading
import time

import pytest

from countwerk_meter._metering import setbacks, settlement
from countwerk_meter._wire.replies import NotSent, read_reply
from countwerk_meter.journal import MemoryJournal
from countwerk_meter.journal.outcome import Outcome

from .waiting import until

CONFIRM = "/api/credits/confirm-reservation"
BALANCE = "/api/credits/balance"


def charge(meter, account, amount=3):
    with meter.reserve(account, "app.chat", amount=amount):
        pass


def spent_within(bench, amount, seconds):
    deadline = time.monotonic() + seconds
    while bench.books()["spent"] != amount:
        assert time.monotonic() < deadline, f"{bench.books()} after {seconds} s"
        time.sleep(0.05)


def test_an_account_that_never_answers_holds_up_nobody_else(bench, meter):
    """Its confirm and its balance fail for ever: another account's probe shows that the ledger is well (rule 12)."""
    bench.control.account("acct_bad", balance=100, ai_product_id="product_1")
    with meter.reserve("acct_bad", "app.chat", amount=3):
        bench.control.faults(
            [
                {"path": BALANCE, "kind": "status", "status": 500, "account_id": "acct_bad", "probability": 1},
                {"path": CONFIRM, "kind": "status", "status": 500, "times": 1},
            ]
        )
    for _ in range(5):
        charge(meter, bench.account)
    spent_within(bench, 15, 12)


class Forbidding:
    """Answers 403 for one account's holds, once the ledger is reached at all."""

    def __init__(self):
        self.reached = False
        self.holds = set()

    def send(self, transport, request, deadline):
        return transport.send(request, deadline)

    async def asend(self, transport, request, deadline):
        if not self.reached:
            return NotSent("down")
        if request.body.get("reservationId") in self.holds or request.body.get("account_id") == "acct_bad":
            return read_reply(request, 403, {}, b'{"success": false, "error": "no", "code": "FORBIDDEN"}')
        return await transport.send(request, deadline)


def test_a_parked_accounts_many_rows_hold_up_nobody_else(bench, meter):
    """More of them than settlement looks at in one turn, and all of them due sooner."""
    bench.control.account("acct_bad", balance=1000, ai_product_id="product_1")
    ledger = Forbidding()
    meter._engine.interpose(ledger)
    for _ in range(90):
        with meter.reserve("acct_bad", "app.chat", amount=3) as reservation:
            ledger.holds.add(reservation.reservation_id)
    for _ in range(5):
        charge(meter, bench.account)
    ledger.reached = True
    spent_within(bench, 15, 25)
    until(lambda: bench.named("parked"))
    assert 1 == len(bench.named("parked"))


def test_a_long_retry_after_holds_only_its_own_row_back(bench, meter, monkeypatch):
    """Holds expire meanwhile: the others wait for so long at most."""
    monkeypatch.setattr(setbacks, "_LONGEST_PAUSE", 1.0)
    bench.control.faults([{"path": CONFIRM, "kind": "status", "status": 429, "retry_after": 3000, "times": 1}])
    charge(meter, bench.account, 2)
    deadline = time.monotonic() + 10
    while not bench.counts().get("confirm-reservation"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for _ in range(3):
        charge(meter, bench.account)
    spent_within(bench, 9, 12)


@pytest.mark.parametrize("kind", ["cannot start", "has no loop"])
def test_a_settlement_thread_that_fails_is_started_again(bench, monkeypatch, kind):
    """No thread, no file descriptor: the app is told, calls settle inline, and later ones behind it again."""
    failed = []

    def once(real, error):
        def call(*args, **kwargs):
            if failed or (kind == "cannot start" and args[0].name != "countwerk-settlement"):
                return real(*args, **kwargs)
            failed.append(1)
            for given in args:
                getattr(given, "close", int)()
            raise error

        return call

    if kind == "cannot start":
        start = once(threading.Thread.start, RuntimeError("can't start new thread"))
        monkeypatch.setattr(threading.Thread, "start", start)
    else:
        run = once(settlement.asyncio.run, OSError(24, "Too many open files"))
        monkeypatch.setattr(settlement.asyncio, "run", run)
    meter = bench.meter()
    begun = time.monotonic()
    for _ in range(3):
        charge(meter, bench.account)
    assert time.monotonic() - begun < 5
    assert ["settlement_failed"] == [name for name, _ in bench.events if name == "settlement_failed"]
    time.sleep(1.1)
    charge(meter, bench.account)
    assert 12 == bench.settled(meter)
    assert meter._engine.settlement._thread.is_alive()


class Slow(MemoryJournal):
    """Carries every durable step out, and lets nobody hear of it until it is told to."""

    waiting = None

    def submit(self, operation):
        done = super().submit(operation)
        if self.waiting is None or not operation.durable:
            return done
        late = Outcome()
        self.waiting.append((late, done))
        return late


def test_a_commit_that_is_tried_again_costs_no_more_than_what_was_left(bench):
    """Unknown usage is capped by its hold (rule 13): the same commit, carried out once more, is not a late truth."""
    journal = Slow()
    meter = bench.meter(journal=journal)
    with meter.reserve(bench.account, "app.run", amount=10):
        first = meter.reserve(bench.account, "app.tool", amount=5).begin()
        second = meter.reserve(bench.account, "app.tool", amount=5).begin()
        first.settle(8)
        first.finish()
        operation = None
        submit = journal.submit

        def kept(given):
            nonlocal operation
            operation = given
            return submit(given)

        journal.submit = kept
        second.finish()
        journal.submit = submit
        journal.run(operation)
    assert 10 == bench.settled(meter)
    assert [] == bench.named("late")


@pytest.mark.parametrize("look", ["charges", "listed", "block", "close"])
def test_a_hook_that_looks_into_the_meter_holds_up_nobody(bench, look):
    """Though what it hears of is a truth that came late, which the journal's own thread learns first."""
    heard = []

    def hook(name, fields):
        bench.hear(name, fields)
        if name != "late":
            return
        heard.append(fields["amount"])
        if look == "charges":
            heard.append(len(meter.charges()))
        elif look == "listed":
            heard.append(meter.operations.listed())
        elif look == "close":
            heard.append(meter.close(0.5))
        else:
            time.sleep(2)

    meter = bench.meter(on_event=hook)
    reservation = meter.reserve(bench.account, "app.chat", amount=5).begin()
    reservation.settle(2)
    reservation.finish()
    reservation.resume()
    reservation.settle(4)
    begun = time.monotonic()
    reservation.finish()
    if look != "close":
        charge(meter, bench.account)
        assert time.monotonic() - begun < 1.5
        assert 7 == bench.settled(meter)
    deadline = time.monotonic() + 10
    while not heard or (look != "block" and len(heard) < 2):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert 2 == heard[0]
    assert time.monotonic() - begun < 8


def test_closing_again_says_what_closing_said(bench):
    """Something was left: the second call does not say that nothing is."""
    meter = bench.meter()
    bench.control.faults([{"path": CONFIRM, "kind": "status", "status": 503, "probability": 1}])
    charge(meter, bench.account)
    assert [False, False] == [meter.close(0.3), meter.close(0.3)]
    assert 0 == bench.books()["spent"]


def test_a_start_that_fails_leaves_nothing_behind(bench, monkeypatch):
    """No thread, no owner's lock: the app starts it again."""
    before = {thread.name for thread in threading.enumerate()}
    bench.meter().close(1)
    monkeypatch.setattr("countwerk_meter._metering.engine.Engine.recover", lambda _: (_ for _ in ()).throw(OSError()))
    for _ in range(3):
        with pytest.raises(OSError):
            bench.meter()
    assert 0 == len(list(bench.path.with_name(bench.path.name + ".owners").glob("*")))
    deadline = time.monotonic() + 5
    while {thread.name for thread in threading.enumerate()} - before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
