"""What clients are told: 402, 409 and 503, from the gate and from below, before and after the response has begun."""

import asyncio
import json

import pytest

from countwerk_meter import current_reservation
from countwerk_meter.asgi import Route
from countwerk_meter.errors import (
    AuthenticationError,
    ChargeAlreadySettledError,
    InsufficientCreditsError,
    LedgerUnavailableError,
)

START = {"type": "http.response.start", "status": 200, "headers": []}
STREAM = START | {"headers": [(b"Content-Type", b"text/event-stream; charset=utf-8")]}
END = {"type": "http.response.body", "body": b"done"}
DENIED = InsufficientCreditsError(account_id="acct_1", operation="app.inner", required=7, usage_event_id="e-1")
SETTLED = ChargeAlreadySettledError("again", usage_event_id="e-1", state="settled")
NOT_TOLD = {
    **DENIED.to_payload(),
    "data": dict.fromkeys(DENIED.to_payload()["data"]) | {"options": []},
    "purchase_error": "OTHER_ACCOUNT",
}


def chunk(body):
    return {"type": "http.response.body", "body": body, "more_body": True}


def app_of(*messages, error=None):
    """An app that sends messages and then raises."""

    async def app(scope, receive, send):
        for message in messages:
            await send(dict(message))
        if error is not None:
            raise error

    return app


@pytest.fixture(params=["listed", "unlisted", "no account"])
def anywhere(request, wrap):
    """Wrap an app whose route is listed, or is not, or has no account."""
    options = {"account_id": lambda scope: None} if request.param == "no account" else {}
    path = "/elsewhere" if request.param == "unlisted" else "/chat"

    def put(app):
        return wrap(app, Route("POST", path, "app.chat", price=5), **options)

    # Nobody's request is told nothing of an account.
    put.told = NOT_TOLD if request.param == "no account" else DENIED.to_payload()
    return put


async def test_402_at_the_gate(wrap, request_to, spent):
    """The app is not called, and the body is the documented payload with the ways to buy."""
    ran = []

    async def app(scope, receive, send):
        ran.append(True)

    request = await request_to(wrap(app, Route("POST", "/chat", "app.chat", price=500))).run()
    assert not ran
    assert request.status == 402
    assert request.headers[b"content-type"] == b"application/problem+json"
    assert request.headers[b"cache-control"] == b"no-store"
    assert request.headers[b"content-length"] == str(len(request.body)).encode()
    payload = request.json
    assert set(payload) == set(DENIED.to_payload())
    assert payload["code"] == "INSUFFICIENT_CREDITS"
    assert payload["status"] == 402
    assert payload["required"] == 500
    assert payload["data"]["account_id"] == "acct_1"
    assert payload["data"]["ai_product_id"] == "prod_1"
    assert any(option["enabled"] and option["url"].startswith("https://") for option in payload["data"]["options"])
    assert spent() == 0


def wrapped(error, cause):
    """As `raise error from cause` does."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        DENIED,
        ExceptionGroup("tasks", [DENIED]),
        ExceptionGroup("tasks", [ExceptionGroup("inner", [DENIED])]),
        ExceptionGroup("tasks", [DENIED, ExceptionGroup("inner", [DENIED, DENIED])]),
        wrapped(ValueError("a framework's own"), wrapped(ValueError("another"), DENIED)),
    ],
    ids=["plain", "group", "groups", "several", "wrapped"],
)
@pytest.mark.parametrize("held", [(), (START | {"status": 500}, END)], ids=["nothing sent", "a whole 500 sent"])
async def test_402_from_below(anywhere, request_to, spent, error, held):
    """An error from anywhere below becomes the 402, even where the app has answered it with a 500 itself."""
    request = await request_to(anywhere(app_of(*held, error=error))).run()
    assert request.status == 402
    assert request.json == anywhere.told
    assert len(request.sent) == 2
    assert spent() == 0


async def test_409_from_below(anywhere, request_to):
    """A charge that was made before becomes the 409."""
    request = await request_to(anywhere(app_of(error=SETTLED))).run()
    assert request.status == 409
    assert request.json["code"] == "CHARGE_ALREADY_SETTLED"
    assert request.json["usage_event_id"] == "e-1"


@pytest.mark.parametrize("error", [ValueError("no"), ExceptionGroup("tasks", [DENIED, ValueError("no")])])
async def test_other_errors_stay(anywhere, request_to, spent, error):
    """What is not ours is raised on, and the app's own 500 goes out."""
    request = request_to(anywhere(app_of(START | {"status": 500}, END, error=error)))
    with pytest.raises(type(error)):
        await request.run()
    assert request.status == 500
    assert request.body == b"done"
    assert spent() == 0


