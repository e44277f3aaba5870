"""Ctrl-C, and closing, at a bad moment: no hold stays, no call stays open, and what was used is charged."""

import asyncio
import contextlib
import subprocess
import sys
import threading
import time

import pytest

from countwerk_meter import CountwerkError, current_reservation
from countwerk_meter._metering import reservation as reservations
from countwerk_meter._metering import scope
from countwerk_meter._metering.engine import Engine
from countwerk_meter._metering.funding import Funding
from countwerk_meter._metering.leases import Leases
from countwerk_meter.journal import SqliteJournal
from countwerk_meter.journal.latch import Latch
from countwerk_meter.journal.outcome import Outcome

from .leasing import call, leased


def strike(monkeypatch, owner, name, *, after=False):
    """Let one call of a function be struck by Ctrl-C, before or after it ran."""
    real, struck = getattr(owner, name), []

    def interrupted(*args, **kwargs):
        if struck:
            return real(*args, **kwargs)
        struck.append(1)
        if after:
            real(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, interrupted)


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (reservations.Reservation, "passed", False),
        (reservations.Reservation, "passed", True),
        (reservations.Reservation, "entered", False),
        (scope, "entered", True),
        (Engine, "progressed", True),
        (Engine, "began", True),
    ],
    ids=[
        "let through",
        "behind the gate",
        "before it is current",
        "once it is current",
        "out of the gate",
        "once it is open",
    ],
)
def test_ctrl_c_beside_the_gate_leaves_no_hold(bench, meter, monkeypatch, owner, name, after):
    """The call never ran: nothing is charged, and the hold is given back at once."""
    strike(monkeypatch, owner, name, after=after)
    with pytest.raises(KeyboardInterrupt), meter.reserve(bench.account, "app.chat", amount=5):
        raise AssertionError("it ran")
    assert 0 == bench.settled(meter)
    assert ["cancelled"] == [each.state for each in meter.charges()]
    assert current_reservation() is None
    assert meter.close(5)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (reservations.Reservation, "finish"),
        (reservations.Reservation, "_ending"),
        (reservations.Reservation, "_put"),
        (reservations.Reservation, "_leave"),
        (Engine, "ended"),
    ],
)
def test_ctrl_c_at_the_end_of_a_call_loses_no_charge(bench, meter, monkeypatch, owner, name):
    """The model had answered: what it used is charged, once."""
    with pytest.raises(KeyboardInterrupt), meter.reserve(bench.account, "app.chat", amount=5) as reservation:
        reservation.settle(4)
        strike(monkeypatch, owner, name)
    reservation._leave()
    assert 4 == bench.settled(meter)
    assert meter.close(5)


@pytest.mark.parametrize("name", ["afinish", "_ending", "_put", "_leave"])
def test_ctrl_c_at_the_end_of_an_async_call_loses_no_charge(bench, meter, monkeypatch, name):
    """Likewise."""

    async def run():
        async with meter.reserve(bench.account, "app.chat", amount=5) as reservation:
            reservation.settle(4)
            strike(monkeypatch, reservations.Reservation, name)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(run())
    assert 4 == bench.settled(meter)
    assert meter.close(5)


@pytest.mark.parametrize(("owner", "after"), [(Funding, False), (Funding, True)], ids=["before", "behind"])
def test_ctrl_c_behind_a_top_up_leaves_no_hold(bench, meter, monkeypatch, owner, after):
    """Nobody has learnt of it but the journal."""
    with meter.reserve(bench.account, "app.block", amount=2, top_up=True) as block:
        strike(monkeypatch, owner, "__init__", after=after)
        with pytest.raises(KeyboardInterrupt), meter.reserve(bench.account, "app.chat", amount=5):
            raise AssertionError("it ran")
        block.settle(1)
    assert 1 == bench.settled(meter)
    assert {"cancelled", "settled"} == {each.state for each in meter.charges()}
    assert meter.close(5)


