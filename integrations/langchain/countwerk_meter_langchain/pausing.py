"""
Out of credits as a pause: a denial inside a LangGraph graph becomes an interrupt of it.

The interrupt carries the 402 payload without URLs, because a checkpointer stores it; the app fetches fresh links to
show. Resuming runs the node again, and its call asks for credits again under the same charge id. LangGraph tells the
interrupts of a node's own apart by their order alone. Ours takes no place in that order, for whether it comes depends
on the balance: it has an id of its own, and takes the value that it is resumed with out of the node's way.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NoReturn

from countwerk_meter._flow.attempts import LoadCharge
from countwerk_meter._flow.states import ChargeState
from countwerk_meter_langchain.steps import configurable, current_task

if TYPE_CHECKING:
    from countwerk_meter import InsufficientCreditsError, Meter, Reservation


def can_pause() -> bool:
    """Whether a graph runs here that can be resumed: it has a checkpointer."""
    return current_task() is not None and bool(configurable().get("__pregel_checkpointer"))


def pause(denied: InsufficientCreditsError) -> NoReturn:
    """
    Interrupt the graph.

    Raises:
        GraphInterrupt: The graph pauses.
        InsufficientCreditsError: No graph runs here that could be resumed.

    """
    if not can_pause():
        raise denied
    from langgraph.errors import GraphInterrupt
    from langgraph.types import Interrupt

    # The form that LangGraph's own ids have: an app that resumes several interrupts names each by its id.
    name = hashlib.sha256(str(denied.usage_event_id).encode()).hexdigest()[:32]
    raise GraphInterrupt((Interrupt(value=denied.to_payload(urls=False), id=name),)) from None


def take_resume_value(meter: Meter, reservation: Reservation) -> None:
    """Take the value that the graph was resumed with, if this very charge was denied: it answers our pause."""
    waiting = getattr(configurable().get("__pregel_scratchpad"), "get_null_resume", None)
    if not can_pause() or not callable(waiting) or waiting(False) is None:
        return
    engine = meter._engine
    row = engine.journal.run(LoadCharge(engine.terms.ledger, reservation.event().id))
    if row is not None and row.state is ChargeState.DENIED:
        waiting(True)
