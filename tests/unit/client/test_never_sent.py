"""Input that the contract refuses: no request leaves."""

import datetime as dt

import pytest

from countwerk_meter.errors import InvalidRequestError

CIRCLE = {}
CIRCLE["self"] = CIRCLE


def deduct(account="acct_1", operation="app.chat", amount=5, event="event-1", **more):
    return "deduct", (account, operation, amount, event), more


def reserve(account="acct_1", operation="app.chat", amount=5, **more):
    return "reserve", (account, operation, amount), more


CASES = [
    *(("MISSING_ORDER_ID", ("resolve_order", (bad,), {})) for bad in ("", " ", None, 5, b"ORDER_1", ["ORDER_1"])),
    *(("MISSING_PRODUCT_ID", ("purchase_links", (bad, "acct_1"), {})) for bad in ("", None, 5)),
    *(("MISSING_ACCOUNT_ID", ("purchase_links", ("prod_1", bad), {})) for bad in ("", None, 5)),
    *(("MISSING_ACCOUNT_ID", ("balance", (bad,), {})) for bad in ("", "\t", None, 5, True)),
    *(("MISSING_ACCOUNT_ID", deduct(account=bad)) for bad in ("", None, 5)),
    *(("MISSING_ACCOUNT_ID", reserve(account=bad)) for bad in ("", None, 5)),
    *(("MISSING_OPERATION", make(operation=bad)) for make in (deduct, reserve) for bad in ("", None, 5)),
    *(
        ("INVALID_OPERATION", make(operation=bad))
        for make in (deduct, reserve)
        for bad in ("ab", "a" * 65, "App.chat", "app chat", "app/chat", "äpp.chat", "app.chat\n")
    ),
    *(
        ("INVALID_AMOUNT", make(amount=bad))
        for make in (deduct, reserve)
        for bad in (0, -1, True, 1.5, 5.0, "3", None, 2**53)
    ),
    *(("MISSING_USAGE_EVENT_ID", deduct(event=bad)) for bad in ("", None, 5)),
    *(
        ("INVALID_INPUT", deduct(metadata=bad))
        for bad in (
            [],
            "text",
            5,
            {"at": dt.datetime(2026, 1, 2, tzinfo=dt.UTC)},
            {"x": float("nan")},
            {"x": "\ud800"},
            CIRCLE,
            {(1,): 1},
        )
    ),
    *(("INVALID_INPUT", make(description=5)) for make in (deduct, reserve)),
    *(("INVALID_INPUT", reserve(validity_minutes=bad)) for bad in (0, -1, True, 1.5, "15", 7 * 24 * 60 + 1)),
    *(
        (code, (method, (bad,), {}))
        for method in ("confirm_reservation", "cancel_reservation")
        for code, bad in (("MISSING_RESERVATION_ID", ""), ("MISSING_RESERVATION_ID", None), ("INVALID_INPUT", "\udfff"))
    ),
    *(("INVALID_AMOUNT", ("confirm_reservation", ("res_1", bad), {})) for bad in (0, -1, True, 1.5, "3")),
    ("INVALID_INPUT", ("confirm_reservation", ("res_1",), {"description": b"bytes"})),
    ("INVALID_INPUT", ("cancel_reservation", ("res_1",), {"reason": 5})),
    *(
        ("INVALID_INPUT", ("purchase_links", ("prod_1", "acct_1"), {name: 5}))
        for name in ("current_tier_product_id", "current_order_id", "buyer_email")
    ),
]


def test_refused_before_any_request(call, control, sent):
    """Every missing or malformed argument is refused with the ledger's own code, and nothing is sent."""
    for code, (method, args, kwargs) in CASES:
        with pytest.raises(InvalidRequestError) as caught:
            call(method, *args, **kwargs)
        assert (code, 400) == (caught.value.code, caught.value.status), (method, args, kwargs)
        assert "nothing was sent" in str(caught.value)

    assert 0 == sent()
