"""
Leases: credits taken ahead for a busy account, on which its calls draw without a round trip.

A lease is a reservation that the process owns: a row as any other, without a charge of its own. Calls draw on it as
nested calls draw on a block; sealed, it settles as a block does: one confirm of what was drawn, which gives the rest
back, or a cancel. A dead process' leases are recovered as its blocks are.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Final

from countwerk_meter._flow.backoff import FORSAKEN_AFTER
from countwerk_meter._flow.begin import Fail
from countwerk_meter._flow.books import Operation
from countwerk_meter._flow.commands import Emit, Interrupted, Journal, Now, Send, Sleep
from countwerk_meter._flow.ending import closing
from countwerk_meter._flow.outcomes import outcome_of, retry_after, why
from countwerk_meter._flow.reserve import available_in, described, marked_held
from countwerk_meter._flow.rows import LEASE, ReservationRow, replace
from countwerk_meter._flow.settle import settle
from countwerk_meter._flow.states import HOLDING, ON_RESERVE, ChargeState, Outcome, ReservationState, Sequel
from countwerk_meter._flow.verdict import Verdict
from countwerk_meter._frozen import frozen
from countwerk_meter._wire import requests
from countwerk_meter._wire.replies import Answer, InDoubt

if TYPE_CHECKING:
    from countwerk_meter._flow.books import Books
    from countwerk_meter._flow.commands import Flow, Moment
    from countwerk_meter._flow.terms import Terms
    from countwerk_meter._wire.replies import Reply

# All leases of an account in one journal hold at most this part of what is available.
PART: Final = 10
# Minutes. A lease is drawn on for a third of it, so that every call has the 15 minutes that its own hold would have.
LEASE_VALIDITY: Final = 30
DRAWN_ON_FOR: Final = 3
_DESCRIPTION: Final = "taken ahead"
# Where somebody else is settling it just now, in seconds, and how often.
_LOOK_AGAIN: Final = 0.05
_LOOKS: Final = 20


@frozen
class Wanted:
    """What an account's calls of one operation have just been asking for, in credits."""

    amount: int  # for as long as a lease is to last
    largest: int  # the largest call


def lease_size(available: int, before: int, ahead: int, wanted: Wanted) -> int:
    """
    Return how many credits to take ahead; 0: it is not worth a lease.

    Args:
        available: What the ledger said is available, without what is held.
        before: What leases held ahead, not drawn, before the ledger was asked.
        ahead: What they hold ahead now.
        wanted: What is asked for.

    What was drawn between the two counts as held, and not as available: never more than a tenth, whichever was true
    when the ledger answered.

    """
    room = (max(available, 0) + min(before, ahead)) // PART - max(before, ahead)
    size = min(max(wanted.amount, 2 * wanted.largest), room)
    return size if size >= 2 * wanted.largest > 0 else 0


def ahead_of(books: Books, of: ReservationRow) -> int:
    """Add up what the account's leases hold and nobody has used: those in doubt, and those being given back, too."""
    rows = books.open_reservations(of.ledger, of.principal, of.account_id)
    return sum(row.amount - row.committed for row in rows if row.key.startswith(LEASE))


@frozen
class Ahead(Operation[int]):
    """Read what an account's leases hold ahead."""

    reads: ClassVar[bool] = True
    lease: ReservationRow

    def apply(self, books: Books) -> int:
        return ahead_of(books, self.lease)


@frozen
class BeginLease(Operation["ReservationRow | None"]):
    """
    Commit a lease's row before its request leaves (rule 3); None: it is not worth it, nothing was written.

    It is sized in the same transaction, so that all processes of this journal together keep to the tenth. An account
    that owes anything gets none.
    """

    lease: ReservationRow
    available: int
    before: int
    wanted: Wanted

    def apply(self, books: Books) -> ReservationRow | None:
        row = self.lease
        if books.owed(row.ledger, row.principal, row.account_id):
            return None
        amount = lease_size(self.available, self.before, ahead_of(books, row), self.wanted)
        if not amount:
            return None
        row = replace(row, amount=amount)
        books.save_reservation(row)
        return row


@frozen
class Recall(Operation["ReservationRow | None"]):
    """End a lease: no further draw; it settles once the open ones have ended. Answers with the row as it is then."""

    key: str
    now: float

    def apply(self, books: Books) -> ReservationRow | None:
        row = books.reservation(self.key)
        if row is not None and row.state is ReservationState.HELD and not row.sealed:
            row = closing(replace(row, sealed=True), self.now)
            books.save_reservation(row)
        return row


@frozen
class ForgoLease(Operation[None]):
    """Give up a lease whose taking was cut short: one that may have been made is in doubt, one that was, ended."""

    lease: ReservationRow
    in_doubt: bool
    now: float

    def apply(self, books: Books) -> None:
        state = ChargeState.ORPHANED if self.in_doubt else ChargeState.CANCELLED
        Fail(self.lease, state, "interrupted while reserving", self.now).apply(books)
        Recall(self.lease.key, self.now).apply(books)


