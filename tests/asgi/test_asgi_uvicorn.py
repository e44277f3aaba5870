"""Through real uvicorn over real sockets: streams, clients that leave, FastAPI on both sides, and many at once."""

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import httpx
import pytest
from fastapi import BackgroundTasks, Body, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route as StarletteRoute

from countwerk_meter import current_reservation
from countwerk_meter.asgi import CreditsMiddleware, Route

pytestmark = pytest.mark.usefixtures("unmeasured")

ACCOUNT = "acct_1"
PRICE = Route(["GET", "POST", "HEAD"], "/{rest:path}", "app.chat", price=5)
AMOUNT = Route(["GET", "POST"], "/{rest:path}", "app.chat", amount=5)


@pytest.fixture(params=["inside", "outside"])
def framed(request, meter, wrap):
    """Put the middleware into a FastAPI app, or around it."""

    def put(app, *routes):
        if request.param == "outside":
            return wrap(app, *routes)
        account_id = wrap(app)._settings.account_id
        app.add_middleware(CreditsMiddleware, meter=meter, account_id=account_id, routes=routes, close_meter=False)
        return app

    return put


class Stream:
    """A streaming app, async or sync, that says what happens in it and goes on when it is told to."""

    def __init__(self, kind, media_type="text/plain"):
        self.go_on = threading.Event()
        self.ended = threading.Event()
        self.kind = kind
        self.media_type = media_type
        self.app = FastAPI()
        self.app.get("/stream")(self.endpoint)
        self.app.add_middleware(_Ended, self.ended)

    async def endpoint(self):
        chunks = self.chunks() if self.kind == "async" else self.sync_chunks()
        return StreamingResponse(chunks, media_type=self.media_type)

    async def chunks(self):
        yield b"first"
        await asyncio.to_thread(self.go_on.wait, 20)
        for _ in range(1000):
            yield b"x" * 10_000
            await asyncio.sleep(0)

    def sync_chunks(self):
        yield b"first"
        self.go_on.wait(20)
        for _ in range(1000):
            yield b"x" * 10_000


class _Ended:
    """Says when the app has returned, whichever way."""

    def __init__(self, app, ended):
        self.app = app
        self.ended = ended

    async def __call__(self, scope, receive, send):
        try:
            await self.app(scope, receive, send)
        finally:
            if scope["type"] == "http":
                self.ended.set()


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_the_first_byte_does_not_wait(framed, serve, spent, kind):
    """The client has the first chunk while the app still waits for it to be seen."""
    stream = Stream(kind)
    client = serve(framed(stream.app, PRICE))
    with client.stream("GET", "/stream") as answer:
        chunks = answer.iter_raw()
        assert next(chunks) == b"first"
        assert not stream.ended.is_set()
        stream.go_on.set()
        assert sum(map(len, chunks)) == 10_000_000
    assert stream.ended.wait(10)
    serve.stop()
    assert spent() == 5


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("route", [PRICE, AMOUNT], ids=["price", "amount"])
def test_a_client_that_leaves_pays(framed, serve, spent, kind, route):
    """Whoever leaves in the middle of a stream pays the price, or the hold, and leaves no hold behind."""
    stream = Stream(kind)
    client = serve(framed(stream.app, route))
    with client.stream("GET", "/stream") as answer:
        assert next(answer.iter_raw()) == b"first"
    client.close()
    stream.go_on.set()
    assert stream.ended.wait(10)
    serve.stop()
    assert spent() == 5


def test_a_client_that_leaves_pays_what_it_consumed(framed, serve, tokens, spent):
    """Usage recorded before the client left is what it pays."""
    stream = Stream("async")

    async def chunks():
        current_reservation().record(tokens(2))
        yield b"first"
        await asyncio.to_thread(stream.go_on.wait, 20)
        await asyncio.sleep(60)

    stream.chunks = chunks
    client = serve(framed(stream.app, AMOUNT))
    with client.stream("GET", "/stream") as answer:
        assert next(answer.iter_raw()) == b"first"
    client.close()
    stream.go_on.set()
    assert stream.ended.wait(10)
    serve.stop()
    assert spent() == 2


