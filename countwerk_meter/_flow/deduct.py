"""
Deducting a charge under its own id: the same id again makes no second charge, so it is sent until it is answered.

A 402 leaves it uncollected: kept, tried again on a schedule, surfaced; never given up silently.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from countwerk_meter._flow.attempts import LoadCharge
from countwerk_meter._flow.backoff import UNCOLLECTED_EVERY
from countwerk_meter._flow.commands import Emit, Journal, Now, Send
from countwerk_meter._flow.deducted import Deducted, Recorded
from countwerk_meter._flow.outcomes import again, outcome_of, why
from countwerk_meter._flow.rows import DEDUCT
from countwerk_meter._flow.states import ON_DEDUCT, WAITING, ChargeState, Sequel
from countwerk_meter._flow.verdict import Pass, Verdict
from countwerk_meter._wire import requests
from countwerk_meter._wire.replies import Answer

if TYPE_CHECKING:
    from countwerk_meter._flow.commands import Flow, Moment
    from countwerk_meter._flow.rows import ChargeRow
    from countwerk_meter._flow.terms import Terms
    from countwerk_meter._wire.replies import Reply
    from countwerk_meter._wire.requests import LedgerRequest


def deduct_request(charge: ChargeRow) -> LedgerRequest:
    """Return the deduct of a charge, with what explains it as metadata."""
    metadata: dict[str, Any] = dict(json.loads(charge.metadata)) if charge.metadata else {}
    meter: dict[str, Any] = {"basis": charge.basis, "exact": charge.exact, "trace_id": charge.trace_id}
    if charge.lines:
        meter["lines"] = json.loads(charge.lines)
    metadata["countwerk_meter"] = {key: value for key, value in meter.items() if value is not None}
    return requests.deduct(
        charge.account_id,
        charge.operation,
        charge.share,
        charge.id,
        description=charge.description,
        metadata=metadata,
    )


def named_amount(reply: Reply, field: str) -> int | None:
    """Return the amount that an answer names, if it names a whole one."""
    amount = reply.envelope.data.get(field) if isinstance(reply, Answer) else None
    return amount if isinstance(amount, int) and not isinstance(amount, bool) else None


def rejected(reply: Reply) -> str:
    """Return the reason of a charge that the ledger will not take."""
    return f"rejected: {why(reply)}"


def settled_fields(charge: ChargeRow, *, via: str, amount: int) -> dict[str, Any]:
    """Return what an event says of a charge that the ledger has."""
    return charge.named() | {"amount": amount, "basis": charge.basis, "via": via, "trace_id": charge.trace_id}


def deduct(terms: Terms, charge_id: str, deadline: float | None = None, *, release_first: bool = False) -> Flow[Pass]:
    """
    Send one deduct and record what came of it.

    Args:
        terms: The meter's.
        charge_id: `usage_event_id` of a charge that waits.
        deadline: Monotonic seconds; None: `terms.settle_timeout` from now.
        release_first: A 402 is not final yet, because a hold of the same call can still be given back.

    """
    charge: ChargeRow | None = yield Journal(LoadCharge(terms.ledger, charge_id))
    if charge is not None and charge.state is ChargeState.OPEN and charge.amount is not None:
        charge = yield from _forsaken(charge)
    if charge is None or charge.state not in WAITING or charge.via != DEDUCT or not charge.share:
        return Pass(Verdict.ENDED, charge.account_id if charge else "")
    yield Emit("settling", {"traces": ((charge.trace_id, charge.span_id),)})
    request = deduct_request(charge)
    start: Moment = yield Now()
    reply: Reply = yield Send(request, start.monotonic + terms.settle_timeout if deadline is None else deadline)
    now: Moment = yield Now()
    outcome = outcome_of(reply)
    following = again(charge, outcome, reply, now)
    account = charge.account_id

    def recorded(
        state: ChargeState, *, due: float | None = None, reason: str | None = None, actual: int | None = None
    ) -> Deducted:
        return Deducted(terms.ledger, charge_id, state, now.wall, reason, due, actual)

    match ON_DEDUCT[outcome]:
        case Sequel.RECORD:
            actual = named_amount(reply, "deductedAmount")
            kept: Recorded = yield Journal(recorded(ChargeState.SETTLED, actual=actual))
            yield from tell_charged(charge, actual, kept.late)
            late = (("charge", kept.late.id),) if kept.late is not None and kept.late.due_at is not None else ()
            return Pass(Verdict.ENDED, account, charges=(charge_id,), work=late)
        case Sequel.UNCOLLECTED if release_first:
            return Pass(Verdict.RELEASE, account, now.wall)
        case Sequel.UNCOLLECTED:
            due = now.wall + UNCOLLECTED_EVERY
            kept = yield Journal(recorded(ChargeState.UNCOLLECTED, due=due, reason="insufficient credits"))
            if charge.state is not ChargeState.UNCOLLECTED and _is(kept, ChargeState.UNCOLLECTED):
                yield Emit("uncollected", settled_fields(charge, via="deduct", amount=charge.share))
            return Pass(Verdict.LATER, account, due, charges=(charge_id,))
        case Sequel.UNRESOLVED:
            reason = rejected(reply)
            kept = yield Journal(recorded(ChargeState.UNRESOLVED, reason=reason))
            if _is(kept, ChargeState.UNRESOLVED):
                yield Emit(
                    "unresolved", settled_fields(charge, via="deduct", amount=charge.share) | {"reason": why(reply)}
                )
            return Pass(Verdict.ENDED, account, charges=(charge_id,))
        case _:
            yield Journal(recorded(ChargeState.COMMITTED, due=following.due))
            return following.passed(account)


def _is(kept: Recorded, state: ChargeState) -> bool:
    return kept.charge is not None and kept.charge.state is state


def tell_charged(charge: ChargeRow, actual: int | None, late: ChargeRow | None) -> Flow[None]:
    """Tell what a success came to: an answer may name less, which goes late, or more, which is only told (rule 1)."""
    amount = charge.share if actual is None else actual
    yield Emit("charged", settled_fields(charge, via="deduct", amount=amount))
    if amount > charge.share:
        yield Emit("excess", settled_fields(charge, via="deduct", amount=amount - charge.share))
    if late is not None and late.state is ChargeState.UNRESOLVED:
        yield Emit("unresolved", settled_fields(late, via="deduct", amount=late.share) | {"reason": late.reason})


def _forsaken(charge: ChargeRow) -> Flow[ChargeRow]:
    """Take up a flat price whose gate died without a word: it may have left, and the same id makes no second charge."""
    now: Moment = yield Now()
    if charge.due_at is None or now.wall < charge.due_at:
        return charge
    kept: Recorded = yield Journal(
        Deducted(charge.ledger, charge.id, ChargeState.COMMITTED, now.wall, "no answer was recorded", now.wall)
    )
    return kept.charge or charge
