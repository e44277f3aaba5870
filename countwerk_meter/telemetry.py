"""
Spans and metrics, through opentelemetry-api alone: without an SDK all of it is a no-op.

No attribute holds a secret, a prompt, an answer or a purchase URL. Account ids stand on spans, never on metrics: a
metric's attributes must stay few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

_NAME: Final = "countwerk_meter"
_CREDITS: Final = "{credit}"


class Silence:
    """Listens to nothing: the plain client's listener."""

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Ignore it."""

    def latency(self, endpoint: str, seconds: float, outcome: str) -> None:
        """Ignore it."""


class Telemetry:
    """
    Turns what flows say into metrics, spans, and calls of the app's own listener.

    Metrics: `countwerk.credits.reserved`, `.charged`, `.refused`, `.unresolved` (counters, credits),
    `countwerk.ledger.duration` (histogram, seconds), `countwerk.charges.open` (up-down counter). A shadow meter's
    spans and credits carry `countwerk.enforcement`.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        on_event: Callable[[str, Mapping[str, Any]], None] | None = None,
        *,
        shadow: bool = False,
    ) -> None:
        # What would have happened must not be taken for what did.
        self._mark = {"countwerk.enforcement": "shadow"} if shadow else {}
        self._tracer = trace.get_tracer(_NAME, tracer_provider=tracer_provider)
        meter = metrics.get_meter(_NAME, meter_provider=meter_provider)
        self._on_event = on_event
        self._credits = {
            name: meter.create_counter(f"countwerk.credits.{name}", unit=_CREDITS, description=f"Credits {name}")
            for name in ("reserved", "charged", "refused", "unresolved")
        }
        self._latency = meter.create_histogram(
            "countwerk.ledger.duration", unit="s", description="One request to the ledger"
        )
        self._open = meter.create_up_down_counter(
            "countwerk.charges.open", unit="{charge}", description="Charges whose call is running"
        )

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Count an event, and tell the app's listener, whose failure is its own."""
        if name == "settling":
            return
        counter = self._credits.get("unresolved" if name == "uncollected" else name)
        amount = fields.get("amount")
        if counter is not None and isinstance(amount, int):
            counter.add(amount, {"countwerk.operation": str(fields.get("operation", "")), **self._mark})
        if self._on_event is not None:
            try:
                self._on_event(name, fields)
            except Exception:  # noqa: BLE001 - a listener must not stop a settlement
                return

    def latency(self, endpoint: str, seconds: float, outcome: str) -> None:
        """Record how long the ledger took; `outcome` is Answer, NotSent or InDoubt."""
        self._latency.record(seconds, {"countwerk.endpoint": endpoint, "countwerk.outcome": outcome})

    def opened(self, operation: str, change: int) -> None:
        """Count a call that began (1) or ended (-1)."""
        self._open.add(change, {"countwerk.operation": operation})

    def reserving(self, account_id: str, operation: str, amount: int, usage_event_id: str) -> Span:
        """Start the span `countwerk.reserve`, a child of the app's current one; the caller ends it."""
        return self._tracer.start_span(
            "countwerk.reserve",
            kind=SpanKind.CLIENT,
            attributes={
                "countwerk.account_id": account_id,
                "countwerk.operation": operation,
                "countwerk.amount": amount,
                "countwerk.usage_event_id": usage_event_id,
                **self._mark,
            },
        )

    def leasing(self, account_id: str, operation: str) -> Span:
        """Start the span `countwerk.lease`, a root of its own: credits are taken ahead behind the app."""
        attributes = {"countwerk.account_id": account_id, "countwerk.operation": operation, **self._mark}
        return self._tracer.start_span(
            "countwerk.lease", context=Context(), kind=SpanKind.CLIENT, attributes=attributes
        )

    def settling(self, kind: str, key: str) -> Span:
        """Start the span `countwerk.settle`, a root of its own; links to the calls come as they are known."""
        attributes = {"countwerk.settles": kind, "countwerk.key": key, **self._mark}
        return self._tracer.start_span(
            "countwerk.settle", context=Context(), kind=SpanKind.CLIENT, attributes=attributes
        )


def link_to(trace_id: str | None, span_id: str | None) -> list[Link]:
    """Return a link to a trace known by its hex ids, or none."""
    if not trace_id or not span_id:
        return []
    context = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(0))
    return [Link(context)] if context.is_valid else []
