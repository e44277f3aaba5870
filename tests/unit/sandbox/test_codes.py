"""Every code of the contract that the sandbox can answer, by the request that earns it."""

import json

import httpx
import pytest

RESERVE = {"account_id": "acct", "operation": "app.chat", "amount": 5}
DEDUCT = {**RESERVE, "usage_event_id": "turn-1"}
LINKS = {"ai_product_id": "prod", "account_id": "acct"}
CONFIRM = {"reservationId": "res_1"}
NONE = object()


@pytest.fixture
def control(countwerk_sandbox):
    """The control API, with an account of 100 credits opened."""
    countwerk_sandbox.control.account("acct", balance=100, order_id="ORDER_1")
    return countwerk_sandbox.control


@pytest.mark.parametrize(
    ("endpoint", "body", "change", "code"),
    [
        ("credits/balance", {"account_id": "acct"}, {"account_id": NONE}, "MISSING_ACCOUNT_ID"),
        ("credits/balance", {"account_id": "acct"}, {"account_id": ""}, "MISSING_ACCOUNT_ID"),
        ("credits/balance", {"account_id": "acct"}, {"account_id": 5}, "INVALID_INPUT"),
        ("credits/balance", {"account_id": "acct"}, {"account_id": "a" * 256}, "INVALID_INPUT"),
        ("credits/balance", {"account_id": "acct"}, {"account_id": "a\n"}, "INVALID_INPUT"),
        ("credits/reserve", RESERVE, {"account_id": NONE}, "MISSING_ACCOUNT_ID"),
        ("credits/reserve", RESERVE, {"operation": NONE}, "MISSING_OPERATION"),
        ("credits/reserve", RESERVE, {"operation": ""}, "MISSING_OPERATION"),
        ("credits/reserve", RESERVE, {"operation": "ab"}, "INVALID_OPERATION"),
        ("credits/reserve", RESERVE, {"operation": "a" * 65}, "INVALID_OPERATION"),
        ("credits/reserve", RESERVE, {"operation": "App.Chat"}, "INVALID_OPERATION"),
        ("credits/reserve", RESERVE, {"operation": "app.chat\n"}, "INVALID_OPERATION"),
        ("credits/reserve", RESERVE, {"operation": 5}, "INVALID_OPERATION"),
        ("credits/reserve", RESERVE, {"amount": NONE}, "INVALID_AMOUNT"),
        ("credits/reserve", RESERVE, {"amount": 0}, "INVALID_AMOUNT"),
        ("credits/reserve", RESERVE, {"amount": -1}, "INVALID_AMOUNT"),
        ("credits/reserve", RESERVE, {"amount": 1.5}, "INVALID_AMOUNT"),
        ("credits/reserve", RESERVE, {"amount": 5.0}, "INVALID_AMOUNT"),
        ("credits/reserve", RESERVE, {"amount": "5"}, "INVALID_AMOUNT"),
        ("credits/reserve", RESERVE, {"amount": True}, "INVALID_AMOUNT"),
        ("credits/reserve", RESERVE, {"amount": 2**53}, "INVALID_AMOUNT"),
        ("credits/reserve", RESERVE, {"validityMinutes": 0}, "INVALID_INPUT"),
        ("credits/reserve", RESERVE, {"validityMinutes": "15"}, "INVALID_INPUT"),
        ("credits/reserve", RESERVE, {"validityMinutes": True}, "INVALID_INPUT"),
        ("credits/reserve", RESERVE, {"validityMinutes": 10**9}, "INVALID_INPUT"),
        ("credits/reserve", RESERVE, {"description": 5}, "INVALID_INPUT"),
        ("credits/deduct", DEDUCT, {"account_id": NONE}, "MISSING_ACCOUNT_ID"),
        ("credits/deduct", DEDUCT, {"operation": NONE}, "MISSING_OPERATION"),
        ("credits/deduct", DEDUCT, {"amount": 0}, "INVALID_AMOUNT"),
        ("credits/deduct", DEDUCT, {"usage_event_id": NONE}, "MISSING_USAGE_EVENT_ID"),
        ("credits/deduct", DEDUCT, {"usage_event_id": ""}, "MISSING_USAGE_EVENT_ID"),
        ("credits/deduct", DEDUCT, {"usage_event_id": "a" * 256}, "INVALID_USAGE_EVENT_ID"),
        ("credits/deduct", DEDUCT, {"usage_event_id": "a\u0000"}, "INVALID_USAGE_EVENT_ID"),
        ("credits/deduct", DEDUCT, {"usage_event_id": 7}, "INVALID_USAGE_EVENT_ID"),
        ("credits/deduct", DEDUCT, {"metadata": []}, "INVALID_INPUT"),
        ("credits/deduct", DEDUCT, {"description": {}}, "INVALID_INPUT"),
        ("credits/confirm-reservation", CONFIRM, {"reservationId": NONE}, "MISSING_RESERVATION_ID"),
        ("credits/confirm-reservation", CONFIRM, {"actualAmount": 0}, "INVALID_AMOUNT"),
        ("credits/confirm-reservation", CONFIRM, {"actualAmount": "1"}, "INVALID_AMOUNT"),
        ("credits/cancel-reservation", CONFIRM, {"reservationId": NONE}, "MISSING_RESERVATION_ID"),
        ("credits/cancel-reservation", CONFIRM, {"reason": 5}, "INVALID_INPUT"),
        ("credits/resolve-order", {"order_id": "ORDER_1"}, {"order_id": NONE}, "MISSING_ORDER_ID"),
        ("purchase-links", LINKS, {"ai_product_id": NONE}, "MISSING_PRODUCT_ID"),
        ("purchase-links", LINKS, {"account_id": NONE}, "MISSING_ACCOUNT_ID"),
        ("purchase-links", LINKS, {"current_order_id": 5}, "INVALID_INPUT"),
        ("purchase-links", LINKS, {"current_tier_product_id": 5}, "INVALID_INPUT"),
        ("purchase-links", LINKS, {"buyer_email": 5}, "INVALID_INPUT"),
    ],
)
def test_a_malformed_field_is_refused_and_moves_nothing(control, call, endpoint, body, change, code):
    """Each field has its code, with status 400, and the books stay as they were."""
    sent = {name: value for name, value in {**body, **change}.items() if value is not NONE}
    status, answer = call(endpoint, **sent)

    assert (400, False, code) == (status, answer["success"], answer["code"])
    assert len(control.books("acct")["transactions"]) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b'{"account_id": NaN}',
        b'{"account_id": "\\ud800"}',
        b'{"account_id": "\xff"}',
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"account_id": "acct", "padding": "' + b"x" * 1_000_001 + b'"}',
    ],
    ids=["empty", "cut", "list", "null", "text", "nan", "surrogate", "not-utf8", "deep", "huge-number", "too-large"],
)
def test_a_body_that_is_no_json_object_is_invalid_input(control, http, raw):
    """Whatever is not a JSON object of a sane size is INVALID_INPUT."""
    response = http.post("/api/credits/balance", content=raw, headers={"Content-Type": "application/json"})

    assert (response.status_code, response.json()["code"]) == (400, "INVALID_INPUT")


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/plain"}])
def test_a_body_must_be_sent_as_json(control, http, headers):
    """The Content-Type header is required, as the contract says."""
    response = http.post("/api/credits/balance", content=b'{"account_id": "acct"}', headers=headers)

    assert (response.status_code, response.json()["code"]) == (400, "INVALID_INPUT")