async def test_a_500_goes_out_when_the_app_returns(anywhere, request_to):
    """A whole 500 that no exception follows is the app's answer."""
    request = await request_to(anywhere(app_of(START | {"status": 503}, END))).run()
    assert (request.status, request.body) == (503, b"done")


async def test_a_500_goes_out_before_the_app_waits(anywhere, request_to):
    """An app that waits for its client to go has answered it before."""

    async def app(scope, receive, send):
        await receive()
        await send(START | {"status": 500})
        await send(END)
        assert await asyncio.wait_for(receive(), 20) == {"type": "http.disconnect"}

    request = await request_to(anywhere(app)).run()
    assert (request.status, request.body) == (500, b"done")


async def test_a_500_is_not_held_from_who_is_waiting(anywhere, request_to):
    """An app that waits for its client in another task, and for that task, is answered too."""

    async def app(scope, receive, send):
        await receive()
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        await send(START | {"status": 500})
        await send(END)
        assert await waiting == {"type": "http.disconnect"}

    request = await request_to(anywhere(app)).run()
    assert (request.status, request.body) == (500, b"done")


async def test_a_500_that_streams_is_not_held(anywhere, request_to):
    """A response of status 500 streams like any other."""
    seen = []

    async def app(scope, receive, send):
        await send(START | {"status": 500})
        await send(chunk(b"one"))
        seen.append(request.body)
        await send(chunk(b"two"))
        seen.append(request.body)
        await send(END)

    request = request_to(anywhere(app))
    await request.run()
    assert seen == [b"one", b"onetwo"]
    assert request.body == b"onetwodone"


@pytest.mark.parametrize("held", [1, 2])
async def test_a_500_that_nobody_takes(anywhere, request_to, held):
    """A client that is gone when the held answer goes out is no error of the app's."""
    await request_to(anywhere(app_of(START | {"status": 500}, END)), fails_from=held - 1).run()


@pytest.mark.parametrize(
    ("before", "gap"),
    [
        ([], b""),
        ([b""], b""),
        ([b"data: 1\n\n"], b""),
        ([b"data: 0\n\n", b"data: 1\r\n\r\n"], b""),
        ([b"data: 0\n\n", b"data: 1\n"], b"\n\n"),
        ([b"data: 0\n\n", b"data: 1\n", b""], b"\n\n"),
        ([memoryview(b"data: 1\n\n")], b""),
        ([b"data: 1"], b"\n\n"),
        ([b"data: 0\n\n", b"data: {", b'"a'], b"\n\n"),
        ([b"data: 0\n\n", b"da", b""], b"\n\n"),
        ([b"data: 1\r"], b"\n\n"),
    ],
)
async def test_an_event_stream_ends_with_an_event(anywhere, request_to, before, gap):
    """A stream that runs out in the middle ends with one event of its own that carries the payload."""
    request = await request_to(anywhere(app_of(STREAM, *map(chunk, before), error=DENIED))).run()
    assert request.status == 200
    told = json.dumps(anywhere.told, ensure_ascii=False, separators=(",", ":")).encode()
    assert request.body == b"".join(before) + gap + b"event: payment_required\ndata: %s\n\n" % told
    assert request.sent[-1]["more_body"] is False


async def test_an_event_stream_that_was_charged_before(anywhere, request_to):
    """A conflict in the middle of a stream is an event of another name."""
    request = await request_to(anywhere(app_of(STREAM, error=SETTLED))).run()
    assert request.body.startswith(b"event: charge_conflict\ndata: {")


@pytest.mark.parametrize(
    "messages",
    [
        [START],
        [START, chunk(b"x")],
        [START, END],
        [STREAM, END],
        [STREAM | {"headers": [*STREAM["headers"], (b"content-encoding", b"gzip")]}],
        [STREAM | {"headers": [*STREAM["headers"], (b"content-length", b"10")]}],
        [STREAM | {"status": 204}],
        [STREAM | {"status": 304}],
        [{"type": "http.response.start", "status": 200}],
    ],
    ids=[
        "begun",
        "in the body",
        "ended",
        "stream ended",
        "compressed stream",
        "stream of known length",
        "no content",
        "not modified",
        "no headers",
    ],
)
async def test_too_late_for_an_answer(anywhere, request_to, messages):
    """Once another response has begun the error is raised on, and nothing is added."""
    request = request_to(anywhere(app_of(*messages, error=DENIED)))
    with pytest.raises(InsufficientCreditsError):
        await request.run()
    assert len(request.sent) == len(messages)


