"""
The seven endpoints, typed, sync and async.

A thin face over flows: the same generator is run by a sync and by an async driver. It resends only reads, `deduct`
(it has an idempotency key), what was never sent, and a 429; everything else in doubt is raised at once, because a
`reserve` has no key and may have been carried out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from countwerk_meter._drivers.choice import async_transport, sync_transport
from countwerk_meter._drivers.clock import Clock
from countwerk_meter._drivers.endpoint import Endpoint, conceal
from countwerk_meter._drivers.loops import LoopTransports
from countwerk_meter._drivers.runtime import Runtime
from countwerk_meter._flow import call
from countwerk_meter._wire import requests
from countwerk_meter._wire.models import (
    Balance,
    Cancellation,
    Confirmation,
    Deduction,
    LedgerReservation,
    PurchaseLinks,
    PurchaseOption,
    ResolvedOrder,
)
from countwerk_meter.errors import ConfigurationError
from countwerk_meter.telemetry import Silence

if TYPE_CHECKING:
    from types import TracebackType

    import httpx
    from pydantic import BaseModel, SecretStr

    from countwerk_meter._flow.commands import Flow
    from countwerk_meter._wire.requests import LedgerRequest

__all__ = [
    "AsyncCountwerkClient",
    "Balance",
    "Cancellation",
    "Confirmation",
    "CountwerkClient",
    "Deduction",
    "LedgerReservation",
    "PurchaseLinks",
    "PurchaseOption",
    "ResolvedOrder",
]

M = TypeVar("M", bound="BaseModel")

_LONGEST_TIMEOUT: Final = 86_400.0


class _Settings:
    """What both clients are made of."""

    def __init__(
        self, api_key: SecretStr | None, base_url: str | None, timeout: float, max_retries: int, *, allow_http: bool
    ) -> None:
        if not 0 < timeout <= _LONGEST_TIMEOUT:
            raise ConfigurationError("timeout must be above 0 seconds, one day at most")
        if max_retries < 0:
            raise ConfigurationError("max_retries must be 0 or more")
        self.endpoint = Endpoint.of(api_key, base_url, allow_http=allow_http)
        self.timeout = timeout
        self.max_retries = max_retries

    def call(self, request: LedgerRequest, model: type[M]) -> Flow[M]:
        return call.call(request, model, timeout=self.timeout, retries=self.max_retries)

    def resolve_order(self, order_id: str, wait: float) -> Flow[ResolvedOrder]:
        return call.resolve_order(order_id, wait=wait, timeout=self.timeout, retries=self.max_retries)


class CountwerkClient:
    """
    The ledger's seven endpoints, sync.

    Args:
        api_key: Default: `COUNTWERK_API_KEY`.
        base_url: Default: `COUNTWERK_BASE_URL`, else `https://app.countwerk.com`. Must be https, or loopback.
        timeout: Wall-clock seconds for one call, retries included.
        max_retries: How often a request that may be sent again is.
        http: An `httpx.Client` of your own, for a proxy or certificates; it stays yours to close.
        allow_http: Accept a base URL in the clear, key and all.

    Every method raises a `CountwerkError`: `InvalidRequestError` before any request for input that the contract
    refuses, an `ApiError` for a refusal, `LedgerUnavailableError` where there was no definite answer in time.

    """

    def __init__(
        self,
        api_key: str | SecretStr | None = None,
        base_url: str | None = None,
        *,
        timeout: float = 10.0,
        max_retries: int = 2,
        http: httpx.Client | None = None,
        allow_http: bool = False,
    ) -> None:
        # First of all: a crash report shows the local variables of this frame.
        api_key = conceal(api_key)
        self._settings = _Settings(api_key, base_url, timeout, max_retries, allow_http=allow_http)
        endpoint = self._settings.endpoint
        self._transport = sync_transport(endpoint, http)
        loops = LoopTransports(lambda: async_transport(endpoint))
        self._runtime = Runtime(None, self._transport, loops, Clock(), Silence())

    @property
    def endpoint(self) -> Endpoint:
        """Where the ledger is; its repr shows no key."""
        return self._settings.endpoint

    def __repr__(self) -> str:
        return f"CountwerkClient({self._settings.endpoint.base_url!r})" if self.__dict__ else object.__repr__(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def resolve_order(self, order_id: str, *, wait: float = 0.0) -> ResolvedOrder:
        """
        Return the account behind a Digistore24 order.

        Args:
            order_id: The order.
            wait: Keep trying through `ORDER_NOT_MAPPED_YET` for so many seconds, with backoff and jitter.

        Raises:
            OrderNotMappedError: Not linked yet.
            NotFoundError: No such order.

        """
        return self._runtime.run(self._settings.resolve_order(order_id, wait))

    def purchase_links(
        self,
        ai_product_id: str,
        account_id: str,
        *,
        current_tier_product_id: str | None = None,
        current_order_id: str | None = None,
        buyer_email: str | None = None,
    ) -> PurchaseLinks:
        """
        Return the ways to buy, in the ledger's order. Use the URLs at once; never store or build one.

        Raises:
            Ds24KeyError: The vendor's Digistore24 key is missing or invalid.

        """
        request = requests.purchase_links(
            ai_product_id,
            account_id,
            current_tier_product_id=current_tier_product_id,
            current_order_id=current_order_id,
            buyer_email=buyer_email,
        )
        return self._runtime.run(self._settings.call(request, PurchaseLinks))

    def balance(self, account_id: str) -> Balance:
        """Return the account's credits."""
        return self._runtime.run(self._settings.call(requests.balance(account_id), Balance))

    def deduct(
        self,
        account_id: str,
        operation: str,
        amount: int,
        usage_event_id: str,
        *,
        description: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Deduction:
        """
        Charge `amount` credits at once. The same `usage_event_id` again makes no second charge.

        Raises:
            InsufficientCreditsError: 402.

        """
        request = requests.deduct(
            account_id, operation, amount, usage_event_id, description=description, metadata=metadata
        )
        return self._runtime.run(self._settings.call(request, Deduction))

    def reserve(
        self,
        account_id: str,
        operation: str,
        amount: int,
        *,
        validity_minutes: int | None = None,
        description: str | None = None,
    ) -> LedgerReservation:
        """
        Hold `amount` credits. Not idempotent: in doubt it is never sent again.

        Raises:
            InsufficientCreditsError: 402.
            LedgerUnavailableError: With `in_doubt`, credits may be held until the validity (minutes) has passed.

        """
        request = requests.reserve(
            account_id, operation, amount, validity_minutes=validity_minutes, description=description
        )
        return self._runtime.run(self._settings.call(request, LedgerReservation))

    def confirm_reservation(
        self, reservation_id: str, actual_amount: int | None = None, *, description: str | None = None
    ) -> Confirmation:
        """
        Turn a hold into a charge of `actual_amount` credits (default: all that is held).

        Raises:
            NotFoundError: No such hold: confirmed or cancelled before, or expired. It does not say which.

        """
        request = requests.confirm(reservation_id, actual_amount, description=description)
        return self._runtime.run(self._settings.call(request, Confirmation))

    def cancel_reservation(self, reservation_id: str, *, reason: str | None = None) -> Cancellation:
        """
        Give a hold back.

        Raises:
            NotFoundError: No such hold any more; safe to ignore.

        """
        return self._runtime.run(self._settings.call(requests.cancel(reservation_id, reason=reason), Cancellation))


class AsyncCountwerkClient:
    """The ledger's seven endpoints, async. Arguments, answers and errors are those of `CountwerkClient`."""

    def __init__(
        self,
        api_key: str | SecretStr | None = None,
        base_url: str | None = None,
        *,
        timeout: float = 10.0,
        max_retries: int = 2,
        http: httpx.AsyncClient | None = None,
        allow_http: bool = False,
    ) -> None:
        # First of all: a crash report shows the local variables of this frame.
        api_key = conceal(api_key)
        self._settings = _Settings(api_key, base_url, timeout, max_retries, allow_http=allow_http)
        endpoint = self._settings.endpoint
        self._loops = LoopTransports(lambda: async_transport(endpoint, http))
        self._runtime = Runtime(None, None, self._loops, Clock(), Silence())

    def __repr__(self) -> str:
        return f"AsyncCountwerkClient({self._settings.endpoint.base_url!r})" if self.__dict__ else object.__repr__(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the running loop's connections."""
        await self._loops.aclose()

    async def resolve_order(self, order_id: str, *, wait: float = 0.0) -> ResolvedOrder:
        """Return the account behind a Digistore24 order, waiting `wait` seconds for it to be linked."""
        return await self._runtime.arun(self._settings.resolve_order(order_id, wait))

    async def purchase_links(
        self,
        ai_product_id: str,
        account_id: str,
        *,
        current_tier_product_id: str | None = None,
        current_order_id: str | None = None,
        buyer_email: str | None = None,
    ) -> PurchaseLinks:
        """Return the ways to buy, in the ledger's order. Use the URLs at once; never store or build one."""
        request = requests.purchase_links(
            ai_product_id,
            account_id,
            current_tier_product_id=current_tier_product_id,
            current_order_id=current_order_id,
            buyer_email=buyer_email,
        )
        return await self._runtime.arun(self._settings.call(request, PurchaseLinks))

    async def balance(self, account_id: str) -> Balance:
        """Return the account's credits."""
        return await self._runtime.arun(self._settings.call(requests.balance(account_id), Balance))

    async def deduct(
        self,
        account_id: str,
        operation: str,
        amount: int,
        usage_event_id: str,
        *,
        description: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Deduction:
        """Charge `amount` credits at once. The same `usage_event_id` again makes no second charge."""
        request = requests.deduct(
            account_id, operation, amount, usage_event_id, description=description, metadata=metadata
        )
        return await self._runtime.arun(self._settings.call(request, Deduction))

    async def reserve(
        self,
        account_id: str,
        operation: str,
        amount: int,
        *,
        validity_minutes: int | None = None,
        description: str | None = None,
    ) -> LedgerReservation:
        """Hold `amount` credits. Not idempotent: in doubt it is never sent again."""
        request = requests.reserve(
            account_id, operation, amount, validity_minutes=validity_minutes, description=description
        )
        return await self._runtime.arun(self._settings.call(request, LedgerReservation))

    async def confirm_reservation(
        self, reservation_id: str, actual_amount: int | None = None, *, description: str | None = None
    ) -> Confirmation:
        """Turn a hold into a charge of `actual_amount` credits (default: all that is held)."""
        request = requests.confirm(reservation_id, actual_amount, description=description)
        return await self._runtime.arun(self._settings.call(request, Confirmation))

    async def cancel_reservation(self, reservation_id: str, *, reason: str | None = None) -> Cancellation:
        """Give a hold back."""
        request = requests.cancel(reservation_id, reason=reason)
        return await self._runtime.arun(self._settings.call(request, Cancellation))
