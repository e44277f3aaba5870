"""Blocks inside blocks: draws on one reservation, flat prices that cover, top-ups, and what steps aside."""

import asyncio
import contextlib
import threading

import pytest

from countwerk_meter import ChargeAlreadySettledError, InsufficientCreditsError, Usage, account
from countwerk_meter._metering import scope

USED = Usage(input_tokens=1000, output_tokens=1000)  # 4 credits


def test_nested_calls_draw_on_the_block_without_a_round_trip(bench, meter):
    """Two calls inside a block are two charges, one hold, one confirm of their sum."""
    with meter.reserve(bench.account, "app.run", amount=20):
        for _ in range(2):
            with meter.reserve(bench.account, "app.call", amount=6) as call:
                call.record(USED)
    assert 8 == bench.settled(meter)
    assert {"reserve": 1, "confirm-reservation": 1} == {k: v for k, v in bench.counts().items() if k != "balance"}
    assert [4, 4, None] == sorted((each.amount for each in meter.charges()), key=lambda x: (x is None, x))


def test_a_block_whose_nested_calls_were_charged_is_not_run_again(bench, meter):
    """A named block that ended well is settled with nothing of its own, so its draws are not charged a second time."""

    def run():
        with meter.reserve(bench.account, "app.run", amount=10, usage_event_id="turn-1"):
            with meter.reserve(bench.account, "app.call", amount=5) as call:
                call.settle(4)

    run()
    with pytest.raises(ChargeAlreadySettledError):
        run()
    assert 4 == bench.settled(meter)


def test_a_block_that_failed_may_run_again(bench, meter):
    """What its first attempt's nested calls used stays charged; the second attempt runs."""
    for attempt in (1, 2):
        with contextlib.suppress(KeyError), meter.reserve(bench.account, "app.run", amount=9, usage_event_id="turn-1"):
            with meter.reserve(bench.account, "app.call", amount=3):
                pass
            if attempt == 1:
                raise KeyError("the tool failed")
    assert 6 == bench.settled(meter)


def test_a_block_that_also_used_something_itself_adds_it(bench, meter):
    """Nested draws and the block's own record are charged side by side."""
    with meter.reserve(bench.account, "app.run", amount=20) as outer:
        with meter.reserve(bench.account, "app.call", amount=6) as call:
            call.settle(5)
        outer.settle(3)
    assert 8 == bench.settled(meter)


def test_a_block_whose_own_call_is_unknown_costs_what_its_nested_calls_left(bench, meter):
    """Money rule 13: unknown is not free, and costs what is left of the hold at most."""
    with meter.reserve(bench.account, "app.run", amount=20) as outer:
        with meter.reserve(bench.account, "app.call", amount=6) as call:
            call.settle(5)
        outer.record(None)
    assert 20 == bench.settled(meter)
    assert [("set", 5), ("reserved", 15)] == [(each.basis, each.amount) for each in meter.charges()]


def test_a_failed_block_costs_its_own_unknown_call_all_the_same(bench, meter):
    """It was recorded: the model had answered."""
    with contextlib.suppress(KeyError), meter.reserve(bench.account, "app.run", amount=20) as outer:
        with meter.reserve(bench.account, "app.call", amount=6) as call:
            call.settle(5)
        outer.record(None)
        raise KeyError("the tool failed")
    assert 20 == bench.settled(meter)


def test_a_call_that_does_not_fit_reserves_for_itself(bench, meter):
    """A small hold never lets an unlimited number through."""
    with meter.reserve(bench.account, "app.run", amount=5):
        with meter.reserve(bench.account, "app.call", amount=4):
            with pytest.raises(InsufficientCreditsError), meter.reserve(bench.account, "app.call", amount=96):
                raise AssertionError("the call ran without credits")
        with meter.reserve(bench.account, "app.call", amount=50):
            assert 55 == bench.books()["reserved"]
    assert 54 == bench.settled(meter)


def test_a_top_up_is_shared_by_later_calls(bench, meter):
    """With `top_up` the block takes more when an estimate no longer fits, and what it took serves others too."""
    with meter.reserve(bench.account, "app.run", amount=5, top_up=True):
        with meter.reserve(bench.account, "app.call", amount=10) as first:
            first.settle(4)
        with meter.reserve(bench.account, "app.call", amount=6) as second:
            second.settle(6)
        assert 15 == bench.books()["reserved"]
    assert 10 == bench.settled(meter)
    assert 2 == bench.counts()["reserve"]