async def test_an_event_stream_that_runs_out_charges_what_was_used(meter, wrap, request_to, tokens, spent):
    """The usage before the denial is charged, the denied call is not."""

    async def app(scope, receive, send):
        await send(STREAM)
        await send(chunk(b"data: 1\n\n"))
        current_reservation().record(tokens(3))
        async with meter.reserve("acct_1", "app.inner", amount=500):
            raise AssertionError("not reached")

    request = await request_to(wrap(app, Route("POST", "/chat", "app.chat", amount=5))).run()
    assert b"event: payment_required\n" in request.body
    assert spent() == 3


@pytest.mark.parametrize("fails_from", [0, 1])
async def test_a_client_that_does_not_wait_for_its_402(anywhere, request_to, spent, fails_from):
    """A client that is gone when the 402 goes out is no error."""
    await request_to(anywhere(app_of(error=DENIED)), fails_from=fails_from).run()
    assert spent() == 0


async def test_503_when_the_ledger_does_not_answer(wrap, request_to, control):
    """Fail closed: the app is not called, and the answer tells nothing of the inside."""
    control.faults([{"path": "/api/credits/reserve", "kind": "status", "status": 500, "times": 9}])
    request = await request_to(wrap(app_of(error=AssertionError()), Route("POST", "/chat", "app.chat", price=5))).run()
    assert request.status == 503
    assert request.headers[b"content-type"] == b"application/problem+json"
    assert b"retry-after" not in request.headers
    assert request.json == {
        "type": "about:blank",
        "title": "Credits cannot be checked",
        "status": 503,
        "detail": "Try again later.",
        "success": False,
        "code": "LEDGER_UNAVAILABLE",
    }


async def test_503_says_when_to_try_again(wrap, request_to, control):
    """Where the ledger said how long to wait, so does the 503."""
    fault = {"path": "/api/credits/reserve", "kind": "status", "status": 429, "code": "RATE_LIMITED", "times": 1}
    control.faults([fault | {"retry_after": "30"}])
    request = await request_to(wrap(app_of(error=AssertionError()), Route("POST", "/chat", "app.chat", price=5))).run()
    assert request.status == 503
    assert request.headers[b"retry-after"] == b"30"


async def test_an_unavailable_ledger_below_is_the_apps(anywhere, request_to):
    """Only the gate's own doubt is a 503: below, the app decides."""
    with pytest.raises(LedgerUnavailableError):
        await request_to(anywhere(app_of(error=LedgerUnavailableError("no answer")))).run()


async def test_a_wrong_key_is_raised(wrap, request_to, control):
    """What the operator must mend is raised, for the server to log and answer with 500; the app is not called."""
    fault = {"path": "/api/credits/reserve", "kind": "status", "status": 401, "code": "INVALID_API_KEY", "times": 1}
    control.faults([fault])
    with pytest.raises(AuthenticationError):
        await request_to(wrap(app_of(error=AssertionError()), Route("POST", "/chat", "app.chat", price=5))).run()


async def test_an_account_callable_that_raises(wrap, request_to, control):
    """It is the app's failure: raised, and nothing reaches the ledger."""

    def broken(scope):
        raise LookupError("no database")

    control.clear_requests()
    app = wrap(app_of(error=AssertionError()), Route("POST", "/chat", "app.chat", price=5), account_id=broken)
    with pytest.raises(LookupError):
        await request_to(app).run()
    assert not control.requests()["counts"]


async def test_unlisted_routes_are_untouched(wrap, request_to, control):
    """The app gets the scope as it is, and the client every message as it is."""
    seen = []

    async def app(scope, receive, send):
        seen.append(scope)
        seen.append(await receive())
        await send(START)
        await send(chunk(b"x"))
        await send({"type": "http.response.trailers", "headers": []})

    control.clear_requests()
    request = await request_to(wrap(app)).run()
    assert seen[0] is request.scope
    assert seen[1] == {"type": "http.request", "body": b"", "more_body": False}
    assert request.sent == [START, chunk(b"x"), {"type": "http.response.trailers", "headers": []}]
    assert not control.requests()["counts"]


