"""Which way a call is let through: a draw on the enclosing block or a lease, a top-up, or a reservation of its own."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from countwerk_meter._flow.abandon import Abandon
from countwerk_meter._flow.commands import Emit, Interrupted, Journal, Now
from countwerk_meter._flow.ending import Seal
from countwerk_meter._flow.reserve import Gate, draw, reserve
from countwerk_meter._metering.funding import Funding
from countwerk_meter.errors import CountwerkError

if TYPE_CHECKING:
    from countwerk_meter._flow.commands import Flow, Moment
    from countwerk_meter._flow.rows import ChargeRow, ReservationRow
    from countwerk_meter._flow.terms import Terms
    from countwerk_meter._metering.reservation import Reservation
    from countwerk_meter.events import EventId


def gate_flow(reservation: Reservation) -> Flow[Gate]:
    """Let one call through, or raise. The reservation knows of it at once, whatever then happens to its caller."""
    try:
        gate = yield from _gate(reservation)
        reservation.passed(gate)
    except (Interrupted, KeyboardInterrupt, SystemExit):
        # Ctrl-C strikes in the middle of any step, and not only where a flow waits and can be told.
        if reservation.tried is not None:
            yield from _abandoned(*reservation.tried)
        raise
    if reservation.engine.over:
        # Nobody waits for it any more, and nobody would settle it.
        reservation.give_up("the meter was closed while reserving")
        raise CountwerkError("this meter is closed")
    return gate


def _abandoned(charge: ChargeRow, hold: ReservationRow | None) -> Flow[None]:
    """Give up what a gate began, whatever became of it: its request may be out (money rule 3)."""
    now: Moment = yield Now()
    doubt: bool = yield Journal(Abandon(charge, now.wall, hold, in_doubt=True))
    if doubt and hold is not None:
        yield Emit("orphan_possible", charge.named() | {"amount": hold.amount, "reason": "interrupted while reserving"})


def _gate(reservation: Reservation) -> Flow[Gate]:
    """
    Find the way in.

    A nested call whose estimate does not fit what is left tops the block up, or reserves for itself, before it runs:
    so a small hold never lets an unlimited number through.
    """
    now: Moment = yield Now()
    engine, spec = reservation.engine, reservation.spec
    engine.ready()
    event = reservation.event()
    terms = engine.terms_for(spec, durable=event.durable)
    charge = spec.charge(terms, event, now.wall)
    reservation.tried = charge, None
    block, leases = reservation.block(), engine.leases
    if leases is not None and (block is None or block.lease is not None):

        def on(funding: Funding, within: bool) -> Flow[Gate | None]:
            return _drawn(reservation, funding, charge, event, terms, within=within)

        drawn = yield from leases.draw(spec, None if block is None else block.lease, on)
        if drawn is not None:
            return drawn
    if block is not None:
        for funding in block.fundings:
            drawn = yield from _drawn(reservation, funding, charge, event, terms)
            if drawn is not None:
                return drawn
    hold = spec.reservation(terms, now.wall)
    reservation.tried = charge, hold
    fit = spec.clamp.fit if spec.clamp is not None else None
    recall = None if leases is None else leases.recalling(terms, spec.account_id)
    if block is None or not block.spec.top_up:
        gate = yield from reserve(terms, charge, hold, fit=fit, recall=recall)
    else:
        gate = yield from reserve(terms, charge, hold, shared=True, fit=fit, recall=recall)
        if gate.hold is not None:
            # The call that brought it has drawn on it.
            brought = Funding(gate.hold, gate.charge.estimate)
            block.fundings.append(brought)
            reservation.draws_from(brought)
            if not block.open:
                # The block ended while its hold was being made: nobody else would say that it is over.
                yield Journal(Seal(gate.hold.key, now.wall))
            gate = Gate(gate.charge)
    if block is not None and not gate.replayed:
        reservation.drawn_on()
    return gate


def _drawn(
    reservation: Reservation,
    funding: Funding,
    charge: ChargeRow,
    event: EventId,
    terms: Terms,
    *,
    within: bool = False,
) -> Flow[Gate | None]:
    """
    Draw on one hold of a block, or on a lease; None: it does not fit what is left of it.

    `within`: it is over for others. Then the journal's word is waited for: the call that keeps it open may just end.
    """
    now: Moment = yield Now()
    # While the ledger's time is not known, the hold may have lapsed: the journal knows.
    ahead = event.fresh and funding.ours and not within and now.ledger is not None
    with funding.queueing if ahead else contextlib.nullcontext():
        if not funding.take(charge.estimate, now.ledger, within=within):
            return None
        drawn: Gate | None = None
        try:
            drawn = yield from draw(terms, charge, funding.key, ahead=ahead, within=within)
            if drawn is not None and not drawn.replayed:
                reservation.drawn_on()
                reservation.draws_from(funding, ahead=ahead)
        finally:
            if drawn is None or drawn.replayed:
                funding.give(charge.estimate)
        return drawn
