"""What one kind of request costs, and on which terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, TypeVar

from countwerk_meter._metering.amounts import hold_of
from countwerk_meter._metering.options import check_unavailable
from countwerk_meter._wire.requests import checked_amount, checked_operation, checked_validity
from countwerk_meter.asgi.protocol import given
from countwerk_meter.errors import ConfigurationError
from countwerk_meter.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from countwerk_meter._metering.estimates import Expected
    from countwerk_meter.asgi.protocol import Asked
    from countwerk_meter.asgi.request import Request
    from countwerk_meter.events import Step
    from countwerk_meter.meter import Meter, Reservation

T = TypeVar("T")

# A value that may depend on the request: a callable of it, sync or async.
Priced: TypeAlias = "Callable[[Request], T | Awaitable[T]]"


class TariffTerms(TypedDict, total=False):
    """What a `Tariff` takes beside its operation, for those that take it on its behalf."""

    amount: int | Priced[int] | None
    price: int | Priced[int] | None
    estimate: Usage | Priced[Expected | int] | None
    max_output_tokens: int | Priced[int | None] | None
    clamp: bool
    top_up: bool
    description: str | None
    validity: int | None
    model: str | Priced[str | None] | None
    trusted_callers: bool | Asked[bool] | None
    on_unavailable: Literal["deny", "defer"] | None
    answer_headers: bool | None


class Tariff:
    """
    A size and its terms.

    Args:
        operation: What the credits are for.
        amount: As in `Meter.reserve`; like all that may be callable here a value, or a callable of the `Request` (the
            scope, `path_params`, `await request.json()`), sync or async.
        price: As in `Meter.reserve`.
        estimate: As in `Meter.reserve`. A callable may also answer with a number of credits to hold.
        max_output_tokens: As in `Meter.reserve`: the output cap that the request asks for, or None.
        clamp: As in `Meter.reserve`; the app finds the result in `current_reservation().max_tokens`.
        top_up: As in `Meter.reserve`.
        description: As in `Meter.reserve`.
        validity: Minutes. A response that streams for longer needs more than the default of 15.
        model: The attribute `model` that an estimate is priced with.
        trusted_callers: Overrides the middleware's own.
        on_unavailable: Overrides the meter's own: `deny`, or `defer`, which needs a `debt_limit` above 0.
        answer_headers: Overrides the middleware's own.

    Raises:
        ConfigurationError: Not exactly one of the three sizes, or `clamp` without an estimate.
        InvalidRequestError: An operation, amount, price or validity that no ledger would take.

    """

    def __init__(
        self,
        operation: str,
        *,
        amount: int | Priced[int] | None = None,
        price: int | Priced[int] | None = None,
        estimate: Usage | Priced[Expected | int] | None = None,
        max_output_tokens: int | Priced[int | None] | None = None,
        clamp: bool = False,
        top_up: bool = False,
        description: str | None = None,
        validity: int | None = None,
        model: str | Priced[str | None] | None = None,
        trusted_callers: bool | Asked[bool] | None = None,
        on_unavailable: Literal["deny", "defer"] | None = None,
        answer_headers: bool | None = None,
    ) -> None:
        self.operation = checked_operation(operation)
        sizes = {"amount": amount, "price": price, "estimate": estimate}
        self._sizes: dict[str, Any] = {name: size for name, size in sizes.items() if size is not None}
        if len(self._sizes) != 1:
            raise ConfigurationError(f"{operation}: pass exactly one of amount, price and estimate")
        for name in ("amount", "price"):
            if name in self._sizes and not callable(self._sizes[name]):
                checked_amount(self._sizes[name], name)
        if clamp and estimate is None:
            raise ConfigurationError(f"{operation}: clamp makes an estimate's output smaller, and there is no estimate")
        self._top_up = top_up
        self._description = description
        self._validity = None if validity is None else checked_validity(validity)
        self._model = model
        self._max_output_tokens = max_output_tokens
        self._clamp = clamp
        self.trusted_callers = trusted_callers
        self.answer_headers = answer_headers
        self._on_unavailable: Literal["deny", "defer"] | None = on_unavailable

    def check(self, meter: Meter) -> None:
        """Raise now what a fixed estimate would raise with the first request."""
        estimate = self._sizes.get("estimate")
        if estimate is not None and not callable(estimate) and not callable(self._model):
            hold_of(None, None, estimate, meter.prices, {"model": self._model} if self._model else {})
        if self._on_unavailable is not None:
            check_unavailable(self._on_unavailable, meter._engine.terms.debt_limit)

    async def reservation(self, meter: Meter, account_id: str, request: Any, step: Step | None) -> Reservation:
        """
        Return one request's reservation, not begun yet.

        Raises:
            RequestRefusedError: The request cannot be priced.
            ClientLeftError: The client left while its body was read.

        """
        ((name, size),) = self._sizes.items()
        asked: Any = await given(size, request)
        model: Any = await given(self._model, request)
        cap: Any = await given(self._max_output_tokens, request)
        clamp = self._clamp
        if name == "estimate" and (isinstance(asked, int) or not isinstance(asked, Usage | str | Sequence)):
            # A number is what to hold, and leaves nothing to make smaller.
            name, asked, clamp = "amount", checked_amount(asked, "estimate"), False
        sizes: dict[str, Any] = {name: asked}
        return meter.reserve(
            account_id,
            self.operation,
            **sizes,
            top_up=self._top_up,
            description=self._description,
            validity=self._validity,
            model=model,
            max_output_tokens=cap,
            clamp=clamp,
            on_unavailable=self._on_unavailable,
            step=step,
            # A request that is met again is refused: only a workflow's resumed step goes on for nothing.
            on_replay="refuse",
        )
