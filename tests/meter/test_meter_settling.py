"""Settlement behind the app: lost answers, outages, pauses, and what a full disk does."""

import asyncio
import time

import pytest

from countwerk_meter import CountwerkError, JournalError

from .moody import Moody
from .waiting import until

CONFIRM = "/api/credits/confirm-reservation"
CANCEL = "/api/credits/cancel-reservation"
DEDUCT = "/api/credits/deduct"


def charge(bench, meter, amount=5):
    with meter.reserve(bench.account, "app.chat.reply", amount=amount):
        pass


@pytest.mark.parametrize("settlement", ["background", "inline"])
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "drop_after"},
        {"kind": "drop_before"},
        {"kind": "garbage"},
        {"kind": "duplicate"},
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 429, "retry_after": 1},
    ],
    ids=lambda fault: fault["kind"] + str(fault.get("status", "")),
)
def test_a_confirm_in_trouble_is_charged_once(bench, settlement, fault):
    """Whatever happens to one confirm, five credits are charged, once."""
    meter = bench.meter(settlement=settlement)
    bench.control.faults([{"path": CONFIRM, "times": 1, **fault}])
    charge(bench, meter)
    assert 5 == bench.settled(meter)
    # Carried out twice, the answer is a 404 to a first attempt: the client cannot know, so it is listed (rule 8).
    state = "unresolved" if fault["kind"] == "duplicate" else "settled"
    assert [state] == [each.state for each in meter.charges()]


@pytest.mark.parametrize("kind", ["drop_after", "drop_before", "garbage"])
def test_a_cancel_in_trouble_leaves_no_hold(bench, meter, kind):
    """A hold that was not used is given back in the end."""
    bench.control.faults([{"path": CANCEL, "kind": kind, "times": 1}])
    with meter.reserve(bench.account, "app.chat.reply", amount=5) as reservation:
        reservation.cancel()
    assert 0 == bench.settled(meter)


@pytest.mark.parametrize("kind", ["drop_after", "drop_before", "garbage", "duplicate"])
def test_a_deduct_in_trouble_is_charged_once(bench, meter, kind):
    """The same id is sent until it is answered, and makes one charge."""
    bench.control.faults([{"path": DEDUCT, "kind": kind, "times": 1}])
    meter.deduct(bench.account, "app.export", 5)
    assert 5 == bench.settled(meter)


async def test_async_deduct(bench, meter):
    """`adeduct` does the same on the event loop."""
    assert "settled" == (await meter.adeduct(bench.account, "app.export", 5)).state
    assert 5 == await asyncio.to_thread(bench.settled, meter)


def test_a_deduct_that_never_gets_an_answer_is_kept(bench):
    """In doubt, the app is told, and the journal sends it again until it is answered."""
    meter = bench.meter(reserve_timeout=0.4)
    bench.control.faults([{"path": DEDUCT, "kind": "delay", "seconds": 3, "times": 1}])
    with pytest.raises(CountwerkError) as caught:
        meter.deduct(bench.account, "app.export", 5, usage_event_id="export-1")
    assert caught.value.in_doubt
    assert 5 == bench.settled(meter)


def test_in_an_outage_one_probe_asks_and_charges_stay_unattempted(bench, meter):
    """After a doubtful answer nothing settles until a probe was answered (money rule 12)."""
    bench.control.faults(
        [
            {"path": CONFIRM, "kind": "drop_before", "times": 1},
            {"path": "/api/credits/balance", "kind": "drop_before", "times": 3},
        ]
    )
    for _ in range(5):
        charge(bench, meter)
    assert 25 == bench.settled(meter)
    assert bench.counts()["balance"] >= 4


def test_a_401_pauses_all_settlement_until_the_key_works_again(bench, meter):
    """The alert fires once, and everything is charged when the key works."""
    bench.control.faults([{"path": CONFIRM, "kind": "status", "status": 401, "code": "INVALID_API_KEY", "times": 1}])
    charge(bench, meter)
    until(lambda: bench.named("resumed"))
    assert 1 == len(bench.named("paused"))
    assert 5 == bench.settled(meter)


def test_a_403_parks_only_its_account(bench, meter):
    """One account is refused by the ledger: it waits, the others settle."""
    bench.control.account("acct_2", balance=10, ai_product_id="product_1")
    bench.control.faults(
        [
            {
                "path": CONFIRM,
                "account_id": bench.account,
                "kind": "status",
                "status": 403,
                "code": "FORBIDDEN",
                "times": 1,
            }
        ]
    )
    charge(bench, meter)
    until(lambda: bench.named("parked"))
    with meter.reserve("acct_2", "app.chat.reply", amount=3):
        pass
    until(lambda: bench.books("acct_2")["spent"] == 3)
    assert ["committed"] == [each.state for each in meter.charges() if each.account_id == bench.account]


