"""What clients are told of their charge where the app asks for it: headers before, an event or a trailer after."""

import asyncio
import json
import socket
import threading

import h2.config
import h2.connection
import h2.events
import pytest
from hypercorn.asyncio import serve as hypercorn
from hypercorn.config import Config

from countwerk_meter import current_reservation
from countwerk_meter.asgi import Route
from countwerk_meter.errors import InsufficientCreditsError

ROUTE = Route("POST", "/chat", "app.chat", amount=5)
TRAILERS = {"extensions": {"http.response.trailers": {}}, "headers": [(b"x-account", b"acct_1"), (b"te", b"trailers")]}
EVENTS = [(b"content-type", b"text/event-stream")]


def answering(*parts, tokens=None, headers=(), status=200, **start):
    """An app that sends a body in parts, and records what it used after the last one."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": list(headers), **start})
        for number, part in enumerate(parts, 1):
            await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})
        if tokens is not None:
            current_reservation().record(tokens)

    return app


def sum_of(event):
    name, data = event.removesuffix(b"\n\n").split(b"\n")
    assert name == b"event: credits"
    return json.loads(data.removeprefix(b"data: "))


@pytest.fixture
def receipts(wrap):
    """Wrap an app that tells its clients what they pay."""
    return lambda app, route=ROUTE, **options: wrap(app, route, **({"answer_headers": True} | options))


async def test_nothing_is_told_unasked(wrap, request_to, tokens):
    """By default no header, no trailer and no event is added."""
    app = wrap(answering(b"data: x\n\n", tokens=tokens(3), headers=EVENTS), ROUTE)
    request = await request_to(app).run()
    assert request.headers == dict(EVENTS)
    assert request.body == b"data: x\n\n"


@pytest.mark.parametrize(("whole", "own"), [(True, None), (False, True)])
async def test_headers_before(wrap, request_to, spent, tokens, whole, own):
    """What is held and the charge's id stand in the head; a route may differ from the middleware."""
    seen = []

    async def app(scope, receive, send):
        seen.append(current_reservation().usage_event_id)
        await answering(b"hello", tokens=tokens(3), headers=[(b"x-own", b"1")])(scope, receive, send)

    route = Route("POST", "/chat", "app.chat", amount=5, answer_headers=own)
    request = await request_to(wrap(app, route, answer_headers=whole)).run()
    assert request.headers == {b"x-own": b"1", b"credits-reserved": b"5", b"credits-event-id": seen[0].encode()}
    assert request.body == b"hello"
    assert spent() == 3


@pytest.mark.parametrize(
    ("parts", "gap"), [([b"data: x\n\n"], b""), ([b"data: x\n\n", b""], b""), ([b"data: x"], b"\n\n")]
)
async def test_the_last_event_says_what_was_charged(receipts, request_to, spent, tokens, parts, gap):
    """Also what background work recorded after the app's last byte."""
    request = await request_to(receipts(answering(*parts, tokens=tokens(3), headers=EVENTS))).run()
    text, event = request.body.split(b"event: credits")
    assert text == parts[0] + gap
    told = sum_of(b"event: credits" + event)
    assert told == {"charged": 3, "reserved": 5, "usage_event_id": request.headers[b"credits-event-id"].decode()}
    assert [message.get("more_body") for message in request.sent[1:]] == [True] * len(parts) + [False]
    assert spent() == 3


async def test_nested_calls_count(meter, receipts, request_to, spent):
    """What the request's own calls drew, on its hold or beside it, is part of what it says; another account's is not."""
    meter_of = meter

    async def app(scope, receive, send):
        async with meter_of.reserve("acct_1", "app.inner", amount=2):
            pass
        with pytest.raises(InsufficientCreditsError):
            async with meter_of.reserve("acct_1", "app.inner", amount=900):
                pass
        async with meter_of.reserve("acct_1", "app.inner", amount=7):
            pass
        await answering(b"", headers=EVENTS)(scope, receive, send)

    request = await request_to(receipts(app)).run()
    assert sum_of(request.body)["charged"] == 9
    assert spent() == 9


