"""
No way around a listed route: whatever spelling of its path a framework serves is metered, and what is unlisted is not.

Each framework compares a path in its own way. The requests are raw ones over a socket: no client makes them tidy.
"""

import http.client
import logging

import litestar
import pytest
import quart
from django.http import HttpResponse
from django.urls import path as django_path
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from litestar.params import FromPath
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.routing import Route as StarletteRoute

from countwerk_meter import current_reservation
from countwerk_meter.asgi import Route

pytestmark = pytest.mark.usefixtures("unmeasured")

CHAT = Route("GET", "/chat", "app.chat", price=1)
REPLY = Route("GET", "/chat/{id}/reply", "app.reply", price=1)
FILES = Route("GET", "/files/{rest:path}", "app.files", price=1)
ROUTES = [CHAT, REPLY, FILES]
# Each is asked for as it stands and below each root.
TARGETS = [
    "/chat",
    "/chat/",
    "//chat",
    "/chat//",
    "/%63hat",
    "/%2Fchat",
    "/chat%2F",
    "/chat%0A",
    "/chat/%0A",
    "chat",
    "x:chat",
    "http://x/chat",
    "http://x//chat;a",
    "http://x/chat%23a",
    "/CHAT",
    "/chat/7/reply",
    "/chat//7/reply/",
    "/files/",
    "/files/a//b",
    "//files/a",
    "/free",
    "/free/",
    "//free/",
    "http://x/free",
]
ROOTS = ["", "/v1", "/x/v1"]


def operation():
    reservation = current_reservation()
    return "nothing" if reservation is None else reservation.operation


def starlette_routes(respond):
    """Return the routes of Starlette and FastAPI."""

    async def chat(request):
        return respond(f"app.chat {operation()}")

    async def reply(request):
        return respond(f"app.reply {operation()}")

    async def files(request):
        return respond(f"app.files {operation()}")

    async def free(request):
        return respond(f"nothing {operation()}")

    paths = {"/chat": chat, "/chat/{id}/reply": reply, "/files/{rest:path}": files, "/free": free}
    return [StarletteRoute(path, endpoint) for path, endpoint in paths.items()]


def with_starlette():
    return Starlette(routes=starlette_routes(PlainTextResponse))


def with_slashes():
    """An app whose routes end with a slash."""
    routes = [StarletteRoute(route.path + "/", route.endpoint) for route in starlette_routes(PlainTextResponse)]
    return Starlette(routes=routes)


def with_mounted():
    return Starlette(routes=[Mount("/v1", with_starlette()), *starlette_routes(PlainTextResponse)])


def with_fastapi():
    return FastAPI(routes=starlette_routes(PlainTextResponse))


def with_root():
    """A FastAPI app that knows a root of its own, which its server knows nothing of."""
    app = FastAPI(routes=starlette_routes(PlainTextResponse))
    # As the deprecated argument sets it.
    app.root_path = "/v1"
    return app


def with_root_below():
    return Starlette(routes=[Mount("/", with_root())])


def with_litestar():
    @litestar.get("/chat", media_type="text/plain")
    async def chat() -> str:
        return f"app.chat {operation()}"

    @litestar.get("/chat/{id:str}/reply", media_type="text/plain")
    async def reply(id: FromPath[str]) -> str:
        return f"app.reply {operation()}"

    @litestar.get("/files/{rest:path}", media_type="text/plain")
    async def files(rest: FromPath[str]) -> str:
        return f"app.files {operation()}"

    @litestar.get("/free", media_type="text/plain")
    async def free() -> str:
        return f"nothing {operation()}"

    return litestar.Litestar([chat, reply, files, free], logging_config=None, openapi_config=None)


def with_quart():
    app = quart.Quart("quart_app")

    @app.get("/chat", strict_slashes=False)
    async def chat():
        return f"app.chat {operation()}"

    @app.get("/chat/<id>/reply")
    async def reply(id):
        return f"app.reply {operation()}"

    @app.get("/files/<path:rest>")
    async def files(rest):
        return f"app.files {operation()}"

    @app.get("/free")
    async def free():
        return f"nothing {operation()}"

    return app


@pytest.fixture
def with_django(django_app):
    """Make a Django app, whose views take any method; with settings of its own."""
    # Each endpoint, and the operation that it is listed as.
    views = {
        "chat": "app.chat",
        "chat/<str:id>/reply": "app.reply",
        "files/<path:rest>": "app.files",
        "free": "nothing",
    }
    patterns = [
        django_path(path, lambda request, listed=listed, **_: HttpResponse(f"{listed} {operation()}"))
        for path, listed in views.items()
    ]
    return lambda **options: django_app(*patterns, **options)


