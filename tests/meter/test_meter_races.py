"""Confirms and draws that meet an ending thread, a fork, an outage, a cancelled caller, or one another."""

import asyncio
import contextlib
import gc
import os
import threading
import time

import pytest

from countwerk_meter import InsufficientCreditsError
from countwerk_meter._flow.rows import replace
from countwerk_meter._flow.states import ReservationState
from countwerk_meter._metering import funding
from countwerk_meter._wire.replies import NotSent
from countwerk_meter.journal import SqliteJournal

OP = "app.chat.reply"
CONFIRM = "/api/credits/confirm-reservation"


def charge(bench, meter, amount=1):
    with meter.reserve(bench.account, OP, amount=amount):
        pass


class Counting:
    """Stands between meter and ledger, and counts the confirms that are under way."""

    def __init__(self):
        self.now = self.most = self.confirms = 0

    def send(self, transport, request, deadline):
        self.confirms += request.path == CONFIRM
        return transport.send(request, deadline)

    async def asend(self, transport, request, deadline):
        mine = request.path == CONFIRM
        self.confirms += mine
        self.now += mine
        self.most = max(self.most, self.now)
        try:
            return await transport.send(request, deadline)
        finally:
            self.now -= mine


def test_calls_that_end_together_keep_to_the_concurrency(bench):
    meter = bench.meter(settlement_concurrency=2)
    charge(bench, meter)
    assert meter.flush(20)
    counting = Counting()
    meter._engine.interpose(counting)
    bench.control.faults([{"path": CONFIRM, "kind": "delay", "seconds": 0.2, "times": 999}])

    async def run():
        calls = [meter.reserve(bench.account, OP, amount=1) for _ in range(40)]
        await asyncio.gather(*(call.abegin() for call in calls))
        await asyncio.gather(*(call.afinish() for call in calls))

    asyncio.run(run())
    assert meter.flush(20)
    assert bench.books()["spent"] == 41
    assert counting.most <= 2


def test_an_outage_meets_no_more_confirms_than_may_be_under_way(bench):
    """Rule 12: an outage leaves most charges unattempted, and those expire cleanly into deducts."""
    meter = bench.meter(settlement_concurrency=2)
    charge(bench, meter)
    assert meter.flush(20)
    bench.control.faults(
        [{"path": path, "kind": "drop_before", "times": 9999} for path in (CONFIRM, "/api/credits/balance")]
    )

    async def run():
        calls = [meter.reserve(bench.account, OP, amount=1) for _ in range(40)]
        await asyncio.gather(*(call.abegin() for call in calls))
        await asyncio.gather(*(call.afinish() for call in calls))

    asyncio.run(run())
    time.sleep(0.5)
    rows = bench.rows(meter, ReservationState.CLOSING)
    assert len(rows) == 40
    assert sum(row.confirms_open for row in rows) <= 2
    bench.control.faults([])


class Slow(SqliteJournal):
    """Its disk takes a moment for the commits of charges."""

    seconds = 0.0

    def _commit(self, db, books, log, jobs):
        if any(type(operation).__name__ == "Commit" for operation, _ in jobs):
            time.sleep(self.seconds)
        super()._commit(db, books, log, jobs)


def _cancelled_while_committing(bench, meter, journal):
    """Make a call whose caller is cancelled while its commit is written."""

    async def call():
        async with meter.reserve(bench.account, OP, amount=5):
            journal.seconds = 0.3

    async def run():
        task = asyncio.ensure_future(call())
        while not journal.seconds:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(run())
    journal.seconds = 0


def _unsent(bench, meter, counting):
    """Wait for the commit; what is open then, and was never sent."""
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        rows = bench.rows(meter, ReservationState.CLOSING)
        if not rows or not rows[0].confirms_open:
            break
        time.sleep(0.05)
    return sum(row.confirms_open for row in rows) - counting.confirms


def test_a_cancelled_inline_caller_leaves_no_attempt_open_that_was_never_sent(bench, tmp_path):
    """Cancelled while its commit is written: nobody sends the confirm that was opened with it (rule 4)."""
    journal = Slow(tmp_path / "own.db")
    meter = bench.meter(journal=journal, settlement="inline")
    charge(bench, meter)
    counting = Counting()
    meter._engine.interpose(counting)

    _cancelled_while_committing(bench, meter, journal)
    assert _unsent(bench, meter, counting) <= 0
    assert meter.flush(5)
    assert bench.books()["spent"] == 6