@pytest.mark.parametrize("route", [PRICE, AMOUNT], ids=["price", "amount"])
def test_a_client_that_stalls_pays(framed, serve, spent, route):
    """Whoever reads what is sent at first and then nothing, until the app gives up, has had a stream."""
    stream = Stream("async")

    async def impatient(scope, receive, send):
        async def in_time(message):
            await asyncio.wait_for(send(message), 0.3)

        await app(scope, receive, in_time)

    stream.go_on.set()
    app, stream.app = stream.app, FastAPI()
    stream.app.mount("/", impatient)
    client = serve(framed(stream.app, route))
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=20) as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\nx-account: acct_1\r\n\r\n")
        assert connection.recv(100)
        assert stream.ended.wait(10)
    serve.stop()
    assert spent() == 5


@pytest.mark.parametrize(("route", "costs"), [(PRICE, 0), (AMOUNT, 5)], ids=["price", "amount"])
def test_a_task_that_fails_beside_the_one_that_sends(wrap, serve, spent, route, costs):
    """A client that takes all there is pays no price for an app that fails while it sends."""

    async def app(scope, receive, send):
        async def send_on():
            # It lets go only where it waits for its client, so that is where it is cancelled.
            while True:
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})

        async def model():
            await asyncio.sleep(0.2)
            raise ValueError("no")

        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send_on())
            tasks.create_task(model())

    client = serve(wrap(app, route))
    with pytest.raises(httpx.RemoteProtocolError), client.stream("GET", "/stream") as answer:
        for _ in answer.iter_raw():
            pass
    serve.stop()
    assert spent() == costs


@pytest.mark.parametrize(("route", "costs"), [(PRICE, 0), (AMOUNT, 5)], ids=["price", "amount"])
def test_a_second_response_is_an_app_that_fails(framed, serve, spent, route, costs):
    """An app that answers 500 after bytes of another response has given those bytes, and fails: its server refuses it."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    outer = FastAPI()
    outer.mount("/", app)
    client = serve(framed(outer, route))
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/stream")
    serve.stop()
    assert spent() == costs


@pytest.mark.parametrize(("route", "costs"), [(PRICE, 0), (AMOUNT, 5)], ids=["price", "amount"])
def test_an_app_that_fails_in_its_stream(framed, serve, spent, route, costs):
    """The client sees a broken stream; a flat price is not charged, an unknown usage is."""
    stream = Stream("async")

    async def chunks():
        yield b"first"
        await asyncio.to_thread(stream.go_on.wait, 20)
        raise ValueError("the model broke down")

    stream.chunks = chunks
    client = serve(framed(stream.app, route))
    with pytest.raises(httpx.RemoteProtocolError), client.stream("GET", "/stream") as answer:
        for chunk in answer.iter_raw():
            assert chunk == b"first"
            stream.go_on.set()
    serve.stop()
    assert spent() == costs


def test_an_event_stream_that_runs_out(framed, meter, serve, tokens, spent):
    """An event stream ends well with the payload as its last event, and what was used is charged."""
    stream = Stream("async", "text/event-stream")

    async def chunks():
        yield b"data: first\n\n"
        current_reservation().record(tokens(2))
        async with meter.reserve(ACCOUNT, "app.more", amount=500):
            raise AssertionError("not reached")

    stream.chunks = chunks
    client = serve(framed(stream.app, AMOUNT))
    body = client.get("/stream").text
    assert body.startswith("data: first\n\nevent: payment_required\ndata: {")
    assert '"code":"INSUFFICIENT_CREDITS"' in body
    serve.stop()
    assert spent() == 2


@pytest.fixture
def api(meter, tokens):
    """A FastAPI app with every kind of endpoint."""
    app = FastAPI()
    seen = app.state.seen = []

    @app.get("/async")
    async def plain():
        seen.append(current_reservation().amount)

    @app.get("/sync")
    def threaded():
        seen.append(current_reservation().amount)

    @app.get("/background")
    def background(tasks: BackgroundTasks):
        tasks.add_task(lambda: current_reservation().record(tokens(3)))

    @app.get("/denied/sync")
    def denied():
        with meter.reserve(ACCOUNT, "app.more", amount=500):
            raise AssertionError("not reached")

    @app.get("/denied/async")
    async def adenied():
        async with meter.reserve(ACCOUNT, "app.more", amount=500):
            raise AssertionError("not reached")

    @app.post("/validated")
    async def validated(number: Annotated[int, Body()]):
        raise AssertionError("not reached")

    @app.get("/refused")
    async def refused():
        raise HTTPException(418)

    @app.get("/broken")
    async def broken():
        raise ValueError("no")

    @app.get("/later")
    async def later():
        return StreamingResponse(_later(seen), media_type="text/plain")

    return app


def _later(seen):
    seen.append(current_reservation().amount)
    yield b"x"


@pytest.mark.parametrize("path", ["/async", "/sync", "/later"])
def test_the_reservation_reaches_every_endpoint(framed, api, serve, spent, path):
    """In the loop, in a thread and in a body iterator the request's reservation is current."""
    assert serve(framed(api, PRICE)).get(path).status_code == 200
    assert api.state.seen == [5]
    serve.stop()
    assert spent() == 5


