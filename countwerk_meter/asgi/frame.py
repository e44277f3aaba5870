"""
One request and the one reservation that it may have: begun at its gate, or from inside of the app; ended when it ends.

The rule: the first that begins it owns the request. Whoever comes later, a framework's dependency below a listed route
say, or a further middleware of the same meter, is given the same reservation, so that one request is charged once.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from countwerk_meter._metering import scope as surroundings
from countwerk_meter.asgi.outcome import outcome
from countwerk_meter.asgi.owner import Owner
from countwerk_meter.asgi.problems import NotLetThroughError, problem_of, refused, unavailable
from countwerk_meter.asgi.protocol import given
from countwerk_meter.asgi.receipt import Receipt
from countwerk_meter.asgi.request import RequestRefusedError
from countwerk_meter.asgi.trust import step_of
from countwerk_meter.errors import LedgerUnavailableError

if TYPE_CHECKING:
    from countwerk_meter.asgi.exchange import Exchange
    from countwerk_meter.asgi.problems import Problem
    from countwerk_meter.asgi.protocol import ASGIApp, Asked, Scope
    from countwerk_meter.asgi.tariff import Tariff
    from countwerk_meter.errors import CountwerkError
    from countwerk_meter.meter import Meter, Reservation

_log = logging.getLogger("countwerk_meter.asgi")

# In the scope, and not in a context variable: a server may start a connection's next request in this one's context.
_FRAME: Final = "countwerk_meter.frame"


def frame_of(scope: Scope) -> Frame | None:
    """Return the frame of the request that is being served, or None: no `CreditsMiddleware` is around."""
    return scope.get(_FRAME)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a middleware was told, for each of its requests."""

    meter: Meter
    account_id: Asked[str | None]
    trusted_callers: bool | Asked[bool] = False
    answer_headers: bool = False


class Frame:
    """One request."""

    __slots__ = ("_outer", "_owns", "_settings", "denied", "exchange", "owner", "refusals", "reservation", "scope")

    def __init__(self, settings: Settings, scope: Scope, exchange: Exchange) -> None:
        self._settings = settings
        self.scope = scope
        self.exchange = exchange
        self.owner = Owner(settings.account_id, scope)
        self._outer = frame_of(scope)
        self._owns = False
        self.reservation: Reservation | None = None
        self.refusals: list[CountwerkError] = []
        self.denied: NotLetThroughError | None = None

    @property
    def refusal(self) -> Exception | None:
        """What refused the request, or a call inside, and was not followed by a call that was let through."""
        return self.denied or (self.refusals[-1] if self.refusals else None)

    def deny(self, problem: Problem) -> NotLetThroughError:
        """Note that the gate lets the request through no more, and return what is to be raised."""
        self.denied = NotLetThroughError(problem)
        return self.denied

    @property
    def meter(self) -> Meter:
        """The middleware's own."""
        return self._settings.meter

    async def begin(self, tariff: Tariff, account_id: str, request: Any) -> Reservation:
        """
        Pass the gate, or return the reservation that the request has already.

        Args:
            tariff: What the request costs.
            account_id: Whose credits.
            request: What the tariff's callables are called with: a `Request`, or a framework's own.

        Raises:
            InsufficientCreditsError, ChargeAlreadySettledError, ChargeInProgressError: The middleware answers them.
            NotLetThroughError: Likewise: the ledger said nothing definite in time, or the request cannot be priced.
            ClientLeftError: Nobody is there any more.

        """
        if self.reservation is not None:
            return self.reservation
        self.owner.is_now(account_id)
        self.reservation = self._begun_outside(account_id)
        if self.reservation is not None:
            return self.reservation
        trusted = self._settings.trusted_callers if tariff.trusted_callers is None else tariff.trusted_callers
        step = step_of(self.scope, account_id) if await given(trusted, self.scope) else None
        try:
            reservation = await tariff.reservation(self.meter, account_id, request, step)
            self.exchange.deadline = time.monotonic() + self.meter._engine.terms.reserve_timeout
            await reservation.abegin()
        except RequestRefusedError as error:
            raise self.deny(refused(error)) from None
        except LedgerUnavailableError as error:
            _log.warning("%s is not let through: %s: %s", tariff.operation, type(error).__name__, error)
            raise self.deny(unavailable(error)) from None
        self.exchange.deadline = self.denied = None
        self.reservation, self._owns = reservation, True
        told = self._settings.answer_headers if tariff.answer_headers is None else tariff.answer_headers
        if told and reservation.usage_event_id and not reservation.engine.shadow:
            self.exchange.receipt = Receipt(reservation, self.scope)
        return reservation

    def _begun_outside(self, account_id: str) -> Reservation | None:
        """Return what a middleware around this one holds for the same account with the same meter."""
        outer = self._outer
        while outer is not None:
            begun = outer.reservation
            if begun is not None and outer.meter is self.meter and begun.account_id == account_id:
                return begun
            outer = outer._outer
        return None

    def enter(self) -> None:
        """Make the request's reservation and account the current ones, from here to the end of the request."""
        assert self.reservation is not None
        surroundings._reservation.set(self.reservation)
        surroundings._account.set(self.reservation.account_id)

    async def run(self, app: ASGIApp) -> None:
        """Run the app, and end the reservation that the request has by then, unless it was begun outside."""
        exchange, scope = self.exchange, self.scope
        error: BaseException | None = None
        try:
            before = surroundings.surroundings()
            scope[_FRAME] = self
            surroundings._refusal.set(self.refusals)
            if self.reservation is not None:
                self.enter()
            try:
                await app(scope, exchange.receive, exchange.send)
            finally:
                surroundings.put_back(before)
                scope.pop(_FRAME, None)
                if self._outer is not None:
                    scope[_FRAME] = self._outer
            if exchange.held:
                await exchange.release()
        except BaseException as raised:
            error = raised
            if isinstance(raised, Exception) and problem_of(raised) is None:
                # The client's answer does not wait for the journal.
                await exchange.release()
            raise
        finally:
            if self.reservation is not None and self._owns:
                await self.reservation.afinish(outcome(self.reservation, exchange, error))
                if error is None or isinstance(error, Exception):
                    await exchange.conclude()