def test_such_a_charge_is_not_left_unresolved_when_its_hold_expires(bench, tmp_path):
    """Nothing was ever sent for it: it expires into a deduct (rule 8)."""
    journal = Slow(tmp_path / "own.db")
    meter = bench.meter(journal=journal, settlement="inline")
    charge(bench, meter)

    _cancelled_while_committing(bench, meter, journal)
    time.sleep(0.5)
    bench.control.advance(20 * 60)
    for row in bench.rows(meter, ReservationState.CLOSING):
        bench.save(meter, replace(row, due_at=time.time() - 1))  # fifteen seconds later
    meter._engine.clock._heard = None  # and a minute
    meter.flush(5)
    assert ["settled", "settled"] == [each.state for each in meter.charges()]
    assert bench.books()["spent"] == 6


@pytest.mark.parametrize("behind", [True, False])
def test_settlement_that_falls_behind_or_catches_up_during_a_commit_sends_once(bench, behind):
    """Whoever was to send the confirm when it was opened sends it, whatever `behind` says by the time it is written."""
    meter = bench.meter()
    charge(bench, meter)
    assert meter.flush(20)
    engine = meter._engine
    counting = Counting()
    meter._engine.interpose(counting)
    outcome = engine.commits.outcome

    def flips(future, **options):
        done = outcome(future, **options)
        engine.settlement.behind = not behind
        return done

    bench.control.faults([{"path": CONFIRM, "kind": "delay", "seconds": 0.3, "times": 9}])
    with meter.reserve(bench.account, OP, amount=5):
        engine.settlement.behind = behind
        engine.commits.outcome = flips
    engine.commits.outcome = outcome
    assert meter.flush(5)
    assert counting.confirms == 1
    assert not bench.named("unresolved")
    assert bench.books()["spent"] == 6


def test_a_confirm_sent_twice_beside_itself_is_not_forgotten(bench, tmp_path):
    """One attempt is open, two confirms are out: what closes it for one says nothing of the other (I2)."""
    meter = bench.meter()
    charge(bench, meter)
    assert meter.flush(20)
    engine = meter._engine
    applied = threading.Event()

    class Twice:
        """Settlement's confirm is applied, and no answer comes; the caller's own is never sent."""

        def send(self, transport, request, deadline):
            if request.path == CONFIRM:
                assert applied.wait(5)
                return NotSent("refused")
            return transport.send(request, deadline)

        async def asend(self, transport, request, deadline):
            reply = await transport.send(request, deadline)
            if request.path == CONFIRM:
                applied.set()
                await asyncio.sleep(600)
            return reply

    outcome = engine.commits.outcome

    def falls_behind(future, **options):
        done = outcome(future, **options)
        engine.settlement.behind = True
        return done

    with meter.reserve(bench.account, OP, amount=5):
        engine.interpose(Twice())
        engine.commits.outcome = falls_behind
    assert applied.wait(5)
    assert bench.books()["spent"] == 6
    # The process is killed here, and found dead by another, after the hold is over.
    bench.control.advance(20 * 60)
    engine.settlement.stop(0)
    meter.journal.leave(engine.terms.owner)
    other = bench.meter()
    other.recover()
    other.flush(5)
    assert bench.books()["spent"] == 6


def test_a_draw_taken_up_again_gives_its_credits_back_once(bench):
    """Given up, and it answers after all: the hold has no more left for others than the journal says."""
    bench.control.account(bench.account, balance=10, ai_product_id="product_1")
    meter = bench.meter()
    with meter.reserve(bench.account, OP, amount=10), contextlib.ExitStack() as stack:
        given_up = meter.reserve(bench.account, OP, amount=5).begin()
        given_up.cancel()
        given_up.finish()
        given_up._cancelled = None
        given_up.resume()
        given_up.settle(1)
        given_up.finish()
        time.sleep(0.2)
        for _ in range(2):
            stack.enter_context(meter.reserve(bench.account, OP, amount=5))
        with pytest.raises(InsufficientCreditsError):
            stack.enter_context(meter.reserve(bench.account, OP, amount=5))


