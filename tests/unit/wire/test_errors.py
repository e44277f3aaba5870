"""The tree of errors: as documented, portable, and without URLs."""

import copy
import inspect
import pickle
import re
from datetime import UTC, datetime

import pytest

from countwerk_meter import errors
from countwerk_meter._wire.models import PurchaseLinks
from countwerk_meter.errors import (
    ApiError,
    ChargeAlreadySettledError,
    ChargeInProgressError,
    ConfigurationError,
    CountwerkError,
    InsufficientCreditsError,
    JournalError,
    LedgerUnavailableError,
    PricingError,
    RateLimitError,
    without_links,
)

URL = "https://www.digistore24.com/buy/4711"
TREE = {
    "CountwerkError": "RuntimeError",
    "ConfigurationError": "CountwerkError",
    "ApiError": "CountwerkError",
    "AuthenticationError": "ApiError",
    "PermissionDeniedError": "ApiError",
    "InvalidRequestError": "ApiError",
    "NotFoundError": "ApiError",
    "OrderNotMappedError": "ApiError",
    "Ds24KeyError": "ApiError",
    "InsufficientCreditsError": "ApiError",
    "LedgerUnavailableError": "CountwerkError",
    "RateLimitError": "LedgerUnavailableError",
    "ChargeInProgressError": "CountwerkError",
    "ChargeAlreadySettledError": "CountwerkError",
    "PricingError": "CountwerkError",
    "JournalError": "CountwerkError",
}


def links():
    option = {"type": "topup", "enabled": True, "url": URL, "label": "100 credits", "checkout": URL}
    return PurchaseLinks.model_validate(
        {"ai_product_id": "prod_1", "account_id": "acct_1", "current_order_id": "ORDER_1", "options": [option]}
    )


def denied(**more):
    return InsufficientCreditsError(
        account_id="acct_1",
        operation="app.chat",
        required=5,
        usage_event_id="event-1",
        held=3,
        held_until=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        ai_product_id="prod_9",
        details={"see": [URL]},
        **more,
    )


def examples():
    text = f"See {URL} now"
    made = [
        kind(text, code="CODE", status=418, details={"a": {"b": [URL, 1]}, URL: 1}, retry_after=2.0)
        for kind in (ApiError, *ApiError.__subclasses__())
        if kind is not InsufficientCreditsError
    ]
    return [
        *made,
        denied(purchase_links=links(), purchase_error=None),
        CountwerkError("root"),
        ConfigurationError("no key"),
        LedgerUnavailableError(text, in_doubt=True, status=500, code="INTERNAL_ERROR", retry_after=1.0),
        RateLimitError(text, status=429, code="RATE_LIMIT_EXCEEDED", retry_after=1.0),
        ChargeInProgressError("open", usage_event_id="event-1", state="open"),
        ChargeAlreadySettledError("settled", usage_event_id="event-1", state="settled"),
        PricingError("no rule", code="UNMATCHED_DIMENSION", rule_id="r1", field="f"),
        JournalError("disk full"),
    ]


def documented():
    """Read the tree that the module's docstring draws."""
    found, path = {}, {}
    for line in errors.__doc__.splitlines():
        match = re.match(r"    ([│├└─ ]*)([A-Z]\w+Error)\b", line)
        if match:
            depth = len(match[1]) // 4
            path[depth] = match[2]
            found[match[2]] = path[depth - 1] if depth else "RuntimeError"
    return found


def test_the_tree():
    """The classes, the docstring's drawing and this test agree, and everything public is exported."""
    public = {
        name: kind.__mro__
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, Exception) and not name.startswith("_")
    }
    parents = {
        name: next(parent.__name__ for parent in mro[1:] if not parent.__name__.startswith("_"))
        for name, mro in public.items()
    }

    assert TREE == parents
    assert TREE == documented()
    assert sorted(TREE) == errors.__all__


@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy, copy.copy])
def test_errors_travel(again):
    """Every class pickles and copies: same class, same text, same attributes, no URL."""
    assert set(TREE) == {type(error).__name__ for error in examples()}
    for error in examples():
        other = again(error)
        assert type(error) is type(other)
        assert str(error) == str(other)
        assert error.args == other.args
        assert {**vars(error), "purchase_links": None} == {**vars(other), "purchase_links": None}
        assert getattr(other, "purchase_links", None) is None
        assert "digistore24" not in repr(vars(other)) + repr(other)
        assert b"digistore24" not in pickle.dumps(error)


def test_no_text_holds_a_url():
    """No error's text, repr or details holds a URL, from the start; the 402 alone holds fresh links."""
    for error in examples():
        assert "digistore24" not in f"{error} {error!r} {vars(error)!r}"
    assert URL == denied(purchase_links=links()).purchase_links.options[0].url


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        (f"see {URL}.", "see [link]"),
        (f"(at:{URL})\nnext", "[link]\nnext"),
        (f"_{URL}", "[link]"),
        ("HTTPS://X.EXAMPLE", "[link]"),
        ("at www.buy.example today", "at [link] today"),
        ("digistore24.com/buy", "[link]"),
        (r"https:\/\/buy.example", "[link]"),
        ("https%3A%2F%2Fbuy.example", "[link]"),
    ],
)
def test_links_are_found(text, expected):
    """A URL is found however it is dressed."""
    assert expected == without_links(text)


def test_long_texts_take_no_time():
    """A text made to be slow is read in one pass."""
    assert len(without_links("a." * 500_000 + " ://")) > 1_000_000


def test_the_402_payload():
    """The 402's body has exactly the documented shape."""
    expected = {
        "type": "about:blank",
        "title": "Not enough credits",
        "status": 402,
        "detail": "app.chat needs 5 credits",
        "success": False,
        "code": "INSUFFICIENT_CREDITS",
        "usage_event_id": "event-1",
        "operation": "app.chat",
        "required": 5,
        "held": 3,
        "held_until": "2026-01-02T03:04:05+00:00",
        "data": {
            "ai_product_id": "prod_1",
            "account_id": "acct_1",
            "current_order_id": "ORDER_1",
            "current_tier_product_id": None,
            "options": [{"type": "topup", "enabled": True, "url": URL, "label": "100 credits", "checkout": URL}],
        },
        "purchase_error": None,
    }

    assert expected == denied(purchase_links=links()).to_payload()
    assert list(expected) == list(denied(purchase_links=links()).to_payload())


def test_the_402_payload_without_links():
    """Where there are no links, the payload says why, and what it can."""
    payload = denied(purchase_error="DS24_KEY_REQUIRED").to_payload()

    assert ("DS24_KEY_REQUIRED", []) == (payload["purchase_error"], payload["data"]["options"])
    assert ("prod_9", "acct_1", None) == tuple(
        payload["data"][name] for name in ("ai_product_id", "account_id", "current_order_id")
    )
    single = InsufficientCreditsError(account_id="a", operation="app.chat", required=1)
    assert "app.chat needs 1 credit" == single.to_payload()["detail"]
    assert (None, 0, None) == tuple(single.to_payload()[name] for name in ("usage_event_id", "held", "held_until"))


def test_the_402_payload_without_urls():
    """For places that store what they are given, the payload leaves every URL out."""
    payload = denied(purchase_links=links()).to_payload(urls=False)

    assert "digistore24" not in str(payload)
    assert [{"type": "topup", "enabled": True, "label": "100 credits", "checkout": "[link]"}] == payload["data"][
        "options"
    ]
