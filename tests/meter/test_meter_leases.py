"""Leases: a busy account's calls draw locally on credits taken ahead, and every money rule is kept."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from countwerk_meter import ConfigurationError, InsufficientCreditsError, Usage
from countwerk_meter._flow.rows import LEASE, ChargeRow
from countwerk_meter._flow.states import ChargeState, ReservationState
from countwerk_meter._metering import leases, settlement
from countwerk_meter._wire.replies import InDoubt, NotSent
from countwerk_meter.testing.journal_steps import Do

OPERATION = "app.call"


@pytest.fixture
def rich(bench):
    """An account with enough for a lease of any size that is wanted."""
    bench.control.account(bench.account, balance=100_000, ai_product_id="product_1")
    return bench


@pytest.fixture
def leasing(rich):
    return rich.meter(leases=True)


def call(bench, meter, cost=1, amount=5, operation=OPERATION, **options):
    with meter.reserve(bench.account, operation, amount=amount, **options) as reservation:
        reservation.settle(cost)


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def leased(bench, meter, count=1, **options):
    """Be busy until there is a lease; return the newest."""
    for _ in range(3):
        call(bench, meter, **options)
    until(lambda: len(bench.named("leased")) >= count)
    until(lambda: meter._engine.leases._live)
    return bench.named("leased")[-1]


def test_a_busy_accounts_calls_make_no_round_trip(leasing, rich):
    """Three calls pay their own way; behind them a lease is taken, and forty more draw on it."""
    leased(rich, leasing)
    assert leasing._engine.leases is not None
    before = rich.counts()["reserve"]
    for _ in range(40):
        call(rich, leasing)
    assert before == rich.counts()["reserve"]
    assert 43 == rich.settled(leasing)
    assert 43 == sum(charge.amount for charge in leasing.charges())


def test_what_was_drawn_is_confirmed_once(leasing, rich):
    """One confirm carries the sum of the draws, and gives the rest back."""
    leased(rich, leasing)
    rich.settled(leasing)
    before = rich.counts()["confirm-reservation"]
    leased(rich, leasing, count=2)
    for _ in range(10):
        call(rich, leasing, cost=2)
    assert 26 == rich.settled(leasing)
    # Three calls of their own at most, as long as the account is not busy yet; one for the lease.
    assert rich.counts()["confirm-reservation"] - before <= 4


def test_closing_gives_back_what_nobody_drew_on(leasing, rich):
    """A lease without draws is cancelled."""
    lease = leased(rich, leasing)
    assert lease["amount"] == rich.books()["reserved"] or leasing.flush(5)
    assert leasing.close(10)
    assert {"spent": 3, "reserved": 0, "available": 99_997} == rich.books()
    assert lease["operation"] == OPERATION


def test_async_calls_draw_on_it_too(leasing, rich):
    """One lease serves sync and async code."""
    leased(rich, leasing)
    before = rich.counts()["reserve"]

    async def calls():
        for _ in range(20):
            async with leasing.reserve(rich.account, OPERATION, amount=5) as reservation:
                reservation.settle(2)

    asyncio.run(calls())
    assert before == rich.counts()["reserve"]
    assert 43 == rich.settled(leasing)


def test_prices_and_estimates_draw_as_amounts_do(leasing, rich):
    """How a call is sized makes no difference."""
    leased(rich, leasing)
    before = rich.counts()["reserve"]
    with leasing.reserve(rich.account, OPERATION, price=4):
        pass
    with leasing.reserve(rich.account, OPERATION, estimate=Usage(input_tokens=1000, output_tokens=1000)) as one:
        one.record(None)
    assert before == rich.counts()["reserve"]
    assert 11 == rich.settled(leasing)


def test_without_leases_every_call_reserves(rich):
    """They are opt in."""
    meter = rich.meter()
    for _ in range(6):
        call(rich, meter)
    assert meter._engine.leases is None
    assert 6 == rich.counts()["reserve"]


@pytest.mark.parametrize("wrong", [{"settlement": "inline"}, {"settle_with": "deduct"}])
def test_leases_need_a_thread_and_a_confirm(bench, wrong):
    """They are taken behind the app, and settled with one confirm each."""
    with pytest.raises(ConfigurationError, match="leases"):
        bench.meter(leases=True, **wrong)


def test_a_shadow_meter_takes_none(bench):
    """Where nothing is reserved nothing is reserved ahead."""
    meter = bench.meter(leases=True, enforcement="shadow")
    for _ in range(5):
        call(bench, meter)
    assert meter._engine.leases is None
    assert [] == bench.named("leased")


class OnLeases:
    """Stands between a meter and its ledger: counts the reserves of leases, and may lose or hold them up."""

    def __init__(self, meter, fate=None):
        self.fate = fate
        self.seen = 0
        self.go = threading.Event()
        meter._engine.interpose(self)

    def _is_lease(self, request):
        return request.name == "reserve" and request.body.get("description", "").startswith("taken ahead")

    def send(self, transport, request, deadline):
        return transport.send(request, deadline)

    async def asend(self, transport, request, deadline):
        if not self._is_lease(request):
            return await transport.send(request, deadline)
        self.seen += 1
        if self.fate == "held up":
            await asyncio.to_thread(self.go.wait, 10)
        if self.fate == "not sent":
            return NotSent("no connection")
        answer = await transport.send(request, deadline)
        return InDoubt("no answer") if self.fate == "lost" else answer


def rows_of(bench, meter, *states):
    """The journal's leases in some states, or those that may hold something."""
    wanted = states or (ReservationState.HELD, ReservationState.CLOSING)
    return [row for state in wanted for row in bench.rows(meter, state) if row.key.startswith(LEASE)]


