"""The dependency in routes of every kind, through FastAPI and uvicorn."""

import asyncio
import socket
import threading
from typing import Annotated

import pytest
from countwerk_meter_fastapi import Credits, Reservation, add_credits
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, HTTPException, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware

from countwerk_meter import Usage, account, current_reservation
from countwerk_meter._metering.scope import current_account
from countwerk_meter.asgi import RequestRefusedError, Route
from countwerk_meter.errors import ConfigurationError

Five = Annotated[Reservation, Credits("app.chat.reply", price=5)]
Ten = Annotated[Reservation, Credits("app.chat.reply", amount=10)]


def account_of(scope):
    """Stand in for an app's authentication."""
    return dict(scope["headers"]).get(b"x-account", b"").decode() or None


@pytest.fixture
def make(meter):
    """Make an app whose routes may cost credits."""

    def app(**options):
        app = FastAPI()
        add_credits(app, **({"meter": meter, "account_id": account_of, "close_meter": False} | options))
        return app

    return app


@pytest.fixture
def app(make):
    return make()


def describe(reservation):
    return {"amount": reservation.amount, "current": current_reservation() is reservation, "account": current_account()}


HERE = {"amount": 5, "current": True, "account": "acct"}


def test_the_reservation_is_the_routes(app, serve, spent):
    """In async and sync endpoints, as an annotation and as a default, it is given, and is the current one."""

    @app.get("/async")
    async def not_sync(reservation: Five):
        return describe(reservation)

    @app.get("/sync")
    def sync(reservation: Five):
        return describe(reservation)

    @app.get("/default")
    def default(reservation: Reservation = Credits("app.chat.reply", price=5)):  # noqa: B008 - as FastAPI has it
        return describe(reservation)

    @app.get("/depends")
    def depends(reservation: Annotated[Reservation, Depends(Credits("app.chat.reply", price=5).dependency)]):
        return describe(reservation)

    client = serve(app)
    for path in ("/async", "/sync", "/default", "/depends"):
        assert client.get(path).json() == HERE
    serve.stop()
    assert spent() == 20


def test_routers_and_routes_may_list_it(app, serve, spent):
    """As a dependency that nobody takes the value of; the first that a request meets owns it."""
    router = APIRouter(prefix="/v1", dependencies=[Credits("app.router", price=2)])

    @router.get("/plain")
    def plain():
        return current_reservation().operation

    @router.get("/both")
    def both(reservation: Five):
        return reservation.operation

    @app.get("/route", dependencies=[Credits("app.route", price=3)])
    def route():
        return current_reservation().operation

    @app.get("/free")
    def free():
        return current_reservation()

    app.include_router(router)
    client = serve(app)
    paths = ("/v1/plain", "/v1/both", "/route", "/free")
    assert [client.get(path).json() for path in paths] == ["app.router", "app.router", "app.route", None]
    serve.stop()
    assert spent() == 7


def test_what_fails_costs_nothing(app, serve, spent):
    """A 422, a raised status, a returned one and a failure, in routes with the dependency."""

    @app.get("/validated/{number}")
    def validated(number: int, reservation: Five):
        raise AssertionError("not reached")

    @app.get("/raised")
    def raised(reservation: Five):
        raise HTTPException(418)

    @app.get("/returned")
    async def returned(reservation: Five):
        return Response(status_code=404)

    @app.get("/broken")
    async def broken(reservation: Five):
        raise ValueError("no")

    client = serve(app)
    statuses = [client.get(path).status_code for path in ("/validated/x", "/raised", "/returned", "/broken")]
    assert statuses == [422, 418, 404, 500]
    serve.stop()
    assert spent() == 0


