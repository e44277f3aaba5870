"""
Settling a reservation: confirm what was used, cancel what was not, deduct where a confirm can no longer be.

One pass over one row. Every attempt is committed before it leaves (money rule 4), time is the ledger's (rule 6), and
what the client cannot decide becomes unresolved instead of a guess (rules 5 and 8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from countwerk_meter._flow.attempts import (
    CANCEL,
    INFERRED,
    Claim,
    CloseAttempt,
    Confirmed,
    Convert,
    End,
    Ended,
    ExpireOrphan,
    Lapse,
    Load,
    NotThere,
    OpenAttempt,
    Postpone,
    unsent,
)
from countwerk_meter._flow.begin import Forsake
from countwerk_meter._flow.clock import Life, life_of, outwaited, surely_over
from countwerk_meter._flow.commands import Emit, Journal, Now, Send
from countwerk_meter._flow.deduct import deduct, named_amount, rejected, settled_fields
from countwerk_meter._flow.outcomes import (
    again,
    backoff,
    outcome_of,
    outcome_of_cancel,
    outcome_of_confirm,
    retry_after,
    why,
)
from countwerk_meter._flow.reserve import described
from countwerk_meter._flow.rows import CONFIRM, DEDUCT, ChargeRow, ReservationRow
from countwerk_meter._flow.states import (
    ON_CANCEL,
    ON_CONFIRM,
    WAITING,
    ChargeState,
    Outcome,
    ReservationState,
    Sequel,
)
from countwerk_meter._flow.verdict import Pass, Verdict
from countwerk_meter._wire import requests

if TYPE_CHECKING:
    from countwerk_meter._flow.commands import Flow, Moment
    from countwerk_meter._flow.terms import Terms
    from countwerk_meter._wire.replies import Reply


def settle(terms: Terms, key: str) -> Flow[Pass]:
    """Make one pass over the reservation with this journal key."""
    claim: Claim | None = yield Journal(Load(key))
    if claim is None:
        return Pass(Verdict.ENDED, "")
    row = claim.row
    yield Emit("settling", {"traces": tuple((charge.trace_id, charge.span_id) for charge in claim.charges)})
    if row.state is ReservationState.REQUESTED:
        return (yield from _forsaken(row))
    if row.state is ReservationState.ORPHAN_POSSIBLE:
        return (yield from _expire_orphan(row))
    if row.state is ReservationState.HELD:
        return (yield from _lapse(terms, row))
    if row.state is not ReservationState.CLOSING:
        return Pass(Verdict.ENDED, row.account_id)
    if row.settle_with == DEDUCT and row.cancels == 0:
        return (yield from _deduct_then_cancel(terms, claim))
    if row.cancels:
        return (yield from _cancel(terms, row))
    if not row.committed:
        return (yield from _cancel(terms, row))
    return (yield from _confirm_or_convert(terms, claim))


def leave(terms: Terms, claim: Claim) -> Flow[Pass]:
    """Send the confirm whose first attempt was opened with the commit (money rule 7), if it leaves in time."""
    yield Emit("settling", {"traces": tuple((charge.trace_id, charge.span_id) for charge in claim.charges)})
    start: Moment = yield Now()
    if life_of(claim.row, start) is Life.ALIVE:
        return (yield from _confirming(terms, claim, start))
    yield Journal(unsent(claim.row, start.wall))
    return Pass(Verdict.LATER, claim.row.account_id, start.wall)


def probe(terms: Terms, account_id: str) -> Flow[Pass]:
    """Ask for a balance: is the ledger giving definite answers again, and does the key work (money rule 12)."""
    start: Moment = yield Now()
    reply: Reply = yield Send(requests.balance(account_id), start.monotonic + terms.settle_timeout)
    outcome = outcome_of(reply)
    if outcome is Outcome.BAD_KEY:
        return Pass(Verdict.PAUSED, account_id)
    answered = outcome not in {Outcome.NOT_SENT, Outcome.IN_DOUBT, Outcome.RATE_LIMITED}
    return Pass(Verdict.ENDED if answered else Verdict.DOUBTFUL, account_id, wait=retry_after(reply))


def _forsaken(row: ReservationRow) -> Flow[Pass]:
    """Take up a reserve whose gate died without a word, once it is sure that it did."""
    now: Moment = yield Now()
    if row.due_at is None or now.wall < row.due_at:
        return Pass(Verdict.LATER, row.account_id, row.due_at)
    orphan: ReservationRow | None = yield Journal(Forsake(row.key, now.wall))
    if orphan is None:
        return Pass(Verdict.LATER, row.account_id, now.wall)
    fields = {"account_id": row.account_id, "operation": row.operation, "amount": row.amount}
    yield Emit("orphan_possible", fields | {"reason": orphan.reason})
    return Pass(Verdict.LATER, row.account_id, orphan.due_at)


def _expire_orphan(row: ReservationRow) -> Flow[Pass]:
    now: Moment = yield Now()
    # No ledger time is known for a hold that may not exist.
    due = row.due_at or outwaited(row, row.created_at)
    if now.wall < due:
        return Pass(Verdict.LATER, row.account_id, due)
    yield Journal(ExpireOrphan(row.key))
    return Pass(Verdict.ENDED, row.account_id)


def _lapse(terms: Terms, row: ReservationRow) -> Flow[Pass]:
    moment, failed = yield from _ledger_time(terms, row)
    if failed is not None:
        return failed
    if life_of(row, moment) is not Life.EXPIRED:
        # The ledger named no end: its validity is waited out on this machine's clock, and nothing is inferred from it.
        left = outwaited(row, row.created_at) - moment.wall
        if moment.ledger is not None and row.expires_at is not None:
            left = max(row.expires_at - moment.ledger + 1, 1.0)
        elif row.expires_at is not None:
            left = 60.0
        if left > 0:
            yield Journal(Postpone(row.key, moment.wall + left, failed=False))
            return Pass(Verdict.LATER, row.account_id, moment.wall + left)
    lapsed: ReservationRow | None = yield Journal(Lapse(row.key, moment.wall))
    if lapsed is None:
        return Pass(Verdict.LATER, row.account_id, moment.wall)
    yield Emit("lapsed", {"account_id": row.account_id, "operation": row.operation, "amount": row.amount})
    work = (("reservation", row.key),) if lapsed.state is ReservationState.CLOSING else ()
    return Pass(Verdict.ENDED, row.account_id, work=work)


def _ledger_time(terms: Terms, row: ReservationRow) -> Flow[tuple[Moment, Pass | None]]:
    """Return a moment that knows the ledger's time, asking for it if need be; or the pass that failed to."""
    moment: Moment = yield Now()
    if moment.ledger is not None:
        return moment, None
    asked = yield from probe(terms, row.account_id)
    moment = yield Now()
    if asked.verdict is Verdict.ENDED:
        return moment, None
    due = backoff(row, moment)
    yield Journal(Postpone(row.key, due))
    return moment, Pass(asked.verdict, row.account_id, due, wait=asked.wait)


