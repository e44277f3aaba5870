"""
Out of credits as a pause: a denial inside a LangGraph graph becomes an interrupt of it.

The interrupt carries the 402 payload without URLs, because a checkpointer stores it; the app fetches fresh links to
show. Resuming runs the node again, and its call asks for credits again under the same charge id. LangGraph tells a
node's interrupts apart by their order alone; so a call that was denied before and is paid now takes its resume value
all the same, or an interrupt of the node's own would be handed it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from countwerk_meter._flow.attempts import LoadCharge
from countwerk_meter._flow.states import ChargeState
from countwerk_meter_langchain.steps import configurable, current_task

if TYPE_CHECKING:
    from countwerk_meter import InsufficientCreditsError, Meter, Reservation


def can_pause() -> bool:
    """Whether a graph runs here that can be resumed: it has a checkpointer."""
    return current_task() is not None and bool(configurable().get("__pregel_checkpointer"))


def pause(denied: InsufficientCreditsError) -> None:
    """
    Interrupt the graph; return where it has been resumed, so that credits are asked for again.

    Raises:
        GraphInterrupt: The graph pauses.
        InsufficientCreditsError: No graph runs here that could be resumed.

    """
    if not can_pause():
        raise denied
    from langgraph.types import interrupt

    interrupt(denied.to_payload(urls=False))


def take_resume_value(meter: Meter, reservation: Reservation) -> None:
    """Take the resume value of an earlier attempt's pause, if this very charge was denied and one is there."""
    if not can_pause() or not _resumed():
        return
    engine = meter._engine
    row = engine.journal.run(LoadCharge(engine.terms.ledger, reservation.event().id))
    if row is not None and row.state is ChargeState.DENIED:
        from langgraph.types import interrupt

        interrupt({"code": "INSUFFICIENT_CREDITS", "usage_event_id": row.id})


def _resumed() -> bool:
    scratchpad: Any = configurable().get("__pregel_scratchpad")
    waiting = getattr(scratchpad, "get_null_resume", None)
    return bool(getattr(scratchpad, "resume", None)) or (callable(waiting) and waiting(False) is not None)
