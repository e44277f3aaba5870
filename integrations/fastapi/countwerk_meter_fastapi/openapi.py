"""
The 402 in an app's OpenAPI document, with its schema, at every route that costs credits.

FastAPI lets a route declare its responses, and a dependency none; so the finished document is added to. What an app
declares for 402 itself is left as it stands.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotations
from typing import TYPE_CHECKING, Any, Literal

from fastapi import routing
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

from countwerk_meter.asgi.paths import paths_of
from countwerk_meter.asgi.routes import find
from countwerk_meter.client import PurchaseOption  # noqa: TC001 - likewise
from countwerk_meter_fastapi.dependency import Gate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fastapi import FastAPI
    from fastapi.dependencies.models import Dependant

    from countwerk_meter.asgi import Route

_REFERENCE = "#/components/schemas/{model}"


class WaysToBuy(BaseModel):
    """What the ledger answered about an account's ways to buy."""

    ai_product_id: str | None
    account_id: str | None
    current_order_id: str | None
    current_tier_product_id: str | None
    options: list[PurchaseOption]


class PaymentRequired(BaseModel):
    """The body of a 402: nothing was done, since the account has not enough credits."""

    type: Literal["about:blank"]
    title: str
    status: Literal[402]
    detail: str = Field(description="What was asked for and how many credits it needs, in words.")
    success: Literal[False]
    code: Literal["INSUFFICIENT_CREDITS"]
    usage_event_id: str | None = Field(description="The charge that was refused.")
    operation: str
    required: int = Field(description="Credits needed.")
    held: int = Field(description="Credits that other requests of the account hold while they run.")
    held_until: datetime | None
    data: WaysToBuy
    purchase_error: str | None = Field(description="Why there are no ways to buy, if there are none.")


def declare_payment_required(app: FastAPI, routes: Iterable[Route] = ()) -> None:
    """
    Add the 402 to an app's OpenAPI document. `add_credits` does it; an app that is mounted needs it of its own.

    Args:
        app: The app, whose routes may be added later.
        routes: The middleware's, as far as they are the app's.

    """
    listed, made = tuple(routes), app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        _declare(document, set(_metered(app, listed)))
        return document

    app.openapi = openapi


def _declare(document: dict[str, Any], metered: set[tuple[str, str]]) -> None:
    answer = {
        "description": "Not enough credits, and the ways to buy more",
        "content": {
            "application/problem+json": {"schema": {"$ref": _REFERENCE.format(model=PaymentRequired.__name__)}},
            "text/html": {"schema": {"type": "string"}},
        },
    }
    declared = False
    for path, operations in document.get("paths", {}).items():
        for method, operation in operations.items():
            if (path, method) in metered:
                responses = operation.setdefault("responses", {})
                declared = responses.setdefault("402", answer) is answer or declared
    if declared:
        schema = PaymentRequired.model_json_schema(ref_template=_REFERENCE, mode="serialization")
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for name, part in {**schema.pop("$defs"), PaymentRequired.__name__: schema}.items():
            schemas.setdefault(name, part)


def _metered(app: FastAPI, listed: tuple[Route, ...]) -> Iterator[tuple[str, str]]:
    """Name the operations that cost credits."""
    for route in _routes(app):
        # A listed route is looked for as the middleware looks for it.
        paths = paths_of({"path": route.path_format, "root_path": app.root_path})
        for method in route.methods or ():
            by_list = find(listed, paths, method) is not None
            if by_list or _has_gate(route.dependant):
                yield route.path_format, method.lower()


def _routes(app: FastAPI) -> Iterator[Any]:
    # Newer versions keep included routers whole, and say here what their routes come to.
    contexts = getattr(routing, "iter_route_contexts", None)
    for route in app.routes if contexts is None else contexts(app.routes):
        if isinstance(getattr(route, "original_route", route), APIRoute):
            yield route


def _has_gate(dependant: Dependant) -> bool:
    return isinstance(dependant.call, Gate) or any(map(_has_gate, dependant.dependencies))
