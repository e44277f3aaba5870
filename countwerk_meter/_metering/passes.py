"""One pass over a row that is due, and the trace that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from countwerk_meter._flow.commands import Emit
from countwerk_meter._flow.deduct import deduct
from countwerk_meter._flow.settle import settle
from countwerk_meter.telemetry import link_to

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from countwerk_meter._flow.commands import Flow
    from countwerk_meter._flow.terms import Terms
    from countwerk_meter._flow.verdict import Pass


def passing(terms: Terms, kind: str, key: str) -> Flow[Pass]:
    """Return the flow that makes one pass over a row."""
    return settle(terms, key) if kind == "reservation" else deduct(terms, key)


def traced(flow: Flow[Pass], span: Span) -> Flow[Pass]:
    """Run a flow, linking its span to the traces of the calls that it settles."""
    reply: Any = None
    while True:
        try:
            command = flow.send(reply)
        except StopIteration as stop:
            return stop.value
        if isinstance(command, Emit) and command.event == "settling":
            for trace_id, span_id in command.fields["traces"]:
                for link in link_to(trace_id, span_id):
                    span.add_link(link.context)
            reply = None
        else:
            reply = yield command
