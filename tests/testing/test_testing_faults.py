"""`FaultTransport`: each fault, on each way to the ledger."""

import asyncio
import time

import pytest

from countwerk_meter import AsyncCountwerkClient, ConfigurationError, CountwerkClient, LedgerUnavailableError, Meter
from countwerk_meter.errors import InsufficientCreditsError
from countwerk_meter.testing import FaultTransport


@pytest.fixture
def rich(countwerk_sandbox):
    countwerk_sandbox.control.account("acct_1", balance=100, ai_product_id="prod_1")
    return countwerk_sandbox


@pytest.fixture
def metered(rich):
    with Meter("prod_1", api_key=rich.api_key, base_url=rich.url, journal="memory:", reserve_timeout=1.0) as meter:
        yield meter


def sync(meter):
    with meter.reserve("acct_1", "app.chat", amount=5):
        pass


def in_async(meter):
    async def run():
        async with meter.reserve("acct_1", "app.chat", amount=5):
            pass

    asyncio.run(run())


BOTH = pytest.mark.parametrize("call", [sync, in_async])


def requests(sandbox):
    return {path.rsplit("/", 1)[-1]: times for path, times in sandbox.control.requests()["counts"].items()}


@BOTH
def test_a_request_that_is_not_sent_is_sent_again(metered, rich, call):
    """Definitely not carried out: the gate tries again inside its budget."""
    with FaultTransport(metered) as faults:
        faults.not_sent("reserve", times=2)
        call(metered)
    assert [("reserve", "not_sent")] * 2 == faults.injected
    assert 1 == requests(rich)["reserve"]


@BOTH
@pytest.mark.parametrize(("kind", "arrives"), [("drop_before", 0), ("drop_after", 1), ("garbage", 1)])
def test_a_reserve_in_doubt_is_never_sent_again(metered, rich, call, kind, arrives):
    """Whether the ledger heard of it or not (money rule 3)."""
    with FaultTransport(metered) as faults:
        getattr(faults, kind)("reserve")
        with pytest.raises(LedgerUnavailableError) as caught:
            call(metered)
    assert caught.value.in_doubt
    assert arrives == requests(rich).get("reserve", 0)


@BOTH
def test_what_is_held_up_beyond_its_deadline_does_not_arrive(metered, rich, call):
    """And a shorter delay does no harm."""
    with FaultTransport(metered) as faults:
        faults.delay("reserve", 0.05)
        call(metered)
        faults.delay("reserve", 60)
        start = time.monotonic()
        with pytest.raises(LedgerUnavailableError):
            call(metered)
        assert time.monotonic() - start < 20
    assert 1 == requests(rich)["reserve"]


@BOTH
def test_a_code_is_answered_for_the_ledger(metered, rich, call):
    """402 with the links, fetched for real; 429 with its `Retry-After`, which does not fit the budget; 500 is a doubt."""
    with FaultTransport(metered) as faults:
        faults.answer("reserve", "INSUFFICIENT_CREDITS")
        with pytest.raises(InsufficientCreditsError) as caught:
            call(metered)
        assert caught.value.purchase_links.enabled
        faults.answer("reserve", "RATE_LIMIT_EXCEEDED", retry_after=60)
        with pytest.raises(LedgerUnavailableError) as caught:
            call(metered)
        assert not caught.value.in_doubt
        faults.answer("reserve", "RESERVATION_ERROR")
        with pytest.raises(LedgerUnavailableError) as caught:
            call(metered)
        assert caught.value.in_doubt
    assert "reserve" not in requests(rich)


def test_settlement_meets_them_too(metered, rich, assert_books_balance):
    """Behind the app: a confirm whose answer is lost is sent again, and a deduct that arrives twice is charged once."""
    with FaultTransport(metered) as faults:
        faults.drop_after("confirm-reservation")
        faults.not_sent("confirm-reservation")
        faults.duplicate("deduct")
        sync(metered)
        metered.deduct("acct_1", "app.export", 3)
        assert metered.flush(20)
    assert {("confirm-reservation", "drop_after"), ("deduct", "duplicate")} <= set(faults.injected)
    assert_books_balance(metered)
    assert 8 == rich.control.books("acct_1")["spent"]


