"""Which requests are metered: methods, templates, mounted apps, and the ways around a template."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.routing import Route as StarletteRoute

from countwerk_meter import current_reservation
from countwerk_meter.asgi import Route
from countwerk_meter.errors import ConfigurationError, InvalidRequestError


async def echo(scope, receive, send):
    """Answer with the operation that the request is metered as."""
    reservation = current_reservation()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    body = b"-" if reservation is None else reservation.operation.encode()
    await send({"type": "http.response.body", "body": body})


async def endpoint(request):
    """Answer the same, from Starlette."""
    reservation = current_reservation()
    return PlainTextResponse("-" if reservation is None else reservation.operation)


def price(methods, path, operation="app.call", **more):
    return Route(methods, path, operation, **({"price": 1} | more))


@pytest.mark.parametrize(
    ("template", "path", "fits"),
    [
        ("/chat", "/chat", True),
        ("/chat", "/chat/", True),
        ("/chat", "/chats", False),
        ("/chat", "/a/chat", False),
        ("/chat", "/chat\n", True),
        ("/chat", "/chat\n\n", False),
        ("/chat/", "/chat", True),
        ("/chat//a", "/chat/a", True),
        ("/chat", "//chat//", True),
        ("/chat", "chat", True),
        ("/chat", "http://h/chat;a", True),
        ("/chat", "http://[/chat", False),
        ("/chat/{id}", "/chat//7/", True),
        ("/c.at", "/chat", False),
        ("/chat/{id}", "/chat/7", True),
        ("/chat/{id}", "/chat/", False),
        ("/chat/{id}", "/chat/\n", True),
        ("/chat/{id}", "/chat/7/8", False),
        ("/chat/{id}", "/chat/a b\nc", True),
        ("/chat/{id:int}/say", "/chat/7/say", True),
        ("/chat/{id}.json", "/chat/7.json", True),
        ("/chat/{id}.json", "/chat/.json", False),
        ("/{a}/{b}", "/x/y", True),
        ("/files/{rest:path}", "/files/", True),
        ("/files/{rest:path}", "/files/a/b\nc", True),
        ("/files/{rest:path}", "/files", False),
        ("/files/{rest:path}/meta", "/files/a/b/meta", True),
        ("/", "/", True),
    ],
)
async def test_templates(wrap, request_to, scope_of, template, path, fits):
    """A template fits a path, or does not."""
    request = await request_to(wrap(echo, price("POST", template)), scope_of(path=path)).run()
    assert request.body == (b"app.call" if fits else b"-")


@pytest.mark.parametrize(
    ("listed", "method", "fits"),
    [
        ("POST", "POST", True),
        ("post", "POST", True),
        (["get", "POST"], "GET", True),
        ("GET", "HEAD", True),
        ("POST", "HEAD", False),
        ("*", "PURGE", True),
        (["GET", "HEAD"], "HEAD", True),
        ("POST", "OPTIONS", False),
        ("POST", "post", True),
    ],
)
async def test_methods(wrap, request_to, scope_of, listed, method, fits):
    """Only listed methods are metered, in whatever case they are written."""
    request = await request_to(wrap(echo, price(listed, "/chat")), scope_of(method=method)).run()
    assert request.body == (b"app.call" if fits else b"-")


async def test_the_first_route_wins(wrap, request_to, scope_of):
    """Routes are tried in their order."""
    app = wrap(echo, price("POST", "/chat/new", "app.new"), price("POST", "/chat/{id}", "app.any"))
    assert (await request_to(app, scope_of(path="/chat/new")).run()).body == b"app.new"
    assert (await request_to(app, scope_of(path="/chat/7")).run()).body == b"app.any"


@pytest.mark.parametrize(
    ("template", "path", "root_path", "fits"),
    [
        ("/chat", "/v1/chat", "/v1", True),
        ("/v1/chat", "/v1/chat", "/v1", True),
        ("/chat", "/chat", "/v1", True),
        ("/v1/chat", "/chat", "/v1", True),
        ("/chat", "/v1/chat", "/v1/", True),
        ("/chat", "/v1chat", "/v1", True),
        ("/chat", "/v1/chat", "", False),
        ("/", "/v1/", "/v1", True),
        ("/chat", "/v1", "/v1", False),
        ("/chat", "/v2/chat", "/v1", False),
    ],
)
async def test_root_path(wrap, request_to, scope_of, template, path, root_path, fits):
    """A template holds with and without `root_path`, whether or not the server's path includes it."""
    scope = scope_of(path=path, root_path=root_path)
    request = await request_to(wrap(echo, price("POST", template)), scope).run()
    assert request.body == (b"app.call" if fits else b"-")


@pytest.mark.parametrize("template", ["/chat/{id}", "/v1/chat/{id}"])
def test_inside_a_mounted_app(wrap, serve, template):
    """Around a mounted app both its own path and the whole one may be listed."""
    inner = wrap(Starlette(routes=[StarletteRoute("/chat/{id}", endpoint)]), price("GET", template))
    client = serve(Starlette(routes=[Mount("/v1", inner), Mount("/other", inner)]))
    assert client.get("/v1/chat/7").text == "app.call"
    assert client.get("/v1/elsewhere").status_code == 404


