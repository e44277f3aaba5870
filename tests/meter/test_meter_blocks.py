"""What a block charges, however it is left."""

import asyncio
from decimal import Decimal

import pytest

from countwerk_meter import ConfigurationError, Usage, current_reservation
from countwerk_meter.errors import InvalidRequestError, PricingError

USED = Usage(input_tokens=1000, output_tokens=1000)  # 1 + 3 credits


def nothing(_):
    """Leave the block as it is."""


def fail(_):
    raise ValueError("the model failed")


def record(reservation):
    reservation.record(USED)


def record_then_fail(reservation):
    reservation.record(USED)
    raise ValueError("the model failed")


def yield_then_fail(reservation):
    reservation.yielded()
    raise ValueError("the stream broke")


def set_three(reservation):
    reservation.settle(3)


def set_nothing(reservation):
    reservation.settle(0)


def set_then_fail(reservation):
    reservation.settle(3)
    raise ValueError("the model failed")


def cancel(reservation):
    reservation.record(USED)
    reservation.cancel("changed my mind")


def record_unknown(reservation):
    reservation.record(None)


def record_then_unknown(reservation):
    reservation.record(USED)
    reservation.record(None)


def unknown_then_record(reservation):
    reservation.record(None)
    reservation.record(USED)


def record_unpriceable(reservation):
    reservation.record(USED, dimensions={"tiles": 3})


def record_twice(reservation):
    reservation.record(USED)
    reservation.record(Usage(input_tokens=500))


def record_counted(reservation):
    reservation.record(USED, counted=True)


TABLE = [
    ("amount", nothing, 7, "reserved"),
    ("amount", fail, 0, None),
    ("amount", record, 4, "provider"),
    ("amount", record_then_fail, 4, "provider"),
    ("amount", yield_then_fail, 7, "reserved"),
    ("amount", set_three, 3, "set"),
    ("amount", set_nothing, 0, None),
    ("amount", set_then_fail, 3, "set"),
    ("amount", cancel, 0, None),
    ("amount", record_unknown, 7, "reserved"),
    ("amount", record_then_unknown, 7, "reserved"),
    ("amount", unknown_then_record, 7, "reserved"),
    ("amount", record_unpriceable, 7, "reserved"),
    ("amount", record_twice, 5, "provider"),
    ("amount", record_counted, 4, "counted"),
    ("price", nothing, 7, "price"),
    ("price", fail, 0, None),
    ("price", record, 7, "price"),
    ("price", record_then_fail, 7, "price"),
    ("price", yield_then_fail, 7, "price"),
    ("price", cancel, 0, None),
    ("estimate", nothing, 7, "reserved"),
    ("estimate", fail, 0, None),
    ("estimate", record, 4, "provider"),
    ("estimate", record_then_fail, 4, "provider"),
    ("estimate", yield_then_fail, 7, "reserved"),
    ("estimate", cancel, 0, None),
]


@pytest.mark.parametrize(
    ("kind", "body", "credits", "basis"), TABLE, ids=lambda value: getattr(value, "__name__", value)
)
def test_leaving_a_block_charges_what_the_table_says(bench, meter, style, kind, body, credits, basis, suppressed):
    """Each way of leaving each kind of block charges so many credits, for a stated reason, and gives the rest back."""
    size = {kind: 7} if kind != "estimate" else {"estimate": Usage(input_tokens=1000, output_tokens=2000)}
    reservation = meter.reserve(bench.account, "app.chat.reply", **size)
    try:
        style.block(reservation, body)
    except ValueError:
        assert body.__name__.endswith("fail")
    assert credits == bench.settled(meter)
    (charge,) = meter.charges()
    assert (credits or None) == (charge.amount or None)
    assert basis == charge.basis
    assert ("settled" if credits else "cancelled") == charge.state


