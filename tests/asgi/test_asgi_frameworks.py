"""
Starlette, FastAPI, Litestar, Quart and Django's ASGI handler, through uvicorn, hypercorn and granian, over real sockets.

Every framework ends its responses in its own way; what a request costs is the same in all of them.
"""

import asyncio
import gc
import logging
import socket
import threading

import granian.server.embed
import httpx
import hypercorn.asyncio
import litestar
import litestar.response
import pytest
import quart
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from fastapi import FastAPI
from granian.constants import Interfaces
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route as StarletteRoute

from countwerk_meter import current_reservation
from countwerk_meter.asgi import Route

pytestmark = pytest.mark.usefixtures("unmeasured")

ACCOUNT = "acct_1"
PRICE = Route("GET", "/{rest:path}", "app.chat", price=5)
AMOUNT = Route("GET", "/{rest:path}", "app.chat", amount=5)


class Work:
    """What the endpoints do, whatever their framework."""

    def __init__(self, meter, tokens):
        self.meter = meter
        self.tokens = tokens
        self.go_on = threading.Event()
        self.ended = threading.Event()

    def record(self):
        current_reservation().record(self.tokens(2))

    async def denied(self):
        async with self.meter.reserve(ACCOUNT, "app.more", amount=500):
            raise AssertionError("not reached")

    def denied_sync(self):
        with self.meter.reserve(ACCOUNT, "app.more", amount=500):
            raise AssertionError("not reached")

    async def caught(self):
        try:
            await self.denied()
        except RuntimeError:
            async with self.meter.reserve(ACCOUNT, "app.less", amount=1) as less:
                less.cancel()
        raise ValueError("and broken after all")

    async def words(self):
        """A stream that waits after its first chunk."""
        yield b"first"
        await asyncio.to_thread(self.go_on.wait, 20)
        for _ in range(500):
            yield b"x" * 10_000
            await asyncio.sleep(0)

    async def broken(self):
        """A stream that fails after its first chunk."""
        yield b"first"
        raise ValueError("no")


def functions(work, text, streaming):
    """Return the endpoints of a framework whose endpoints are functions of a request, with its kinds of response."""

    async def plain(request):
        work.record()
        return text("ok")

    def sync(request):
        work.record()
        return text("ok")

    async def denied(request):
        await work.denied()

    async def caught(request):
        await work.caught()

    def denied_sync(request):
        work.denied_sync()

    async def stream(request):
        return streaming(work.words())

    async def broken(request):
        return streaming(work.broken())

    return [plain, sync, denied, denied_sync, caught, stream, broken]


def with_starlette(work):
    endpoints = functions(work, PlainTextResponse, StreamingResponse)
    return Starlette(routes=[StarletteRoute(f"/{one.__name__}", one) for one in endpoints])


def with_fastapi(work):
    app = FastAPI()

    @app.get("/plain")
    async def plain():
        work.record()

    @app.get("/sync")
    def sync():
        work.record()

    app.get("/denied")(work.denied)
    app.get("/caught")(work.caught)
    app.get("/denied_sync")(work.denied_sync)

    @app.get("/stream")
    async def stream():
        return StreamingResponse(work.words())

    @app.get("/broken")
    async def broken():
        return StreamingResponse(work.broken())

    return app


def with_litestar(work):
    @litestar.get("/plain")
    async def plain() -> str:
        work.record()
        return "ok"

    @litestar.get("/sync", sync_to_thread=True)
    def sync() -> str:
        work.record()
        return "ok"

    @litestar.get("/denied")
    async def denied() -> None:
        await work.denied()

    @litestar.get("/caught")
    async def caught() -> None:
        await work.caught()

    @litestar.get("/denied_sync", sync_to_thread=True)
    def denied_sync() -> None:
        work.denied_sync()

    @litestar.get("/stream")
    async def stream() -> litestar.response.Stream:
        return litestar.response.Stream(work.words())

    @litestar.get("/broken")
    async def broken() -> litestar.response.Stream:
        return litestar.response.Stream(work.broken())

    handlers = [plain, sync, denied, denied_sync, caught, stream, broken]
    return litestar.Litestar(handlers, logging_config=None, openapi_config=None)


def with_quart(work):
    app = quart.Quart("quart_app")
    for one in (work.denied, work.denied_sync, work.caught):
        app.get(f"/{one.__name__}")(one)

    @app.get("/plain")
    async def plain():
        work.record()
        return "ok"

    @app.get("/sync")
    def sync():
        work.record()
        return "ok"

    @app.get("/stream")
    async def stream():
        return work.words()

    @app.get("/broken")
    async def broken():
        return work.broken()

    return app


FRAMEWORKS = {"starlette": with_starlette, "fastapi": with_fastapi, "litestar": with_litestar, "quart": with_quart}


@pytest.fixture
def work(meter, tokens, caplog):
    # What the frameworks say of the failures that are made here.
    caplog.set_level(logging.CRITICAL)
    return Work(meter, tokens)