# How much, and when there is another.


def test_all_leases_of_an_account_hold_a_tenth_at_most(bench):
    """Whatever is asked for by however many operations: a tenth of what is available, and no more."""
    bench.control.account(bench.account, balance=1_000, ai_product_id="product_1")
    meter = bench.meter(leases=True)
    for _ in range(6):
        for operation in ("app.one", "app.two", "app.three"):
            call(bench, meter, operation=operation, amount=8, cost=3)
        time.sleep(0.1)
        held = sum(row.amount - row.committed for row in rows_of(bench, meter))
        assert held <= 100
    assert bench.named("leased")
    assert 54 == bench.settled(meter)


def test_a_small_account_gets_none(bench):
    """A tenth of what is available must be worth two calls; if not, nobody asks again at once."""
    meter = bench.meter(leases=True)
    for _ in range(8):
        call(bench, meter, amount=6)
    assert meter.flush(10)
    assert [] == bench.named("leased")
    assert bench.counts()["balance"] <= 2
    assert 8 == bench.counts()["reserve"]


def test_an_account_that_is_not_busy_gets_none(leasing, rich):
    """Two calls are no crowd."""
    for _ in range(2):
        call(rich, leasing)
    assert 2 == rich.settled(leasing)
    assert [] == rich.named("leased")
    assert "balance" not in rich.counts()