def test_what_was_recorded_is_charged(app, serve, spent):
    """From the endpoint, a background task, and a yield dependency on its way out."""

    async def cleaning(reservation: Ten):
        yield reservation
        reservation.record(Usage(output_tokens=1))

    def sync_cleaning(reservation: Ten):
        yield reservation
        current_reservation().record(Usage(output_tokens=1))

    @app.get("/chat")
    def chat(
        reservation: Ten,
        tasks: BackgroundTasks,
        cleaned: Annotated[Reservation, Depends(cleaning)],
        swept: Annotated[Reservation, Depends(sync_cleaning)],
    ):
        assert cleaned is swept is reservation
        reservation.record(Usage(output_tokens=2))
        tasks.add_task(lambda: current_reservation().record(Usage(output_tokens=3)))

    assert serve(app).get("/chat").status_code == 200
    serve.stop()
    assert spent() == 7


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_streams(app, serve, spent, kind):
    """The first byte goes out while the stream runs, what is recorded in it is charged when it has ended."""
    go_on = threading.Event()

    @app.get("/stream")
    async def stream(reservation: Ten):
        return StreamingResponse(words() if kind == "async" else sync_words(), media_type="text/plain")

    async def words():
        yield "first"
        await asyncio.to_thread(go_on.wait, 20)
        current_reservation().record(Usage(output_tokens=4))
        yield "last"

    def sync_words():
        yield "first"
        go_on.wait(20)
        current_reservation().record(Usage(output_tokens=4))
        yield "last"

    with serve(app).stream("GET", "/stream") as answer:
        chunks = answer.iter_raw()
        assert next(chunks) == b"first"
        go_on.set()
        assert b"".join(chunks) == b"last"
    serve.stop()
    assert spent() == 4


def test_a_client_that_leaves_pays(app, serve, spent):
    """The flat price in full, once the response has begun."""
    ended = threading.Event()

    @app.get("/stream")
    async def stream(reservation: Five):
        return StreamingResponse(words(), media_type="text/plain")

    async def words():
        try:
            for _ in range(1000):
                yield "x" * 10_000
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    client = serve(app)
    with client.stream("GET", "/stream") as answer:
        next(answer.iter_raw())
    client.close()
    assert ended.wait(20)
    serve.stop()
    assert spent() == 5


@pytest.mark.parametrize(
    ("path", "status"), [("/refused", 422), ("/malformed", 400), ("/unavailable", 503), ("/fails", 500)]
)
def test_below_middleware_that_catches_everything(meter, serve, control, spent, path, status):
    """What the gate answers goes out, though the app's own middleware makes a 500 of every exception."""
    app = FastAPI()

    @app.middleware("http")
    async def catch(request: Request, call_next):
        try:
            return await call_next(request)
        except Exception:
            return Response("sorry", 500)

    add_credits(app, meter=meter, account_id=account_of, close_meter=False)

    def refuse(request: Request):
        raise RequestRefusedError("no")

    async def by_body(request: Request):
        return await request.json()

    @app.post("/fails", dependencies=[Credits("app.chat", price=1)])
    def fails():
        raise ValueError("no")

    for name, price in (("/refused", refuse), ("/malformed", by_body), ("/unavailable", 1)):
        app.post(name, dependencies=[Credits("app.chat", price=price)])(lambda: None)

    if path == "/unavailable":
        control.faults([{"path": "/api/credits/reserve", "kind": "status", "status": 503, "times": 1}])
    answer = serve(app).post(path)
    assert (answer.status_code, answer.text == "sorry") == (status, status == 500)
    serve.stop()
    assert spent() == 0


@pytest.mark.parametrize("kind", ["gate", "nested"])
def test_the_402(app, meter, serve, spent, kind):
    """At the gate and from below it carries the ways to buy; the endpoint does not run on."""

    @app.get("/gate")
    def gate(reservation: Annotated[Reservation, Credits("app.film", price=500)]):
        raise AssertionError("not reached")

    @app.get("/nested")
    async def nested(reservation: Ten):
        async with meter.reserve("acct", "app.film", amount=500):
            raise AssertionError("not reached")

    client = serve(app)
    answer = client.get(f"/{kind}")
    assert answer.status_code == 402
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["operation"] == "app.film"
    assert any(option["enabled"] for option in answer.json()["data"]["options"])
    assert client.get(f"/{kind}", headers={"accept": "text/html"}).text.startswith("<!doctype html>")
    serve.stop()
    assert spent() == 0


def test_the_503(app, serve, control):
    """Fail closed, as at a listed route."""

    @app.get("/chat")
    def chat(reservation: Five):
        raise AssertionError("not reached")

    control.faults([{"path": "/api/credits/reserve", "kind": "status", "status": 503, "times": 1}])
    answer = serve(app).get("/chat")
    assert (answer.status_code, answer.json()["code"]) == (503, "LEDGER_UNAVAILABLE")