@pytest.fixture
def serve_with_hypercorn():
    """Serve an app with hypercorn for the length of a test."""
    stopping, threads, clients = threading.Event(), [], []

    def start(app):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        config = Config.from_mapping(bind=[f"127.0.0.1:{port}"], graceful_timeout=2, errorlog=None)

        async def run():
            await hypercorn.asyncio.serve(app, config, shutdown_trigger=lambda: asyncio.to_thread(stopping.wait))

        threads.append(threading.Thread(target=asyncio.run, args=(run(),)))
        threads[-1].start()
        transport = httpx.HTTPTransport(retries=8)
        options = {"headers": {"x-account": ACCOUNT}, "trust_env": False, "timeout": 20, "transport": transport}
        clients.append(httpx.Client(base_url=f"http://127.0.0.1:{port}", **options))
        return clients[-1]

    def stop():
        for client in clients:
            client.close()
        stopping.set()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()

    start.stop = stop
    yield start
    stop()


@pytest.fixture
def serve_with_granian():
    """Serve an app with granian, whose server is no Python, for the length of a test."""
    stopping, threads, clients = threading.Event(), [], []

    def start(app):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        options = {"interface": Interfaces.ASGINL, "log_enabled": False, "port": port}

        async def run():
            server = granian.server.embed.Server(app, **options)
            serving = asyncio.ensure_future(server.serve())
            await asyncio.to_thread(stopping.wait)
            server.stop()
            await serving

        threads.append(threading.Thread(target=asyncio.run, args=(run(),)))
        threads[-1].start()
        transport = httpx.HTTPTransport(retries=8)
        options = {"headers": {"x-account": ACCOUNT}, "trust_env": False, "timeout": 20, "transport": transport}
        clients.append(httpx.Client(base_url=f"http://127.0.0.1:{port}", **options))
        return clients[-1]

    def stop():
        for client in clients:
            client.close()
        stopping.set()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()

    start.stop = stop
    yield start
    stop()


@pytest.fixture(params=[*FRAMEWORKS, "django", "fastapi on hypercorn", "django on hypercorn", "fastapi on granian"])
def client(request, wrap, work, serve, serve_with_hypercorn, serve_with_granian, django_app):
    """Make a client of one framework's app, with its routes metered; `client.stop()` waits for every request's end."""
    framework, _, server = request.param.partition(" on ")

    def with_django(work):
        return django_app(*(path(one.__name__, one) for one in functions(work, HttpResponse, StreamingHttpResponse)))

    def make(route):
        start = {"hypercorn": serve_with_hypercorn, "granian": serve_with_granian}.get(server, serve)
        metered = wrap(FRAMEWORKS.get(framework, with_django)(work), route)

        async def app(scope, receive, send):
            try:
                await metered(scope, receive, send)
            finally:
                if scope["type"] == "http":
                    work.ended.set()

        client = start(app)
        client.stop = start.stop
        return client

    return make


def test_what_a_request_costs(client, spent):
    """What was recorded; nothing where the app refused, failed or could not pay, and the client is told which it was."""
    client = client(AMOUNT)
    assert [client.get(name).status_code for name in ("/plain", "/sync")] == [200, 200]
    for name in ("/denied", "/denied_sync"):
        answer = client.get(name)
        assert answer.status_code == 402, name
        assert answer.json()["operation"] == "app.more"
    assert client.get("/denied", headers={"accept": "text/html"}).text.startswith("<!doctype html>")
    assert client.get("/missing").status_code == 404
    assert client.get("/caught").status_code == 500
    client.stop()
    assert spent() == 4


def test_a_stream_is_charged_when_it_has_ended(client, work, spent):
    """Its first byte does not wait, and a flat price is charged once."""
    client = client(PRICE)
    with client.stream("GET", "/stream") as answer:
        chunks = answer.iter_raw()
        assert next(chunks) == b"first"
        assert not work.ended.is_set()
        work.go_on.set()
        assert sum(map(len, chunks)) == 5_000_000
    client.stop()
    assert spent() == 5


def test_a_client_that_leaves_pays(client, work, spent):
    """In the middle of a stream: the flat price in full, and no hold stays."""
    client = client(PRICE)
    with client.stream("GET", "/stream") as answer:
        assert next(answer.iter_raw()) == b"first"
    client.close()
    work.go_on.set()
    assert work.ended.wait(20)
    client.stop()
    assert spent() == 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_app_that_fails_in_its_stream(client, spent):
    """The client sees a broken stream, and a flat price is not charged."""
    client = client(PRICE)
    with pytest.raises(httpx.HTTPError), client.stream("GET", "/broken") as answer:
        for chunk in answer.iter_raw():
            assert chunk == b"first"
    client.stop()
    assert spent() == 0
    # Django leaves the request's body unclosed then, and says so when it is collected: here, not in another test.
    gc.collect()


def test_an_event_stream_that_runs_out_in_litestar(wrap, work, serve, spent):
    """It wraps what is raised in a stream into an error of its own; the stream ends with the payload all the same."""

    @litestar.get("/events")
    async def events() -> litestar.response.ServerSentEvent:
        async def words():
            yield "first"
            await work.denied()

        return litestar.response.ServerSentEvent(words())

    app = litestar.Litestar([events], logging_config=None, openapi_config=None)
    client = serve(wrap(app, Route("GET", "/events", "app.chat", amount=5)))
    first, last = client.get("/events").text.replace("\r", "").strip().split("\n\n")
    assert first == "data: first"
    assert last.startswith('event: payment_required\ndata: {"type":"about:blank","title":"Not enough credits"')
    serve.stop()
    assert spent() == 5
