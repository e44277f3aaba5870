"""One HTTP answer becomes exactly one reply, and a reply the right error."""

import json
from email.utils import format_datetime, formatdate

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from countwerk_meter._wire import requests
from countwerk_meter._wire.codes import STATUS_OF
from countwerk_meter._wire.replies import MAX_BODY_BYTES, Answer, InDoubt, NotSent, parse_time, read_reply, to_error
from countwerk_meter.errors import (
    ApiError,
    AuthenticationError,
    Ds24KeyError,
    InvalidRequestError,
    LedgerUnavailableError,
    NotFoundError,
    OrderNotMappedError,
    PermissionDeniedError,
    RateLimitError,
)

RESERVE = requests.reserve("acct_1", "app.chat", 5)
BALANCE = requests.balance("acct_1")
DEDUCT = requests.deduct("acct_1", "app.chat", 5, "event-1")
CONFIRM = requests.confirm("res_1", 3)
HELD = {"reservationId": "res_1", "operation": "app.chat", "amount": 5}


def read(document, status=200, request=RESERVE, headers=None, **more):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read_reply(request, status, headers or {}, body, **more)


def refused(code, **more):
    return {"success": False, "code": code, **more}


def test_a_success():
    """A success that echoes the request is definite, with the ledger's own time."""
    reply = read({"success": True, "data": HELD, "timestamp": "2026-01-02T03:04:05.500Z"})

    assert Answer is type(reply)
    assert reply.envelope.ok
    assert (200, None, HELD) == (reply.envelope.status, reply.envelope.code, reply.envelope.data)
    assert 1767323045.5 == reply.server_time


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"success": True}, 200),
        ({"success": True, "data": None}, 200),
        ({"success": True, "data": [HELD]}, 200),
        ({"success": True, "data": {**HELD, "operation": "other"}}, 200),
        ({"success": True, "data": {"reservationId": "res_1"}}, 200),
        ({"success": "true", "data": HELD}, 200),
        ({"success": 1, "data": HELD}, 200),
        ({"data": HELD}, 200),
        ({"success": True, "data": HELD}, 199),
        ({"success": True, "data": HELD}, 302),
        ({"success": True, "data": HELD}, 400),
        ({"success": True, "data": HELD}, 500),
        ({"success": False}, 400),
        (refused("UNHEARD_OF"), 400),
        (refused(["INVALID_INPUT"]), 400),
        (refused(["INVALID_INPUT"]), 500),
        (refused({}), 503),
        (refused("INVALID_INPUT"), 500),
        (refused("INTERNAL_ERROR"), 200),
        ([HELD], 200),
        ("text", 200),
        (None, 200),
        (b"", 200),
        (b"<html>", 200),
        (b"\x00\xff", 200),
        (b'{"success": true', 200),
        (b"[" * 100_000, 200),
        (b" " * (MAX_BODY_BYTES + 1), 200),
    ],
    ids=lambda value: str(value)[:40],
)
def test_in_doubt(document, status):
    """Whatever is neither a success that echoes nor a known refusal under 500 is in doubt."""
    reply = read(document, status)

    assert InDoubt is type(reply)
    assert status == reply.status


def test_the_echo_of_a_confirm():
    """A confirm is definite when it names the reservation, whatever amount it names."""
    assert isinstance(
        read({"success": True, "data": {"reservationId": "res_1", "actualAmount": 9}}, 200, CONFIRM), Answer
    )
    assert isinstance(read({"success": True, "data": {"reservationId": "res_2"}}, 200, CONFIRM), InDoubt)


def test_reads_need_no_echo():
    """A read changes nothing: any data is its answer."""
    assert isinstance(read({"success": True, "data": {}}, 200, BALANCE), Answer)


@pytest.mark.parametrize(("code", "meant"), [(code, meant) for code, meant in STATUS_OF.items() if meant < 500])
def test_refusals_go_by_their_code(code, meant):
    """A known code under 500 is definite with the status that it stands for, whatever HTTP said."""
    for status in (200, meant, 418):
        reply = read(refused(code, message="Said so", data={"a": 1}), status)
        assert (code, meant, {"a": 1}, "Said so") == (
            reply.envelope.code,
            reply.envelope.status,
            reply.envelope.data,
            reply.envelope.message,
        )
        assert not reply.envelope.ok


@pytest.mark.parametrize("code", [code for code, meant in STATUS_OF.items() if meant >= 500])
def test_failures_are_in_doubt(code):
    """A code of 500 or more is in doubt, and keeps its code and its pause."""
    for status in (200, 500):
        assert InDoubt("the ledger failed", status, code, 9.0) == read(
            refused(code), status, headers={"retry-after": "9"}
        )


