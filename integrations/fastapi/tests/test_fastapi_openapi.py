"""The 402 in the OpenAPI document: at every route that costs credits, with its schema, and nowhere else."""

import pytest
from countwerk_meter_fastapi import Credits, add_credits, declare_payment_required
from fastapi import APIRouter, Depends, FastAPI

from countwerk_meter.asgi import Route
from countwerk_meter.errors import InsufficientCreditsError

REFERENCE = {"$ref": "#/components/schemas/PaymentRequired"}


@pytest.fixture
def app(meter):
    """An app with metered routes of every kind, and some that are free."""
    app = FastAPI()
    listed = [Route("POST", "/listed/{id}", "app.listed", price=1)]
    add_credits(app, meter=meter, account_id=lambda scope: None, routes=listed, close_meter=False)
    router = APIRouter(prefix="/v1")
    inner = APIRouter(dependencies=[Credits("app.router", price=1)])

    def below(reservation=Credits("app.below", price=1)):  # noqa: B008 - as FastAPI has it
        """A dependency that needs one."""

    @app.get("/direct")
    def direct(reservation=Credits("app.direct", price=1)):  # noqa: B008 - as FastAPI has it
        """Costs."""

    @app.get("/deep", dependencies=[Depends(below)])
    def deep():
        """Costs."""

    @app.post("/listed/{id}")
    def listed_route(id: str):
        """Costs."""

    @app.get("/listed/{id}")
    def listed_get(id: str):
        """Is free."""

    @inner.get("/inner")
    def inner_route():
        """Costs."""

    @app.get("/own", dependencies=[Credits("app.own", price=1)], responses={402: {"description": "our own words"}})
    def own():
        """Costs, and says so itself."""

    @app.get("/free")
    def free():
        """Is free."""

    router.include_router(inner)
    app.include_router(router)
    return app


def test_where_it_stands(app):
    """Whether directly, below another dependency, from a router in a router, or in the middleware's list."""
    paths = app.openapi()["paths"]
    found = {
        (path, method): answer.get("content", {}).get("application/problem+json", {}).get("schema")
        for path, operations in paths.items()
        for method, operation in operations.items()
        if (answer := operation["responses"].get("402"))
    }
    costs = [("/direct", "get"), ("/deep", "get"), ("/listed/{id}", "post"), ("/v1/inner", "get")]
    assert found == dict.fromkeys(costs, REFERENCE) | {("/own", "get"): None}
    assert paths["/own"]["get"]["responses"]["402"] == {"description": "our own words"}


def test_the_schema_is_the_payload_s(app):
    """Every field of a real payload is described, and every reference leads somewhere."""
    document = app.openapi()
    schemas = document["components"]["schemas"]
    error = InsufficientCreditsError(account_id="acct", operation="app.chat", required=5)
    payload = error.to_payload()
    assert set(schemas["PaymentRequired"]["properties"]) == set(payload)
    assert set(schemas["WaysToBuy"]["properties"]) == set(payload["data"])
    assert {"enabled", "disabledReason", "url", "label"} <= set(schemas["PurchaseOption"]["properties"])
    for name in [part.split('"')[0] for part in str(document).replace("'", '"').split("#/components/schemas/")[1:]]:
        assert name in schemas


def test_it_follows_what_is_added_later(app):
    """The document is made anew when routes are added, and asking twice changes nothing."""
    assert app.openapi() == app.openapi()

    @app.get("/later", dependencies=[Credits("app.later", price=1)])
    def later():
        """Costs."""

    app.openapi_schema = None
    assert app.openapi()["paths"]["/later"]["get"]["responses"]["402"]["content"]["application/problem+json"] == {
        "schema": REFERENCE
    }


def test_an_app_without_credits_is_left_alone():
    """No schema is added where nothing refers to it."""
    app = FastAPI()
    declare_payment_required(app)

    @app.get("/free")
    def free():
        """Is free."""

    document = app.openapi()
    assert "components" not in document
    assert "402" not in document["paths"]["/free"]["get"]["responses"]


def test_a_mounted_app_of_its_own(app):
    """An app that is mounted declares for itself."""
    inner = FastAPI()
    declare_payment_required(inner)

    @inner.get("/chat", dependencies=[Credits("app.chat", price=1)])
    def chat():
        """Costs."""

    app.mount("/inner", inner)
    assert "402" in inner.openapi()["paths"]["/chat"]["get"]["responses"]
    assert "/inner/chat" not in app.openapi()["paths"]


def declared(app):
    """The operations that declare the 402."""
    return {
        (path, method)
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
        if "402" in operation["responses"]
    }


@pytest.mark.filterwarnings("ignore:Duplicate Operation ID")
def test_any_method(meter):
    """A route that is listed with `"*"`, or that takes any method itself, declares it at each of its operations."""
    app = FastAPI()
    listed = Route("*", "/listed", "app.listed", price=1)
    add_credits(app, meter=meter, account_id=lambda scope: None, routes=[listed], close_meter=False)
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]

    @app.api_route("/listed", methods=methods)
    def any_listed():
        """Costs."""

    @app.api_route("/direct", methods=methods, dependencies=[Credits("app.direct", price=1)])
    def any_direct():
        """Costs."""

    assert declared(app) == {(path, method.lower()) for path in ("/listed", "/direct") for method in methods}


@pytest.mark.parametrize(
    ("listed", "path"),
    [
        ("/items", "/items/"),
        ("/items/", "/items/"),
        ("/items/", "/items"),
        ("/v1/items", "/items"),
        ("/items/{item}", "/items/{id}"),
        ("/items/{rest:path}", "/items/{path:path}"),
    ],
)
def test_every_spelling_that_is_metered(meter, listed, path):
    """Where requests to a route are metered, its operation says so, however the list spells its path."""
    app = FastAPI()
    # As the deprecated argument sets it.
    app.root_path = "/v1"
    route = Route("GET", listed, "app.listed", price=1)
    add_credits(app, meter=meter, account_id=lambda scope: None, routes=[route], close_meter=False)
    app.get(path)(lambda: None)
    assert len(declared(app)) == 1