def test_no_call_draws_on_a_hold_that_lapsed(bench):
    """The ledger's clock is known for a minute after its last answer, and then the hold looks alive again."""
    bench.control.account(bench.account, balance=10, ai_product_id="product_1")
    meter = bench.meter()
    with meter.reserve(bench.account, OP, amount=10):
        bench.control.advance(20 * 60)
        (row,) = bench.rows(meter, ReservationState.HELD)
        bench.save(meter, replace(row, due_at=time.time() - 1))  # twenty minutes later on this machine
        meter._engine.clock._heard = None
        meter._engine.settlement.notify()
        deadline = time.monotonic() + 5
        while bench.rows(meter, ReservationState.HELD):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        bench.control.account(bench.account, balance=0, ai_product_id="product_1")
        meter._engine.clock._heard = None  # a minute without an answer
        with pytest.raises(InsufficientCreditsError), meter.reserve(bench.account, OP, amount=10):
            pass


def test_what_a_forked_child_draws_is_not_there_for_its_parent(bench):
    bench.control.account(bench.account, balance=10, ai_product_id="product_1")
    meter = bench.meter()
    with meter.reserve(bench.account, OP, amount=10):
        child = os.fork()
        if not child:
            code = 1
            try:
                with meter.reserve(bench.account, OP, amount=10):
                    pass
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(InsufficientCreditsError), meter.reserve(bench.account, OP, amount=10):
            pass


def test_a_block_that_the_collector_ends_while_a_call_draws_on_it_hangs_nobody(bench, monkeypatch):
    """An abandoned generator in a cycle holds the block; the collector ends it wherever it strikes."""
    meter = bench.meter()
    struck = []

    def agent():
        me = yield
        with meter.reserve(bench.account, OP, amount=10):
            yield me

    def strikes(hold, ledger_time):
        if not struck:
            struck.append(True)
            gc.collect()
        return False

    def run():
        generator = agent()
        next(generator)
        generator.send([generator])  # a cycle, and the block in it is current here
        del generator
        monkeypatch.setattr(funding, "is_over", strikes)
        with meter.reserve(bench.account, OP, amount=1):
            pass

    gc.disable()
    try:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(10)
    finally:
        gc.enable()
    assert struck
    assert not thread.is_alive()
    assert bench.settled(meter) == 1


def test_a_confirm_that_comes_to_a_thread_that_is_ending_is_closed_again(bench):
    """Requests in flight keep the thread for a while: what it does not send any more is not left open till then."""
    meter = bench.meter()
    charge(bench, meter)
    assert meter.flush(20)
    settlement = meter._engine.settlement
    bench.control.faults([{"path": CONFIRM, "kind": "delay", "seconds": 3, "times": 1}])
    call = meter.reserve(bench.account, OP, amount=5).begin()
    charge(bench, meter)
    deadline = time.monotonic() + 5
    while not settlement._running:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # It saw a free thread, and its commit is written just behind the end of that.
    settlement.free = lambda account_id: True
    settlement.stop(0.3)
    call.finish()
    time.sleep(0.3)
    rows = bench.rows(meter, ReservationState.CLOSING)
    assert [row.confirms_open for row in rows if row.frozen == 5] == [0]


@pytest.mark.parametrize("seconds", [0.5])
def test_flushing_inline_keeps_to_its_budget(bench, seconds):
    """`flush` and `close` settle on the caller's thread where no other does, and not for longer than they may."""
    meter = bench.meter(settlement="inline", reserve_timeout=5)
    bench.control.faults([{"path": CONFIRM, "kind": "drop_before", "times": 1}])
    charge(bench, meter, 5)
    (row,) = bench.rows(meter, ReservationState.CLOSING)
    bench.save(meter, replace(row, due_at=time.time() - 1))
    bench.control.faults([{"path": CONFIRM, "kind": "delay", "seconds": 8, "times": 9}])
    start = time.monotonic()
    meter.flush(seconds)
    assert time.monotonic() - start < seconds + 1
