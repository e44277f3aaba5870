"""What surrounds a call: the open reservation, the account, and whether a framework says "this is one model call"."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeAlias

from countwerk_meter._wire.requests import checked_account

if TYPE_CHECKING:
    from collections.abc import Generator

    from countwerk_meter._metering.reservation import Reservation
    from countwerk_meter.errors import CountwerkError

_reservation: ContextVar[Reservation | None] = ContextVar("countwerk_reservation", default=None)
_account: ContextVar[str | None] = ContextVar("countwerk_account", default=None)
_model_call: ContextVar[bool] = ContextVar("countwerk_model_call", default=False)


# Watched by whoever answers for the calls inside: a framework may turn what refused one into an answer of its own.
_refusal: ContextVar[list[CountwerkError] | None] = ContextVar("countwerk_refusal", default=None)


def refusing(error: CountwerkError | None) -> None:
    """Tell who watches that a call was refused, or (None) that one was let through since."""
    box = _refusal.get()
    if box is not None:
        box[:] = [] if error is None else [error]


def current_reservation() -> Reservation | None:
    """Return the innermost `with meter.reserve(...)` block that is open here, or None."""
    return _reservation.get()


def current_account() -> str | None:
    """Return the account that `with account(...)` set, or None."""
    return _account.get()


def in_model_call() -> bool:
    """Whether an integration is metering this very model call already."""
    return _model_call.get()


Surroundings: TypeAlias = "tuple[Reservation | None, str | None, bool, list[CountwerkError] | None]"


def surroundings() -> Surroundings:
    """Return all that surrounds a call here."""
    return _reservation.get(), _account.get(), _model_call.get(), _refusal.get()


def put_back(around: Surroundings) -> None:
    """Make it what surrounds a call here."""
    exchanged(around)


def exchanged(around: Surroundings) -> Surroundings:
    """Make it what surrounds a call here, and return what did."""
    before = reservation, account_id, model_call_runs, refused = surroundings()
    # To set what is there already would cost three times as much as to look.
    if around[0] is not reservation:
        _reservation.set(around[0])
    if around[1] is not account_id:
        _account.set(around[1])
    if around[2] is not model_call_runs:
        _model_call.set(around[2])
    if around[3] is not refused:
        _refusal.set(around[3])
    return before


@contextlib.contextmanager
def entered(reservation: Reservation) -> Generator[None]:
    """Make a reservation the current one."""
    token = _reservation.set(reservation)
    try:
        yield
    finally:
        # Left in another context (a generator closed by the garbage collector): there is nothing to put back.
        with contextlib.suppress(ValueError):
            _reservation.reset(token)


@contextlib.contextmanager
def account(account_id: str) -> Generator[None]:
    """Name the account that metered calls inside are charged to."""
    token = _account.set(checked_account(account_id))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            _account.reset(token)


@contextlib.contextmanager
def model_call() -> Generator[None]:
    """Mark one model call: a second meter of any kind inside steps aside, so that it is counted once."""
    token = _model_call.set(True)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            _model_call.reset(token)


def warn_on_a_loop() -> None:
    """Warn where a sync block is entered on a running event loop, which it would block."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    text = "a sync `with meter.reserve(...)` blocks the running event loop: use `async with`"
    warnings.warn(text, RuntimeWarning, stacklevel=3)