def _confirm_or_convert(terms: Terms, claim: Claim) -> Flow[Pass]:
    row = claim.row
    moment, failed = yield from _ledger_time(terms, row)
    if failed is not None:
        return failed
    life = life_of(row, moment)
    if life is Life.ALIVE:
        return (yield from _confirm(terms, claim))
    if row.confirms_open == 0 and not row.confirm_delivered:
        # No confirm can have been applied: each charge goes under its own id, and nothing waits for the cancel.
        ended: Ended = yield Journal(Convert(row.key, row.epoch, moment.wall))
        if ended.row is None:
            return Pass(Verdict.LATER, row.account_id, moment.wall)
        yield Emit("converted", {"account_id": row.account_id, "amount": row.committed, "reason": "expired"})
        done = yield from _cancel(terms, ended.row)
        return Pass(done.verdict, row.account_id, done.due_at, work=_charges(ended), wait=done.wait)
    if life is Life.UNKNOWN and row.confirms_open:
        return (yield from _confirm(terms, claim))
    # Expired with a confirm in doubt or delivered: one cancel, whose `true` alone proves that nothing was charged.
    return (yield from _cancel(terms, row, then_deduct=True))


def _charges(ended: Ended) -> tuple[tuple[str, str], ...]:
    return tuple(("charge", charge_id) for charge_id in ended.deducts)