def test_media_type_may_have_parameters(control, http):
    """A charset beside application/json is fine, and so is an escaped character."""
    raw = b'{"account_id": "\\u0061cct", "unknown": 1}'
    response = http.post(
        "/api/credits/balance", content=raw, headers={"Content-Type": "Application/JSON; charset=utf-8"}
    )

    assert response.json()["data"]["balance"] == 100


@pytest.mark.parametrize(
    ("key", "code"),
    [(None, "API_KEY_MISSING"), ("", "API_KEY_MISSING"), ("cs_other", "INVALID_API_KEY"), ("é", "INVALID_API_KEY")],
)
def test_the_api_key_is_asked_for_first(countwerk_sandbox, key, code):
    """Without the key nothing else is looked at, not even the body."""
    headers = {} if key is None else {"X-API-Key": key.encode()}
    with httpx.Client(base_url=countwerk_sandbox.url, trust_env=False) as client:
        response = client.post("/api/credits/balance", content=b"{", headers=headers)

    assert (401, code) == (response.status_code, response.json()["code"])


def test_order_not_found(control, call):
    """An unknown order is 404 ORDER_NOT_FOUND."""
    status, answer = call("credits/resolve-order", order_id="ORDER_9")

    assert (status, answer["code"]) == (404, "ORDER_NOT_FOUND")


def test_an_order_may_be_mapped_after_some_tries(control, call):
    """ORDER_NOT_MAPPED_YET for as often as it was set, then the account."""
    control.settings(unmapped_orders=[{"order_id": "ORDER_1", "times": 2}])
    answers = [call("credits/resolve-order", order_id="ORDER_1") for _ in range(3)]

    assert [status for status, _ in answers] == [409, 409, 200]
    assert answers[0][1]["code"] == "ORDER_NOT_MAPPED_YET"


@pytest.mark.parametrize("entry", ["ORDER_1", {"order_id": "ORDER_1"}])
def test_an_order_may_stay_unmapped(control, call, entry):
    """An order listed without a number of tries is unmapped until it is taken off the list."""
    control.settings(unmapped_orders=[entry])
    before = {call("credits/resolve-order", order_id="ORDER_1")[0] for _ in range(5)}
    control.settings(unmapped_orders=[])
    after, _ = call("credits/resolve-order", order_id="ORDER_1")

    assert ({409}, 200) == (before, after)