def broken(scope):
    raise LookupError("no database")


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("/chat", {}),
        ("/elsewhere", {}),
        ("/chat", {"account_id": lambda scope: None}),
        ("/elsewhere", {"account_id": lambda scope: None}),
        ("/elsewhere", {"account_id": broken}),
    ],
    ids=["listed", "unlisted", "listed, a stranger", "unlisted, a stranger", "unlisted, not found out"],
)
@pytest.mark.parametrize("answers", [False, True], ids=["raises", "answers 500"])
async def test_402_of_another_account_carries_no_url(meter, control, wrap, request_to, path, options, answers):
    """A client gets no purchase link of an account that is not its own, such as the app's."""
    control.account("platform", balance=1, ai_product_id="prod_1", order_id="ORDER_P")

    async def app(scope, receive, send):
        async with meter.reserve("platform", "app.inner", amount=500):
            raise AssertionError("the call ran without credits")

    async def answering(scope, receive, send):
        with pytest.raises(InsufficientCreditsError):
            await app(scope, receive, send)
        await five_hundred()(send)

    wrapped = wrap(answering if answers else app, Route("POST", "/chat", "app.chat", amount=5), **options)
    request = await request_to(wrapped, scope_to(path)).run()
    assert request.status == 402
    assert request.json["data"]["options"] == []
    assert request.json["purchase_error"] == "OTHER_ACCOUNT"
    assert b"platform" not in request.body
    assert b"http" not in request.body


async def test_402_of_an_unlisted_route_shows_ways_to_buy(meter, wrap, request_to):
    """Where it is the very account that the request is resolved to; that is asked once."""
    asked = []

    def account_id(scope):
        asked.append(scope["path"])
        return "acct_1"

    async def app(scope, receive, send):
        async with meter.reserve("acct_1", "app.inner", amount=500):
            raise AssertionError("the call ran without credits")

    request = await request_to(wrap(app, account_id=account_id), scope_to("/elsewhere")).run()
    assert any(option["enabled"] for option in request.json["data"]["options"])
    assert asked == ["/elsewhere"]


def five_hundred(status=500):
    """An app that makes an answer of its own of a refused call, as Django does, and goes on after it."""

    async def answer(send):
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"sorry", "more_body": True})
        await send({"type": "http.response.body", "body": b" so", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return answer


@pytest.mark.parametrize(
    ("status", "then", "expected"),
    [
        (500, None, 402),
        (500, "let through", 500),
        (500, "unavailable", 500),
        (503, None, 503),
    ],
)
async def test_an_app_that_answers_a_refused_call_itself(meter, control, wrap, request_to, status, then, expected):
    """Its 500 becomes the 402, once, unless a call went through since, or it was something else that failed."""

    async def app(scope, receive, send):
        with pytest.raises(InsufficientCreditsError):
            async with meter.reserve("acct_1", "app.inner", amount=900):
                raise AssertionError("not reached")
        if then == "let through":
            async with meter.reserve("acct_1", "app.inner", amount=1) as less:
                less.cancel()
        if then == "unavailable":
            control.faults([{"path": "/api/credits/reserve", "kind": "status", "status": 503, "times": 1}])
            with pytest.raises(LedgerUnavailableError):
                async with meter.reserve("acct_1", "app.inner", amount=50):
                    raise AssertionError("not reached")
        await five_hundred(status)(send)

    for path in ("/chat", "/elsewhere"):
        request = await request_to(wrap(app, Route("POST", "/chat", "app.chat", amount=5)), scope_to(path)).run()
        assert request.status == expected
        assert len([message for message in request.sent if message["type"] == "http.response.start"]) == 1
        if expected == 402:
            assert request.json["operation"] == "app.inner"
        else:
            assert request.body == b"sorry so"


async def test_another_failure_after_a_refused_call_is_raised(meter, wrap, request_to):
    """The client has its 402, and the operator the error."""

    async def app(scope, receive, send):
        with pytest.raises(InsufficientCreditsError):
            async with meter.reserve("acct_1", "app.inner", amount=900):
                raise AssertionError("not reached")
        await five_hundred()(send)
        raise ValueError("something else")

    request = request_to(wrap(app, Route("POST", "/chat", "app.chat", amount=5)))
    with pytest.raises(ValueError, match="something else"):
        await request.run()
    assert request.status == 402


def scope_to(path):
    return {"type": "http", "method": "POST", "path": path, "headers": [(b"x-account", b"acct_1")]}
