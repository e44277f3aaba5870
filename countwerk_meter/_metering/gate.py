"""Which way a call is let through: a draw on the enclosing block or a lease, a top-up, or a reservation of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from countwerk_meter._flow.commands import Journal, Now
from countwerk_meter._flow.ending import Seal
from countwerk_meter._flow.reserve import Gate, draw, reserve

if TYPE_CHECKING:
    from countwerk_meter._flow.commands import Flow, Moment
    from countwerk_meter._metering.reservation import Reservation


def gate_flow(reservation: Reservation) -> Flow[Gate]:
    """Let one call through, or raise. The reservation knows of it at once, whatever then happens to its caller."""
    gate = yield from _gate(reservation)
    reservation.passed(gate)
    return gate


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
    block, leases = reservation.block(), engine.leases
    if leases is not None and (block is None or block.lease is not None):
        drawn = yield from leases.draw(terms, charge, spec, None if block is None else block.lease)
        if drawn is not None:
            if block is not None and not drawn.replayed:
                reservation.drawn_on()
            return drawn
    if block is not None:
        for key in block.fundings:
            drawn = yield from draw(terms, charge, key)
            if drawn is not None:
                if not drawn.replayed:
                    reservation.drawn_on()
                return drawn
    hold = spec.reservation(terms, now.wall)
    fit = spec.clamp.fit if spec.clamp is not None else None
    recall = None if leases is None else leases.recalling(terms, spec.account_id)
    if block is None or not block.spec.top_up:
        gate = yield from reserve(terms, charge, hold, fit=fit, recall=recall)
    else:
        gate = yield from reserve(terms, charge, hold, shared=True, fit=fit, recall=recall)
        if gate.hold is not None:
            block.fundings.append(gate.hold.key)
            if not block.open:
                # The block ended while its hold was being made: nobody else would say that it is over.
                yield Journal(Seal(gate.hold.key, now.wall))
            gate = Gate(gate.charge)
    if block is not None and not gate.replayed:
        reservation.drawn_on()
    return gate
