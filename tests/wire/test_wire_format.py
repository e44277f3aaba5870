"""
The wire format, as recorded: both clients make byte for byte the requests of the cassettes, and read their answers.

A scenario is a generator that yields calls and is sent their answers, so that one text serves both clients.
"""

import asyncio
import os
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import pytest

from countwerk_meter.client import AsyncCountwerkClient, CountwerkClient
from countwerk_meter.errors import (
    AuthenticationError,
    CountwerkError,
    Ds24KeyError,
    InsufficientCreditsError,
    InvalidRequestError,
    LedgerUnavailableError,
    NotFoundError,
    OrderNotMappedError,
    PermissionDeniedError,
    RateLimitError,
)

ACCOUNT, PRODUCT, ORDER = "acct_wire", "prod_wire", "ORDER_WIRE"
TOO_MUCH = 9_000_000_000_000
KINDS = (CountwerkClient, AsyncCountwerkClient)


def one(method, *args, **kwargs):
    def calls(account, product, order):
        named = {ACCOUNT: account, PRODUCT: product, ORDER: order}
        yield method, [named.get(arg, arg) for arg in args], kwargs

    return calls


@dataclass
class Scenario:
    """
    One cassette.

    `real`: what a real ledger needs to have for it (of "account", "product", "order"), or None: sandbox only.
    """

    calls: Callable[..., Generator[Any, Any, None]]
    error: type[CountwerkError] | None = None
    says: dict[str, Any] = field(default_factory=dict)
    faults: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    real: tuple[str, ...] | None = None
    key: str | None = None


def hold_and_confirm(account, product, order):
    hold = yield "reserve", [account, "wire.test", 5], {"validity_minutes": 15, "description": "A chat [cw.1]"}
    yield "confirm_reservation", [hold.reservation_id, 3], {"description": "Done"}


def hold_and_cancel(account, product, order):
    hold = yield "reserve", [account, "wire.test", 1], {"validity_minutes": 1}
    yield "cancel_reservation", [hold.reservation_id], {"reason": "No need"}


def charge_twice(account, product, order):
    for _ in range(2):
        yield (
            "deduct",
            [account, "wire.test", 2, "wire-event-1"],
            {"description": "Zwölf €", "metadata": {"model": "m", "tokens": {"input": 12}}},
        )


def refused(status, code, kind, **more):
    """A refusal that only a fault of the sandbox makes."""
    fault = {"kind": "status", "status": status, "code": code, "message": "As recorded", **more}
    return Scenario(one("reserve", ACCOUNT, "wire.test", 1), kind, {"code": code, "status": status}, faults=[fault])


def doubtful(fault, **says):
    return Scenario(
        one("reserve", ACCOUNT, "wire.test", 1), LedgerUnavailableError, {"in_doubt": True, **says}, faults=[fault]
    )


