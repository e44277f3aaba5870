"""Out of credits: the call never happens, and the error carries fresh purchase links."""

import copy
import json
import logging
import pickle
import threading

import pytest

from countwerk_meter import InsufficientCreditsError, LedgerUnavailableError


def denied(meter, style, amount=500, **options):
    ran = []
    with pytest.raises(InsufficientCreditsError) as caught:
        style.block(meter.reserve("acct_1", "app.chat.reply", amount=amount, **options), ran.append)
    assert [] == ran
    return caught.value


def test_the_402_carries_fresh_links(bench, meter, style):
    """Options come in the ledger's order, enabled ones with their URL, and each 402 fetches them anew."""
    first, second = denied(meter, style), denied(meter, style)
    assert (500, "acct_1", "app.chat.reply", 402, "INSUFFICIENT_CREDITS") == (
        first.required,
        first.account_id,
        first.operation,
        first.status,
        first.code,
    )
    assert first.purchase_links.enabled
    assert all(option.url.startswith("https://") for option in first.purchase_links.enabled)
    assert all(option.url is None for option in first.purchase_links.disabled)
    urls = [{option.url for option in error.purchase_links.enabled} for error in (first, second)]
    assert not urls[0] & urls[1], "links were cached"
    assert 2 == bench.counts()["purchase-links"]
    assert first.purchase_error is None


def test_the_payload_is_the_contracts_own_envelope(meter, style):
    """A front end that knows the contract renders `data.options` unchanged."""
    error = denied(meter, style)
    payload = json.loads(json.dumps(error.to_payload()))
    assert [
        "type", "title", "status", "detail", "success", "code", "usage_event_id", "operation", "required", "held",
        "held_until", "data", "purchase_error",
    ] == list(payload)  # fmt: skip
    assert (402, False, "INSUFFICIENT_CREDITS", 500) == (
        payload["status"],
        payload["success"],
        payload["code"],
        payload["required"],
    )
    assert "product_1" == payload["data"]["ai_product_id"]
    assert {"type", "linkMode", "effectiveAtPolicy", "expectedPolicy", "enabled", "disabledReason"} <= set(
        payload["data"]["options"][0]
    )
    assert "http" not in json.dumps(error.to_payload(urls=False))


@pytest.mark.parametrize(("ds24", "code"), [("missing", "DS24_KEY_REQUIRED"), ("invalid", "DS24_KEY_INVALID")])
def test_a_missing_ds24_key_surfaces_as_itself(bench, meter, style, ds24, code):
    """The 402 stays, says why there are no links, and every option it carries is closed."""
    bench.control.settings(ds24=ds24)
    error = denied(meter, style)
    assert code == error.purchase_error == error.to_payload()["purchase_error"]
    options = error.to_payload()["data"]["options"]
    assert all(option["enabled"] is False and option.get("url") is None for option in options)
    assert not error.purchase_links or not error.purchase_links.enabled


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 503},
        {"kind": "drop_before"},
        {"kind": "drop_after"},
        {"kind": "garbage"},
        {"kind": "html"},
        {"kind": "oversize"},
        {"kind": "status", "status": 403, "code": "DS24_KEY_FORBIDDEN"},
    ],
    ids=lambda fault: fault.get("code") or fault["kind"],
)
def test_a_failing_purchase_links_call_never_hides_the_402(bench, meter, style, fault):
    """Whatever happens to the links, the denial is a 402 with a reason and without a URL."""
    bench.control.faults([{"path": "/api/purchase-links", "times": 1, **fault}])
    error = denied(meter, style)
    assert error.purchase_error
    assert "https://" not in json.dumps(error.to_payload())


def test_links_share_the_gates_budget(bench, style):
    """Reserve and its links together stay within `reserve_timeout` (money rule 2)."""
    import time

    meter = bench.meter(reserve_timeout=0.6)
    bench.control.faults([{"path": "/api/purchase-links", "kind": "delay", "seconds": 30, "times": 1}])
    started = time.monotonic()
    error = denied(meter, style)
    assert time.monotonic() - started < 5
    assert "LEDGER_UNAVAILABLE" == error.purchase_error


