"""Every family of answers, through the real clients: the right class, with everything the answer said."""

import pytest

from countwerk_meter.errors import (
    ApiError,
    AuthenticationError,
    ConfigurationError,
    Ds24KeyError,
    InsufficientCreditsError,
    InvalidRequestError,
    LedgerUnavailableError,
    NotFoundError,
    OrderNotMappedError,
    PermissionDeniedError,
    RateLimitError,
)

ONCE = {"max_retries": 0}


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("INVALID_INPUT", 400, InvalidRequestError),
        ("DS24_BAD_REQUEST", 400, InvalidRequestError),
        ("INVALID_API_KEY", 401, AuthenticationError),
        ("API_KEY_MISSING", 401, AuthenticationError),
        ("INSUFFICIENT_CREDITS", 402, InsufficientCreditsError),
        ("FORBIDDEN", 403, PermissionDeniedError),
        ("DS24_KEY_FORBIDDEN", 403, PermissionDeniedError),
        ("RESERVATION_NOT_FOUND", 404, NotFoundError),
        ("ORDER_NOT_FOUND", 404, NotFoundError),
        ("DS24_KEY_REQUIRED", 409, Ds24KeyError),
        ("DS24_KEY_INVALID", 409, Ds24KeyError),
        ("ORDER_NOT_MAPPED_YET", 409, OrderNotMappedError),
    ],
)
def test_refusal(call, control, raises, sent, code, status, kind):
    """A known code under 500 is a definite refusal of its own class, sent once."""
    control.faults([{"kind": "status", "status": status, "code": code, "message": "Said so", "times": None}])

    with raises(kind) as caught:
        call("reserve", "acct_1", "app.chat", 5)

    error = caught.value
    assert (code, status, {}, None) == (error.code, error.status, error.details, error.retry_after)
    assert 1 == sent()
    if kind is not InsufficientCreditsError:
        assert "Said so" == error.message
        assert f"reserve: {code}: Said so" == str(error)


def test_insufficient_credits(call, control):
    """A 402 says whose, what for, how much and why, and holds no links: the plain client fetches none."""
    with pytest.raises(InsufficientCreditsError) as caught:
        call("deduct", "acct_1", "app.chat", 101, "event-1")

    error = caught.value
    assert ("acct_1", "app.chat", 101, "event-1") == (
        error.account_id,
        error.operation,
        error.required,
        error.usage_event_id,
    )
    assert {"required": 101, "available": 100} == error.details
    assert (None, None) == (error.purchase_links, error.purchase_error)


def test_insufficient_credits_for_a_confirm(call, control):
    """A confirm that is answered by 402 is told by its amount."""
    control.faults([{"kind": "status", "status": 402}])

    with pytest.raises(InsufficientCreditsError) as caught:
        call("confirm_reservation", "res_1", 7)

    assert ("", "confirm-reservation", 7) == (caught.value.account_id, caught.value.operation, caught.value.required)


def test_wrong_key(call, control):
    """A wrong key is the ledger's to refuse."""
    with pytest.raises(AuthenticationError):
        call("balance", "acct_1", key="another_key")


def test_missing_ds24_key(call, control):
    """A missing Digistore24 key surfaces as itself, with options that are no way to buy."""
    control.settings(ds24="missing")

    with pytest.raises(Ds24KeyError) as caught:
        call("purchase_links", "prod_1", "acct_1")

    options = caught.value.details["options"]
    assert options
    assert [(False, None)] * len(options) == [(option["enabled"], option["url"]) for option in options]


@pytest.mark.parametrize(
    ("status", "code"), [(500, "RESERVATION_ERROR"), (500, "INTERNAL_ERROR"), (503, "DS24_TEMPORARY_ERROR")]
)
def test_failing_ledger(call, control, raises, sent, status, code):
    """A 5xx may have been carried out, whatever its code: a reserve is not sent again."""
    control.faults([{"kind": "status", "status": status, "code": code, "retry_after": 7, "times": None}])

    with raises(LedgerUnavailableError) as caught:
        call("reserve", "acct_1", "app.chat", 5)

    error = caught.value
    assert (True, status, code, 7.0) == (error.in_doubt, error.status, error.code, error.retry_after)
    assert 1 == sent()