DATE = "Fri, 02 Jan 2026 03:04:05 GMT"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "999999"}, 3600.0),
        ({"retry-after": "99999999999999999999"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "²"}, None),
        ({"retry-after": "٣"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "5, 6"}, None),
        ({"retry-after": DATE}, None),
        ({"retry-after": "Fri, 02 Jan 2026 03:04:35 GMT", "date": DATE}, 30.0),
        ({"retry-after": "Fri, 02 Jan 2026 03:04:00 GMT", "date": DATE}, 0.0),
        ({"retry-after": "Fri, 02 Jan 2027 03:04:00 GMT", "date": DATE}, 3600.0),
        ({"retry-after": "Fri, 02 Jan 99999999999999999999 03:04:00 GMT", "date": DATE}, None),
    ],
)
def test_retry_after(headers, expected):
    """A pause is seconds or an HTTP date by the ledger's own clock, an hour at most; anything else is none."""
    assert expected == read(refused("RATE_LIMIT_EXCEEDED"), 429, headers=headers).envelope.retry_after
    assert expected == read(b"", 429, headers=headers).retry_after


@pytest.mark.parametrize(
    ("timestamp", "date", "expected"),
    [
        ("2026-01-02T03:04:05Z", None, 1767323045.0),
        ("2026-01-02T03:04:05", None, 1767323045.0),
        ("2026-01-02T05:04:05+02:00", None, 1767323045.0),
        (None, DATE, 1767323045.0),
        (None, "Fri, 02 Jan 2026 03:04:05 -0000", 1767323045.0),
        ("yesterday", DATE, 1767323045.0),
        (1767323045, DATE, 1767323045.0),
        (None, "yesterday", None),
        (None, None, None),
    ],
)
def test_the_ledgers_time(timestamp, date, expected):
    """The ledger's time is the envelope's timestamp, else the Date header."""
    headers = {} if date is None else {"date": date}

    assert expected == read({"success": True, "data": HELD, "timestamp": timestamp}, headers=headers).server_time


def test_parse_time():
    """What is no time is None."""
    assert [None, None, None] == [parse_time(value) for value in (None, 5, "never")]


def test_what_is_cleaned():
    """A message is one printable line without the key and without URLs; data likewise, absurd depth cut off."""
    deep = nested = {}
    for _ in range(500):
        nested["x"] = nested = {}
    document = refused(
        "DS24_KEY_INVALID",
        message="Bad\nkey KEY\x1b[31m at https://buy.example/1, www.buy.example and " + "x" * 500,
        data={"url": "https://buy.example", "said": ["KEY"], "deep": deep, "list": [[[1]]], "n": 1.5},
    )

    said = read(document, 409, redact=lambda text: text.replace("KEY", "***")).envelope

    assert said.message.startswith("Bad key *** [31m at [link] [link] and xxx")
    assert 300 == len(said.message)
    assert ("[link]", ["***"], [[[1]]], 1.5) == (said.data["url"], said.data["said"], said.data["list"], said.data["n"])
    assert len(json.dumps(said.data["deep"])) < 500


def test_long_lists_are_cut_off_too():
    """Lists inside lists without end are cut off like objects."""
    deep = nested = []
    for _ in range(500):
        nested.append(nested := [])

    assert len(json.dumps(read(refused("FORBIDDEN", data={"d": deep}), 403).envelope.data)) < 100


def test_nothing_secret_in_a_repr():
    """A reply's repr shows neither data nor message, and a request's no body."""
    reply = read(refused("DS24_KEY_INVALID", message="MESSAGE", data={"label": "DATA"}), 409)
    request = requests.purchase_links("prod_1", "acct_1", buyer_email="buyer@example.com")

    for secret in ("MESSAGE", "DATA", "buyer@example.com"):
        assert secret not in repr(reply) + repr(request)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("MISSING_ACCOUNT_ID", InvalidRequestError),
        ("API_KEY_MISSING", AuthenticationError),
        ("INSUFFICIENT_CREDITS", ApiError),
        ("DS24_KEY_FORBIDDEN", PermissionDeniedError),
        ("ORDER_NOT_FOUND", NotFoundError),
        ("DS24_KEY_REQUIRED", Ds24KeyError),
        ("DS24_KEY_INVALID", Ds24KeyError),
        ("ORDER_NOT_MAPPED_YET", OrderNotMappedError),
    ],
)
def test_errors_of_refusals(code, kind):
    """A refusal's error has the ledger's words, its code, its status, its data and its pause."""
    headers = {"retry-after": "4"}
    error = to_error(RESERVE, read(refused(code, message="Said so", data={"a": 1}), 400, headers=headers))

    assert kind is type(error)
    assert (code, STATUS_OF[code], "Said so", {"a": 1}, 4.0) == (
        error.code,
        error.status,
        error.message,
        error.details,
        error.retry_after,
    )
    assert f"reserve: {code}: Said so" == str(error)