def test_settlement_is_inline_where_asked(bench):
    """`settlement="inline"`: the ledger has the charge when the block is left, sync and async."""
    meter = bench.meter(settlement="inline")
    charge(bench, meter)
    assert 5 == bench.books()["spent"]

    async def run():
        async with meter.reserve(bench.account, "app.chat.reply", amount=4):
            pass

    asyncio.run(run())
    assert 9 == bench.books()["spent"]


def test_inline_settlement_never_raises_into_the_app(bench):
    """The model has answered: a ledger that fails is the journal's business."""
    meter = bench.meter(settlement="inline", reserve_timeout=1.0)
    bench.control.faults([{"path": CONFIRM, "kind": "status", "status": 500, "times": 1}])
    charge(bench, meter)
    assert 5 == bench.settled(meter)


@pytest.mark.parametrize("style_of_settling", ["confirm", "deduct"])
def test_settling_with_deducts(bench, style_of_settling):
    """`settle_with="deduct"`: the hold is only the admission; books end the same."""
    meter = bench.meter(settle_with=style_of_settling)
    with meter.reserve(bench.account, "app.chat.reply", amount=9) as reservation:
        reservation.settle(4)
    assert 4 == bench.settled(meter)
    assert (1 if style_of_settling == "deduct" else 0) == bench.counts().get("deduct", 0)


def test_settling_with_deducts_gives_the_hold_back_when_it_is_what_is_missing(bench):
    """A 402 on the deduct: cancel the hold first, then deduct."""
    bench.control.account(bench.account, balance=9)
    meter = bench.meter(settle_with="deduct")
    with meter.reserve(bench.account, "app.chat.reply", amount=9) as reservation:
        reservation.settle(8)
    assert 8 == bench.settled(meter)


def test_what_cannot_be_collected_is_kept_and_blocks_new_calls(bench, meter):
    """An `.over` leg that finds no credits is uncollected, listed, and collected when there are credits again."""
    bench.control.account(bench.account, balance=5)
    with meter.reserve(bench.account, "app.chat.reply", amount=5) as reservation:
        reservation.settle(8)
    until(lambda: bench.named("uncollected"))
    assert ["uncollected"] == [each.state for each in meter.charges("uncollected")]
    with pytest.raises(CountwerkError) as caught, meter.reserve(bench.account, "app.chat.reply", amount=1):
        raise AssertionError("the call ran on debt")
    assert 4 == caught.value.required
    bench.control.account(bench.account, balance=10)
    charge(bench, meter, 1)
    assert 9 == bench.settled(meter)


def test_a_deferred_call_is_charged_later(bench):
    """`on_unavailable="defer"`: the call runs, and its charge follows when the ledger is back."""
    meter = bench.meter(on_unavailable="defer", debt_limit=10, reserve_timeout=0.5)
    bench.control.faults([{"path": "/api/credits/reserve", "kind": "status", "status": 500, "times": 1}])
    with meter.reserve(bench.account, "app.chat.reply", amount=5) as reservation:
        assert reservation.reservation_id is None
        reservation.settle(3)
    assert 3 == bench.settled(meter)
    assert 1 == len(bench.named("deferred"))


def test_an_open_blocks_hold_that_expires_is_not_lost(bench, meter):
    """The ledger gave the hold back before the call ended: its charge is deducted under its own id."""
    with meter.reserve(bench.account, "app.chat.reply", amount=5, validity=1) as reservation:
        bench.control.advance(120)
        meter.purchase_links(bench.account)  # any answer tells the meter what time it is there
        reservation.settle(4)
    assert 4 == bench.settled(meter)
    assert 1 == bench.counts()["deduct"]


@pytest.mark.parametrize("amount", [2**53, 2**63, 10**30])
def test_an_absurd_amount_stops_nobody(bench, meter, amount):
    """What no ledger takes is refused when it is set, counts as unknown when it is reported, and holds up nothing."""
    from countwerk_meter import ConfigurationError, Usage

    with meter.reserve(bench.account, "app.chat.reply", amount=2) as reservation:
        with pytest.raises(ConfigurationError):
            reservation.settle(amount)
        reservation.record(Usage(output_tokens=amount * 1000))
    charge(bench, meter, 3)
    assert 5 == bench.settled(meter)