def test_a_top_up_that_the_balance_does_not_pay_for_is_a_402_before_the_call(bench, meter):
    """The call that would not fit is refused; what ran before is charged."""
    with meter.reserve(bench.account, "app.run", amount=5, top_up=True):
        with meter.reserve(bench.account, "app.call", amount=5):
            pass
        with pytest.raises(InsufficientCreditsError), meter.reserve(bench.account, "app.call", amount=500):
            raise AssertionError("the call ran without credits")
    assert 5 == bench.settled(meter)


def test_a_deferred_blocks_top_up_is_settled(bench):
    """A hold that was taken under a block without one of its own ends with the block."""
    meter = bench.meter(on_unavailable="defer", debt_limit=50)
    bench.control.faults([{"path": "/api/credits/reserve", "kind": "status", "status": 500, "times": 1}])
    with meter.reserve(bench.account, "app.run", amount=5, top_up=True):
        with meter.reserve(bench.account, "app.call", amount=4) as call:
            call.settle(3)
    assert 3 == bench.settled(meter)


def test_a_replayed_blocks_top_up_is_settled(bench):
    """So does one that was taken under a block that was charged before."""
    meter = bench.meter(on_replay="run")
    for nested in (False, True):
        with meter.reserve(bench.account, "app.run", amount=5, top_up=True, usage_event_id="turn-1"):
            if nested:
                with meter.reserve(bench.account, "app.call", amount=4) as call:
                    call.settle(3)
    assert 8 == bench.settled(meter)


def test_a_top_up_that_lands_after_its_block_is_settled(bench, meter):
    """The block ended while the nested call was still reserving."""
    bench.control.faults([{"path": "/api/credits/reserve", "kind": "delay", "seconds": 0.5, "skip": 1, "times": 1}])

    def call(outer):
        with outer.entered(), meter.reserve(bench.account, "app.call", amount=40) as inner:
            inner.settle(30)

    with meter.reserve(bench.account, "app.run", amount=5, top_up=True) as outer:
        thread = threading.Thread(target=call, args=(outer,))
        thread.start()
        while bench.counts().get("reserve", 0) < 2:
            threading.Event().wait(0.01)
        outer.settle(2)
    thread.join()
    assert 32 == bench.settled(meter)


def test_a_flat_price_covers_what_nested_calls_use(bench, meter):
    """Inside a price block calls are noted, not added."""
    with meter.reserve(bench.account, "app.page", price=3):
        with meter.reserve(bench.account, "app.call", amount=50) as call:
            call.record(USED)
            assert "" == call.usage_event_id
    assert 3 == bench.settled(meter)
    (charge,) = meter.charges()
    assert 1 == len(charge.lines)


@pytest.mark.parametrize("mode", ["background", "inline"])
@pytest.mark.parametrize("around", [False, True], ids=["own hold", "drawn"])
def test_a_flat_price_is_due_for_a_call_that_outlives_its_block(bench, mode, around):
    """A tool that was cancelled costs nothing, until the model answers that it had asked."""
    meter = bench.meter(settlement=mode)
    surrounding = meter.reserve(bench.account, "app.run", amount=10) if around else contextlib.nullcontext()
    with surrounding:
        tool = meter.reserve(bench.account, "app.tool", price=3).begin()
        with tool.entered():
            calls = [meter.reserve(bench.account, "app.call", amount=50).begin() for _ in range(2)]
        tool.finish(asyncio.CancelledError())
        assert meter.flush(20) or around
        assert 0 == bench.books()["spent"]
        for call in calls:
            call.record(USED)
            call.finish()
        tool.finish()
    assert 3 == bench.settled(meter)


@pytest.mark.parametrize(
    ("end", "credits"), [("answers", 3), ("fails", 0), ("fails, having streamed", 3), ("is cancelled", 0)]
)
def test_a_flat_block_that_failed_is_charged_if_a_call_in_it_ran(bench, meter, end, credits):
    """Whether that call's usage was reported or not: it is covered by the price, not by nothing."""
    tool = meter.reserve(bench.account, "app.tool", price=3).begin()
    with tool.entered():
        call = meter.reserve(bench.account, "app.call", amount=50).begin()
    if end == "fails, having streamed":
        call.yielded()
    if end == "is cancelled":
        call.cancel("answered from a cache")
    call.finish(KeyError() if end.startswith("fails") else None)
    tool.finish(KeyError())
    assert credits == bench.settled(meter)


