"""Leases: a busy account's calls draw locally on credits taken ahead, and how much that is, and for how long."""

import asyncio
import time

import pytest

from countwerk_meter import ChargeAlreadySettledError, ConfigurationError, InsufficientCreditsError, Usage
from countwerk_meter._flow.states import ReservationState
from countwerk_meter._metering import leases

from .leasing import OPERATION, call, leased, rows_of
from .waiting import until


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
    rows = rows_of(rich, leasing, *ReservationState)
    assert {30} == {row.validity for row in rows if row.reservation_id == lease["reservation_id"]}


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


def test_an_id_that_was_charged_on_a_lease_is_not_charged_again(leasing, rich):
    """Not even while its confirm is still to come."""
    leased(rich, leasing)
    call(rich, leasing, usage_event_id="once")
    with pytest.raises(ChargeAlreadySettledError):
        call(rich, leasing, usage_event_id="once")
    assert 4 == rich.settled(leasing)


def test_unknown_usage_on_a_lease_costs_the_calls_own_estimate(leasing, rich):
    """Money rule 13: of one call after another, whatever the others on the lease used."""
    leased(rich, leasing)
    for _ in range(4):
        with leasing.reserve(rich.account, OPERATION, amount=5) as one:
            one.record(None)
    assert one.lease
    assert 3 + 20 == rich.settled(leasing)


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


def test_a_recall_does_not_take_the_lease_from_a_call_that_runs_on_it(bench, poor):
    """Its nested calls go on drawing: what is left of the lease is held for as long as the call runs."""
    with poor.reserve(bench.account, OPERATION, amount=1) as block:
        with pytest.raises(InsufficientCreditsError):
            poor.reserve(bench.account, "app.large", amount=97).begin()
        with poor.reserve(bench.account, "app.step", amount=3) as nested:
            nested.settle(3)
        with poor.reserve(bench.account, OPERATION, amount=3) as other:
            other.settle(1)
    assert block.lease == nested.lease == other.lease is not None
    with poor.reserve(bench.account, OPERATION, amount=1) as later:
        assert later.lease is None
    assert 3 + 4 + 1 == bench.settled(poor)


def test_inside_a_block_with_a_hold_calls_draw_on_that(leasing, rich):
    """A lease of the inner operation stays out of it."""
    leased(rich, leasing)
    drawn = leasing._engine.leases._live[rich.account, OPERATION][0].draws
    with leasing.reserve(rich.account, "app.block", amount=50, top_up=True):
        call(rich, leasing)
    assert drawn == leasing._engine.leases._live[rich.account, OPERATION][0].draws
    assert 4 == rich.settled(leasing)