def test_copies_and_pickles_carry_no_url(meter, style, caplog):
    """A queue, a cache or a log that keeps the error keeps no link."""
    caplog.set_level(logging.DEBUG)
    error = denied(meter, style)
    for twin in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert (error.required, error.usage_event_id, str(error)) == (twin.required, twin.usage_event_id, str(twin))
        assert twin.purchase_links is None
    urls = [option.url for option in error.purchase_links.enabled]
    said = pickle.dumps(error).decode("latin-1") + str(error) + repr(error) + repr(error.purchase_links) + caplog.text
    assert not any(url in said for url in urls)


def test_the_402_says_what_is_merely_in_use(bench, meter, style):
    """Nobody is told to buy what our own open reservations hold."""
    with meter.reserve(bench.account, "app.chat.reply", amount=90):
        with (
            pytest.raises(InsufficientCreditsError) as caught,
            meter.reserve(bench.account, "app.other.call", amount=95),
        ):
            pass
    assert 90 == caught.value.held
    assert caught.value.held_until is not None
    assert 90 == caught.value.to_payload()["held"]


def test_a_denied_charge_leaves_only_a_tombstone_and_may_try_again(bench, meter, style):
    """After the user has bought, the same id is a new attempt."""
    error = denied(meter, style, usage_event_id="turn-1")
    assert ["denied"] == [charge.state for charge in meter.charges()]
    bench.control.account(bench.account, balance=1000)
    style.block(
        meter.reserve(bench.account, "app.chat.reply", amount=500, usage_event_id=error.usage_event_id), lambda _: None
    )
    assert 500 == bench.settled(meter)
    assert ["settled"] == [charge.state for charge in meter.charges()]


def test_a_flat_deduct_that_is_denied_owes_nothing(bench, meter):
    """`deduct` raises the 402 with links, and the same id may be tried again."""
    with pytest.raises(InsufficientCreditsError) as caught:
        meter.deduct(bench.account, "app.export", 500, usage_event_id="export-1")
    assert caught.value.purchase_links.enabled
    assert "denied" == meter.charges()[0].state
    bench.control.account(bench.account, balance=600)
    assert "settled" == meter.deduct(bench.account, "app.export", 500, usage_event_id="export-1").state
    assert 500 == bench.settled(meter)


def test_ten_calls_on_a_balance_for_six(bench, meter):
    """Exactly six run, four are refused, and the books are exact."""
    bench.control.account(bench.account, balance=60)
    outcomes = []

    def call():
        try:
            with meter.reserve(bench.account, "app.chat.reply", amount=10):
                outcomes.append("ran")
        except InsufficientCreditsError:
            outcomes.append("denied")

    # All ten hold at once: nobody gives anything back before everybody has asked.
    threads = [threading.Thread(target=call) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (6, 4) == (outcomes.count("ran"), outcomes.count("denied"))
    assert 60 == bench.settled(meter)


def test_an_unreachable_ledger_fails_closed(bench, style):
    """No answer, no call."""
    meter = bench.meter(reserve_timeout=0.3)
    ran = []
    bench.control.faults([{"path": "/api/credits/reserve", "kind": "delay", "seconds": 30, "times": 1}])
    with pytest.raises(LedgerUnavailableError) as caught:
        style.block(meter.reserve(bench.account, "app.chat.reply", amount=1), ran.append)
    assert caught.value.in_doubt
    assert [] == ran
    assert ["orphaned"] == [charge.state for charge in meter.charges()]


def test_links_can_be_fetched_for_a_page(bench, meter):
    """`meter.purchase_links` asks now, sync and async."""
    import asyncio

    assert meter.purchase_links(bench.account).enabled
    assert asyncio.run(meter.apurchase_links(bench.account)).enabled
