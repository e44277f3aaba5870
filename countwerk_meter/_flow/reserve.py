"""
The gate: reserve before the call, or say no. One wall-clock budget covers all of it (money rule 2).

The reservation's row and its charge's id are committed before the request leaves. In doubt it is never sent again: it
has no key (money rule 3).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import ValidationError

from countwerk_meter._flow.abandon import Abandon
from countwerk_meter._flow.backoff import FORSAKEN_AFTER, gate_pause
from countwerk_meter._flow.begin import Begin, Begun, Debt, Defer, Deny, Draw, Fail, Held, MarkHeld
from countwerk_meter._flow.commands import Emit, Interrupted, InterruptedInDoubt, Journal, Now, Send, Sleep
from countwerk_meter._flow.deduct import deduct
from countwerk_meter._flow.outcomes import outcome_of, retry_after, why
from countwerk_meter._flow.rows import replace
from countwerk_meter._flow.states import ON_RESERVE, ChargeState, Sequel
from countwerk_meter._flow.verdict import Verdict
from countwerk_meter._frozen import frozen
from countwerk_meter._wire import requests
from countwerk_meter._wire.models import Balance, LedgerReservation, PurchaseLinks
from countwerk_meter._wire.replies import Answer, InDoubt, NotSent, to_error
from countwerk_meter.errors import (
    ChargeAlreadySettledError,
    ChargeInProgressError,
    ConfigurationError,
    InsufficientCreditsError,
    LedgerUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from countwerk_meter._flow.commands import Flow, Moment
    from countwerk_meter._flow.rows import ChargeRow, ReservationRow
    from countwerk_meter._flow.terms import Terms
    from countwerk_meter._wire.replies import Reply
    from countwerk_meter._wire.requests import LedgerRequest


@frozen
class _Refused:
    """Too few credits: what our own reservations hold, and what the account owes where that is what refused it."""

    held: Held
    debt: int = 0


@frozen
class Gate:
    """
    The call may run.

    `hold` is None where nothing is held for it: a deferred call, or one met again (`replayed`: it was charged before).
    """

    charge: ChargeRow
    hold: ReservationRow | None = None
    replayed: bool = False


def described(description: str | None, charge_id: str) -> str:
    """Return the description that the ledger keeps: reserve and confirm take no key, so the id stands at its end."""
    return f"{description} [{charge_id}]" if description else f"[{charge_id}]"


def met_again(terms: Terms, charge: ChargeRow, met: ChargeRow) -> Gate:
    """Say what an id that stands already means for this call (RULES.md, "Met again")."""
    if met.account_id != charge.account_id or met.operation != charge.operation:
        raise ConfigurationError(f"usage_event_id {charge.id} was used for another account or operation")
    if met.state is ChargeState.OPEN:
        raise ChargeInProgressError(
            f"{charge.id} is being charged right now", usage_event_id=charge.id, state=str(met.state)
        )
    if terms.on_replay == "run":
        return Gate(met, replayed=True)
    raise ChargeAlreadySettledError(
        f"{charge.id} was charged already ({met.state})", usage_event_id=charge.id, state=str(met.state)
    )


def reserve(
    terms: Terms,
    charge: ChargeRow,
    hold: ReservationRow,
    *,
    shared: bool = False,
    fit: Callable[[int], int] | None = None,
    recall: Callable[[float], Flow[bool]] | None = None,
) -> Flow[Gate]:
    """
    Reserve `hold.amount` credits for `charge`, then let the call run. `shared`: further calls will draw on the hold.

    `recall` gives back by a deadline what this process took ahead for the account; where it gave anything back, a
    refused call is tried once more, inside the same budget, as a hold of its own.

    `fit` says how many credits will do where only so many are left, 0 if the call cannot be made for them: a refused
    call is then tried once more with those, inside the same budget, as a hold of its own.

    Raises:
        InsufficientCreditsError: 402, with fresh purchase links where there are any.
        LedgerUnavailableError: No definite answer within `terms.reserve_timeout`; `RateLimitError` on a 429.
        ApiError: The ledger refused for another reason.
        ChargeInProgressError, ChargeAlreadySettledError: The id stands already.

    """
    start: Moment = yield Now()
    softly = fit is not None or recall is not None
    made = yield from _guarded(terms, charge, hold, start, shared=shared, softly=softly)
    if isinstance(made, Gate):
        return made
    # The first was definitely refused, and its row says so: this is a new request, not the same one again (rule 3).
    deadline = start.monotonic + terms.reserve_timeout
    if recall is not None and (yield from recall(deadline)):
        again = replace(hold, key=f"{hold.key}-again")
        made = yield from _guarded(terms, charge, again, start, shared=shared, softly=True)
        if isinstance(made, Gate):
            return made
    if fit is not None and not made.debt:
        reply: Reply = yield Send(requests.balance(charge.account_id), deadline)
        amount = fit(available_in(reply))
        if 0 < amount < hold.amount:
            less = replace(hold, key=f"{hold.key}-clamped", amount=amount)
            clamped = replace(charge, estimate=amount)
            second = yield from _guarded(terms, clamped, less, start, shared=shared, softly=True)
            if isinstance(second, Gate):
                return second
    raise (yield from denied(terms, charge, made.debt + hold.amount, made.held, deadline))


def available_in(reply: Reply) -> int:
    """Return the credits that a balance says are available; 0 where it says nothing."""
    if not isinstance(reply, Answer) or not reply.envelope.ok:
        return 0
    try:
        return Balance.model_validate(reply.envelope.data).available_balance
    except ValidationError:
        return 0


def _guarded(
    terms: Terms, charge: ChargeRow, hold: ReservationRow, start: Moment, *, shared: bool, softly: bool
) -> Flow[Gate | _Refused]:
    """Reserve, and leave no row behind that nobody ends if cut short. With `softly` a 402 is returned, not raised."""
    # Should this gate die without a word, its row falls due by itself (I8).
    hold = replace(hold, due_at=start.wall + terms.reserve_timeout + FORSAKEN_AFTER)
    try:
        return (yield from _reserve(terms, charge, hold, start, shared=shared, softly=softly))
    except Interrupted as cut:
        now: Moment = yield Now()
        doubt = isinstance(cut, InterruptedInDoubt)
        yield Journal(Abandon(charge, now.wall, hold, doubt))
        if doubt:
            yield Emit(
                "orphan_possible", charge.named() | {"amount": hold.amount, "reason": "interrupted while reserving"}
            )
        raise


def _reserve(
    terms: Terms, charge: ChargeRow, hold: ReservationRow, start: Moment, *, shared: bool, softly: bool
) -> Flow[Gate | _Refused]:
    deadline = start.monotonic + terms.reserve_timeout
    begun: Begun = yield Journal(Begin(charge, hold, terms.debt_limit, shared, collect=True))
    if begun.met is None and begun.debt.total:
        # At most half of the budget: what cannot be collected now must not keep the call from its answer.
        yield from _collect(terms, begun.debt, start.monotonic + terms.reserve_timeout / 2)
        begun = yield Journal(Begin(charge, hold, terms.debt_limit, shared))
    if begun.met is not None:
        return met_again(terms, charge, begun.met)
    assert begun.charge is not None
    if begun.debt.above(terms.debt_limit):
        held: Held = yield Journal(Deny(charge, "debt"))
        if softly:
            return _Refused(held, begun.debt.total)
        raise (yield from denied(terms, charge, begun.debt.total + hold.amount, held, deadline))
    charge = begun.charge
    request = requests.reserve(
        hold.account_id,
        hold.operation,
        hold.amount,
        validity_minutes=hold.validity,
        description=described(hold.description, charge.id),
    )
    reply = yield from _until_answered(request, deadline)
    now: Moment = yield Now()
    if ON_RESERVE[outcome_of(reply)] is Sequel.RECORD:
        assert isinstance(reply, Answer)
        row = yield from marked_held(reply, hold, now)
        if row is not None:
            yield Emit("reserved", charge.named() | {"amount": row.amount, "reservation_id": row.reservation_id})
            return Gate(charge, row)
        reply = InDoubt("the answer names no new reservation")
    if softly and ON_RESERVE[outcome_of(reply)] is Sequel.DENY:
        refused: Held = yield Journal(Fail(hold, ChargeState.DENIED, "insufficient credits", now.wall))
        return _Refused(refused)
    return (yield from _not_held(terms, charge, hold, request, reply, now, deadline))


def _until_answered(request: LedgerRequest, deadline: float) -> Flow[Reply]:
    """Send until it was sent: only NotSent and a definite 429 go again, inside the budget (assumption A1)."""
    attempt = 0
    while True:
        try:
            reply: Reply = yield Send(request, deadline)
        except Interrupted:
            raise InterruptedInDoubt from None
        if ON_RESERVE[outcome_of(reply)] is not Sequel.RETRY:
            return reply
        wait, jitter = gate_pause(attempt, retry_after(reply))
        moment: Moment = yield Now()
        if moment.monotonic + wait >= deadline:
            return reply
        yield Sleep(wait, jitter)
        attempt += 1


def marked_held(reply: Answer, hold: ReservationRow, now: Moment) -> Flow[ReservationRow | None]:
    """Record what a successful reserve answered; None: it names no new reservation, so it is in doubt (rule 1)."""
    data = reply.envelope.data
    try:
        made = LedgerReservation.model_validate(data)
    except ValidationError:
        return None
    # The ledger's clock, or none: this machine's says nothing about a hold (money rule 6).
    ledger = reply.server_time if reply.server_time is not None else now.ledger
    expires, until = made.expires_at, None
    if expires is not None:
        until = (expires if expires.tzinfo else expires.replace(tzinfo=UTC)).timestamp()
    elif ledger is not None:
        until = ledger + hold.validity * 60
    left = until - ledger if until is not None and ledger is not None else hold.validity * 60
    amount = made.amount if 0 < made.amount <= hold.amount else hold.amount
    row: ReservationRow | None = yield Journal(
        MarkHeld(hold.key, made.reservation_id, amount, until, now.wall + max(left, 0) + 60, now.wall)
    )
    return row


def _not_held(
    terms: Terms,
    charge: ChargeRow,
    hold: ReservationRow,
    request: LedgerRequest,
    reply: Reply,
    now: Moment,
    deadline: float,
) -> Flow[Gate]:
    """Every other outcome of the reserve row of the outcome table."""
    sequel = ON_RESERVE[outcome_of(reply)]
    if sequel is Sequel.DENY:
        held: Held = yield Journal(Fail(hold, ChargeState.DENIED, "insufficient credits", now.wall))
        raise (yield from denied(terms, charge, hold.amount, held, deadline))
    error = to_error(request, reply)
    ended, event = (
        (ChargeState.ORPHANED, "orphan_possible") if sequel is Sequel.ORPHAN else (ChargeState.CANCELLED, "refused")
    )
    told = charge.named() | {"amount": hold.amount, "reason": why(reply)}
    try:
        held = yield Journal(Fail(hold, ended, why(reply), now.wall))
    except Interrupted:
        # It is queued; the caller's time is up, and what the ledger said is the better word for why.
        yield Emit(event, told)
        raise error from None
    yield Emit(event, told)
    if terms.on_unavailable != "defer" or not isinstance(error, LedgerUnavailableError):
        raise error
    deferred: Begun = yield Journal(Defer(charge, terms.debt_limit))
    if deferred.met is not None:
        raise error
    if deferred.charge is None:
        raise (yield from denied(terms, charge, deferred.debt.total, held, deadline))
    yield Emit("deferred", charge.named() | {"amount": charge.estimate})
    return Gate(deferred.charge)


def _collect(terms: Terms, debt: Debt, deadline: float) -> Flow[None]:
    """Try to collect a debt before refusing on its account (money rule 14), oldest first, until one does not end."""
    for charge_id in debt.collectable:
        now: Moment = yield Now()
        if now.monotonic >= deadline:
            return
        made = yield from deduct(terms, charge_id, deadline)
        if made.verdict is not Verdict.ENDED:
            return


def denied(
    terms: Terms, charge: ChargeRow, required: int, held: Held, deadline: float
) -> Flow[InsufficientCreditsError]:
    """
    Make the 402, with links fetched now.

    A failing purchase-links call never hides the 402, and never yields a URL.
    """
    yield Emit("refused", charge.named() | {"amount": required, "reason": "insufficient credits"})
    links, problem = yield from purchase_options(terms.ai_product_id, charge.account_id, deadline)
    return InsufficientCreditsError(
        account_id=charge.account_id,
        operation=charge.operation,
        required=required,
        usage_event_id=charge.id,
        held=held.amount,
        held_until=None if held.until is None else datetime.fromtimestamp(held.until, UTC),
        purchase_links=links,
        purchase_error=problem,
        ai_product_id=terms.ai_product_id,
    )


def purchase_options(
    ai_product_id: str, account_id: str, deadline: float
) -> Flow[tuple[PurchaseLinks | None, str | None]]:
    """Fetch the ways to buy; where that fails, whatever the failed answer carried, all closed, and why."""
    request = requests.purchase_links(ai_product_id, account_id)
    reply: Reply = yield Send(request, deadline)
    if isinstance(reply, NotSent):
        return None, "LEDGER_UNREACHABLE"
    if isinstance(reply, InDoubt):
        return None, reply.code or "LEDGER_UNAVAILABLE"
    said = reply.envelope
    try:
        links = PurchaseLinks.model_validate(said.data)
    except ValidationError:
        return None, said.code or "UNREADABLE_ANSWER"
    if said.ok:
        return links, None
    return (links.all_disabled() if links.options else None), said.code


def draw(
    terms: Terms, charge: ChargeRow, reservation_key: str, *, ahead: bool = False, within: bool = False
) -> Flow[Gate | None]:
    """
    Begin a charge on an open reservation, without a round trip; None: it does not fit what is left.

    `ahead`: its id is new and it is known to fit, so nothing in the journal's answer is waited for. Should the hold
    have moved on all the same, the commit says what the call was (`Commit.begins`). `within`: see `Draw`.
    """
    now: Moment = yield Now()
    try:
        begun: Begun | None = yield Journal(Draw(charge, reservation_key, now.ledger, within), waits=not ahead)
    except Interrupted:
        yield Journal(Abandon(charge, now.wall))
        raise
    if ahead:
        return Gate(replace(charge, reservation_key=reservation_key, draw=True))
    if begun is None:
        return None
    if begun.met is not None:
        return met_again(terms, charge, begun.met)
    assert begun.charge is not None
    return Gate(begun.charge)
