"""`@meter.metered(...)`: functions, coroutines, generators and async generators, metered as one call each."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar, cast

from countwerk_meter._frozen import frozen
from countwerk_meter._metering.scope import current_account, current_reservation
from countwerk_meter.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from countwerk_meter._metering.reservation import Reservation

F = TypeVar("F", bound="Callable[..., Any]")


@frozen
class Recipe:
    """How to meter one function: each argument a value, or a callable of the call's own arguments."""

    reserve: Callable[..., Reservation]
    operation: Any
    account_id: Any
    amount: Any
    price: Any
    estimate: Any
    usage: Callable[[Any], Any] | None
    model: Any
    usage_event_id: Any

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reservation:
        """Return the reservation of one call, not begun yet."""

        def given(value: Any) -> Any:
            return value(*args, **kwargs) if callable(value) else value

        account_id = given(self.account_id)
        if account_id is None:
            current = current_reservation()
            account_id = current_account() if current is None else current.account_id
        if account_id is None:
            raise ConfigurationError("no account: pass account_id, or call inside a reservation or `with account(...)`")
        return self.reserve(
            account_id,
            given(self.operation),
            amount=given(self.amount),
            price=given(self.price),
            estimate=given(self.estimate),
            usage_event_id=given(self.usage_event_id),
        )

    def record(self, reservation: Reservation, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """
        Record what the call used. A `usage` that fails is usage that nobody reported (money rule 13).

        Where a framework's own meter saw the calls inside, the result's usage is theirs, and charged already.
        """
        if self.usage is None or reservation.steps:
            return
        try:
            usage = self.usage(result)
            model: Any = self.model(*args, **kwargs) if callable(self.model) else self.model
            reservation.record(usage, model=model)
        except Exception:  # noqa: BLE001 - the model has answered: nothing may raise into the app any more
            reservation.record(None)


def metered(function: F, recipe: Recipe) -> F:
    """Wrap a function of any of the four kinds."""
    wrap: Callable[[Any, Recipe], Any] = _plain
    if inspect.isasyncgenfunction(function):
        wrap = _async_generator
    elif inspect.iscoroutinefunction(function):
        wrap = _coroutine
    elif inspect.isgeneratorfunction(function):
        wrap = _generator
    return cast("F", functools.wraps(function)(wrap(function, recipe)))


def _plain(function: Callable[..., Any], recipe: Recipe) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with recipe.begin(args, kwargs) as reservation:
            result = function(*args, **kwargs)
            recipe.record(reservation, result, args, kwargs)
            return result

    return call


def _coroutine(function: Callable[..., Any], recipe: Recipe) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        async with recipe.begin(args, kwargs) as reservation:
            result = await function(*args, **kwargs)
            recipe.record(reservation, result, args, kwargs)
            return result

    return call


def _generator(function: Callable[..., Generator[Any, Any, Any]], recipe: Recipe) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        reservation = recipe.begin(args, kwargs).begin()
        chunks: list[Any] = []
        error: BaseException | None = None
        inner: Generator[Any, Any, Any] | None = None
        try:
            with reservation.entered():
                inner = function(*args, **kwargs)
                chunk = next(inner)
            while True:
                reservation.yielded()
                if recipe.usage is not None:
                    chunks.append(chunk)
                try:
                    sent = yield chunk
                except GeneratorExit:
                    raise
                except BaseException as thrown:  # noqa: BLE001 - handed on to the generator it was thrown at
                    with reservation.entered():
                        chunk = inner.throw(thrown)
                else:
                    with reservation.entered():
                        chunk = inner.send(sent)
        except StopIteration as stop:
            return stop.value
        except BaseException as raised:
            error = raised
            raise
        finally:
            try:
                if inner is not None:
                    with reservation.entered():
                        inner.close()
            finally:
                # Broken off or not, and whatever its clean-up raised: what was consumed is what is charged.
                recipe.record(reservation, chunks, args, kwargs)
                reservation.finish(error)

    return call


def _async_generator(function: Callable[..., AsyncGenerator[Any, Any]], recipe: Recipe) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        reservation = await recipe.begin(args, kwargs).abegin()
        chunks: list[Any] = []
        error: BaseException | None = None
        inner: AsyncGenerator[Any, Any] | None = None
        try:
            with reservation.entered():
                inner = function(*args, **kwargs)
                chunk = await anext(inner)
            while True:
                reservation.yielded()
                if recipe.usage is not None:
                    chunks.append(chunk)
                try:
                    sent = yield chunk
                except GeneratorExit:
                    raise
                except BaseException as thrown:  # noqa: BLE001 - handed on to the generator it was thrown at
                    with reservation.entered():
                        chunk = await inner.athrow(thrown)
                else:
                    with reservation.entered():
                        chunk = await inner.asend(sent)
        except StopAsyncIteration:
            return
        except BaseException as raised:
            error = raised
            raise
        finally:
            # The charge first: the inner generator's own clean-up may never get to run.
            recipe.record(reservation, chunks, args, kwargs)
            try:
                await reservation.afinish(error)
            finally:
                if inner is not None:
                    with reservation.entered():
                        await inner.aclose()

    return call
