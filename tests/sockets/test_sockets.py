"""
A meter over real sockets that reset, half-close, drip, lie and hang: sync gate, async gate, settlement.

A reserve is never sent twice, no gate waits beyond its budget, and what was used is charged once (money rules 1 to 4).
"""

import asyncio
import contextlib
import dataclasses
import socket
import time

import pytest

from countwerk_meter import LedgerUnavailableError, Meter

from .rude_proxy import RudeProxy

BUDGET = 1.0
# Whether the ledger carries it out all the same.
DOUBTFUL = {
    "reset_before": False,
    "reset_after": True,
    "reset_in_mid_body": True,
    "half_closed": True,
    "dripping_headers": True,
    "dripping_body": True,
    "garbage": True,
    "huge": True,
    "truncated": True,
    "redirect": False,
    "silent": False,
}
HARMLESS = ["without_length", "hanging_up_afterwards"]


@pytest.fixture(params=["httpx", "fast"], autouse=True)
def transport(request, monkeypatch):
    """Every test with both transports."""
    monkeypatch.setenv("COUNTWERK_TRANSPORT", request.param)


@pytest.fixture
def proxy(countwerk_sandbox):
    countwerk_sandbox.control.account("acct_1", balance=100, ai_product_id="prod_1")
    proxy = RudeProxy(countwerk_sandbox.url)
    yield proxy
    proxy.close()


@pytest.fixture
def metered(countwerk_sandbox, proxy):
    with Meter(
        "prod_1", api_key=countwerk_sandbox.api_key, base_url=proxy.url, journal="memory:", reserve_timeout=BUDGET
    ) as meter:
        # Seconds that one request of settlement may take: ten, which would be long for a test.
        settlement = meter._engine.settlement
        settlement._terms = dataclasses.replace(settlement._terms, settle_timeout=BUDGET / 2)
        yield meter


def sync(meter):
    with meter.reserve("acct_1", "app.chat", amount=5) as reservation:
        reservation.settle(3)


def in_async(meter):
    async def run():
        async with meter.reserve("acct_1", "app.chat", amount=5) as reservation:
            reservation.settle(3)

    asyncio.run(run())


BOTH = pytest.mark.parametrize("call", [sync, in_async])


@BOTH
@pytest.mark.parametrize("how", DOUBTFUL)
def test_a_gate_in_doubt_is_closed_within_its_budget(metered, proxy, countwerk_sandbox, call, how):
    """The reserve is not sent again; what the ledger may hold ends with its validity."""
    proxy.be(how, "reserve")
    start = time.monotonic()
    with pytest.raises(LedgerUnavailableError) as caught:
        call(metered)
    assert time.monotonic() - start < 10 * BUDGET
    assert caught.value.in_doubt
    assert int(DOUBTFUL[how]) == proxy.arrived.count("reserve")
    assert ["orphaned"] == [charge.state for charge in metered.charges()]
    countwerk_sandbox.control.advance(3600)
    books = countwerk_sandbox.control.books("acct_1")
    assert (0, 0) == (books["spent"], books["reserved"])


@BOTH
@pytest.mark.parametrize("how", HARMLESS)
def test_odd_answers_that_say_what_happened_are_answers(metered, proxy, call, how, assert_books_balance):
    """And the next request comes over a new connection: it was not sent over the closed one."""
    proxy.be(how, "reserve", times=2)
    call(metered)
    call(metered)
    assert_books_balance(metered)
    assert 2 == proxy.arrived.count("reserve")


@pytest.mark.parametrize("how", [*DOUBTFUL, *HARMLESS])
@pytest.mark.parametrize("endpoint", ["confirm-reservation", "deduct"])
def test_settlement_charges_once_whatever_the_sockets_do(metered, proxy, how, endpoint, assert_books_balance):
    """A confirm that may have been carried out is sent again with the same amount, a deduct under the same id."""
    if endpoint == "deduct":
        proxy.be(how, "deduct")
        # The gate of a deduct sends it again by itself, or settlement does.
        with contextlib.suppress(LedgerUnavailableError):
            metered.deduct("acct_1", "app.export", 3)
    else:
        proxy.be(how, "confirm-reservation")
        sync(metered)
    proxy.be("hanging_up_afterwards", endpoint)
    assert_books_balance(metered, timeout=60)
    assert [3] == [charge.amount for charge in metered.charges("settled")]


@BOTH
def test_a_connection_that_is_refused_was_not_sent(countwerk_sandbox, call):
    """Nobody listens there: definitely nothing happened, and the call did not run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with (
            Meter("prod_1", api_key="k", base_url=url, journal="memory:", reserve_timeout=BUDGET) as meter,
            pytest.raises(LedgerUnavailableError) as caught,
        ):
            call(meter)
    assert not caught.value.in_doubt