def test_ctrl_c_behind_a_draw_leaves_its_lease_to_be_settled(bench, monkeypatch):
    """The call never ran: its draw is given back, and what others drew on the lease is charged."""
    bench.control.account(bench.account, balance=1000, ai_product_id="product_1")
    meter = bench.meter(leases=True)
    leased(bench, meter)
    strike(monkeypatch, Leases, "_drew")
    with pytest.raises(KeyboardInterrupt), meter.reserve(bench.account, "app.call", amount=5, usage_event_id="struck"):
        raise AssertionError("it ran")
    call(bench, meter)
    spent = bench.settled(meter)
    assert "cancelled" == {each.usage_event_id: each.state for each in meter.charges()}["struck"]
    assert spent == sum(each.amount or 0 for each in meter.charges())


@pytest.mark.parametrize("step", ["Begin", "MarkHeld"])
@pytest.mark.parametrize("style", ["sync", "async"])
def test_what_a_gate_lets_through_after_closing_does_not_run(bench, monkeypatch, step, style):
    """It would be charged in a journal that is closed: it is refused, and its hold given back by whoever comes next."""
    meter, arrived, goes = bench.meter(), threading.Event(), threading.Event()
    commit = SqliteJournal._commit

    def slow(self, db, books, log, jobs):
        if step in {type(operation).__name__ for operation, _ in jobs} and not arrived.is_set():
            arrived.set()
            goes.wait(10)
        return commit(self, db, books, log, jobs)

    monkeypatch.setattr(SqliteJournal, "_commit", slow)
    raised = []

    def block():
        with meter.reserve(bench.account, "app.chat", amount=5):
            raised.append("it ran")

    async def ablock():
        async with meter.reserve(bench.account, "app.chat", amount=5):
            raised.append("it ran")

    def runs():
        try:
            block() if style == "sync" else asyncio.run(ablock())
        except CountwerkError as error:
            raised.append(type(error))

    thread = threading.Thread(target=runs)
    thread.start()
    assert arrived.wait(10)
    assert not meter.close(0)
    goes.set()
    thread.join(20)
    assert 1 == len(raised)
    assert raised != ["it ran"]
    assert {"spent": 0, "available": 100 - bench.books()["reserved"]}.items() <= bench.books().items()
    states = [each.state for each in bench.meter().charges()]
    assert set(states) <= {"cancelled"}
    meter._engine.journal.close()