@pytest.fixture(autouse=True)
def quiet(caplog):
    """What the frameworks say of a path that they do not know."""
    caplog.set_level(logging.CRITICAL)


def ask(client, targets, method="GET"):
    """Send raw requests, each on a connection of its own; gives what was answered with 200."""
    answered = {}
    for target in targets:
        connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=20)
        connection.request(method, target, headers={"x-account": "acct_1"})
        answer = connection.getresponse()
        if answer.status == 200:
            answered[target] = answer.read().decode()
        connection.close()
    return answered


APPS = {
    "starlette": (with_starlette, {"/chat", "/chat%0A", "/files/a//b"}),
    "starlette, slashes": (with_slashes, {"/chat/", "/chat/%0A"}),
    "starlette, mounted": (with_mounted, {"/v1/chat", "/v1/free"}),
    "fastapi": (with_fastapi, {"/chat"}),
    "fastapi, its own root": (with_root, {"/chat", "/v1/chat", "/v1/chat/7/reply"}),
    "fastapi, its own root below": (with_root_below, {"/chat", "/v1/chat"}),
    "litestar": (with_litestar, {"/chat", "/chat/", "//chat", "chat", "/chat//7/reply/"}),
    "quart": (with_quart, {"/chat", "/chat/", "//chat", "chat", "x:chat", "http://x/chat"}),
}
IN_FRONT = [Route("GET", "/v1" + route.path, route.operation, price=1) for route in ROUTES]


@pytest.fixture
def goes_around(wrap, serve):
    """Serve an app, ask for everything, and give what was answered, and what of it was not metered as it should be."""

    def find(app, *routes, method="GET", **options):
        client = serve(wrap(app, *(routes or ROUTES)), **options)
        targets = [root + target if target[0] == "/" else target for target in TARGETS for root in ROOTS]
        answered = ask(client, dict.fromkeys(targets), method)
        assert [text for text in answered.values() if text == "nothing nothing"]
        return answered.keys(), {target: text for target, text in answered.items() if len(set(text.split())) != 1}

    return find


@pytest.mark.parametrize("name", APPS)
@pytest.mark.parametrize("root_path", ["", "/v1"])
def test_no_way_around(goes_around, name, root_path):
    """Every spelling that reaches an endpoint is metered as that endpoint is listed, and what is free is free."""
    make, reached = APPS[name]
    routes = [*IN_FRONT, *ROUTES] if "mounted" in name else ROUTES
    answered, wrong = goes_around(make(), *routes, http="h11", root_path=root_path)
    assert wrong == {}
    assert root_path or reached <= answered


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize(
    ("root_path", "options"),
    [("", {}), ("/v1", {}), ("", {"FORCE_SCRIPT_NAME": "/v1"})],
    ids=["", "server's", "forced"],
)
def test_no_way_around_in_django(goes_around, with_django, root_path, options, http):
    """Likewise, with a script name that the settings force."""
    answered, wrong = goes_around(with_django(**options), root_path=root_path, http=http)
    assert wrong == {}
    assert ("/v1/chat" if options else "/chat") in answered


def test_django_views_take_any_method(goes_around, with_django):
    """A view that does not choose is listed with all methods."""
    routes = [Route("*", route.path, route.operation, price=1) for route in ROUTES]
    answered, wrong = goes_around(with_django(), *routes, method="PATCH")
    assert wrong == {}
    assert "/chat" in answered


@pytest.mark.parametrize("name", ["starlette", "quart"])
def test_head_is_a_get(wrap, serve, spent, name):
    """Frameworks answer HEAD with the endpoint of GET, so it costs what that costs."""
    client = serve(wrap(APPS[name][0](), *ROUTES))
    assert client.head("/chat").status_code == 200
    serve.stop()
    assert spent() == 1


@pytest.mark.parametrize(("name", "asked"), [("starlette", "/chat/"), ("starlette, slashes", "/chat")])
def test_a_redirect_to_the_other_spelling_costs_nothing(wrap, serve, spent, name, asked):
    """A client that follows its router's redirect is charged once, where the endpoint runs."""
    client = serve(wrap(APPS[name][0](), *ROUTES))
    answer = client.get(asked, follow_redirects=True)
    assert ([one.status_code for one in answer.history], answer.text) == ([307], "app.chat app.chat")
    serve.stop()
    assert spent() == 1
