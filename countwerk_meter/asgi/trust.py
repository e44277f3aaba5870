"""
What a request may say about its own identity.

The rule: an id decides whether a call is charged, so whoever can choose it can ride for free. `traceparent` and
`Idempotency-Key` therefore count only from callers that the app declares trusted: its own gateway, which makes one span
or one key per logical request. The remote context is never made current: nothing below takes it for its own span.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from countwerk_meter.asgi.protocol import header
from countwerk_meter.events import Step

if TYPE_CHECKING:
    from countwerk_meter.asgi.protocol import Scope

_PROPAGATOR = TraceContextTextMapPropagator()


def step_of(scope: Scope, account_id: str) -> Step | None:
    """Name a trusted caller's request: by its `Idempotency-Key`, else by its `traceparent`, else not at all."""
    where = (str(scope["method"]), str(scope["path"]))
    key = header(scope, b"idempotency-key")
    if key:
        return Step(("idempotency", account_id, key, *where))
    parent = header(scope, b"traceparent")
    if parent is None:
        return None
    context = trace.get_current_span(_PROPAGATOR.extract({"traceparent": parent}, Context())).get_span_context()
    if not context.is_valid:
        return None
    trace_id, span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    return Step(("asgi", trace_id, span_id, *where), trace_id=trace_id)