def test_a_total_that_its_parts_do_not_make_up_is_told(bench, meter, style):
    """The larger truth is charged, and an event names the difference: a proxy's odd counting does not go unseen."""
    answer = {"usage": {"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 3000}}
    style.block(meter.reserve(bench.account, "app.chat.reply", amount=7), lambda block: block.record(Usage.of(answer)))
    assert 7 == bench.settled(meter)
    (told,) = [fields for name, fields in bench.events if name == "usage_mismatch"]
    assert (1000, bench.account) == (told["tokens"], told["account_id"])
    assert "provider" == meter.charges()[0].basis


def test_credits_are_held_while_the_block_runs(bench, meter, style):
    """The hold stands on the ledger while the model is called, and ends with the block."""
    seen = style.block(meter.reserve(bench.account, "app.chat.reply", amount=5), lambda _: bench.books())
    assert {"spent": 0, "reserved": 5, "available": 95} == seen
    assert 5 == bench.settled(meter)


def test_usage_beyond_the_hold_is_charged_in_a_second_leg(bench, meter, style):
    """What the call cost beyond its hold is deducted under `<id>.over` (money rule 9)."""
    style.block(meter.reserve(bench.account, "app.chat.reply", amount=2), record)
    assert 4 == bench.settled(meter)
    over, charge = sorted(meter.charges(), key=lambda each: each.parent is None)
    assert charge.usage_event_id + ".over" == over.usage_event_id
    assert (4, 2) == (charge.amount, over.amount)


@pytest.mark.parametrize(
    "sizes",
    [{}, {"amount": 1, "price": 1}, {"price": 1, "estimate": USED}, {"amount": 1, "price": 1, "estimate": USED}],
    ids=["none", "amount and price", "price and estimate", "all"],
)
def test_exactly_one_size(meter, sizes):
    """None or two of amount, price and estimate are refused before anything is sent."""
    with pytest.raises(ConfigurationError):
        meter.reserve("acct_1", "app.chat.reply", **sizes)


@pytest.mark.parametrize("amount", [0, -1, True, 1.5, "3"])
def test_an_amount_is_a_whole_number_above_zero(bench, meter, amount):
    """Anything else is refused, and nothing is sent."""
    with pytest.raises(InvalidRequestError) as caught:
        meter.reserve(bench.account, "app.chat.reply", amount=amount)
    assert "INVALID_AMOUNT" == caught.value.code
    assert {} == bench.counts()


@pytest.mark.parametrize("account", ["", "  ", None, 7, b"acct"])
def test_an_account_is_a_string_with_something_in_it(meter, account):
    """A missing account fails at once, and is never guessed."""
    with pytest.raises(InvalidRequestError) as caught:
        meter.reserve(account, "app.chat.reply", amount=1)
    assert "MISSING_ACCOUNT_ID" == caught.value.code


@pytest.mark.parametrize("operation", ["", "ab", "Chat", "a b c", "x" * 65, "app/chat", None])
def test_an_operation_keeps_to_the_contract(meter, operation):
    """An operation outside the contract's alphabet is refused before any request."""
    with pytest.raises(InvalidRequestError):
        meter.reserve("acct_1", operation, amount=1)


@pytest.mark.parametrize("validity", [0, -5, 1.5, True, 60 * 24 * 365])
def test_a_validity_is_whole_minutes(meter, validity):
    """A validity that is none is refused before any request."""
    with pytest.raises(InvalidRequestError):
        meter.reserve("acct_1", "app.chat.reply", amount=1, validity=validity)


def test_a_description_is_a_text(bench, meter):
    """Another thing is refused while nothing is journaled: no request could carry it."""
    with pytest.raises(InvalidRequestError):
        meter.reserve(bench.account, "app.chat.reply", amount=1, description=5)
    with pytest.raises(InvalidRequestError):
        meter.deduct(bench.account, "app.chat.reply", 1, description=5)
    assert not list(meter.charges())
    assert {} == bench.counts()


def test_a_hold_is_valid_for_fifteen_minutes_unless_said_otherwise(bench, meter):
    """The ledger's 60 minutes are never used (money rule 3)."""
    with meter.reserve(bench.account, "app.chat.reply", amount=1):
        pass
    with meter.reserve(bench.account, "app.chat.reply", amount=1, validity=3):
        pass
    sent = bench.control.books(bench.account)["reservations"]
    from datetime import datetime

    minutes = {
        round(
            (datetime.fromisoformat(each["expires_at"]) - datetime.fromisoformat(each["created_at"])).total_seconds()
            / 60
        )
        for each in sent
    }
    assert {15, 3} == minutes


def test_an_estimate_that_cannot_be_priced_is_refused_before_the_call(meter):
    """A profile without a rule for the estimate is better known before the call than after it."""
    with pytest.raises(PricingError):
        meter.reserve("acct_1", "app.chat.reply", estimate=Usage(dimensions={"pages": 3}), model="other")


def test_an_estimate_is_priced_with_its_model(bench, meter):
    """The attribute `model` sizes the hold."""
    with meter.reserve(
        bench.account, "app.chat.reply", estimate=Usage(dimensions={"pages": 3}), model="reader"
    ) as hold:
        assert 3 == hold.amount
        hold.settle(1)
    assert 1 == bench.settled(meter)


def test_an_estimate_needs_a_profile(bench):
    """Without prices there is nothing to size an estimate with."""
    meter = bench.meter(prices=None)
    with pytest.raises(ConfigurationError):
        meter.reserve(bench.account, "app.chat.reply", estimate=USED)


def test_an_estimate_is_a_usage(meter):
    """A number is no estimate."""
    with pytest.raises(ConfigurationError):
        meter.reserve("acct_1", "app.chat.reply", estimate=5)


def test_usage_without_a_profile_is_charged_as_held(bench):
    """Recorded usage that nothing prices is charged as reserved, with an event (money rule 13)."""
    meter = bench.meter(prices=None)
    with meter.reserve(bench.account, "app.chat.reply", amount=6) as reservation:
        reservation.record(USED)
    assert 6 == bench.settled(meter)
    assert [6] == [event["amount"] for event in bench.named("unpriced")]


@pytest.mark.parametrize("amount", [-1, True, 1.5, None, "3"])
def test_settle_takes_whole_credits(bench, meter, amount):
    """A wrong amount is the app's mistake, and is said at once."""
    with meter.reserve(bench.account, "app.chat.reply", amount=2) as reservation, pytest.raises(ConfigurationError):
        reservation.settle(amount)


def test_a_reservation_is_used_once(bench, meter):
    """Entering the same block again is refused."""
    reservation = meter.reserve(bench.account, "app.chat.reply", amount=2)
    with reservation:
        pass
    with pytest.raises(ConfigurationError), reservation:
        pass
    assert 2 == bench.settled(meter)


def test_a_sync_block_on_an_event_loop_warns(bench, meter):
    """Blocking the loop is worth a warning."""

    async def run():
        with pytest.warns(RuntimeWarning, match="async with"), meter.reserve(bench.account, "app.chat.reply", amount=1):
            pass

    asyncio.run(run())
    assert 1 == bench.settled(meter)


def test_the_current_reservation_is_the_innermost_open_block(bench, meter):
    """`current_reservation` follows the blocks."""
    assert current_reservation() is None
    with meter.reserve(bench.account, "app.chat.reply", amount=5) as outer:
        assert outer is current_reservation()
        with meter.reserve(bench.account, "app.chat.reply", amount=2) as inner:
            assert inner is current_reservation()
        assert outer is current_reservation()
    assert current_reservation() is None


def test_the_handle_says_what_became_of_the_charge(bench, meter):
    """A settlement can be waited for, awaited, and asked."""
    with meter.reserve(bench.account, "app.chat.reply", amount=5) as reservation:
        assert "open" == reservation.settlement.state
        assert not reservation.settlement.wait(0.01)
        reservation.settle(4)
    assert reservation.settlement.wait(10)

    async def wait():
        await reservation.settlement

    asyncio.run(wait())
    assert ("settled", "set", 4) == (
        reservation.settlement.state,
        reservation.settlement.basis,
        reservation.settlement.amount,
    )


def test_the_ledger_sees_the_charge_id_at_the_end_of_the_description(bench, meter):
    """Reserve and confirm take no key, so the id stands in their description."""
    with meter.reserve(bench.account, "app.chat.reply", amount=5, description="Chat reply") as reservation:
        pass
    bench.settled(meter)
    (hold,) = bench.control.books(bench.account)["reservations"]
    assert f"Chat reply [{reservation.usage_event_id}]" == hold["description"]


def test_a_repr_shows_no_secret(bench, meter):
    """Neither meter nor reservation shows the key."""
    reservation = meter.reserve(bench.account, "app.chat.reply", amount=5)
    assert bench.sandbox.api_key not in repr(meter) + repr(reservation) + repr(vars(meter))


@pytest.mark.parametrize(
    ("dimensions", "credits"),
    [
        ({"llm_input_tokens": 3000}, 3),
        ({"llm_input_tokens": -5}, 9),
        ({"llm_input_tokens": 10**30}, 9),
        ({"llm_output_tokens": Decimal("NaN")}, 9),
        ({"pages": "many"}, 9),
        ({7: 1}, 9),
    ],
    ids=str,
)
def test_a_record_never_raises_and_is_never_free(bench, meter, dimensions, credits):
    """What cannot be understood counts as unknown usage: the model has answered (money rules 7 and 13)."""
    with meter.reserve(bench.account, "app.chat.reply", amount=9) as reservation:
        reservation.record(None, dimensions=dimensions)
    assert credits == bench.settled(meter)


def test_recording_outside_the_block_warns(bench, meter):
    """What is recorded before or after the block is not charged, and that is said."""
    reservation = meter.reserve(bench.account, "app.chat.reply", amount=2)
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="not open"):
            reservation.record(USED)
        with pytest.warns(RuntimeWarning, match="not open"):
            reservation.settle(1)
        if not reservation.usage_event_id:
            with reservation:
                reservation.settle(2)
    assert 2 == bench.settled(meter)


def test_a_profile_whose_hash_does_not_fit_is_refused(bench):
    """It is not what was published."""
    with pytest.raises(PricingError) as caught:
        bench.meter(prices={**bench.prices, "rulesetHash": "0" * 64})
    assert "RULESET_HASH_MISMATCH" == caught.value.code
