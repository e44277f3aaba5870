"""
The dependency: a route's gate, where FastAPI's people look for it.

The rule: it begins the request's reservation and never ends it. The middleware does, which alone sees what the client
got: a stream's last byte, a client that left, a status that says it failed. So the dependency is a plain one, whatever
its route is: sync or async, streaming, with yield dependencies around it.
"""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack

from fastapi import HTTPException, params
from starlette.requests import HTTPConnection, Request

from countwerk_meter.asgi.frame import frame_of
from countwerk_meter.asgi.problems import refused
from countwerk_meter.asgi.request import MAX_BODY, no_json, too_long
from countwerk_meter.asgi.tariff import Tariff
from countwerk_meter.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from countwerk_meter import Usage
    from countwerk_meter._metering.estimates import Expected
    from countwerk_meter.asgi import Scope
    from countwerk_meter.asgi.frame import Frame
    from countwerk_meter.asgi.protocol import Message
    from countwerk_meter.meter import Reservation

T = TypeVar("T")


class Terms(TypedDict, total=False):
    """What `Credits` takes beside its operation: as in `countwerk_meter.asgi.Route`, with FastAPI's own `Request`."""

    amount: int | Callable[[Request], int | Awaitable[int]] | None
    price: int | Callable[[Request], int | Awaitable[int]] | None
    estimate: Usage | Callable[[Request], Expected | int | Awaitable[Expected | int]] | None
    max_output_tokens: int | Callable[[Request], int | Awaitable[int | None] | None] | None
    clamp: bool
    top_up: bool
    description: str | None
    validity: int | None
    model: str | Callable[[Request], str | Awaitable[str | None] | None] | None
    trusted_callers: bool | Callable[[Scope], bool | Awaitable[bool]] | None
    on_unavailable: Literal["deny", "defer"] | None
    answer_headers: bool | None


class Gate:
    """What FastAPI calls. Its signature is made for each, so that the account may be a dependency too."""

    def __init__(self, tariff: Tariff, account: Callable[..., Any] | None) -> None:
        self.tariff = tariff
        parameters = [inspect.Parameter("connection", inspect.Parameter.KEYWORD_ONLY, annotation=HTTPConnection)]
        if account is not None:
            default = params.Depends(account)
            parameters.append(inspect.Parameter("account_id", inspect.Parameter.KEYWORD_ONLY, default=default))
        self.__signature__ = inspect.Signature(parameters)
        self._asks = account is None

    async def __call__(self, connection: HTTPConnection, account_id: str | None = None) -> Reservation:
        """Begin the request's reservation, and make it the current one."""
        frame = frame_of(connection.scope)
        if frame is None or not isinstance(connection, Request):
            raise ConfigurationError("Credits meters HTTP routes of an app that add_credits(app, ...) was called for")
        if frame.reservation is not None:
            # A listed route, or a dependency before: the first owns the request.
            return frame.reservation
        if self._asks:
            account_id = await frame.owner.account_id()
        if account_id is None:
            raise HTTPException(401, "These credits are somebody's: log in first.")
        reservation = await self._begin(frame, account_id, connection)
        frame.enter()
        return reservation

    async def _begin(self, frame: Frame, account_id: str, request: Request) -> Reservation:
        """Pass the gate, with a body that is read no further than a listed route's, and is the client's fault."""
        receive, length = request._receive, 0

        async def bounded() -> Message:
            nonlocal length
            message = await receive()
            length += len(message.get("body", b""))
            if length > MAX_BODY:
                raise frame.deny(refused(too_long(MAX_BODY)))
            return message

        request._receive = bounded
        try:
            return await frame.begin(self.tariff, account_id, request)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            # What `await request.json()` raises in a size's callable; FastAPI has read its endpoints' bodies before.
            raise frame.deny(refused(no_json())) from None
        finally:
            request._receive = receive


class Credits(params.Depends):
    """
    Hold credits for a route: `reservation: Annotated[Reservation, Credits("app.chat.reply", price=5)]`.

    Or `reservation: Reservation = Credits(...)`, or `dependencies=[Credits(...)]` of a route, a router or an app.
    Credits are held before the endpoint runs, and the middleware of `add_credits` charges them when the app returns:
    what a request costs by how it ended is the table in `countwerk_meter.asgi.outcome`. A 422, or any status of 400 or
    more, with nothing recorded costs nothing. `current_reservation()` is the route's in the endpoint (threads too), its
    dependencies, body iterators and background tasks, and metered calls inside draw on it. On a request that has a
    reservation already (a route that the middleware lists, a router's own `Credits`) that one is given.

    Args:
        operation: What the credits are for.
        account: A FastAPI dependency that authenticates and answers with the account id. Default: the middleware's
            `account_id`. None: the request is answered with 401, and nothing is held.
        terms: Exactly one of `amount`, `price`, `estimate`, and the further terms of `countwerk_meter.asgi.Route`.
            What may be a callable is called with FastAPI's `Request`: `path_params`, `await request.json()`; a
            `countwerk_meter.asgi.RequestRefusedError` that it raises is the client's answer.

    Raises:
        ConfigurationError: Not exactly one of the three sizes, or `clamp` without an estimate. In a request: no
            `add_credits(app, ...)`, or a websocket.
        InvalidRequestError: An operation, amount, price or validity that no ledger would take.

    """

    def __init__(self, operation: str, *, account: Callable[..., Any] | None = None, **terms: Unpack[Terms]) -> None:
        given: dict[str, Any] = {**terms}
        super().__init__(dependency=Gate(Tariff(operation, **given), account))

    @property
    def tariff(self) -> Tariff:
        """What the route costs."""
        assert isinstance(self.dependency, Gate)
        return self.dependency.tariff