def test_outside_the_block_nothing_strikes(metered, rich):
    """And a fault for another endpoint waits for it."""
    with FaultTransport(metered) as faults:
        faults.drop_before("deduct")
        sync(metered)
    metered.deduct("acct_1", "app.export", 3)
    assert [] == faults.injected


def test_a_plain_client_meets_them(rich):
    """Both of them."""
    with CountwerkClient(rich.api_key, rich.url, max_retries=0) as client, FaultTransport(client) as faults:
        faults.drop_before("balance")
        with pytest.raises(LedgerUnavailableError):
            client.balance("acct_1")
        assert 100 == client.balance("acct_1").balance

    async def run():
        async with AsyncCountwerkClient(rich.api_key, rich.url, max_retries=0) as client:
            with FaultTransport(client) as faults:
                faults.not_sent("balance")
                with pytest.raises(LedgerUnavailableError):
                    await client.balance("acct_1")

    asyncio.run(run())


def test_chance_can_be_repeated(rich, assert_books_balance):
    """The same seed strikes the same requests, and the books balance whatever it is."""
    struck = []
    for _ in range(2):
        with Meter("prod_1", api_key=rich.api_key, base_url=rich.url, journal="memory:", settlement="inline") as meter:
            with FaultTransport(meter, rate=0.3, seed=7) as faults:
                assert "seed=7" in repr(faults)
                for _ in range(10):
                    try:
                        meter.deduct("acct_1", "app.export", 1)
                    except LedgerUnavailableError:
                        continue
            struck.append(faults.injected)
            assert meter.flush(20)
    assert struck[0][:5] == struck[1][:5]
    assert struck[0]
    assert_books_balance()


def test_what_the_contract_does_not_have_is_refused(metered):
    """A fault that can never strike would prove nothing."""
    faults = FaultTransport(metered)
    for wrong in (
        lambda: faults.drop_before("resreve"),
        lambda: faults.answer("reserve", "NO_SUCH_CODE"),
        lambda: FaultTransport(metered, rate=2),
        lambda: faults.drop_before("reserve", times=0),
        lambda: FaultTransport(object()),
    ):
        with pytest.raises(ConfigurationError):
            wrong()


def test_one_inside_another_gives_way_to_it_again(metered, rich):
    """The outer one's faults strike on, when the inner block is over."""
    with FaultTransport(metered) as outer:
        outer.drop_before("reserve")
        with FaultTransport(metered) as inner:
            sync(metered)
        with pytest.raises(LedgerUnavailableError):
            sync(metered)
    assert ([], [("reserve", "drop_before")]) == (inner.injected, outer.injected)
    sync(metered)


def test_a_second_delivery_that_was_not_sent_leaves_a_doubt():
    """The first may have been carried out: it must not be taken for nothing."""
    from countwerk_meter._wire import requests
    from countwerk_meter._wire.replies import Answer, Envelope, InDoubt, NotSent

    replies = [Answer(Envelope(200, None, {})), NotSent("no time left")]

    class Once:
        def send(self, request, deadline):
            return replies.pop(0)

    client = CountwerkClient("key", "http://127.0.0.1:9")
    faults = FaultTransport(client)
    faults.duplicate("balance")
    assert isinstance(faults.send(Once(), requests.balance("acct_1"), time.monotonic() + 5), InDoubt)
    client.close()


@pytest.mark.parametrize("seed", range(4))
def test_by_chance_a_correct_app_ends_with_balanced_books(metered, rich, assert_books_balance, seed):
    """Reserves, confirms and deducts alike."""
    with FaultTransport(metered, rate=0.4, seed=seed):
        for number in range(10):
            try:
                sync(metered) if number % 2 else metered.deduct("acct_1", "app.export", 1)
            except LedgerUnavailableError:
                continue
    assert_books_balance(metered, timeout=60)
