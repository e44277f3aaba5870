"""
One endpoint, called plainly: what `CountwerkClient` runs.

Resends only what can do no harm: reads, `deduct`, what was NotSent, and a 429 (assumption A1). Everything else in
doubt is raised at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from countwerk_meter._flow.backoff import ceiling, gate_pause
from countwerk_meter._flow.commands import Now, Send, Sleep
from countwerk_meter._wire import requests
from countwerk_meter._wire.models import ResolvedOrder
from countwerk_meter._wire.replies import Answer, InDoubt, NotSent, to_error
from countwerk_meter.errors import (
    ConfigurationError,
    InsufficientCreditsError,
    LedgerUnavailableError,
    OrderNotMappedError,
)

if TYPE_CHECKING:
    from countwerk_meter._flow.commands import Flow, Moment
    from countwerk_meter._wire.replies import Reply
    from countwerk_meter._wire.requests import LedgerRequest

M = TypeVar("M", bound=BaseModel)

_MAPPING_BASE = 0.25
_MAPPING_CAP = 15.0


def read_model(request: LedgerRequest, reply: Answer, model: type[M]) -> M:
    """Return a success' data as a model, or raise: a success that cannot be read is in doubt."""
    try:
        return model.model_validate(reply.envelope.data)
    except ValidationError:
        pass
    # Outside the handler: pydantic's text quotes what it was given, and that may be a purchase URL.
    message = f"{request.name}: no definite answer: its data is not what the contract says"
    raise LedgerUnavailableError(message, in_doubt=True)


def refusal(request: LedgerRequest, reply: Reply) -> Exception:
    """Return the error of a refusal; a 402 is an `InsufficientCreditsError` without links: the client fetches none."""
    error = to_error(request, reply)
    if isinstance(reply, Answer) and reply.envelope.status == 402:
        return InsufficientCreditsError(
            account_id=str(request.body.get("account_id", "")),
            operation=str(request.body.get("operation", request.name)),
            required=int(request.body.get("amount", request.body.get("actualAmount", 0))),
            usage_event_id=request.body.get("usage_event_id"),
            details=reply.envelope.data,
        )
    return error


def call(request: LedgerRequest, model: type[M], *, timeout: float, retries: int) -> Flow[M]:
    """
    Call one endpoint.

    Args:
        request: What to send.
        model: What a success is read as.
        timeout: Wall-clock seconds for all attempts together.
        retries: How often it may be sent again.

    """
    start: Moment = yield Now()
    deadline = start.monotonic + timeout
    attempt, doubted = 0, False
    while True:
        reply: Reply = yield Send(request, deadline)
        if isinstance(reply, Answer) and reply.envelope.ok:
            return read_model(request, reply, model)
        doubted = doubted or isinstance(reply, InDoubt)
        wait = _wait(request, reply, attempt)
        now: Moment = yield Now()
        if wait is None or attempt >= retries or now.monotonic + wait[0] >= deadline:
            error = refusal(request, reply)
            if isinstance(error, LedgerUnavailableError):
                # A later attempt that was never sent says nothing about the one before it.
                error.in_doubt = error.in_doubt or doubted
            raise error
        yield Sleep(*wait)
        attempt += 1


def _wait(request: LedgerRequest, reply: Reply, attempt: int) -> tuple[float, bool] | None:
    """Return how long to wait before sending again, and whether to draw it at random; None: never send again."""
    if isinstance(reply, NotSent):
        return gate_pause(attempt, None)
    if isinstance(reply, InDoubt):
        if not request.repeatable or (reply.status is not None and 300 <= reply.status < 500 and reply.status != 429):
            return None
        return gate_pause(attempt, reply.retry_after)
    if reply.envelope.status != 429:
        return None
    return gate_pause(attempt, reply.envelope.retry_after)


def resolve_order(order_id: str, *, wait: float, timeout: float, retries: int) -> Flow[ResolvedOrder]:
    """
    Resolve an order, and keep trying through `ORDER_NOT_MAPPED_YET` for `wait` seconds.

    Digistore24 links an order some seconds after it was paid: exponential backoff with full jitter.
    """
    request = requests.resolve_order(order_id)
    if not 0 <= wait < float("inf"):
        raise ConfigurationError("wait must be 0 seconds or more, and finite")
    start: Moment = yield Now()
    attempt = 0
    while True:
        try:
            return (yield from call(request, ResolvedOrder, timeout=timeout, retries=retries))
        except OrderNotMappedError:
            now: Moment = yield Now()
            left = start.monotonic + wait - now.monotonic
            if left <= 0:
                raise
            yield Sleep(min(left, ceiling(attempt, base=_MAPPING_BASE, cap=_MAPPING_CAP)), jitter=True)
            attempt += 1
