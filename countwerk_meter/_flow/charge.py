"""
A flat price, charged at once: a deduct under its own id, through the journal.

Definitely not carried out ends the charge and is raised; in doubt, it stays in the journal and is sent again until it
is answered, because the same id makes no second charge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from countwerk_meter._flow.attempts import Deducted
from countwerk_meter._flow.backoff import GATE_BASE, GATE_CAP, ceiling
from countwerk_meter._flow.begin import Begun, Direct, Held, HeldFor
from countwerk_meter._flow.commands import Emit, Interrupted, Journal, Now, Send, Sleep
from countwerk_meter._flow.deduct import deduct_request, deducted_amount, settled_fields
from countwerk_meter._flow.reserve import denied, met_again
from countwerk_meter._flow.states import WAITING, ChargeState
from countwerk_meter._wire.replies import Answer, InDoubt, to_error

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
    begun: Begun = yield Journal(Direct(charge))
    if begun.met is not None:
        same = begun.met.account_id == charge.account_id and begun.met.operation == charge.operation
        if same and begun.met.state is ChargeState.SETTLED:
            return begun.met
        if not same or begun.met.state not in WAITING:
            return met_again(terms, charge, begun.met).charge
    charge = begun.charge or begun.met or charge
    # A charge that was in doubt before must not become "never happened" because this answer says no.
    fresh = begun.met is None
    request = deduct_request(charge)
    try:
        reply, doubted = yield from _until_answered(request, deadline)
    except Interrupted:
        moment: Moment = yield Now()
        yield Journal(Deducted(terms.ledger, charge.id, ChargeState.COMMITTED, moment.wall, "interrupted", moment.wall))
        raise
    now: Moment = yield Now()
    kept = charge.state if charge.state in WAITING else ChargeState.COMMITTED
    if isinstance(reply, Answer) and reply.envelope.ok:
        actual = deducted_amount(reply)
        after: ChargeRow | None = yield Journal(
            Deducted(terms.ledger, charge.id, ChargeState.SETTLED, now.wall, actual=actual)
        )
        yield Emit("charged", settled_fields(charge, via="deduct", amount=charge.share if actual is None else actual))
        return after or charge
    denial = isinstance(reply, Answer) and reply.envelope.status == 402
    if doubted or not fresh:
        yield Journal(Deducted(terms.ledger, charge.id, kept, now.wall, "in doubt", now.wall))
        yield Emit("in_doubt", settled_fields(charge, via="deduct", amount=charge.share))
        if denial:
            held: Held = yield Journal(HeldFor(terms.ledger, charge.account_id))
            raise (yield from denied(terms, charge, charge.share, held, deadline))
        raise to_error(request, reply)
    ended = ChargeState.DENIED if denial else ChargeState.CANCELLED
    yield Journal(Deducted(terms.ledger, charge.id, ended, now.wall, "refused"))
    if denial:
        held = yield Journal(HeldFor(terms.ledger, charge.account_id))
        raise (yield from denied(terms, charge, charge.share, held, deadline))
    yield Emit("refused", settled_fields(charge, via="deduct", amount=charge.share))
    raise to_error(request, reply)


def _until_answered(request: LedgerRequest, deadline: float) -> Flow[tuple[Reply, bool]]:
    """Send until there is an answer: the id makes it safe. Also says whether any attempt was in doubt."""
    attempt, doubted = 0, False
    while True:
        reply: Reply = yield Send(request, deadline)
        doubted = doubted or isinstance(reply, InDoubt)
        wait, jitter = ceiling(attempt, base=GATE_BASE, cap=GATE_CAP), True
        if isinstance(reply, Answer):
            if reply.envelope.status != 429:
                return reply, doubted
            if reply.envelope.retry_after is not None:
                wait, jitter = reply.envelope.retry_after, False
        moment: Moment = yield Now()
        if moment.monotonic + wait >= deadline:
            return reply, doubted
        yield Sleep(wait, jitter)
        attempt += 1
