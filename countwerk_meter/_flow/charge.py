"""
A flat price, charged at once: a deduct under its own id, through the journal.

Definitely not carried out ends the charge and is raised; in doubt, it stays in the journal and is sent again until it
is answered, because the same id makes no second charge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from countwerk_meter._flow.abandon import Abandon
from countwerk_meter._flow.backoff import FORSAKEN_AFTER, gate_pause
from countwerk_meter._flow.begin import Begun, Direct, Held, HeldFor
from countwerk_meter._flow.commands import Emit, Interrupted, InterruptedInDoubt, Journal, Now, Send, Sleep
from countwerk_meter._flow.deduct import deduct_request, named_amount, settled_fields, tell_charged
from countwerk_meter._flow.deducted import Deducted, Recorded
from countwerk_meter._flow.outcomes import outcome_of, retry_after
from countwerk_meter._flow.reserve import denied, met_again
from countwerk_meter._flow.rows import DEDUCT, replace
from countwerk_meter._flow.states import ON_DEDUCT, WAITING, ChargeState, Sequel
from countwerk_meter._wire.replies import InDoubt, to_error
from countwerk_meter.errors import LedgerUnavailableError

if TYPE_CHECKING:
    from countwerk_meter._flow.commands import Flow, Moment
    from countwerk_meter._flow.rows import ChargeRow
    from countwerk_meter._flow.terms import Terms
    from countwerk_meter._wire.replies import Reply
    from countwerk_meter._wire.requests import LedgerRequest


def charge_at_once(terms: Terms, charge: ChargeRow) -> Flow[ChargeRow]:
    """
    Deduct `charge.share` credits now.

    The same id again answers with the charge that stands. A charge in doubt is sent again.

    Raises:
        InsufficientCreditsError: 402, with fresh links; nothing is owed, and the same id may be tried again.
        LedgerUnavailableError: No definite answer in time. With `in_doubt` the journal keeps it and sends it again.
        ApiError: The ledger refused for another reason.

    """
    start: Moment = yield Now()
    deadline = start.monotonic + terms.reserve_timeout
    # Should this call die without a word, its row falls due by itself (I8).
    charge = replace(charge, due_at=start.wall + terms.reserve_timeout + FORSAKEN_AFTER)
    try:
        begun: Begun = yield Journal(Direct(charge))
    except Interrupted:
        yield Journal(Abandon(charge, start.wall))
        raise
    if begun.met is not None:
        met = begun.met
        same = met.account_id == charge.account_id and met.operation == charge.operation
        if same and met.state is ChargeState.SETTLED:
            return met
        # One that waits for its reservation's confirm must not be deducted beside it (I2).
        if not same or met.state not in WAITING or met.via != DEDUCT or not met.share:
            return met_again(terms, charge, met).charge
    charge = begun.charge or begun.met or charge
    # A charge that was in doubt before must not become "never happened" because this answer says no.
    fresh = begun.met is None
    request = deduct_request(charge)

    def recorded(state: ChargeState, now: Moment, reason: str | None, *, due: bool = False) -> Deducted:
        return Deducted(terms.ledger, charge.id, state, now.wall, reason, now.wall if due else None)

    try:
        reply, doubted = yield from _until_answered(request, deadline)
    except Interrupted as cut:
        now: Moment = yield Now()
        if isinstance(cut, InterruptedInDoubt):
            yield Journal(recorded(ChargeState.COMMITTED, now, "interrupted", due=True))
        elif fresh:
            yield Journal(recorded(ChargeState.CANCELLED, now, "interrupted"))
        raise
    now = yield Now()
    sequel = ON_DEDUCT[outcome_of(reply)]
    if sequel is Sequel.RECORD:
        actual = named_amount(reply, "deductedAmount")
        kept: Recorded = yield Journal(Deducted(terms.ledger, charge.id, ChargeState.SETTLED, now.wall, actual=actual))
        yield from tell_charged(charge, actual, kept.late)
        return kept.charge or charge
    denial = sequel is Sequel.UNCOLLECTED
    error = to_error(request, reply)
    if doubted or not fresh:
        yield Journal(recorded(ChargeState.COMMITTED, now, "in doubt", due=True))
        yield Emit("in_doubt", settled_fields(charge, via="deduct", amount=charge.share))
        if isinstance(error, LedgerUnavailableError):
            # A later attempt that was never sent says nothing about the one before it.
            error.in_doubt = True
    else:
        yield Journal(recorded(ChargeState.DENIED if denial else ChargeState.CANCELLED, now, "refused"))
        if not denial:
            yield Emit("refused", settled_fields(charge, via="deduct", amount=charge.share))
    if denial:
        held: Held = yield Journal(HeldFor(charge))
        raise (yield from denied(terms, charge, charge.share, held, deadline))
    raise error


def _until_answered(request: LedgerRequest, deadline: float) -> Flow[tuple[Reply, bool]]:
    """Send until there is an answer: the id makes it safe. Also says whether any attempt was in doubt."""
    attempt, doubted = 0, False
    while True:
        try:
            reply: Reply = yield Send(request, deadline)
        except Interrupted:
            raise InterruptedInDoubt from None
        if ON_DEDUCT[outcome_of(reply)] not in {Sequel.BACK_OFF, Sequel.RESEND}:
            return reply, doubted
        doubted = doubted or isinstance(reply, InDoubt)
        wait, jitter = gate_pause(attempt, retry_after(reply))
        moment: Moment = yield Now()
        if moment.monotonic + wait >= deadline:
            return reply, doubted
        try:
            yield Sleep(wait, jitter)
        except Interrupted:
            if doubted:
                raise InterruptedInDoubt from None
            raise
        attempt += 1