def test_rate_limit(call, control, raises):
    """A 429 with a known code was not carried out, and says how long to wait."""
    control.faults([{"kind": "status", "status": 429, "retry_after": 30}])

    with raises(RateLimitError) as caught:
        call("reserve", "acct_1", "app.chat", 5)

    error = caught.value
    assert (False, 429, "RATE_LIMIT_EXCEEDED", 30.0) == (error.in_doubt, error.status, error.code, error.retry_after)


def test_bare_rate_limit(call, control, raises):
    """A 429 that is not in the ledger's own words is in doubt, and says how long to wait."""
    control.faults([{"kind": "status", "status": 429, "envelope": False, "retry_after": 30}])

    with raises(RateLimitError) as caught:
        call("reserve", "acct_1", "app.chat", 5)

    assert (True, None, 30.0) == (caught.value.in_doubt, caught.value.code, caught.value.retry_after)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 418, "code": "TEAPOT"},
        {"kind": "status", "status": 200, "code": "NEW_CODE"},
        {"kind": "status", "status": 400, "envelope": False},
        {"kind": "status", "status": 200, "envelope": False},
        {"kind": "html", "status": 502},
        {"kind": "html", "status": 200},
        {"kind": "garbage"},
        {"kind": "oversize", "bytes": 2_000_000},
    ],
    ids=lambda fault: "-".join(str(value) for value in fault.values()),
)
def test_answers_that_say_nothing(call, control, raises, fault):
    """An answer without an envelope or with an unknown code leaves a reserve in doubt, whatever its status."""
    control.faults([fault])

    with raises(LedgerUnavailableError) as caught:
        call("reserve", "acct_1", "app.chat", 5)

    assert caught.value.in_doubt


def test_ten_megabytes(call, control, raises):
    """An answer of 10 MB is left unread after the first, and does not take long."""
    control.faults([{"kind": "oversize", "bytes": 10_000_000}])

    with raises(LedgerUnavailableError) as caught:
        call("confirm_reservation", "res_1", 1)

    assert "too large" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequestError),
        (401, AuthenticationError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (413, ApiError),
    ],
)
def test_refusals_without_an_envelope(call, control, raises, sent, status, kind):
    """A read that is refused by something in between is an error with the HTTP status and no code, sent once."""
    control.faults([{"kind": "html", "status": status, "times": None}])

    with raises(kind) as caught:
        call("balance", "acct_1")

    assert (status, None, {}) == (caught.value.status, caught.value.code, caught.value.details)
    assert 1 == sent()


def test_success_false_with_200(call, control):
    """A 2xx that says `success: false` goes by its code."""
    control.faults([{"kind": "status", "status": 200, "code": "INVALID_AMOUNT"}])

    with pytest.raises(InvalidRequestError) as caught:
        call("reserve", "acct_1", "app.chat", 5)

    assert ("INVALID_AMOUNT", 400) == (caught.value.code, caught.value.status)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_never_followed(call, control, raises, sent, countwerk_sandbox, status):
    """A redirect would take the key and the charge elsewhere: it is in doubt, and never followed."""
    elsewhere = f"{countwerk_sandbox.url}/api/credits/balance"
    control.faults([{"kind": "status", "status": status, "location": elsewhere}])

    with raises(LedgerUnavailableError) as caught:
        call("reserve", "acct_1", "app.chat", 5)

    assert (True, status) == (caught.value.in_doubt, caught.value.status)
    assert 1 == sent()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 90_000])
def test_timeouts_that_are_none(call, timeout):
    """A timeout is a time: above 0, finite, a day at most."""
    with pytest.raises(ConfigurationError):
        call("balance", "acct_1", options={"timeout": timeout})


def test_negative_retries(call):
    """Nothing is sent fewer times than once."""
    with pytest.raises(ConfigurationError):
        call("balance", "acct_1", options={"max_retries": -1})