SCENARIOS = {
    "balance": Scenario(one("balance", ACCOUNT), real=("account",)),
    "resolve-order": Scenario(one("resolve_order", ORDER), real=("order", "account")),
    "purchase-links": Scenario(one("purchase_links", PRODUCT, ACCOUNT), real=("product", "account")),
    "purchase-links-of-older-servers": Scenario(
        one(
            "purchase_links",
            PRODUCT,
            ACCOUNT,
            current_tier_product_id="STARTER_001",
            current_order_id="ORDER_WIRE",
            buyer_email="buyer@example.com",
        )
    ),
    "deduct": Scenario(charge_twice),
    "reserve-confirm": Scenario(hold_and_confirm),
    "reserve-cancel": Scenario(hold_and_cancel, real=("account",)),
    "extra-fields": Scenario(one("purchase_links", PRODUCT, ACCOUNT), settings={"extra_fields": True}),
    "400": refused(400, "INVALID_INPUT", InvalidRequestError),
    "401": Scenario(
        one("balance", ACCOUNT), AuthenticationError, {"code": "INVALID_API_KEY"}, key="wrong_key", real=()
    ),
    "402-reserve": Scenario(
        one("reserve", ACCOUNT, "wire.test", TOO_MUCH),
        InsufficientCreditsError,
        {"required": TOO_MUCH, "status": 402},
        real=("account",),
    ),
    "402-deduct": Scenario(
        one("deduct", ACCOUNT, "wire.test", TOO_MUCH, "wire-event-2"),
        InsufficientCreditsError,
        {"usage_event_id": "wire-event-2"},
    ),
    "403": refused(403, "FORBIDDEN", PermissionDeniedError),
    "403-ds24": refused(403, "DS24_KEY_FORBIDDEN", PermissionDeniedError),
    "404-order": Scenario(
        one("resolve_order", "NO_SUCH_ORDER"), NotFoundError, {"code": "ORDER_NOT_FOUND", "status": 404}, real=()
    ),
    "404-reservation": Scenario(
        one("cancel_reservation", "no_such_reservation"), NotFoundError, {"code": "RESERVATION_NOT_FOUND"}, real=()
    ),
    "409-ds24-required": Scenario(
        one("purchase_links", PRODUCT, ACCOUNT),
        Ds24KeyError,
        {"code": "DS24_KEY_REQUIRED"},
        settings={"ds24": "missing"},
    ),
    "409-ds24-invalid": Scenario(
        one("purchase_links", PRODUCT, ACCOUNT),
        Ds24KeyError,
        {"code": "DS24_KEY_INVALID", "details": {}},
        settings={"ds24": "invalid"},
    ),
    "409-not-mapped": Scenario(
        one("resolve_order", ORDER), OrderNotMappedError, {"status": 409}, settings={"unmapped_orders": [ORDER]}
    ),
    "429": refused(429, "RATE_LIMIT_EXCEEDED", RateLimitError, retry_after=30),
    "429-then-success": Scenario(
        one("balance", ACCOUNT),
        faults=[{"kind": "status", "status": 429, "retry_after": 0, "code": "DS24_RATE_LIMITED"}],
    ),
    "429-bare": Scenario(
        one("reserve", ACCOUNT, "wire.test", 1),
        RateLimitError,
        {"in_doubt": True, "code": None, "retry_after": 30.0},
        faults=[{"kind": "status", "status": 429, "envelope": False, "retry_after": 30}],
    ),
    "500": doubtful({"kind": "status", "status": 500}, code="RESERVATION_ERROR", status=500),
    "503": doubtful({"kind": "status", "status": 503, "code": "DS24_TEMPORARY_ERROR"}, code="DS24_TEMPORARY_ERROR"),
    "200-success-false": Scenario(
        one("reserve", ACCOUNT, "wire.test", 1),
        InvalidRequestError,
        {"code": "INVALID_AMOUNT", "status": 400},
        faults=[{"kind": "status", "status": 200, "code": "INVALID_AMOUNT"}],
    ),
    "200-empty": doubtful({"kind": "status", "status": 200, "envelope": False}, status=200),
    "200-garbage": doubtful({"kind": "garbage"}, status=200),
    "502-html": doubtful({"kind": "html", "status": 502}, status=502, code=None),
    "302": doubtful({"kind": "status", "status": 302, "location": "/elsewhere"}, status=302),
}


def play(kind, key, url, calls):
    """Make a scenario's calls with a client of this kind. Return their answers."""
    answers = []
    if kind is CountwerkClient:
        with CountwerkClient(key, url) as client:
            try:
                method, args, kwargs = next(calls)
                while True:
                    answers.append(getattr(client, method)(*args, **kwargs))
                    method, args, kwargs = calls.send(answers[-1])
            except StopIteration:
                return answers

    async def aplay():
        async with AsyncCountwerkClient(key, url) as client:
            try:
                method, args, kwargs = next(calls)
                while True:
                    answers.append(await getattr(client, method)(*args, **kwargs))
                    method, args, kwargs = calls.send(answers[-1])
            except StopIteration:
                return answers

    return asyncio.run(aplay())


@pytest.fixture(scope="module", autouse=True)
def recorded(recording, record, countwerk_sandbox_server):
    """With COUNTWERK_RECORD=1, make the cassettes anew before they are played."""
    if not recording:
        return
    url, key = os.environ.get("COUNTWERK_BASE_URL"), os.environ.get("COUNTWERK_API_KEY")
    sandbox = countwerk_sandbox_server
    for name, scenario in SCENARIOS.items():
        has = {what: os.environ.get(f"COUNTWERK_TEST_{what.upper()}", "") for what in ("account", "product", "order")}
        if url and key:
            if scenario.real is None or not all(has[what] for what in scenario.real):
                continue
            where, opens = url, key
        else:
            has = {"account": ACCOUNT, "product": PRODUCT, "order": ORDER}
            where, opens = sandbox.url, sandbox.api_key
            sandbox.control.reset()
            sandbox.control.account(
                ACCOUNT, balance=100, ai_product_id=PRODUCT, order_id=ORDER, current_tier_product_id="STARTER_001"
            )
            sandbox.control.settings(**scenario.settings)
            sandbox.control.faults(scenario.faults)
        names = {opens: "***", has["account"]: ACCOUNT, has["product"]: PRODUCT, has["order"]: ORDER}
        wanted = {what: has[what] or default for what, default in (("account", ACCOUNT), ("product", PRODUCT))}
        calls = scenario.calls(**wanted, order=has["order"] or ORDER)
        with record(name, where, names):
            try:
                play(CountwerkClient, scenario.key or opens, where, calls)
            except CountwerkError as error:
                # What it should have been is asserted when the cassette is played.
                assert scenario.error is not None, f"{name}: {error}"  # noqa: PT017 - a recording, not a test