def test_closing_waits_for_a_call_that_outlives_its_flat_block(bench, meter):
    """Its answer makes the price due, which needs the journal."""
    tool = meter.reserve(bench.account, "app.tool", price=3).begin()
    with tool.entered():
        call = meter.reserve(bench.account, "app.call", amount=50).begin()
    tool.finish(KeyError())

    def answer():
        call.record(USED)
        call.finish()

    threading.Timer(0.5, answer).start()
    assert meter.close(10)
    assert 3 == bench.books()["spent"]


def test_a_flat_block_that_was_cancelled_stays_free(bench, meter):
    """`cancel()` says so, whatever a call in it used."""
    tool = meter.reserve(bench.account, "app.tool", price=3).begin()
    with tool.entered():
        call = meter.reserve(bench.account, "app.call", amount=50).begin()
    tool.cancel()
    tool.finish(KeyError())
    call.record(USED)
    call.finish()
    assert 0 == bench.settled(meter)


def test_a_nested_call_of_another_account_reserves_for_itself(bench, meter):
    """One account's block never pays for another's call."""
    bench.control.account("acct_2", balance=10, ai_product_id="product_1")
    with meter.reserve(bench.account, "app.run", amount=5):
        with meter.reserve("acct_2", "app.call", amount=2):
            pass
    assert 5 == bench.settled(meter)
    assert 2 == bench.books("acct_2")["spent"]


def test_a_nested_call_of_another_meter_reserves_for_itself(bench, meter):
    """Two meters share nothing."""
    other = bench.meter()
    with meter.reserve(bench.account, "app.run", amount=5):
        with other.reserve(bench.account, "app.call", amount=2):
            pass
    assert other.flush(10)
    assert 7 == bench.settled(meter)


def test_a_draw_inside_a_draw_uses_the_same_hold(bench, meter):
    """A call inside a call inside a block draws on the block, and the middle one adds nothing of its own."""
    with meter.reserve(bench.account, "app.run", amount=20):
        with meter.reserve(bench.account, "app.step", amount=6):
            with meter.reserve(bench.account, "app.call", amount=6) as call:
                call.settle(5)
    assert 5 == bench.settled(meter)
    assert 1 == bench.counts()["reserve"]


def test_a_call_that_outlives_its_block_is_charged_with_it(bench, meter):
    """The hold is settled when the last draw on it has ended."""
    with meter.reserve(bench.account, "app.run", amount=9):
        late = meter.reserve(bench.account, "app.call", amount=4).begin()
    late.settle(4)
    late.finish()
    assert 4 == bench.settled(meter)


def test_a_call_begun_after_its_block_reserves_for_itself(bench, meter):
    """A closed block is no longer drawn on."""
    with meter.reserve(bench.account, "app.run", amount=9) as outer:
        outer.settle(1)
        inside = meter.reserve(bench.account, "app.call", amount=4)
    with inside:
        pass
    assert 5 == bench.settled(meter)
    assert 2 == bench.counts()["reserve"]


def test_inside_a_model_call_a_second_meter_steps_aside(bench, meter):
    """What an integration meters already is counted once."""
    with meter.reserve(bench.account, "app.run", amount=9) as outer:
        with scope.model_call(), meter.reserve(bench.account, "app.call", amount=4) as inner:
            inner.record(USED)
            assert "" == inner.settlement.state
        outer.record(USED)
    assert 4 == bench.settled(meter)
    assert 1 == len(meter.charges())


def test_an_account_variable_is_checked_and_put_back(bench):
    """`with account(...)` names the account for what is inside, and only there."""
    with account("acct_9"):
        assert "acct_9" == scope.current_account()
    assert scope.current_account() is None
    with pytest.raises(RuntimeError), account(""):
        pass


def test_parallel_draws_never_exceed_the_hold(bench, meter):
    """Twenty threads and twenty tasks on one hold of ten: the sum is exact, what did not fit took its own hold."""
    with meter.reserve(bench.account, "app.run", amount=10) as outer:

        def call():
            with outer.entered(), meter.reserve(bench.account, "app.call", amount=1):
                pass

        threads = [threading.Thread(target=call) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert 20 == bench.settled(meter)

    async def tasks():
        async with meter.reserve(bench.account, "app.run", amount=10):

            async def one():
                async with meter.reserve(bench.account, "app.call", amount=1):
                    await asyncio.sleep(0)

            await asyncio.gather(*(one() for _ in range(20)))

    asyncio.run(tasks())
    assert 40 == bench.settled(meter)