def test_a_lease_is_renewed_when_half_of_it_is_left(leasing, rich):
    """So that a busy account never waits for the next one."""
    first = leased(rich, leasing)
    before = rich.counts()["reserve"]
    for _ in range(first["amount"] // 5 // 2 + 1):
        call(rich, leasing, cost=5)
    until(lambda: len(rich.named("leased")) == 2)
    assert "renewed" == rich.named("leased")[1]["reason"]
    assert before + 1 == rich.counts()["reserve"]
    for _ in range(first["amount"] // 5):
        call(rich, leasing, cost=5)
    assert before + len(rich.named("leased")) - 1 == rich.counts()["reserve"]
    assert rich.settled(leasing) == sum(charge.amount for charge in leasing.charges())


def test_a_lease_that_is_used_up_is_settled(leasing, rich):
    """Its confirm does not wait until nobody is busy any more."""
    first = leased(rich, leasing)
    for _ in range(first["amount"] // 5):
        call(rich, leasing, cost=5)
    until(lambda: "used up" in {fields["reason"] for fields in rich.named("lease_ended")})
    until(lambda: rich.books()["spent"] >= first["amount"] // 5 * 5)


def test_a_lease_carries_so_many_draws_at_most(leasing, rich, monkeypatch):
    """One confirm moves all its charges on in one transaction."""
    monkeypatch.setattr(leases, "MOST_DRAWS", 10)
    leased(rich, leasing)
    for _ in range(12):
        call(rich, leasing)
    until(lambda: "used up" in {fields["reason"] for fields in rich.named("lease_ended")})
    assert 15 == rich.settled(leasing)


def test_an_idle_lease_is_given_back(leasing, rich, monkeypatch):
    """Nobody drew on it for a while."""
    monkeypatch.setattr(leases, "IDLE_SECONDS", 0.3)
    leased(rich, leasing)
    until(lambda: rich.named("lease_ended"))
    until(lambda: rich.books()["reserved"] == 0)
    assert ["idle"] == [fields["reason"] for fields in rich.named("lease_ended")]
    assert 3 == rich.books()["spent"]


def test_a_lease_grows_old_long_before_it_expires(leasing, rich, monkeypatch):
    """A call that draws on it has the time that a hold of its own would give it."""
    monkeypatch.setattr(leases, "DRAWN_ON_FOR", 30 * 60 / 0.5)
    lease = leased(rich, leasing)
    until(lambda: rich.named("lease_ended"))
    assert "old" == rich.named("lease_ended")[0]["reason"]
    until(lambda: not rows_of(rich, leasing, ReservationState.HELD))
    (row,) = [row for row in rows_of(rich, leasing, *ReservationState) if row.reservation_id == lease["reservation_id"]]
    assert 30 == row.validity


def test_calls_that_may_run_for_longer_hold_for_themselves(leasing, rich):
    """Nor does a block that others top up draw on a lease."""
    leased(rich, leasing)
    before = rich.counts()["reserve"]
    call(rich, leasing, validity=60)
    call(rich, leasing, top_up=True)
    assert before + 2 == rich.counts()["reserve"]
    assert 5 == rich.settled(leasing)


def test_a_call_larger_than_what_is_left_holds_for_itself(leasing, rich):
    """It is not refused for what a lease lacks."""
    lease = leased(rich, leasing)
    call(rich, leasing, amount=lease["amount"] + 1, cost=lease["amount"] + 1)
    assert lease["amount"] + 4 == rich.settled(leasing)


# Blocks.


def test_a_call_on_a_lease_is_a_block_for_others(leasing, rich):
    """Nested calls draw on the same lease, and the block adds nothing of its own: as inside any block."""
    leased(rich, leasing)
    before = rich.counts()["reserve"]
    with leasing.reserve(rich.account, OPERATION, amount=10) as block:
        for _ in range(2):
            call(rich, leasing, cost=3, operation="app.step")
        with leasing.reserve(rich.account, "app.other", amount=3):
            call(rich, leasing, cost=1, amount=1, operation="app.deep")
    assert before == rich.counts()["reserve"]
    assert 3 + 3 + 3 + 1 == rich.settled(leasing)
    assert 7 == block.charged


def test_inside_a_block_with_a_hold_calls_draw_on_that(leasing, rich):
    """A lease of the inner operation stays out of it."""
    leased(rich, leasing)
    drawn = leasing._engine.leases._live[rich.account, OPERATION][0].draws
    with leasing.reserve(rich.account, "app.block", amount=50, top_up=True):
        call(rich, leasing)
    assert drawn == leasing._engine.leases._live[rich.account, OPERATION][0].draws
    assert 4 == rich.settled(leasing)


# When credits run out.


@pytest.fixture
def poor(bench):
    """An account of 100 credits with a lease of 9 of them, or so."""
    meter = bench.meter(leases=True)
    lease = leased(bench, meter, amount=1)
    until(lambda: bench.books()["reserved"] == lease["amount"])
    return meter


def test_a_refused_call_calls_the_leases_back_and_is_tried_once_more(bench, poor):
    """What a lease holds is nobody's reason to be refused."""
    spare = bench.books()
    assert 0 < spare["reserved"] <= 10
    call(bench, poor, operation="app.large", amount=spare["available"] + 1, cost=7)
    assert ["recalled"] == [fields["reason"] for fields in bench.named("lease_ended")]
    assert "purchase-links" not in bench.counts()
    assert 10 == bench.settled(poor)


def test_async_calls_call_them_back_too(bench, poor):
    """The same on an event loop."""
    spare = bench.books()

    async def one():
        async with poor.reserve(bench.account, "app.large", amount=spare["available"] + 1) as reservation:
            reservation.settle(7)

    asyncio.run(one())
    assert 10 == bench.settled(poor)


def test_a_call_that_nothing_pays_for_is_refused_once_everything_is_back(bench, poor):
    """The 402 says what is in use: nothing."""
    with pytest.raises(InsufficientCreditsError) as refused, poor.reserve(bench.account, "app.large", amount=98):
        raise AssertionError("the call ran without credits")
    assert (98, 0, None) == (refused.value.required, refused.value.held, refused.value.held_until)
    assert {"spent": 3, "reserved": 0, "available": 97} == bench.books()
    assert 1 == bench.counts()["purchase-links"]


def test_a_lease_with_an_open_draw_is_held_and_said_so(bench, poor):
    """It is given back when the draw ends; until then it is what the 402 calls held."""
    with poor.reserve(bench.account, OPERATION, amount=1):
        held = bench.books()["reserved"]
        with pytest.raises(InsufficientCreditsError) as refused:
            poor.reserve(bench.account, "app.large", amount=96).begin()
        assert held == refused.value.held > 0
        assert refused.value.held_until is not None
    assert 4 == bench.settled(poor)


def test_a_flat_deduct_calls_them_back_too(bench, poor):
    """It needs no hold, but what leases hold."""
    spare = bench.books()["available"]
    assert spare + 1 == poor.deduct(bench.account, "app.flat", spare + 1).amount
    assert spare + 4 == bench.settled(poor)


def test_many_refused_at_once_all_get_what_came_back(bench, poor):
    """Whoever calls the lease back, the others wait for it."""
    spare = bench.books()["available"]
    passed = []

    def one():
        with contextlib.suppress(InsufficientCreditsError):
            call(bench, poor, operation="app.large", amount=spare // 4 + 1, cost=1)
            passed.append(1)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 3 + len(passed) == bench.settled(poor)
    assert len(passed) >= 3


def test_after_a_recall_the_account_goes_without_for_a_while(bench, poor):
    """What had to be given back is not taken again with the next call."""
    call(bench, poor, operation="app.large", amount=bench.books()["available"] + 1)
    for _ in range(5):
        call(bench, poor, amount=1)
    assert 9 == bench.settled(poor)
    assert 1 == len(bench.named("leased"))


def owe(bench, meter):
    terms = meter._engine.terms
    row = ChargeRow(
        id="owed-1", ledger=terms.ledger, principal=terms.principal, owner=terms.owner, account_id=bench.account,
        operation="app.flat", created_at=time.time(), state=ChargeState.UNCOLLECTED, amount=4, share=4, via="deduct",
    )  # fmt: skip
    meter.journal.run(Do(lambda books: books.save_charge(row)))


def test_a_debt_is_met_before_a_lease_is_drawn_on(leasing, rich):
    """Rule 14: the next call collects it at a gate of its own, and then the lease serves again."""
    leased(rich, leasing)
    before = rich.counts()
    owe(rich, leasing)
    for _ in range(3):
        call(rich, leasing)
        time.sleep(0.3)
    assert before["reserve"] + 1 == rich.counts()["reserve"]
    assert 1 == rich.counts()["deduct"]
    assert 3 + 4 + 3 == rich.settled(leasing)


# When the ledger is not there.


def test_calls_go_on_while_a_lease_lasts_and_the_ledger_is_gone(leasing, rich):
    """They are paid for; what they cost is settled once it is back."""
    leased(rich, leasing)
    rich.control.faults([{"path": "/api/credits/reserve", "kind": "drop_before", "times": 99}])
    for _ in range(10):
        call(rich, leasing)
    assert 13 == rich.settled(leasing)


@pytest.mark.parametrize("fate", ["lost", "not sent"])
def test_a_lease_without_an_answer_is_not_asked_for_again_at_once(leasing, rich, fate):
    """In doubt it is never sent again (rule 3): what may be held is listed, and ends by itself."""
    between = OnLeases(leasing, fate)
    for _ in range(12):
        call(rich, leasing)
        time.sleep(0.02)
    assert leasing.flush(10)
    assert 1 == between.seen
    states = {"lost": ReservationState.ORPHAN_POSSIBLE, "not sent": ReservationState.REFUSED}
    assert 1 == len(rows_of(rich, leasing, states[fate]))
    assert (fate == "lost") == bool(rich.named("orphan_possible"))
    assert 12 == rich.books()["spent"]


def test_a_lease_in_doubt_counts_as_held(bench):
    """It may be: no further one is taken beyond the tenth."""
    meter = bench.meter(leases=True)
    between = OnLeases(meter, "lost")
    for _ in range(3):
        call(bench, meter, amount=1)
    until(lambda: bench.named("orphan_possible"))
    meter._engine.leases._demand.granted((bench.account, OPERATION))
    for _ in range(3):
        call(bench, meter, amount=1)
    assert meter.flush(10)
    assert 1 == between.seen


def test_a_lease_that_comes_after_the_meter_was_closed_is_given_back(leasing, rich):
    """Closing waits for what is on its way, and lets nobody keep it."""
    between = OnLeases(leasing, "held up")
    for _ in range(3):
        call(rich, leasing)
    until(lambda: between.seen)
    threading.Timer(0.3, between.go.set).start()
    assert leasing.close(10)
    assert {"spent": 3, "reserved": 0, "available": 99_997} == rich.books()


def test_flush_ends_leases_so_that_what_was_drawn_is_settled(leasing, rich):
    """What it says is true: everything that settles by itself has."""
    leased(rich, leasing)
    call(rich, leasing)
    assert leasing.flush(10)
    assert {"settled"} == {charge.state for charge in leasing.charges()}
    assert ["flushed"] == [fields["reason"] for fields in rich.named("lease_ended")]


# Processes.

_VICTIM = """
import os, signal, sys, time
from countwerk_meter import Meter
url, key, path = sys.argv[1:]
taken = []
meter = Meter("product_1", api_key=key, base_url=url, journal=f"sqlite:///{path}", leases=True,
    on_event=lambda name, fields: taken.append(name) if name == "leased" else None)
def call(cost):
    with meter.reserve("acct_1", "app.call", amount=5) as reservation: reservation.settle(cost)
for _ in range(3): call(1)
while not taken or not meter._engine.leases._live: time.sleep(0.01)
for _ in range(6): call(2)
known = meter.reserve("acct_1", "app.call", amount=5).begin()
known.settle(3)
known.checkpoint()
unknown = meter.reserve("acct_1", "app.call", amount=5).begin()
assert known.lease and unknown.lease
print("ready", flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_lease_is_recovered(rich, monkeypatch):
    """What was drawn is charged, a running call by the policy, and the rest is given back."""
    monkeypatch.setattr(settlement, "RECOVER_SECONDS", 0.1)
    arguments = [sys.executable, "-c", _VICTIM, rich.sandbox.url, rich.sandbox.api_key, str(rich.path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as victim:
        try:
            assert "ready\n" == victim.stdout.readline()
            assert rich.books()["reserved"] > 20
            victim.send_signal(signal.SIGKILL)
            victim.wait(30)
        finally:
            victim.kill()
    meter = rich.meter()
    until(lambda: rich.named("recovered"))
    assert 3 + 12 + 3 == rich.settled(meter)
    assert ["lost"] == [charge.state for charge in meter.charges() if charge.amount is None]


_FORKS = """
import os, sys, time
from countwerk_meter import Meter
url, key, path = sys.argv[1:]
taken = []
meter = Meter("product_1", api_key=key, base_url=url, journal=f"sqlite:///{path}", leases=True,
    on_event=lambda name, fields: taken.append(name) if name == "leased" else None)
def call():
    with meter.reserve("acct_1", "app.call", amount=5) as reservation:
        reservation.settle(1)
        return reservation.lease
for _ in range(3): call()
while not taken or not meter._engine.leases._live: time.sleep(0.01)
assert call()
child = os.fork()
if child == 0:
    assert call() is None, "the child drew on its parent's lease"
    os._exit(0 if meter.close(10) else 1)
assert os.waitpid(child, 0)[1] == 0
assert call(), "the child took its parent's lease away"
assert meter.close(10)
"""


def test_a_forked_child_has_none_of_its_parents_leases(rich):
    """It reserves for itself, and its end leaves the parent's lease alone."""
    arguments = [sys.executable, "-c", _FORKS, rich.sandbox.url, rich.sandbox.api_key, str(rich.path)]
    subprocess.run(arguments, check=True, timeout=60)
    assert {"spent": 6, "reserved": 0, "available": 99_994} == rich.books()


# Many at once.


def test_sixty_four_threads_and_tasks_on_leases_have_exact_books(leasing, rich):
    """Each call is charged once, whatever it drew on."""
    leased(rich, leasing)
    before = rich.counts()["reserve"]

    def calls():
        for _ in range(5):
            call(rich, leasing, cost=2)

    threads = [threading.Thread(target=calls) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def tasks():
        async def one():
            for _ in range(5):
                async with leasing.reserve(rich.account, OPERATION, amount=5) as reservation:
                    await asyncio.sleep(0)
                    reservation.settle(3)

        await asyncio.gather(*(one() for _ in range(64)))

    asyncio.run(tasks())
    assert 3 + 640 + 960 == rich.settled(leasing)
    assert rich.counts()["reserve"] - before < 640
    assert [] == rich.named("uncollected")


# Never more than there is.


def test_the_last_credit_is_used_and_none_more(bench):
    """Eight threads call until a 402 says that nothing is in use: exactly as many ran as the balance pays for."""
    bench.control.account("acct_last", balance=200, ai_product_id="product_1")
    meter = bench.meter(leases=True)
    passed, refused = [], []

    def one():
        while True:
            try:
                with meter.reserve("acct_last", OPERATION, amount=3) as reservation:
                    reservation.settle(3)
                    passed.append(reservation.lease)
            except InsufficientCreditsError as error:
                refused.append(error.held)
                if not error.held:
                    return
                time.sleep(0.02)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meter.flush(20)
    assert 66 == len(passed)
    assert {"spent": 198, "reserved": 0, "available": 2} == bench.books("acct_last")
    assert any(passed), "no call drew on a lease"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    balance=st.integers(10, 400),
    calls=st.lists(
        st.tuples(st.integers(1, 8), st.integers(0, 8), st.sampled_from(["app.one", "app.two"])), max_size=30
    ),
)
def test_no_call_runs_that_the_balance_does_not_pay_for(bench, balance, calls):
    """Calls that keep their estimates: what ran is charged, to the credit, and who was refused would not have fitted."""
    account = f"acct_{len(bench.meters)}"
    bench.control.account(account, balance=balance, ai_product_id="product_1")
    meter = bench.meter(leases=True, journal="memory:")
    spent, refused = 0, []
    for estimate, cost, operation in calls:
        try:
            with meter.reserve(account, operation, amount=estimate) as reservation:
                reservation.settle(min(cost, estimate))
        except InsufficientCreditsError as error:
            refused.append((estimate, balance - spent - error.held))
        else:
            spent += min(cost, estimate)
        until(lambda: not meter._engine.leases.coming)
    assert all(estimate > left for estimate, left in refused)
    assert meter.flush(20)
    assert {"spent": spent, "reserved": 0, "available": balance - spent} == bench.books(account)
    meter.close(5)