@pytest.fixture(params=KINDS, ids=["sync", "async"])
def answers(request, replay):
    """Play a scenario from its cassette and return its answers."""

    def run(name):
        with replay(name) as (url, key):
            return play(request.param, key, url, SCENARIOS[name].calls(ACCOUNT, PRODUCT, ORDER))

    return run


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if scenario.error is not None])
def test_refusals(answers, name):
    """Every error family is read from the wire as its class, with what the answer said."""
    scenario = SCENARIOS[name]

    with pytest.raises(CountwerkError) as caught:
        answers(name)

    assert scenario.error is caught.type
    assert scenario.says == {attribute: getattr(caught.value, attribute) for attribute in scenario.says}


def test_balance(answers):
    """A balance is read from the wire; a 429 before it is waited out."""
    for name in ("balance", "429-then-success"):
        [balance] = answers(name)
        assert balance.balance == balance.available_balance + balance.reserved_balance


def test_resolve_order(answers):
    """A resolved order is read from the wire."""
    [order] = answers("resolve-order")

    assert (ORDER, ACCOUNT) == (order.order_id, order.account_id)


@pytest.mark.parametrize("name", ["purchase-links", "purchase-links-of-older-servers", "extra-fields"])
def test_purchase_links(answers, name):
    """Purchase options are read from the wire, whatever the vendor added."""
    [links] = answers(name)

    assert (PRODUCT, ACCOUNT) == (links.ai_product_id, links.account_id)
    assert links.enabled
    assert {"https://purchase.example/option"} == {option.url for option in links.enabled}
    assert {None} >= {option.url for option in links.disabled}


def test_deduct(answers):
    """A charge is read from the wire, and the same again for the same id."""
    first, again = answers("deduct")

    assert first == again
    assert ("wire.test", 2, "Zwölf €") == (first.operation, first.deducted_amount, first.description)


def test_reserve_confirm(answers):
    """A hold and its confirm are read from the wire."""
    hold, done = answers("reserve-confirm")

    assert (5, "wire.test", "A chat [cw.1]") == (hold.amount, hold.operation, hold.description)
    assert 2030 == hold.expires_at.year
    assert (hold.reservation_id, True, 3) == (done.reservation_id, done.confirmed, done.actual_amount)


def test_reserve_cancel(answers):
    """A hold and its cancel are read from the wire."""
    hold, done = answers("reserve-cancel")

    assert (hold.reservation_id, True, "No need") == (done.reservation_id, done.cancelled, done.reason)


def test_every_scenario_is_recorded(cassettes):
    """There is one cassette for every scenario, and none besides."""
    assert sorted(SCENARIOS) == sorted(cassettes)


def test_cassettes_hold_no_secret(cassettes):
    """No cassette holds a key, a key's header, a purchase URL, or a host of anybody's machine."""
    allowed = re.compile(r"https://(ledger|purchase)\.example/\S+")
    forbidden = [
        "x-api-key",
        "digistore24.com",
        "cs_sandbox",
        "replay_key",
        "wrong_key",
        "localhost",
        "127.0.0.1",
        "[::1]",
    ]
    own = [os.environ.get(name) for name in ("COUNTWERK_API_KEY", "COUNTWERK_BASE_URL", "COUNTWERK_TEST_ACCOUNT")]

    for name, text in cassettes.items():
        found = [word for word in [*forbidden, *filter(None, own)] if word.lower() in text.lower()]
        assert [] == found, name
        assert [] == [url for url in re.findall(r"\w+://[^\s\"']+", text) if not allowed.fullmatch(url)], name
        assert not re.search(r"user-agent|^\s*(host|server|set-cookie):", text, re.IGNORECASE | re.MULTILINE), name