_CLOSED_UNDER = """
import asyncio, gc, logging, os, sys, time
from countwerk_meter import Meter
logging.disable()  # asyncio's word for every task that was pending
url, key, journal = sys.argv[1:]
meter = Meter("product_1", api_key=key, base_url=url, journal=journal)
async def call():
    async with meter.reserve("acct_1", "app.chat", amount=1):
        raise AssertionError("it ran")
def abandoned():
    loop = asyncio.new_event_loop()
    calls = [loop.create_task(call()) for _ in range(3)]
    loop.run_until_complete(asyncio.sleep(0.3))
    loop.close()
    return calls
abandoned()
gc.collect()
before = len(os.listdir("/proc/self/fd"))
kept = [abandoned() for _ in range(5)]
began = time.monotonic()
meter.close(10)
gc.collect()
print(time.monotonic() - began < 8, len(meter._engine._tasks), len(os.listdir("/proc/self/fd")) < before)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_loop_that_is_closed_under_its_gates_leaves_nothing_behind(bench):
    """Nobody goes on there: no task and no descriptor stays, and closing waits for none of them."""
    bench.control.faults([{"path": "/api/credits/reserve", "kind": "delay", "seconds": 1.0, "times": 99}])
    arguments = [bench.sandbox.url, bench.sandbox.api_key, f"sqlite:///{bench.path}"]
    done = subprocess.run(
        [sys.executable, "-c", _CLOSED_UNDER, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    assert "True 0 True\n" == done.stdout
    assert {"orphaned"} == {each.state for each in bench.meter().charges()}


def test_closing_waits_for_gates_that_are_on_their_way(bench, meter):
    """The answer to their reserve is on the wire: thrown away, its hold would stay for its whole validity."""
    bench.control.faults([{"path": "/api/credits/reserve", "kind": "delay", "seconds": 1.0, "times": 1}])

    def call():
        with contextlib.suppress(Exception), meter.reserve(bench.account, "app.chat", amount=5) as reservation:
            reservation.settle(2)

    thread = threading.Thread(target=call)
    thread.start()
    deadline = time.monotonic() + 5
    while not bench.counts().get("reserve"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert meter.close(10)
    thread.join(10)
    assert {"spent": 2, "reserved": 0, "available": 98} == bench.books()


@pytest.mark.parametrize("struck", ["waiting", "through"])
def test_ctrl_c_leaves_no_result_shut(struck):
    """Wherever it strikes one who waits for a result, everybody else has it."""
    outcome = Outcome()
    lock = outcome._shut

    class Shut:
        """Interrupts who waits, before there is a result or just behind it."""

        release = lock.release

        def acquire(self, timeout):
            if struck == "through":
                threading.Timer(0.05, outcome.set_result, (3,)).start()
                assert lock.acquire(timeout=timeout)
            raise KeyboardInterrupt

    outcome._shut = Shut()
    with pytest.raises(KeyboardInterrupt):
        outcome.result(5)
    outcome._shut = lock
    if struck == "waiting":
        outcome.set_result(3)
    assert not lock.locked()
    assert 3 == outcome.result(1)


@pytest.mark.parametrize("struck", ["acquired", "released"])
def test_ctrl_c_leaves_no_lock_held(struck):
    """Wherever it strikes one who waits to be woken, whoever wakes does not hang."""

    class Struck(Latch):
        """Interrupts the first wait, before or after the lock is let go of."""

        calls = 0

        def release(self):
            Struck.calls += 1
            if struck == "released":
                super().release()
            if Struck.calls == 1:
                raise KeyboardInterrupt

    latch = Struck()
    with pytest.raises(KeyboardInterrupt), latch:
        latch.wait(1)

    def wake():
        with latch:
            latch.notify_all()

    waking = threading.Thread(target=wake, daemon=True)
    waking.start()
    waking.join(5)
    assert not waking.is_alive()


def test_a_thread_that_is_struck_by_ctrl_c_time_and_again_hangs_nobody(bench, meter):
    """Real interrupts, at any moment: afterwards the meter works, and the books are in order."""
    script = """
import _thread, random, signal, sys, threading, time
from countwerk_meter import Meter
meter = Meter("product_1", api_key=sys.argv[1], base_url=sys.argv[2], journal=sys.argv[3], reserve_timeout=3.0)
chance, armed, over = random.Random(7), [], []
def handle(*_):
    if armed:
        armed.clear()
        raise KeyboardInterrupt
signal.signal(signal.SIGINT, handle)
def strike():
    while not over:
        time.sleep(chance.uniform(0.0005, 0.01))
        _thread.interrupt_main()
threading.Thread(target=strike, daemon=True).start()
end, calls, struck = time.monotonic() + 4, 0, 0
while time.monotonic() < end:
    try:
        armed.append(1)
        with meter.reserve("acct_1", "app.chat", amount=1):
            calls += 1
    except KeyboardInterrupt:
        struck += 1
    armed.clear()
over.append(1)
begun = time.monotonic()
with meter.reserve("acct_1", "app.chat", amount=1):
    pass
print("next call", round(time.monotonic() - begun, 2), meter.flush(20), meter.close(5), calls, struck)
"""
    bench.control.account(bench.account, balance=100_000)
    ran = subprocess.run(
        [sys.executable, "-c", script, bench.sandbox.api_key, bench.sandbox.url, f"sqlite:///{bench.path}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert 0 == ran.returncode, ran.stderr
    assert " True True " in ran.stdout, ran.stdout + ran.stderr
