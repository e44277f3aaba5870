"""The middleware and the OpenAPI document of one app, in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from countwerk_meter.asgi import CreditsMiddleware
from countwerk_meter_fastapi.openapi import declare_payment_required

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from fastapi import FastAPI

    from countwerk_meter import Meter
    from countwerk_meter.asgi import Route, Scope


def add_credits(
    app: FastAPI,
    *,
    meter: Meter,
    account_id: Callable[[Scope], str | Awaitable[str | None] | None],
    routes: Iterable[Route] = (),
    trusted_callers: bool | Callable[[Scope], bool | Awaitable[bool]] = False,
    answer_headers: bool = False,
    close_meter: bool = True,
) -> None:
    """
    Let an app's routes cost credits: adds `CreditsMiddleware`, and the 402 to the OpenAPI document.

    Call it before the app serves. Middleware that is added later stands around this one: CORS belongs there.

    Args:
        app: The app.
        meter: As in `CreditsMiddleware`, like all below.
        account_id: Whom a request belongs to, for routes whose `Credits` names no `account` of its own.
        routes: Routes to meter without a dependency.
        trusted_callers: Whether `traceparent` and `Idempotency-Key` name the charge.
        answer_headers: Tell clients what is held, and what was charged.
        close_meter: Close the meter when the app has shut down.

    """
    listed = tuple(routes)
    app.add_middleware(
        CreditsMiddleware,
        meter=meter,
        account_id=account_id,
        routes=listed,
        trusted_callers=trusted_callers,
        answer_headers=answer_headers,
        close_meter=close_meter,
    )
    declare_payment_required(app, listed)