@frozen
class Standing(Operation["tuple[tuple[ReservationRow | None, bool], ...]"]):
    """Read how leases stand, and whether their accounts owe anything (rule 14)."""

    reads: ClassVar[bool] = True
    keys: tuple[str, ...]

    def apply(self, books: Books) -> tuple[tuple[ReservationRow | None, bool], ...]:
        rows = [books.reservation(key) for key in self.keys]
        return tuple(
            (row, row is not None and bool(books.owed(row.ledger, row.principal, row.account_id))) for row in rows
        )


class TakeEnd(Enum):
    """How the taking of a lease ended."""

    TAKEN = "taken"
    NOT_NOW = "not now"  # a definite answer: too few credits, or refused
    NO_ANSWER = "no answer"


@frozen
class Taken:
    """What came of taking a lease."""

    end: TakeEnd
    row: ReservationRow | None = None
    lasts: float = 0.0  # seconds that the hold lasts, counted from before it was asked for
    wait: float | None = None  # seconds that the ledger asked to wait


def take(terms: Terms, lease: ReservationRow, wanted: Wanted, *, renewed: bool = False) -> Flow[Taken]:
    """
    Take credits ahead: ask what is available, then reserve a part of it. `lease.amount` is found here.

    In doubt it is never sent again (rule 3); what may be held counts as held until its validity has passed.
    """
    start: Moment = yield Now()
    deadline = start.monotonic + terms.settle_timeout
    before: int = yield Journal(Ahead(lease))
    reply: Reply = yield Send(requests.balance(lease.account_id), deadline)
    if outcome_of(reply) is not Outcome.DONE:
        return _not_taken(reply)
    # Should this process' thread die without a word, the row falls due by itself (I8).
    lease = replace(lease, due_at=start.wall + terms.settle_timeout + FORSAKEN_AFTER)
    in_doubt = False
    try:
        begun: ReservationRow | None = yield Journal(BeginLease(lease, available_in(reply), before, wanted))
        if begun is None:
            return Taken(TakeEnd.NOT_NOW)
        request = requests.reserve(
            begun.account_id,
            begun.operation,
            begun.amount,
            validity_minutes=begun.validity,
            description=described(_DESCRIPTION, begun.key),
        )
        in_doubt = True
        reply = yield Send(request, deadline)
        in_doubt = False
        return (yield from _answered(begun, reply, renewed=renewed))
    except Interrupted:
        now: Moment = yield Now()
        yield Journal(ForgoLease(lease, in_doubt, now.wall))
        if in_doubt:
            yield Emit("orphan_possible", _fields(lease) | {"reason": "interrupted while reserving"})
        raise


def _answered(lease: ReservationRow, reply: Reply, *, renewed: bool) -> Flow[Taken]:
    now: Moment = yield Now()
    if ON_RESERVE[outcome_of(reply)] is Sequel.RECORD:
        assert isinstance(reply, Answer)
        row = yield from marked_held(reply, lease, now)
        if row is not None:
            told = _fields(row) | {"reservation_id": row.reservation_id}
            yield Emit("leased", told | {"reason": "renewed" if renewed else "busy"})
            ledger = reply.server_time if reply.server_time is not None else now.ledger
            lasts = row.validity * 60.0
            if row.expires_at is not None and ledger is not None:
                lasts = min(row.expires_at - ledger, lasts)
            return Taken(TakeEnd.TAKEN, row, lasts)
        reply = InDoubt("the answer names no new reservation")
    doubt = isinstance(reply, InDoubt)
    yield Journal(Fail(lease, ChargeState.ORPHANED if doubt else ChargeState.CANCELLED, why(reply), now.wall))
    if doubt:
        yield Emit("orphan_possible", _fields(lease) | {"reason": why(reply)})
    return _not_taken(reply)


def _not_taken(reply: Reply) -> Taken:
    definite = isinstance(reply, Answer) and outcome_of(reply) is not Outcome.RATE_LIMITED
    return Taken(TakeEnd.NOT_NOW if definite else TakeEnd.NO_ANSWER, wait=retry_after(reply))


def _fields(lease: ReservationRow) -> dict[str, object]:
    return {"account_id": lease.account_id, "operation": lease.operation, "amount": lease.amount}


def call_back(terms: Terms, keys: tuple[str, ...], deadline: float, looks: int = _LOOKS) -> Flow[bool]:
    """
    Give leases back now, by `deadline` (monotonic seconds), because a call was refused; True: credits came back.

    One with open draws is given back when the last of them ends; one that somebody else is settling is waited for.
    """
    given = False
    for key in keys:
        for _ in range(looks):
            now: Moment = yield Now()
            row: ReservationRow | None = yield Journal(Recall(key, now.wall))
            if row is None or row.state not in HOLDING:
                given = given or row is not None
                break
            left = deadline - now.monotonic
            if row.state is not ReservationState.CLOSING or left <= 0 or (row.due_at or 0) > now.wall:
                # It has open draws, or was tried and backs off.
                break
            if not (row.confirms_open or row.cancels_open):
                done = yield from settle(replace(terms, settle_timeout=min(terms.settle_timeout, left)), key)
                if done.verdict is Verdict.ENDED:
                    continue
                if done.verdict is not Verdict.LATER:
                    break
            yield Sleep(min(_LOOK_AGAIN, left))
    return given