def test_in_front_of_a_mounted_app(wrap, serve):
    """Around the outer app the whole path is listed, and the mounted app's own is another."""
    outer = Starlette(routes=[Mount("/v1", Starlette(routes=[StarletteRoute("/chat", endpoint)]))])
    client = serve(wrap(outer, price("GET", "/v1/chat")))
    assert client.get("/v1/chat").text == "app.call"


def test_no_way_around_a_template(wrap, serve):
    """Whatever spelling reaches Starlette's endpoint is metered."""
    app = Starlette(routes=[StarletteRoute("/chat/{id}", endpoint), StarletteRoute("/chat", endpoint)])
    client = serve(wrap(app, price("GET", "/chat/{id}"), price("GET", "/chat")), root_path="/v1")
    reached = []
    for path in [
        "/chat",
        "/chat%0A",
        "/%63hat",
        "/chat/7%0A",
        "/chat/%0A",
        "/chat/7%2F8",
        "/chat//",
        "//chat",
        "/CHAT",
    ]:
        answer = client.get(path)
        if answer.status_code == 200:
            reached.append(path)
            assert answer.text == "app.call", path
    assert {"/chat", "/chat%0A", "/%63hat", "/chat/7%0A"} <= set(reached)


@pytest.mark.parametrize(
    "wrong",
    [
        {"methods": []},
        {"methods": ""},
        {"methods": "GET,POST"},
        {"path": "chat"},
        {"path": "/{id"},
        {"path": "/{id}}"},
        {"path": "/{1}"},
        {"path": "/{id:nonsense}"},
        {"path": "/{a:path}/{b:path}"},
        {"amount": 2},
        {"price": None},
    ],
)
def test_malformed_routes(wrong):
    """What cannot be meant is refused when the route is made."""
    good = {"methods": "GET", "path": "/chat", "operation": "app.chat", "price": 1}
    with pytest.raises(ConfigurationError):
        Route(**(good | wrong))


@pytest.mark.parametrize("wrong", [{"operation": "A chat"}, {"price": 0}, {"price": 1.5}, {"validity": 0}])
def test_routes_that_no_ledger_takes(wrong):
    """An operation, a price or a validity that would be refused is refused when the route is made."""
    good = {"methods": "GET", "path": "/chat", "operation": "app.chat", "price": 1}
    with pytest.raises(InvalidRequestError):
        Route(**(good | wrong))


def test_an_estimate_needs_prices(make_meter, wrap, tokens):
    """A fixed estimate that the meter cannot price is refused when the middleware is made."""
    with pytest.raises(ConfigurationError, match="price profile"):
        wrap(echo, Route("GET", "/chat", "app.chat", estimate=tokens(3)), meter=make_meter())


def test_a_route_tells_what_it_is():
    """Its repr names methods, path and operation."""
    assert repr(price(["POST", "get"], "/chat")) == "<Route GET,POST /chat app.call>"


async def later(scope):
    return 4


@pytest.mark.parametrize("size", [{"price": 4}, {"amount": lambda scope: 4}, {"price": later}, {"estimate": later}])
async def test_sizes_may_depend_on_the_request(wrap, request_to, spent, size):
    """A size is a value, or a callable of the scope, sync or async."""
    await request_to(wrap(echo, Route("POST", "/chat", "app.call", **size))).run()
    assert spent() == 4


@pytest.mark.parametrize("model", [None, "m1"])
async def test_estimates_are_priced(wrap, request_to, tokens, spent, model):
    """An estimate may be computed from the request, and is priced with the profile."""
    route = Route("POST", "/chat", "app.call", estimate=lambda scope: tokens(6), model=model)
    await request_to(wrap(echo, route)).run()
    fixed = Route("POST", "/chat", "app.call", estimate=tokens(7), model=model)
    await request_to(wrap(echo, fixed)).run()
    assert spent() == 13


@pytest.mark.parametrize("size", [{"price": lambda scope: 0}, {"estimate": lambda scope: 1.5}])
async def test_sizes_that_are_none(wrap, request_to, control, size):
    """A size that is no size is the app's fault: it is raised, and nothing reaches the ledger."""
    control.clear_requests()
    with pytest.raises(InvalidRequestError):
        await request_to(wrap(echo, Route("POST", "/chat", "app.call", **size))).run()
    assert not control.requests()["counts"]


async def test_the_hold_is_the_routes(wrap, request_to, control, spent):
    """Description and validity of the route are the hold's."""
    books = []

    async def app(scope, receive, send):
        books.append(control.books("acct_1"))
        await echo(scope, receive, send)

    await request_to(wrap(app, price("POST", "/chat", description="A reply", validity=30))).run()
    (hold,) = books[0]["reservations"]
    assert hold["description"].startswith("A reply [cw.")
    assert spent() == 1


async def test_top_up(meter, wrap, request_to, control, spent):
    """With `top_up` a nested call that does not fit is drawn on what the route holds in addition."""

    async def app(scope, receive, send):
        async with meter.reserve("acct_1", "app.inner", amount=9):
            pass
        await echo(scope, receive, send)

    await request_to(wrap(app, Route("POST", "/chat", "app.call", amount=2, top_up=True))).run()
    assert spent() == 9