def test_settlement_outlives_a_journal_that_failed(bench):
    """One read that fails does not end the thread that settles."""
    journal = Moody()
    meter = bench.meter(journal=journal)
    charge(bench, meter, 1)
    assert 1 == bench.settled(meter)
    journal.fails = {"Due": 10**6}
    charge(bench, meter, 2)
    time.sleep(0.2)
    journal.fails = {}
    assert 3 == bench.settled(meter)


def test_inline_settlement_comes_back_to_what_failed(bench):
    """The next call takes up what an earlier one could not settle: no thread does."""
    meter = bench.meter(settlement="inline", reserve_timeout=2.0)
    bench.control.faults([{"path": CONFIRM, "kind": "status", "status": 429, "times": 1}])
    charge(bench, meter)
    assert 0 == bench.books()["spent"]
    for _ in range(20):
        charge(bench, meter, 1)
        time.sleep(0.05)
    assert 5 in [each.amount for each in meter.charges("settled")]


async def test_async_inline_settlement_comes_back_too(bench):
    """The same on an event loop."""
    meter = bench.meter(settlement="inline", reserve_timeout=2.0)
    bench.control.faults([{"path": CONFIRM, "kind": "status", "status": 429, "times": 1}])
    for _ in range(20):
        async with meter.reserve(bench.account, "app.chat.reply", amount=1):
            await asyncio.sleep(0.1)
    assert await meter.aflush(5)
    assert 20 == (await asyncio.to_thread(bench.books))["spent"]


def test_a_commit_that_fails_keeps_the_charge_and_closes_the_gate(bench, style):
    """The answer goes back, the charge waits in memory, no new call is let through until it is written (rule 7)."""
    journal = Moody()
    meter = bench.meter(journal=journal)

    def body(reservation):
        journal.full = True
        reservation.settle(4)
        return "the answer"

    assert "the answer" == style.block(meter.reserve(bench.account, "app.chat.reply", amount=5), body)
    assert 1 == len(bench.named("journal_failed"))
    with pytest.raises(JournalError):
        style.block(meter.reserve(bench.account, "app.chat.reply", amount=5), lambda _: None)
    journal.full = False
    until(lambda: bench.named("charged"))  # written and settled without any new call
    style.block(meter.reserve(bench.account, "app.chat.reply", amount=5), lambda _: None)
    assert 9 == bench.settled(meter)


@pytest.mark.parametrize(
    ("settlement", "end"),
    [
        ("inline", lambda meter: meter.flush(5)),
        ("inline", lambda meter: meter.close(5)),
        ("inline", lambda meter: meter._engine.close(5, at_exit=True)),
        ("background", lambda meter: meter._engine.close(5, at_exit=True)),
    ],
)
def test_a_charge_that_waits_in_memory_is_written_where_no_thread_does_it(bench, settlement, end):
    """Without a thread, or at exit: whoever waits for the rest writes it, as soon as there is room (rule 7)."""
    journal = Moody()
    meter = bench.meter(journal=journal, settlement=settlement)
    with meter.reserve(bench.account, "app.chat.reply", amount=5) as reservation:
        journal.full = True
        reservation.settle(4)
    assert 1 == len(bench.named("journal_failed"))
    journal.full = False
    assert end(meter)
    assert {"spent": 4, "reserved": 0, "available": 96} == bench.books()


def test_a_cancelled_caller_leaves_no_hold(bench, meter):
    """A task cancelled while reserving: the hold that lands after all is given back."""
    bench.control.faults([{"path": "/api/credits/reserve", "kind": "delay_after", "seconds": 0.5, "times": 1}])

    async def run():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                async with meter.reserve(bench.account, "app.chat.reply", amount=5):
                    raise AssertionError("the call ran")
        await asyncio.sleep(0.8)

    asyncio.run(run())
    assert 0 == bench.settled(meter)


def test_a_task_cancelled_in_mid_call_is_charged_what_it_recorded(bench, meter):
    """Cancelled after the model reported usage: charged; before anything: given back."""
    from countwerk_meter import Usage

    async def call(recorded):
        async with meter.reserve(bench.account, "app.chat.reply", amount=9) as reservation:
            if recorded:
                reservation.record(Usage(input_tokens=4000))
            await asyncio.sleep(60)

    async def run():
        for recorded in (True, False):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call(recorded), 0.2)

    asyncio.run(run())
    assert 4 == bench.settled(meter)
