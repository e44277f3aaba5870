"""Websockets: they pass with their account, and a refused charge denies or closes them."""

import json
import logging

import litestar
import pytest
import quart
import websockets.exceptions
import websockets.sync.client
from fastapi import FastAPI, WebSocket
from litestar.params import FromPath

from countwerk_meter import account
from countwerk_meter._metering.scope import current_account
from countwerk_meter.asgi import Route
from countwerk_meter.errors import InsufficientCreditsError

ROUTE = Route("GET", "/ws/{id}", "app.chat", price=5)
DENIED = InsufficientCreditsError(account_id="acct_1", operation="app.inner", required=7)
ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close", "code": 1000}
DENIAL = {"extensions": {"websocket.http.response": {}}}


@pytest.fixture
def connect(wrap):
    """Run a websocket app by hand; gives what it sent."""

    async def run(app, path="/ws/1", headers=((b"x-account", b"acct_1"),), **scope):
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "websocket.connect"}

        try:
            await wrap(app, ROUTE)({"type": "websocket", "path": path, "headers": list(headers)} | scope, receive, send)
        except InsufficientCreditsError:
            sent.append("raised")
        return sent

    return run


def app_of(*messages, error=DENIED):
    async def app(scope, receive, send):
        assert (await receive())["type"] == "websocket.connect"
        for message in messages:
            await send(message)
        if error is not None:
            raise error

    return app


async def test_denied_by_a_response(connect):
    """Before the handshake the server is asked for the same 402 as elsewhere, where it can."""
    start, body = await connect(app_of(), **DENIAL)
    assert start["type"] == "websocket.http.response.start"
    assert start["status"] == 402
    assert (b"content-type", b"application/problem+json") in start["headers"]
    assert body["type"] == "websocket.http.response.body"
    assert b"INSUFFICIENT_CREDITS" in body["body"]


@pytest.mark.parametrize("path", ["/ws/1", "/elsewhere"])
@pytest.mark.parametrize(("account_id", "told"), [("acct_1", "acct_1"), ("acct_2", None), ("", None)])
async def test_only_its_own_account(connect, path, account_id, told):
    """Who is denied is told of an account where it is its own, whether the path is listed or not."""
    _, body = await connect(app_of(), path, [(b"x-account", account_id.encode())], **DENIAL)
    assert json.loads(body["body"])["data"]["account_id"] == told


@pytest.mark.parametrize("extensions", [{}, {"extensions": None}, {"extensions": {}}])
@pytest.mark.parametrize("accepted", [[], [ACCEPT]])
async def test_closed(connect, accepted, extensions):
    """Where there is no such response, and after the handshake, the connection is closed with a code."""
    sent = await connect(app_of(*accepted), **extensions)
    assert sent == [*accepted, {"type": "websocket.close", "code": 1008, "reason": "INSUFFICIENT_CREDITS"}]


async def test_closed_after_the_handshake(connect):
    """After the handshake no response is possible any more."""
    sent = await connect(app_of(ACCEPT), **DENIAL)
    assert sent[-1]["code"] == 1008


@pytest.mark.parametrize("last", [CLOSE, {"type": "websocket.http.response.start", "status": 403, "headers": []}])
async def test_ended_already(connect, last):
    """What the app ended itself is not ended again."""
    assert await connect(app_of(last), **DENIAL) == [last, "raised"]


async def test_a_client_that_took_no_close(wrap):
    """That nobody is there any more is no error of the app's."""

    async def send(message):
        if message["type"] == "websocket.close":
            raise OSError("the client has gone")

    async def receive():
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/ws/1", "headers": [(b"x-account", b"acct_1")]}
    await wrap(app_of(ACCEPT), ROUTE)(scope, receive, send)


async def test_other_errors_stay(connect):
    """What is not ours is raised on."""
    with pytest.raises(ValueError, match="no"):
        await connect(app_of(error=ValueError("no")))


CLOSED = {"type": "websocket.close", "code": 1008, "reason": "INSUFFICIENT_CREDITS"}
FAILED = {"type": "websocket.http.response.start", "status": 500, "headers": []}
SORRY = {"type": "websocket.send", "text": "no credits"}


@pytest.mark.parametrize(
    ("messages", "sent"),
    [
        ([ACCEPT, CLOSE], [ACCEPT, CLOSED]),
        ([ACCEPT, CLOSE | {"code": 1011, "reason": "Internal Server Error"}], [ACCEPT, CLOSED]),
        ([ACCEPT, CLOSE | {"code": 4500, "reason": "Internal Server Error"}], [ACCEPT, CLOSED]),
        ([ACCEPT, CLOSE | {"code": 4402}], [ACCEPT, CLOSE | {"code": 4402}]),
        ([ACCEPT, SORRY, CLOSE], [ACCEPT, SORRY, CLOSE]),
        ([CLOSE], [CLOSED]),
        ([FAILED | {"status": 403}], [FAILED | {"status": 403}]),
    ],
)
async def test_an_app_that_ends_it_after_a_refused_call(meter, connect, messages, sent):
    """An end that says nothing, or that something failed, says what it was; whatever else the app says, it says."""
    assert await connect(refused(meter, messages)) == sent