async def test_a_stream_that_runs_out_ends_with_the_payload(receipts, request_to):
    """`payment_required` stays the last event."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
        raise InsufficientCreditsError(account_id="acct_1", operation="app.inner", required=7)

    body = (await request_to(receipts(app)).run()).body
    assert b"event: credits" not in body
    assert body.startswith(b"data: x\n\nevent: payment_required\n")


async def test_a_stream_whose_background_fails_still_ends(receipts, request_to, spent):
    """What fails after the last byte is raised on, and the client's stream has ended."""

    async def app(scope, receive, send):
        await answering(b"data: x\n\n", headers=EVENTS)(scope, receive, send)
        raise ValueError("background")

    request = request_to(receipts(app))
    with pytest.raises(ValueError, match="background"):
        await request.run()
    assert b'"charged":5' in request.body
    assert request.complete.is_set()
    assert spent() == 5


async def test_an_app_that_waits_for_its_client_to_go(receipts, request_to, spent):
    """It is not kept waiting for an end that waits for it."""

    async def app(scope, receive, send):
        await receive()
        await answering(b"data: x\n\n", headers=EVENTS)(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"

    request = await asyncio.wait_for(request_to(receipts(app)).run(), 10)
    assert request.body == b"data: x\n\n"
    assert spent() == 5


@pytest.mark.parametrize("status", [404, 500])
async def test_what_fails_says_that_it_cost_nothing(receipts, request_to, scope_of, spent, status):
    """A status of 400 or more with nothing recorded."""
    scope = scope_of(extensions=TRAILERS["extensions"]) | {"headers": TRAILERS["headers"]}
    request = await request_to(receipts(answering(b"no", status=status)), scope).run()
    assert request.headers[b"credits-reserved"] == b"5"
    assert request.sent[-1]["headers"] == [(b"credits-charged", b"0")]
    assert spent() == 0


async def test_a_trailer_after(receipts, request_to, scope_of, spent, tokens):
    """Where both sides speak of trailers the sum follows the body."""
    request = await request_to(
        receipts(answering(b"he", b"llo", tokens=tokens(3))), scope_of(method="POST") | TRAILERS
    ).run()
    assert request.headers[b"trailer"] == b"credits-charged"
    assert request.sent[0]["trailers"] is True
    assert request.sent[-1] == {
        "type": "http.response.trailers",
        "headers": [(b"credits-charged", b"3")],
        "more_trailers": False,
    }
    assert spent() == 3


@pytest.mark.parametrize(
    ("scope", "start"),
    [
        ({"extensions": {}}, {}),
        ({"extensions": None}, {}),
        ({"headers": [(b"x-account", b"acct_1")]}, {}),
        ({"headers": [(b"x-account", b"acct_1"), (b"te", b"gzip")]}, {}),
        ({"method": "HEAD"}, {}),
        ({}, {"trailers": True}),
    ],
)
async def test_no_trailer(receipts, request_to, scope_of, scope, start):
    """Not where one side does not, nor where the app sends trailers of its own."""
    route = Route(["POST", "HEAD"], "/chat", "app.chat", amount=5)
    request = await request_to(receipts(answering(b"x", **start), route), scope_of() | TRAILERS | scope).run()
    assert b"trailer" not in request.headers
    assert request.sent[-1]["type"] == "http.response.body"


async def test_trailers_after_an_event_stream(receipts, request_to, scope_of):
    """Where the app sends trailers behind its events, the body has ended before them: no event is added."""
    own = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": False}
    events = answering(b"data: x\n\n", headers=EVENTS, trailers=True)

    async def app(scope, receive, send):
        await events(scope, receive, send)
        await send(own)

    request = await request_to(receipts(app), scope_of() | TRAILERS).run()
    ends = [message.get("more_body") for message in request.sent if message["type"] == "http.response.body"]
    assert (ends, request.body, request.sent[-1]) == ([False], b"data: x\n\n", own)


async def test_a_sum_that_is_not_known(receipts, request_to, scope_of, monkeypatch):
    """Where the commit did not come through nothing is said of it, and the response ends."""
    from countwerk_meter.meter import Reservation

    monkeypatch.setattr(Reservation, "charged", None)
    request = await request_to(receipts(answering(b"data: x\n\n", headers=EVENTS))).run()
    assert request.body == b"data: x\n\n"
    assert request.complete.is_set()
    request = await request_to(receipts(answering(b"x")), scope_of() | TRAILERS).run()
    assert request.sent[-1]["headers"] == []


async def test_a_client_that_left(receipts, request_to, spent):
    """A client that does not take its receipt is no error."""
    await request_to(receipts(answering(b"data: x\n\n", headers=EVENTS)), fails_from=2).run()
    assert spent() == 5


async def test_a_deferred_call_holds_nothing(make_meter, receipts, request_to, control):
    """Where the ledger is down and the call is charged later, nothing is reserved."""
    meter = make_meter(on_unavailable="defer", debt_limit=50)
    control.faults([{"path": "/api/credits/reserve", "kind": "status", "status": 503, "times": 1}])
    request = await request_to(receipts(answering(b"x"), meter=meter)).run()
    assert request.headers[b"credits-reserved"] == b"0"


async def test_a_shadow_charges_nothing(make_meter, receipts, request_to):
    """Where nothing is enforced nobody is told of charges that are none."""
    request = await request_to(receipts(answering(b"x"), meter=make_meter(enforcement="shadow"))).run()
    assert request.headers == {}


def test_through_uvicorn(receipts, serve, spent, tokens):
    """Over a real socket: an event stream ends with the sum, anything else has its headers."""
    client = serve(receipts(answering(b"data: x\n\n", tokens=tokens(3), headers=EVENTS)))
    answer = client.post("/chat")
    assert answer.headers["credits-reserved"] == "5"
    assert sum_of(answer.content.removeprefix(b"data: x\n\n"))["charged"] == 3
    serve.stop()
    assert spent() == 3


def test_who_waits_for_the_client_is_not_kept_waiting(receipts, serve, spent):
    """An app whose task waits for the client to go, and that waits for the task, ends its stream all the same."""

    async def app(scope, receive, send):
        await receive()
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        assert (await waiting)["type"] == "http.disconnect"

    client = serve(receipts(app))
    assert client.post("/chat", timeout=5).content == b"data: x\n\n"
    serve.stop()
    assert spent() == 5


def test_a_trailer_through_hypercorn(receipts, spent, tokens):
    """Over HTTP/2, which every server's trailers need."""
    app = receipts(answering(b"hello", tokens=tokens(3)))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = Config.from_mapping(bind=[f"127.0.0.1:{port}"], graceful_timeout=2, errorlog=None)
    stop, ready = threading.Event(), threading.Event()

    async def run():
        task = asyncio.ensure_future(hypercorn(app, config, shutdown_trigger=lambda: asyncio.to_thread(stop.wait)))
        while not ready.is_set():
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                ready.set()
            except OSError:
                await asyncio.sleep(0.02)
        await task

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(20)
    try:
        body, trailers = _over_http2(port)
    finally:
        stop.set()
        thread.join(20)
    assert body == b"hello"
    assert trailers == {b"credits-charged": b"3"}
    assert spent() == 3


def _over_http2(port):
    """Make one request over a connection that speaks HTTP/2 from the start; gives (body, trailers)."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    with socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
        connection.initiate_connection()
        head = {":method": "POST", ":path": "/chat", ":scheme": "http", ":authority": "x"}
        connection.send_headers(1, [*head.items(), ("x-account", "acct_1"), ("te", "trailers")], end_stream=True)
        wire.sendall(connection.data_to_send())
        body, trailers = b"", {}
        while True:
            for event in connection.receive_data(wire.recv(65536)):
                if isinstance(event, h2.events.DataReceived):
                    body += event.data
                elif isinstance(event, h2.events.TrailersReceived):
                    trailers = dict(event.headers)
                elif isinstance(event, h2.events.StreamEnded):
                    return body, trailers
            wire.sendall(connection.data_to_send())