def _confirm(terms: Terms, claim: Claim) -> Flow[Pass]:
    row = claim.row
    amount = row.frozen or row.committed
    opened: ReservationRow | None = yield Journal(OpenAttempt(row.key, row.epoch, CONFIRM, amount))
    if opened is None:
        now: Moment = yield Now()
        return Pass(Verdict.LATER, row.account_id, now.wall + 1)
    start: Moment = yield Now()
    return (yield from _confirming(terms, Claim(opened, claim.charges), start))


def _confirming(terms: Terms, claim: Claim, start: Moment) -> Flow[Pass]:
    """Send the confirm whose attempt is open, and record what comes back."""
    row, amount = claim.row, claim.row.frozen
    assert row.reservation_id is not None
    assert amount is not None
    carried = [charge for charge in claim.charges if charge.share and charge.via == CONFIRM]
    request = requests.confirm(row.reservation_id, amount, description=_carried(row, carried))
    reply: Reply = yield Send(request, start.monotonic + terms.settle_timeout)
    now = yield Now()
    outcome = outcome_of_confirm(reply)
    following = again(row, outcome, reply, now)
    match ON_CONFIRM[outcome]:
        case Sequel.RECORD:
            ended: Ended = yield Journal(Confirmed(row.key, named_amount(reply, "actualAmount"), now.wall))
            return (yield from _told(row, ended))
        case Sequel.RESEND:
            yield Journal(Postpone(row.key, following.due, doubtful_confirm=True))
            yield Emit(
                "in_doubt", {"account_id": row.account_id, "amount": amount, "of": "confirm", "reason": why(reply)}
            )
        case Sequel.RULE_5:
            closed: ReservationRow = yield Journal(CloseAttempt(row.key, CONFIRM, delivered=True, due_at=now.wall))
            if closed.confirms_open:
                return (yield from _unresolved(row, "refused in doubt", now))
            return (yield from _cancel(terms, closed, then_deduct=True))
        case Sequel.RULE_8:
            return (yield from _vanished(row, now))
        case Sequel.UNRESOLVED:
            return (yield from _unresolved(row, rejected(reply), now, closes=CONFIRM))
        case _:
            delivered = outcome is Outcome.RATE_LIMITED
            yield Journal(CloseAttempt(row.key, CONFIRM, delivered=delivered, due_at=following.due))
    return following.passed(row.account_id)


def _carried(row: ReservationRow, charges: list[ChargeRow]) -> str:
    if len(charges) == 1:
        return described(row.description, charges[0].id)
    return described(row.description, f"{charges[0].id} and {len(charges) - 1} more")


def _told(row: ReservationRow, ended: Ended) -> Flow[Pass]:
    """Tell what became of each charge that a reservation carried."""
    for charge in ended.charges:
        if charge.state is ChargeState.UNRESOLVED:
            fields = settled_fields(charge, via=charge.via, amount=charge.share)
            yield Emit("unresolved", fields | {"reason": charge.reason})
        elif charge.share:
            yield Emit("charged", settled_fields(charge, via=CONFIRM, amount=charge.share))
    if ended.excess:
        yield Emit("excess", {"account_id": row.account_id, "amount": ended.excess, "operation": row.operation})
    ids = tuple(charge.id for charge in ended.charges)
    return Pass(Verdict.ENDED, row.account_id, work=_charges(ended), charges=ids)


def _vanished(row: ReservationRow, now: Moment) -> Flow[Pass]:
    """Read a 404 on a confirm: only time and the other attempts say what it means (money rule 8)."""
    alive = life_of(row, now) is Life.ALIVE
    first = row.confirms_open == 1 and not row.confirm_delivered
    ended: Ended = yield Journal(NotThere(row.key, alive, first, now.wall))
    if ended.row is not None and ended.row.reason == INFERRED and ended.charges:
        yield Emit("inferred", {"account_id": row.account_id, "amount": row.frozen or row.committed})
    return (yield from _told(row, ended))


