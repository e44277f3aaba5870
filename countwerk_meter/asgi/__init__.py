"""
Metering of ASGI apps: Starlette, FastAPI, Litestar, Quart, Django.

    from countwerk_meter.asgi import CreditsMiddleware, Route

    app.add_middleware(
        CreditsMiddleware,
        meter=meter,
        account_id=account_of_api_token,
        routes=[Route("POST", "/chat/{id}", "app.chat.reply", price=5)],
    )

ASGI is a protocol, so this needs no framework. The public names are `CreditsMiddleware`, `Route`,
the types `Scope` and `Request`, and `RequestRefusedError`.
"""

from __future__ import annotations

from countwerk_meter.asgi.middleware import CreditsMiddleware
from countwerk_meter.asgi.protocol import Scope
from countwerk_meter.asgi.request import Request, RequestRefusedError
from countwerk_meter.asgi.routes import Route

__all__ = ["CreditsMiddleware", "Request", "RequestRefusedError", "Route", "Scope"]
