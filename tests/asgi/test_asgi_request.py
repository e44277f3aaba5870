"""Sizes from the request: path, headers and JSON body, read ahead of the app within a bound, and never eaten."""

import json
import socket

import pytest
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse

from countwerk_meter import current_reservation
from countwerk_meter.asgi import RequestRefusedError, Route
from countwerk_meter.errors import ConfigurationError

PRICES = {
    "profileVersionId": "test",
    "eurPerCredit": 1,
    "rateRules": [
        {"id": "in", "dimensionKey": "llm_input_tokens", "creditsPerUnit": 0.000001},
        {"id": "out", "dimensionKey": "llm_output_tokens", "creditsPerUnit": 1},
    ],
}


async def by_body(request):
    return (await request.json())["cost"]


async def upload(scope, receive, send):
    """Answer with the credits held, and with the body as it came in, part by part."""
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message["body"])
        more = message.get("more_body", False)
    held = current_reservation().amount
    await send({"type": "http.response.start", "status": 200, "headers": []})
    body = json.dumps([held, [part.decode() for part in parts]]).encode()
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def post(request_to, scope_of):
    """Send a body in parts; gives the request."""

    async def send(app, *parts, headers=(), leaves=False, **scope):
        request = request_to(app, scope_of(headers=headers, **scope))
        messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        messages[-1]["more_body"] = leaves
        request.read = 0

        async def receive():
            if request.read == len(messages):
                return {"type": "http.disconnect"}
            request.read += 1
            return messages[request.read - 1]

        request.receive = receive
        return await request.run()

    return send


@pytest.mark.parametrize("kind", ["price", "amount", "estimate"])
async def test_a_size_from_the_body(wrap, post, spent, kind):
    """The callable reads the JSON, and the app reads the same body in the same parts."""
    request = await post(wrap(upload, Route("POST", "/chat", "app.call", **{kind: by_body})), b'{"cost"', b": 7}")
    assert request.json == [7, ['{"cost"', ": 7}"]]
    assert spent() == 7


async def test_the_body_is_parsed_once(wrap, post, spent, tokens):
    """Several callables of one route see the same object."""
    seen = []

    async def size(request):
        seen.append(await request.json())
        return tokens(3)

    async def model(request):
        seen.append(await request.json())
        assert await request.body() == b'{"a": 1}'
        return "m1"

    route = Route("POST", "/chat", "app.call", estimate=size, model=model)
    await post(wrap(upload, route), b'{"a": 1}')
    assert seen[0] is seen[1]
    assert spent() == 3


async def test_messages_are_estimated(make_meter, wrap, post, control):
    """Messages and an output cap from the body make the hold; what is recorded is charged."""

    async def messages(request):
        return (await request.json())["messages"]

    async def cap(request):
        return (await request.json())["max_tokens"]

    route = Route("POST", "/chat", "app.call", estimate=messages, max_output_tokens=cap)
    body = json.dumps({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 11}).encode()
    meter = make_meter(prices=PRICES)
    assert (await post(wrap(upload, route, meter=meter), body)).json[0] == 12
    assert meter.flush()
    assert control.books("acct_1")["spent"] == 12


async def test_a_balance_that_pays_for_a_part(make_meter, wrap, post, control):
    """With `clamp` what is affordable is held, and the app is told how much output that is."""
    control.account("acct_1", balance=4)
    seen = []

    async def app(scope, receive, send):
        seen.append(current_reservation().max_tokens)
        await upload(scope, receive, send)

    async def messages(request):
        return (await request.json())["messages"]

    route = Route("POST", "/chat", "app.call", estimate=messages, max_output_tokens=11, clamp=True)
    body = json.dumps({"messages": [{"role": "user", "content": "hello"}]}).encode()
    meter = make_meter(prices=PRICES)
    assert (await post(wrap(app, route, meter=meter), body)).json[0] == 4
    assert seen == [3]
    assert meter.flush()
    assert control.books("acct_1")["spent"] == 4