def test_sizes_from_the_request(app, serve, spent):
    """A callable gets FastAPI's own request: path, query and the body that the endpoint reads too."""

    async def cost(request: Request):
        body = await request.json()
        if body["words"] < 0:
            raise RequestRefusedError("words are counted from 0")
        return body["words"] * int(request.path_params["factor"]) + int(request.query_params["more"])

    @app.post("/chat/{factor}")
    async def chat(reservation: Annotated[Reservation, Credits("app.chat.reply", price=cost)], body: dict[str, int]):
        return [reservation.amount, body["words"]]

    @app.post("/bodiless/{factor}")
    def bodiless(reservation: Annotated[Reservation, Credits("app.chat.reply", price=cost)]):
        return reservation.amount

    client = serve(app)
    assert client.post("/chat/2", params={"more": 1}, json={"words": 3}).json() == [7, 3]
    assert client.post("/bodiless/2", params={"more": 1}, json={"words": 3}).json() == 7
    refused = client.post("/chat/2", params={"more": 1}, json={"words": -1})
    assert (refused.status_code, refused.json()["detail"]) == (422, "words are counted from 0")
    serve.stop()
    assert spent() == 14


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [(b"{", 400, "MALFORMED_JSON"), (b"\xff", 400, "MALFORMED_JSON"), (b"1" * 2_000_000, 413, "BODY_TOO_LONG")],
    ids=["no JSON", "no text", "too long"],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_size_from_a_body_that_is_none(app, serve, spent, content, status, code, chunked):
    """It is the client's fault, and no more than a route's `max_body` is read for it."""

    async def cost(request: Request):
        return len(await request.json())

    @app.post("/chat")
    def chat(reservation: Annotated[Reservation, Credits("app.chat.reply", price=cost)]):
        raise AssertionError("not reached")

    answer = serve(app).post("/chat", content=iter([content]) if chunked else content)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    serve.stop()
    assert spent() == 0


def test_the_account_may_be_a_dependency(app, serve, spent):
    """A user that a dependency of the app authenticates; nobody's request is refused and holds nothing."""

    async def user(authorization: Annotated[str, Header()] = ""):
        return {"Bearer ada": "acct"}.get(authorization)

    @app.get("/chat")
    def chat(reservation: Annotated[Reservation, Credits("app.chat.reply", price=5, account=user)]):
        return reservation.account_id

    client = serve(app, **{"x-account": ""})
    assert client.get("/chat").status_code == 401
    assert client.get("/chat", headers={"authorization": "Bearer ada"}).json() == "acct"
    serve.stop()
    assert spent() == 5


def test_without_an_account_nothing_is_held(app, serve, control):
    """The middleware's callable says nobody: 401, and the ledger is not asked."""

    @app.get("/chat")
    def chat(reservation: Five):
        raise AssertionError("not reached")

    control.clear_requests()
    assert serve(app, **{"x-account": ""}).get("/chat").status_code == 401
    assert not control.requests()["counts"]


def test_trusted_callers(make, serve, spent):
    """A trusted request sent again is one charge; an untrusted one pays every time, and a route may differ."""
    app = make(trusted_callers=True)

    @app.get("/trusted")
    def trusted(reservation: Five):
        return {}

    @app.get("/not")
    def untrusted(reservation: Annotated[Reservation, Credits("app.chat.reply", price=5, trusted_callers=False)]):
        return {}

    client = serve(app, **{"idempotency-key": "one"})
    assert [client.get("/trusted").status_code for _ in range(2)] == [200, 409]
    assert [client.get("/not").status_code for _ in range(2)] == [200, 200]
    serve.stop()
    assert spent() == 15


def test_answer_headers(make, serve):
    """A route with the dependency tells what is held before, and what was charged after."""
    app = make(answer_headers=True)

    @app.get("/stream")
    def stream(reservation: Ten):
        reservation.settle(4)
        return StreamingResponse(iter(["data: x\n\n"]), media_type="text/event-stream")

    answer = serve(app).get("/stream")
    assert answer.headers["credits-reserved"] == "10"
    assert answer.headers["credits-event-id"].startswith("cw.")
    assert answer.text.startswith('data: x\n\nevent: credits\ndata: {"charged":4,')