async def test_an_app_that_denies_it_after_a_refused_call(meter, connect):
    """A 500 becomes the 402, once."""
    body = {"type": "websocket.http.response.body", "body": b"sorry"}
    start, body = await connect(refused(meter, [FAILED, body]), **DENIAL)
    assert (start["status"], json.loads(body["body"])["operation"]) == (402, "app.inner")


async def test_an_app_that_ends_it_after_a_call_that_was_let_through(meter, connect):
    """What was refused before is over."""
    assert await connect(refused(meter, [ACCEPT, CLOSE], then=1)) == [ACCEPT, CLOSE]


def refused(meter, messages, *, then=None):
    """An app in which a call is refused, as frameworks do that make an answer of their own of it."""

    async def app(scope, receive, send):
        with pytest.raises(InsufficientCreditsError):
            async with meter.reserve("acct_1", "app.inner", amount=900):
                raise AssertionError("not reached")
        if then is not None:
            async with meter.reserve("acct_1", "app.inner", amount=then) as less:
                less.cancel()
        for message in messages:
            await send(message)

    return app


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/ws/1", [(b"x-account", b"acct_1")], "acct_1"),
        ("/ws/1", [], None),
        ("/elsewhere", [(b"x-account", b"acct_1")], "outer"),
    ],
)
async def test_the_account(connect, control, path, headers, expected):
    """On a listed path metered calls are the account's, without one nobody's; nothing is held for the connection."""
    seen = []

    async def app(scope, receive, send):
        seen.append(current_account())

    control.clear_requests()
    with account("outer"):
        await connect(app, path=path, headers=headers)
    assert seen == [expected]
    assert not control.requests()["counts"]


def with_fastapi(deny, word):
    app = FastAPI()

    @app.websocket("/ws/{kind}")
    async def talk(socket: WebSocket, kind: str):
        if kind == "denied":
            await deny()
        await socket.accept()
        async for _ in socket.iter_text():
            await socket.send_text(await word())

    return app


def with_litestar(deny, word):
    @litestar.websocket("/ws/{kind:str}")
    async def talk(socket: litestar.WebSocket, kind: FromPath[str]) -> None:
        if kind == "denied":
            await deny()
        await socket.accept()
        async for _ in socket.iter_data():
            await socket.send_text(await word())

    return litestar.Litestar([talk], logging_config=None, openapi_config=None)


def with_quart(deny, word):
    app = quart.Quart("quart_app")

    @app.websocket("/ws/<kind>")
    async def talk(kind):
        if kind == "denied":
            await deny()
        await quart.websocket.accept()
        while True:
            await quart.websocket.receive()
            await quart.websocket.send(await word())

    return app


@pytest.fixture(params=[with_fastapi, with_litestar, with_quart])
def dial(request, meter, wrap, serve, caplog):
    """Serve an app whose websockets spend credits, and connect to one of them."""
    # What the frameworks say of a call that was refused.
    caplog.set_level(logging.CRITICAL)

    @meter.metered("app.word", amount=40)
    async def word():
        return "word"

    async def deny():
        async with meter.reserve("acct_1", "app.film", amount=500):
            raise AssertionError("not reached")

    client = serve(wrap(request.param(deny, word), ROUTE))

    def connect(kind):
        url = f"ws://{client.base_url.host}:{client.base_url.port}/ws/{kind}"
        return websockets.sync.client.connect(url, additional_headers={"x-account": "acct_1"}, proxy=None)

    connect.stop = serve.stop
    return connect


def test_denied_over_a_real_socket(dial):
    """The handshake is answered with the 402 and its payload."""
    with pytest.raises(websockets.exceptions.InvalidStatus) as denied, dial("denied"):
        raise AssertionError("not reached")
    answer = denied.value.response
    assert (answer.status_code, answer.headers["content-type"]) == (402, "application/problem+json")
    assert json.loads(answer.body)["operation"] == "app.film"


def test_closed_over_a_real_socket(dial, spent):
    """What the account can pay for is said, and then the connection is closed with a code."""
    words = []
    with dial("talk") as socket:
        with pytest.raises(websockets.exceptions.ConnectionClosedError) as closed:
            while True:
                socket.send("more")
                words.append(socket.recv(timeout=20))
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "INSUFFICIENT_CREDITS")
    dial.stop()
    assert words == ["word", "word"]
    assert spent() == 80