def test_background_tasks_may_record(framed, api, serve, spent):
    """What a background task used is what is charged."""
    assert serve(framed(api, AMOUNT)).get("/background").status_code == 200
    serve.stop()
    assert spent() == 3


@pytest.mark.parametrize("path", ["/denied/sync", "/denied/async"])
@pytest.mark.parametrize("route", [AMOUNT, Route("GET", "/elsewhere", "app.chat", price=5)], ids=["listed", "unlisted"])
def test_a_denial_below_is_a_402(framed, api, serve, spent, path, route):
    """Whether FastAPI is inside or outside, and its endpoint in a thread or not, the client gets the 402."""
    answer = serve(framed(api, route)).get(path)
    assert answer.status_code == 402
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["operation"] == "app.more"
    serve.stop()
    assert spent() == 0


@pytest.mark.parametrize(("path", "status"), [("/refused", 418), ("/broken", 500), ("/nowhere", 404)])
def test_what_fails_costs_nothing(framed, api, serve, spent, path, status):
    """A status of 400 or more with nothing recorded is a cancel."""
    assert serve(framed(api, PRICE)).get(path).status_code == status
    serve.stop()
    assert spent() == 0


def test_a_validation_error_costs_nothing(framed, api, serve, spent):
    """FastAPI's 422 is a cancel."""
    assert serve(framed(api, PRICE)).post("/validated", json="x").status_code == 422
    serve.stop()
    assert spent() == 0


def test_a_denial_through_base_http_middleware(framed, api, serve):
    """A middleware that wraps errors in task groups does not hide a denial."""

    async def passing(request, call_next):
        return await call_next(request)

    api.add_middleware(BaseHTTPMiddleware, dispatch=passing)
    assert serve(framed(api, AMOUNT)).get("/denied/async").status_code == 402


def test_starlettes_head(wrap, serve, spent):
    """Starlette answers HEAD with a GET endpoint: listed, it is charged like one."""

    async def endpoint(request):
        return PlainTextResponse("hello")

    client = serve(wrap(Starlette(routes=[StarletteRoute("/chat", endpoint)]), PRICE))
    assert client.head("/chat").headers["content-length"] == "5"
    serve.stop()
    assert spent() == 5


def test_a_402_keeps_the_connection(wrap, serve, spent):
    """The 402 has a length, so the next request may use the same connection."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    client = serve(wrap(app, Route("GET", "/dear", "app.dear", price=500), PRICE))
    assert client.get("/dear").status_code == 402
    assert client.head("/dear").status_code == 402
    assert client.head("/cheap").status_code == 200
    assert client.get("/cheap").text == "ok"
    serve.stop()
    assert spent() == 10


def test_many_at_once_never_overdraw(wrap, serve, control, spent):
    """Of ten requests at once on credits for six, six are carried out and four are told to buy."""
    control.account(ACCOUNT, balance=30)
    inside, full = [], asyncio.Event()

    async def app(scope, receive, send):
        inside.append(scope)
        if len(inside) == 6:
            full.set()
        await asyncio.wait_for(full.wait(), 20)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    client = serve(wrap(app, PRICE))
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: client.get("/chat").status_code, range(10)))
    assert sorted(answers) == [200] * 6 + [402] * 4
    serve.stop()
    assert spent() == 30
    assert control.books(ACCOUNT)["available"] == 0


def test_many_streams_broken_off(wrap, serve, control, spent):
    """Of forty streams half are broken off in the middle: all are paid, none is free, no hold stays."""
    control.account(ACCOUNT, balance=1000)
    stream = Stream("async")
    client = serve(wrap(stream.app, PRICE))

    def read(number):
        with client.stream("GET", "/stream") as answer:
            chunks = answer.iter_raw()
            next(chunks)
            stream.go_on.set()
            return number % 2 or sum(map(len, chunks))

    with ThreadPoolExecutor(20) as pool:
        assert sorted(pool.map(read, range(40))) == [1] * 20 + [10_000_000] * 20
    serve.stop()
    assert spent() == 200
