"""Leases where credits run out, or the ledger is not there: called back, and never more than there is."""

import asyncio
import contextlib
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from countwerk_meter import InsufficientCreditsError
from countwerk_meter._flow.rows import ChargeRow
from countwerk_meter._flow.states import ChargeState, ReservationState
from countwerk_meter.testing.journal_steps import Do

from .leasing import OPERATION, OnLeases, call, leased, rows_of
from .waiting import until

# When credits run out.


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


def test_a_debt_ends_the_accounts_leases(leasing, rich):
    """Rule 14: a call collects it at a gate of its own. Until that is noticed, calls draw on what is held for them."""
    leased(rich, leasing)
    before = rich.counts()["reserve"]
    owe(rich, leasing)
    call(rich, leasing)
    assert before == rich.counts()["reserve"]
    deadline = time.monotonic() + 10
    while not rich.named("lease_ended"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "debt" == rich.named("lease_ended")[0]["reason"]
    call(rich, leasing)
    assert before < rich.counts()["reserve"]
    assert 1 == rich.counts()["deduct"]
    assert 3 + 4 + 2 == rich.settled(leasing)


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
    assert (["orphan hold"] if fate == "lost" else []) == [listed.kind for listed in leasing.operations.listed()]
    assert 12 == rich.books()["spent"]


@pytest.mark.parametrize("status", [500, 429, 401])
def test_where_no_balance_is_told_no_lease_is_taken(leasing, rich, status):
    """Nor is it asked for again at once; calls go on as they would without leases."""
    rich.control.faults([{"path": "/api/credits/balance", "kind": "status", "status": status, "times": 9}])
    for _ in range(8):
        call(rich, leasing)
        time.sleep(0.02)
    assert 8 == rich.settled(leasing)
    assert [] == rich.named("leased")
    assert rich.counts()["balance"] == 1
    assert 8 == rich.counts()["reserve"]


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