def test_a_listed_route_owns_its_request(make, serve, spent):
    """Middleware and dependency on one request charge once."""
    app = make(routes=[Route("GET", "/chat", "app.listed", price=3)])

    @app.get("/chat")
    def chat(reservation: Five):
        return reservation.operation

    assert serve(app).get("/chat").json() == "app.listed"
    serve.stop()
    assert spent() == 3


def test_below_other_middleware(app, serve, spent):
    """A `BaseHTTPMiddleware` runs the app in a task of its own, and the request is still one."""

    async def passing(request, call_next):
        return await call_next(request)

    @app.get("/chat")
    async def chat(reservation: Five):
        return describe(reservation)

    app.user_middleware.append(app.user_middleware[0].__class__(BaseHTTPMiddleware, dispatch=passing))
    client = serve(app)
    assert client.get("/chat").json() == HERE
    serve.stop()
    assert spent() == 5


def test_the_next_request_is_nobodys(app, serve, spent):
    """What a dependency made current ends with its request, on a connection that is used again."""

    @app.get("/chat")
    async def chat(reservation: Five):
        return describe(reservation)

    @app.get("/free")
    async def free():
        return [current_reservation(), current_account()]

    client = serve(app)
    for _ in range(3):
        assert client.get("/chat").json() == HERE
        assert client.get("/free").json() == [None, None]
    serve.stop()
    assert spent() == 15


def test_a_frame_ends_with_its_request(make, serve, spent):
    """An app beside, without the middleware, gets nobody's reservation from the request before on the connection."""
    metered, bare = make(), FastAPI()

    @metered.get("/metered/chat")
    async def chat(reservation: Five, tasks: BackgroundTasks):
        # Still busy when the next request begins, from inside of the `send` that ends the response.
        tasks.add_task(asyncio.sleep, 0.3)
        return describe(reservation)

    @bare.get("/bare/chat")
    async def unmetered(reservation: Five):
        return describe(reservation)

    async def both(scope, receive, send):
        await (metered if scope["path"].startswith("/metered") else bare)(scope, receive, send)

    url = serve(both).base_url
    with socket.create_connection((url.host, url.port), timeout=20) as connection:
        asked = b"GET /%s/chat HTTP/1.1\r\nHost: x\r\nx-account: acct\r\n%s\r\n"
        connection.sendall(asked % (b"metered", b"") + asked % (b"bare", b"Connection: close\r\n"))
        answers = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answers.count(b"HTTP/1.1 200") == 1
    assert answers.count(b"HTTP/1.1 500") == 1
    serve.stop()
    assert spent() == 5


async def test_an_outer_app_keeps_its_own(app, meter, spent):
    """Called inside of another reservation, the request leaves that one current when it ends."""

    @app.get("/chat")
    async def chat(reservation: Five):
        return {}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/chat",
        "headers": [(b"x-account", b"acct")],
        "query_string": b"",
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        sent.append(message)

    with account("outer"):
        async with meter.reserve("acct", "app.outer", amount=2) as outer:
            await app(scope, receive, send)
            assert current_reservation() is outer
        assert current_account() == "outer"
    assert sent[0]["status"] == 200
    assert spent() == 5


async def test_without_the_middleware():
    """A route that nobody would charge for is a fault that is told."""
    app = FastAPI()

    @app.get("/chat")
    async def chat(reservation: Five):
        raise AssertionError("not reached")

    scope = {"type": "http", "method": "GET", "path": "/chat", "headers": [], "query_string": b""}

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        """Nobody listens."""

    with pytest.raises(ConfigurationError, match="add_credits"):
        await app(scope, receive, send)


async def test_not_for_websockets(app):
    """A websocket's calls are metered one by one."""

    @app.websocket("/ws")
    async def ws(socket: WebSocket, reservation: Five):
        raise AssertionError("not reached")

    scope = {"type": "websocket", "path": "/ws", "headers": [(b"x-account", b"acct")], "query_string": b""}

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        """Nobody listens."""

    with pytest.raises(ConfigurationError, match="HTTP routes"):
        await app(scope, receive, send)


@pytest.mark.parametrize("wrong", [{}, {"price": 1, "amount": 1}, {"price": 1, "clamp": True}])
def test_what_cannot_be(wrong):
    """What cannot be meant is refused when the route is made."""
    with pytest.raises(ConfigurationError):
        Credits("app.chat.reply", **wrong)
