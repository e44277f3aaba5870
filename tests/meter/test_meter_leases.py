"""Leases: a busy account's calls draw locally on credits taken ahead, and every money rule is kept."""

import asyncio
import threading
import time

import pytest

from countwerk_meter import ConfigurationError, InsufficientCreditsError, Usage

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