def test_errors_without_words():
    """A refusal without a message is told by its code."""
    error = to_error(RESERVE, read(refused("FORBIDDEN", message=5), 403))

    assert ("FORBIDDEN", "reserve: FORBIDDEN") == (error.message, str(error))


@pytest.mark.parametrize(
    ("request_", "reply", "kind", "expected"),
    [
        (RESERVE, NotSent("ConnectError"), LedgerUnavailableError, (False, None, None, None)),
        (RESERVE, InDoubt("ReadError"), LedgerUnavailableError, (True, None, None, None)),
        (RESERVE, InDoubt("html", 404), LedgerUnavailableError, (True, 404, None, None)),
        (DEDUCT, InDoubt("html", 403), LedgerUnavailableError, (True, 403, None, None)),
        (RESERVE, InDoubt("bare", 429, None, 5.0), RateLimitError, (True, 429, None, 5.0)),
        (BALANCE, InDoubt("bare", 429, None, 5.0), RateLimitError, (True, 429, None, 5.0)),
        (BALANCE, InDoubt("failed", 500, "BALANCE_ERROR"), LedgerUnavailableError, (True, 500, "BALANCE_ERROR", None)),
    ],
)
def test_errors_of_missing_answers(request_, reply, kind, expected):
    """No definite answer says whether the request may have been carried out."""
    error = to_error(request_, reply)

    assert kind is type(error)
    assert expected == (error.in_doubt, error.status, error.code, error.retry_after)


def test_the_error_of_a_rate_limit():
    """A 429 in the ledger's words is a RateLimitError and not in doubt (assumption A1)."""
    error = to_error(RESERVE, read(refused("DS24_RATE_LIMITED"), 429, headers={"retry-after": "5"}))

    assert RateLimitError is type(error)
    assert (False, 429, "DS24_RATE_LIMITED", 5.0) == (error.in_doubt, error.status, error.code, error.retry_after)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CODES = st.sampled_from([*STATUS_OF, "UNHEARD_OF", ""]) | JSON
DATA = st.fixed_dictionaries(
    {},
    optional={
        "operation": st.sampled_from(["app.chat", "other"]) | JSON,
        "reservationId": st.sampled_from(["res_1", "res_2"]) | JSON,
    },
)
ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        "success": st.booleans() | JSON,
        "code": CODES,
        "data": DATA | JSON,
        "message": JSON,
        "timestamp": JSON | st.datetimes().map(lambda moment: moment.isoformat()),
    },
)
BODIES = (
    st.binary() | ENVELOPES.map(lambda value: json.dumps(value).encode()) | JSON.map(lambda v: json.dumps(v).encode())
)
TIMES = st.text() | st.integers().map(str) | st.floats(0, 4e9).map(formatdate) | st.datetimes().map(format_datetime)
HEADERS = st.fixed_dictionaries({}, optional={"retry-after": TIMES, "date": TIMES})
STATUSES = st.sampled_from([200, 201, 204, 302, 400, 402, 404, 409, 429, 500, 503]) | st.integers()


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([RESERVE, BALANCE, CONFIRM]), STATUSES, HEADERS, BODIES)
@example(RESERVE, 500, {}, b'{"code": []}')
@example(RESERVE, 429, {"retry-after": "\xb2"}, b"")
@example(RESERVE, 429, {"date": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, b'{"success": true, "data": {}}')
@example(RESERVE, 403, {}, b'{"success": false, "code": "FORBIDDEN", "data": ' + b'{"a":' * 900 + b"1" + b"}" * 901)
def test_never_raises_never_wrongly_definite(request_, status, headers, body):
    """Whatever comes: a reply, never an exception; and a definite success only if it is one (money rule 1)."""
    reply = read_reply(request_, status, headers, body)

    assert isinstance(reply, Answer | InDoubt)
    if isinstance(reply, InDoubt):
        assert isinstance(to_error(request_, reply), ApiError | LedgerUnavailableError)
    elif reply.envelope.ok:
        document = json.loads(body)
        assert document["success"] is True
        assert 200 <= status < 300
        assert request_.echo is None or document["data"][request_.echo[0]] == request_.echo[1]
    else:
        document = json.loads(body)
        assert document["success"] is False
        assert STATUS_OF[document["code"]] == reply.envelope.status < 500
        assert status < 500
        assert isinstance(to_error(request_, reply), ApiError | RateLimitError)