@pytest.mark.parametrize(
    ("parts", "headers", "read"),
    [
        ([b"x" * 11], [], 1),
        ([b"x" * 6, b"x" * 6, b"x"], [], 2),
        ([b"x" * 11], [(b"content-length", b"11")], 0),
        ([b"x" * 11], [(b"content-length", b"9" * 5000)], 0),
    ],
)
async def test_a_body_that_is_too_long(wrap, post, control, parts, headers, read):
    """No more than the bound is read ahead, nothing is held, and the client is told."""
    control.clear_requests()
    route = Route("POST", "/chat", "app.call", price=by_body, max_body=10)
    request = await post(wrap(upload, route), *parts, headers=headers)
    assert (request.status, request.read) == (413, read)
    assert request.headers[b"content-type"] == b"application/problem+json"
    assert request.json["code"] == "BODY_TOO_LONG"
    assert not control.requests()["counts"]


async def test_a_callable_may_price_a_long_body_otherwise(wrap, post, spent):
    """What was read before it proved too long goes to the app too."""

    async def size(request):
        for _ in range(2):
            with pytest.raises(RequestRefusedError):
                await request.body()
        return 9

    route = Route("POST", "/chat", "app.call", price=size, max_body=3)
    assert (await post(wrap(upload, route), b"ab", b"cd", b"ef")).json == [9, ["ab", "cd", "ef"]]
    assert spent() == 9


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe\xff", b"[" * 200_000, b"1" * 5000])
async def test_a_body_that_is_no_json(wrap, post, control, body):
    """It is the client's fault: 400, and neither the app nor the ledger is troubled."""
    control.clear_requests()
    request = await post(wrap(upload, Route("POST", "/chat", "app.call", price=by_body)), body)
    assert (request.status, request.json["code"]) == (400, "MALFORMED_JSON")
    assert not control.requests()["counts"]


async def test_a_request_that_cannot_be_priced(wrap, post, control):
    """The callable may refuse it itself, in its own words."""
    control.clear_requests()

    async def size(request):
        if "cost" not in await request.json():
            raise RequestRefusedError("name a cost", status=422, code="NO_COST")

    request = await post(wrap(upload, Route("POST", "/chat", "app.call", price=size)), b"{}")
    assert (request.status, request.json["code"], request.json["detail"]) == (422, "NO_COST", "name a cost")
    assert not control.requests()["counts"]


def test_a_refusal_is_the_clients_fault():
    """No other status can be answered with it."""
    with pytest.raises(ValueError, match="400 to 499"):
        RequestRefusedError("no", status=500)


async def test_a_client_that_leaves_while_its_body_is_read(wrap, post, control):
    """Nobody is answered, nothing is held, and the app is not called."""
    control.clear_requests()
    route = Route("POST", "/chat", "app.call", price=by_body)
    assert not (await post(wrap(upload, route), b'{"co', leaves=True)).sent
    assert not control.requests()["counts"]


async def test_a_stranger_makes_nobody_read(wrap, post):
    """Without an account the size is not asked for, so no body is read ahead."""
    ran = []

    async def app(scope, receive, send):
        ran.append(request_of_strangers)
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    request_of_strangers = object()
    route = Route("POST", "/chat", "app.call", price=by_body)
    request = await post(wrap(app, route, account_id=lambda scope: None), b'{"cost": 7}')
    assert (request.status, request.read) == (401, 0)
    assert ran


@pytest.mark.parametrize(
    ("template", "path", "root_path", "parameters"),
    [
        ("/chat/{id}/{rest:path}", "/chat/7/a/b", "", {"id": "7", "rest": "a/b"}),
        ("/{id}", "/v1/7", "/v1", {"id": "7"}),
        ("/v1/{id}", "/7", "/v1", {"id": "7"}),
        ("/chat", "/chat", "", {}),
    ],
)
async def test_path_parameters(wrap, post, template, path, root_path, parameters):
    """A size may depend on what stands in the path."""
    seen = []

    def size(request):
        seen.append(request.path_params)
        return 1

    await post(wrap(upload, Route("POST", template, "app.call", price=size)), b"x", path=path, root_path=root_path)
    assert seen == [parameters]


async def test_a_request_is_its_scope(wrap, post):
    """What a callable of the scope reads and writes is the app's own scope."""
    seen = []

    def size(request):
        request["mark"] = "set"
        request["more"] = 1
        del request["more"]
        assert request.header("X-Account") == "acct_1"
        assert request.header("none") is None
        assert dict(request) == {key: request[key] for key in request}
        assert len(request) == len(dict(request))
        assert repr(request) == "<Request POST /chat>"
        return 1

    async def app(scope, receive, send):
        seen.append((scope["mark"], "more" in scope))
        await upload(scope, receive, send)

    await post(wrap(app, Route("POST", "/chat", "app.call", price=size)), b"x")
    assert seen == [("set", False)]


@pytest.mark.parametrize(
    "wrong", [{"path": "/{a}/{a}", "price": 1}, {"max_body": -1, "price": 1}, {"clamp": True, "price": 1}]
)
def test_routes_that_cannot_be(wrap, wrong):
    """What cannot be meant is refused at the start."""
    with pytest.raises(ConfigurationError):
        wrap(upload, Route("POST", operation="app.call", **({"path": "/chat"} | wrong)))


@pytest.mark.parametrize("choice", ["defer", "perhaps"])
def test_a_route_that_would_run_unpaid_without_a_limit(wrap, choice):
    """`defer` needs the meter's debt limit."""
    with pytest.raises(ConfigurationError, match=r"debt_limit|deny or defer"):
        wrap(upload, Route("POST", "/chat", "app.call", price=1, on_unavailable=choice))


async def test_a_route_of_its_own_policy(make_meter, wrap, post, control):
    """One route runs while the ledger is down and is charged later, the others wait for it."""
    meter = make_meter(debt_limit=50)
    routes = [
        Route("POST", "/cheap", "app.cheap", price=2, on_unavailable="defer"),
        Route("POST", "/dear", "app.dear", price=9),
    ]
    app = wrap(upload, *routes, meter=meter)
    control.faults([{"path": "/api/credits/reserve", "kind": "status", "status": 503, "times": 2}])
    assert (await post(app, b"x", path="/cheap")).status == 200
    assert (await post(app, b"x", path="/dear")).status == 503
    assert meter.flush()
    assert control.books("acct_1")["spent"] == 2


@pytest.mark.parametrize(("trusted", "own", "second"), [(False, True, 409), (True, False, 200)])
async def test_a_route_of_its_own_trust(wrap, post, trusted, own, second):
    """Whose identity is believed may be another question on one route."""
    app = wrap(upload, Route("POST", "/chat", "app.call", price=1, trusted_callers=own), trusted_callers=trusted)
    key = [(b"idempotency-key", b"one")]
    assert [(await post(app, b"x", headers=key)).status for _ in range(2)] == [200, second]


def test_through_uvicorn_and_fastapi(wrap, serve, spent):
    """Over a real socket the endpoint validates and reads what the callable has read; a 422 costs nothing."""
    api = FastAPI()

    @api.post("/chat")
    async def chat(request: Request, body: dict[str, int]):
        assert json.loads(await request.body()) == body
        return body | {"held": current_reservation().amount}

    client = serve(wrap(api, Route("POST", "/chat", "app.call", price=by_body)))
    assert client.post("/chat", json={"cost": 6}).json() == {"cost": 6, "held": 6}
    assert client.post("/chat", json={"cost": 5, "word": "x"}).status_code == 422
    serve.stop()
    assert spent() == 6


def test_a_long_body_over_a_real_socket(wrap, serve):
    """The 413 arrives although the client has not sent everything yet."""

    async def app(scope, receive, send):
        await PlainTextResponse("no")(scope, receive, send)

    client = serve(wrap(app, Route("POST", "/chat", "app.call", price=by_body, max_body=1000)))
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        head = "POST /chat HTTP/1.1\r\nHost: x\r\nx-account: acct_1\r\nContent-Length: 100000000\r\n\r\n"
        connection.sendall(head.encode() + b"x" * 2000)
        connection.settimeout(20)
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")