def _unresolved(row: ReservationRow, reason: str, now: Moment, *, closes: str | None = None) -> Flow[Pass]:
    ended: Ended = yield Journal(End(row.key, ReservationState.UNRESOLVED, reason, now.wall, closes=closes))
    return (yield from _told(row, ended))


def _cancel(terms: Terms, row: ReservationRow, *, then_deduct: bool = False) -> Flow[Pass]:
    """Give the hold back. `then_deduct`: only a definite `cancelled: true` lets its charges go as deducts (rule 5)."""
    then_deduct = then_deduct or row.cancel_then_deduct
    start: Moment = yield Now()
    account = row.account_id
    if not then_deduct and surely_over(row, start):
        return (yield from _ended(row, ReservationState.EXPIRED, "expired", start, closes=None))
    opened: ReservationRow | None = yield Journal(OpenAttempt(row.key, row.epoch, CANCEL, then_deduct=then_deduct))
    if opened is None:
        return Pass(Verdict.LATER, account, start.wall + 1)
    assert opened.reservation_id is not None
    request = requests.cancel(opened.reservation_id, reason="charged otherwise" if row.committed else "nothing used")
    reply: Reply = yield Send(request, start.monotonic + terms.settle_timeout)
    now: Moment = yield Now()
    outcome = outcome_of_cancel(reply)
    following = again(row, outcome, reply, now)
    match ON_CANCEL[outcome]:
        case Sequel.RECORD if outcome is Outcome.DONE:
            return (yield from _ended(row, ReservationState.CANCELLED, None, now, deduct=then_deduct))
        case Sequel.RECORD if then_deduct:
            return (yield from _unresolved(row, "expired", now, closes=CANCEL))
        case Sequel.RECORD:
            return (yield from _ended(row, ReservationState.CANCELLED, "not found", now))
        case Sequel.RESEND if then_deduct and life_of(row, now) is not Life.ALIVE:
            return (yield from _unresolved(row, "expired", now))
        case Sequel.RESEND:
            yield Journal(Postpone(row.key, following.due))
        case Sequel.UNRESOLVED:
            reason = rejected(reply)
            fields = {"account_id": account, "operation": row.operation, "amount": 0, "reason": reason}
            yield Emit("unresolved", fields)
            return (yield from _unresolved(row, reason, now, closes=CANCEL))
        case _:
            yield Journal(CloseAttempt(row.key, CANCEL, delivered=False, due_at=following.due))
    return following.passed(account)


def _ended(
    row: ReservationRow,
    state: ReservationState,
    reason: str | None,
    now: Moment,
    *,
    deduct: bool = False,
    closes: str | None = CANCEL,
) -> Flow[Pass]:
    ended: Ended = yield Journal(End(row.key, state, reason, now.wall, deduct=deduct, closes=closes))
    return (yield from _told(row, ended))


def _deduct_then_cancel(terms: Terms, claim: Claim) -> Flow[Pass]:
    """
    Settle with deducts (`settle_with="deduct"`): the hold was only the admission.

    On a 402 the hold is given back first, because it may be what is missing.
    """
    row = claim.row
    ended: list[str] = []
    work: list[tuple[str, str]] = []
    for charge in claim.charges:
        if charge.state not in WAITING or charge.via != DEDUCT:
            continue
        made = yield from deduct(terms, charge.id, release_first=True)
        work.extend(made.work)
        ended.extend(made.charges)
        if made.verdict is Verdict.ENDED:
            continue
        now: Moment = yield Now()
        if made.verdict is Verdict.RELEASE or surely_over(row, now):
            break
        due = made.due_at or now.wall
        yield Journal(Postpone(row.key, due))
        return Pass(made.verdict, row.account_id, due, tuple(work), tuple(ended), made.wait)
    done = yield from _cancel(terms, row)
    return Pass(done.verdict, row.account_id, done.due_at, (*work, *done.work), (*ended, *done.charges), done.wait)