def test_a_missing_ds24_key_disables_every_option(control, call):
    """DS24_KEY_REQUIRED carries the options, all of them disabled and without a URL."""
    control.settings(ds24="missing")
    status, answer = call("purchase-links", **LINKS)
    options = answer["data"]["options"]

    assert (status, answer["code"]) == (409, "DS24_KEY_REQUIRED")
    assert options
    assert {(False, None, "DS24_KEY_REQUIRED")} == {(o["enabled"], o["url"], o["disabledReason"]) for o in options}


def test_an_invalid_ds24_key_is_a_hard_failure(control, call):
    """DS24_KEY_INVALID carries no options."""
    control.settings(ds24="invalid")
    status, answer = call("purchase-links", **LINKS)

    assert (status, answer["code"]) == (409, "DS24_KEY_INVALID")
    assert "data" not in answer


def test_a_forbidden_account_is_refused_everywhere(control, call, reserve):
    """FORBIDDEN wherever the account is named or found."""
    reservation_id = reserve()
    control.settings(forbidden_accounts=["acct"])
    answers = [
        call("credits/balance", account_id="acct"),
        call("credits/reserve", **RESERVE),
        call("credits/deduct", **DEDUCT),
        call("credits/confirm-reservation", reservationId=reservation_id),
        call("credits/cancel-reservation", reservationId=reservation_id),
        call("credits/resolve-order", order_id="ORDER_1"),
        call("purchase-links", **LINKS),
    ]

    assert [(status, answer["code"]) for status, answer in answers] == [(403, "FORBIDDEN")] * 7
    assert control.books("acct")["reserved"] == 10


def test_confirming_more_than_was_reserved_is_refused(control, call, reserve):
    """By default an overage is INVALID_AMOUNT and the reservation lives on."""
    reservation_id = reserve(amount=10)
    status, answer = call("credits/confirm-reservation", reservationId=reservation_id, actualAmount=11)

    assert (status, answer["code"]) == (400, "INVALID_AMOUNT")
    assert control.books("acct")["reserved"] == 10


def test_an_allowed_overage_is_taken_from_what_is_available(control, call, reserve):
    """With overage allowed the excess is charged if it is there, else 402 and the reservation lives on."""
    control.settings(overage="allow")
    reservation_id = reserve(amount=10)
    refused, answer = call("credits/confirm-reservation", reservationId=reservation_id, actualAmount=101)
    status, _ = call("credits/confirm-reservation", reservationId=reservation_id, actualAmount=100)

    assert (refused, answer["code"], answer["data"]) == (402, "INSUFFICIENT_CREDITS", {"required": 91, "available": 90})
    assert (status, control.books("acct")["spent"]) == (200, 100)


def test_rate_limit_opens_again_on_the_sandbox_clock(control, http):
    """So many requests in so many seconds; Retry-After says when the next one passes."""
    control.settings(rate_limit={"requests": 2, "per_seconds": 30})

    def balance() -> httpx.Response:
        return http.post("/api/credits/balance", json={"account_id": "acct"})

    passed = [balance().status_code, balance().status_code]
    refused = balance()
    control.advance(int(refused.headers["retry-after"]))

    assert passed == [200, 200]
    assert (refused.status_code, refused.json()["code"]) == (429, "RATE_LIMIT_EXCEEDED")
    assert 29 <= int(refused.headers["retry-after"]) <= 30
    assert balance().status_code == 200


@pytest.mark.parametrize(
    ("given", "sent"),
    [(7, "7"), (0.5, "0.5"), ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT"), (None, None)],
)
def test_retry_after_may_be_chosen(control, http, given, sent):
    """Seconds, a date, or no header at all."""
    control.settings(rate_limit={"requests": 0, "per_seconds": 1, "retry_after": given})
    response = http.post("/api/credits/balance", json={"account_id": "acct"})

    assert (429, sent) == (response.status_code, response.headers.get("retry-after"))


def test_a_limit_of_no_requests_still_says_when_to_come_back(control, http):
    """With nothing allowed, Retry-After is the whole period."""
    control.settings(rate_limit={"requests": 0, "per_seconds": 5})

    assert http.post("/api/credits/balance", json={}).headers["retry-after"] == "5"


def test_a_refused_key_does_not_use_up_the_limit(control, http):
    """The key is looked at before the limit counts."""
    control.settings(rate_limit={"requests": 1, "per_seconds": 60})
    refused = http.post("/api/credits/balance", json={"account_id": "acct"}, headers={"X-API-Key": "wrong"})

    assert refused.status_code == 401
    assert http.post("/api/credits/balance", json={"account_id": "acct"}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/api/credits/balance", 405), ("POST", "/api/credits/add", 404)]
)
def test_what_does_not_exist_is_answered_without_an_envelope(control, http, method, path, status):
    """Another method or path gets a bare status: the contract has no code for it."""
    response = http.request(method, path)

    assert status == response.status_code
    with pytest.raises(json.JSONDecodeError):
        response.json()
