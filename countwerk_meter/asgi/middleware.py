"""
The middleware: reserve before the app, settle after the last byte, say 402 well.

The rule: it is a frame around the app, never a part of it. It awaits the gate before the app is called and the commit
after the app returned; in between it only watches what passes (exchange.py), and what that costs stands in outcome.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import time
from typing import TYPE_CHECKING, Final

from countwerk_meter._metering import scope as surroundings
from countwerk_meter.asgi import websocket
from countwerk_meter.asgi.exchange import Exchange
from countwerk_meter.asgi.frame import Frame, Settings
from countwerk_meter.asgi.owner import Owner
from countwerk_meter.asgi.page import page, wants_page
from countwerk_meter.asgi.paths import paths_of, roots_of
from countwerk_meter.asgi.problems import answer_to
from countwerk_meter.asgi.request import ClientLeftError, Request
from countwerk_meter.asgi.routes import Route, find
from countwerk_meter.errors import CountwerkError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from countwerk_meter.asgi.problems import Problem
    from countwerk_meter.asgi.protocol import ASGIApp, Asked, Message, Receive, Scope, Send
    from countwerk_meter.meter import Meter

# What a page may ask the ledger beyond the 402 itself.
_ASK_SECONDS: Final = 1.0

_log = logging.getLogger("countwerk_meter.asgi")


class CreditsMiddleware:
    """
    Pure ASGI middleware that meters the listed routes of an app.

    `app.add_middleware(CreditsMiddleware, meter=meter, ...)`, or `CreditsMiddleware(app, meter=meter, ...)` around any
    ASGI app. On a listed route credits are held before the app is called, `current_reservation()` is the request's in
    endpoints (threads too), body iterators and background tasks, metered calls inside draw on it, and it is charged
    when the app returns: after the last byte and the background tasks. What a request costs by how it ended is the
    table in `countwerk_meter.asgi.outcome`.

    What clients see:
        402: `InsufficientCreditsError`, from the gate or from anywhere below, unlisted routes included, as
            `application/problem+json` (`to_payload()`), or as a small page for `Accept: text/html`, while no response
            has begun. Its ways to buy are shown where `account_id` names that very account, and to nobody else. For the
            page the balance is asked for, within the gate's budget and for a second at most. After that a
            `text/event-stream` ends with `event: payment_required`; any other response is broken off, as for every
            exception.
        409: `ChargeAlreadySettledError`, `ChargeInProgressError`, in the same way (`event: charge_conflict`).
        400, 413, 422: A size's callable could not read the body, or raised `RequestRefusedError`: nothing is held, and
            the app was not called.
        503: The gate got no definite answer from the ledger in time, so the app was not called.
        500, by the server: the rest, which the operator must see: a wrong API key, a price that is none, an
            `account_id` that raises. It is raised, and nothing was reserved.

    A middleware of the same meter below this one (a mounted app's, say) finds the request metered, and adds nothing.

    Browsers read a 402 from another origin only with CORS headers: add `CORSMiddleware` after (so around) this one.

    A whole response of status 500 or more is held back until the app returns, for it may be followed by an exception
    that makes it a 402 (see exchange.py).

    Websockets are not metered by themselves: those whose path is listed run with the account that `account_id` names,
    so that metered calls below are charged to it. A charge refused below denies the handshake, or later closes 1008.

    Args:
        app: The app.
        meter: The meter.
        account_id: Authenticates: gets the scope and answers with the account, or None. Sync (must not block) or
            async. None: nothing is held, the app runs, and metered calls below that name no account are refused.
        routes: What is metered. The first that fits is taken; everything else passes.
        trusted_callers: Whether `traceparent` and `Idempotency-Key` name the charge, so that a request sent again is
            answered with 409: True, or a callable of the scope, sync or async. Only for your own gateway or worker:
            whoever can choose an id can ride for free.
        answer_headers: Tell clients of a listed route what is held and the charge's id, in the headers
            `Credits-Reserved` and `Credits-Event-Id`; and what was charged when that is known, which is when the app
            has returned: as the last event of an event stream (`event: credits`), else as the trailer
            `Credits-Charged`, where client and server speak of trailers. The end of such a response waits for the
            app's background tasks and for the commit.
        close_meter: Close the meter once the app's lifespan has shut down, within the meter's own budget. False for
            a meter that outlives the app. Where no lifespan runs it is closed when the process ends.

    Raises:
        ConfigurationError: A route's fixed estimate, and a meter without prices.

    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        meter: Meter,
        account_id: Asked[str | None],
        routes: Iterable[Route] = (),
        trusted_callers: bool | Asked[bool] = False,
        answer_headers: bool = False,
        close_meter: bool = True,
    ) -> None:
        self.app = app
        self._settings = Settings(meter, account_id, trusted_callers, answer_headers)
        self._routes = tuple(routes)
        for route in self._routes:
            route.check(meter)
        self._close_meter = close_meter

    @functools.cached_property
    def _roots(self) -> tuple[str, ...]:
        # Asked for with the first request: apps are built, and Django is set up, after they were wrapped.
        return roots_of(self.app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "lifespan" and self._close_meter:
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(receive, send, scope["method"])
        frame = Frame(self._settings, scope, exchange)

        async def instead() -> Problem | None:
            refusal = frame.refusal
            return None if refusal is None else await self._answer(frame, refusal)

        exchange.instead = instead
        try:
            await self._request(frame)
        except ClientLeftError:
            # While its body was read to price it: nobody waits for an answer.
            return
        except Exception as error:
            problem = await self._answer(frame, error)
            if problem is None:
                await exchange.release()
                raise
            if not exchange.answered and not await exchange.answer(problem):
                raise
        else:
            if exchange.held:
                # From a task of the app's, while the request was being charged.
                await exchange.release()
        finally:
            # Each knows the other: let go, they need no garbage collector; and nor does what a refusal carries.
            exchange.instead = frame.denied = None
            frame.refusals.clear()

    async def _answer(self, frame: Frame, error: BaseException) -> Problem | None:
        """
        Return what the client is told of an error, or None: it is not ours to answer.

        A 402 is made a page for whoever asks for one. What is left is asked for briefly, and may be left out.
        """
        problem, exchange = await answer_to(error, frame.owner), frame.exchange
        if problem is None or problem.status != 402 or exchange.started or not wants_page(frame.scope):
            return problem
        seconds, account_id, left = _ASK_SECONDS, problem.payload["data"]["account_id"], None
        if exchange.deadline is not None:
            seconds = min(seconds, exchange.deadline - time.monotonic())
        if account_id is not None and seconds > 0:
            with contextlib.suppress(CountwerkError):
                left = (await self._settings.meter.abalance(account_id, timeout=seconds)).available_balance
        return dataclasses.replace(problem, page=page(problem.payload, left))

    async def _request(self, frame: Frame) -> None:
        scope, exchange = frame.scope, frame.exchange
        paths = paths_of(scope, self._roots)
        route = find(self._routes, paths, scope["method"].upper())
        if route is None:
            await frame.run(self.app)
            return
        account_id = await frame.owner.account_id()
        if account_id is None:
            with _nobody():
                await frame.run(self.app)
            return
        await frame.begin(route, account_id, Request(scope, exchange, route.parameters(paths), route.max_body))
        await frame.run(self.app)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        surround: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        owner = Owner(self._settings.account_id, scope)
        if find(self._routes, paths_of(scope, self._roots), None) is not None:
            account_id = await owner.account_id()
            surround = _nobody() if account_id is None else surroundings.account(account_id)
        with surround:
            await websocket.serve(self.app, scope, receive, send, owner)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"] in {"lifespan.shutdown.complete", "lifespan.shutdown.failed"}:
                try:
                    await self._settings.meter.aclose()
                except CountwerkError as error:
                    # The charges stand in the journal; the shutdown goes on.
                    _log.warning("the meter was not closed: %s", type(error).__name__)
            await send(message)

        await self.app(scope, receive, closing)


@contextlib.contextmanager
def _nobody() -> Generator[None]:
    """Take away the account and the reservation that an outer app may have set: this request is nobody's."""
    account = surroundings._account.set(None)
    reservation = surroundings._reservation.set(None)
    try:
        yield
    finally:
        surroundings._reservation.reset(reservation)
        surroundings._account.reset(account)
