"""
Taking over what a dead process left behind.

Its open calls follow a stated policy: the last checkpoint, what was reserved, or nothing. Its reserves that may have
left are in doubt. Everything else is settled as it stands. Rows of another API key are left alone: nothing in the
contract proves that two keys see the same accounts, and a deduct under the wrong one would charge somebody else.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar, Final

from countwerk_meter._flow.begin import orphaned
from countwerk_meter._flow.books import Operation
from countwerk_meter._flow.commands import Emit, Journal, Now
from countwerk_meter._flow.deduct import settled_fields
from countwerk_meter._flow.ending import Commit, Measured, Release, closing
from countwerk_meter._flow.rows import DEDUCT, replace
from countwerk_meter._flow.states import HOLDING, WAITING, ChargeState, ReservationState
from countwerk_meter._frozen import frozen

if TYPE_CHECKING:
    from countwerk_meter._flow.books import Books, DueRow
    from countwerk_meter._flow.commands import Flow, Moment
    from countwerk_meter._flow.rows import ChargeRow, ReservationRow
    from countwerk_meter._flow.terms import Terms

PROCESS_DIED: Final = "its process died"
# A row that has been due for so long, in seconds, has an owner that does not look after it, whether it lives or not.
OVERDUE_AFTER: Final = 120.0
_AT_ONCE: Final = 500
ADOPTED_AT_ONCE: Final = 100
_SENDS: Final = WAITING | {ReservationState.CLOSING}


@frozen
class Recovered:
    """What was taken over: calls closed by the policy, rows that go on, reserves in doubt."""

    closed: int = 0
    resumed: int = 0
    orphans: int = 0

    def __add__(self, other: Recovered) -> Recovered:
        return Recovered(self.closed + other.closed, self.resumed + other.resumed, self.orphans + other.orphans)


@frozen
class Adopted:
    """What one transaction took over; `calls` are those that the policy closed, as they stand now."""

    counts: Recovered = Recovered()
    calls: tuple[ChargeRow, ...] = ()
    more: bool = False


@frozen
class Abandoned(Operation["tuple[list[str], bool]"]):
    """Read which owners are dead, and whether any row is overdue: mostly none, and then nothing is written."""

    reads: ClassVar[bool] = True
    terms: Terms
    now: float

    def apply(self, books: Books) -> tuple[list[str], bool]:
        terms = self.terms
        owners = books.owners(terms.ledger, terms.principal) - {terms.owner}
        overdue = books.overdue(terms.ledger, terms.principal, self.now - OVERDUE_AFTER, _AT_ONCE)
        return [owner for owner in sorted(owners) if books.is_dead(owner)], any(
            _is_anothers(books, row, terms) for row in overdue
        )


def _is_anothers(books: Books, due: DueRow, terms: Terms) -> bool:
    row = books.reservation(due.key) if due.kind == "reservation" else books.charge(terms.ledger, due.key)
    return row is not None and row.owner != terms.owner


@frozen
class Adopt(Operation[Adopted]):
    """
    Make rows of a dead owner ours, in one transaction, so that two recoverers never take one row both.

    Whether the owner is dead is decided in the same transaction. One that was only paused and wakes up finds its rows
    moved on (their epoch), sends nothing for them, and brings what it knows as a late truth (money rule 15).

    Only so many at once: this process' own calls wait for the same journal, and no longer than they allow.
    """

    durable: ClassVar[bool] = True
    terms: Terms
    dead: str
    now: float
    at_once: int = ADOPTED_AT_ONCE

    def apply(self, books: Books) -> Adopted:
        if not books.is_dead(self.dead):
            return Adopted()
        terms = self.terms
        whose = (terms.ledger, terms.principal, self.dead)
        resumed = orphans = 0
        holds = books.reservations_owned(*whose, self.at_once)
        for row in holds:
            ours = replace(row, owner=terms.owner, epoch=row.epoch + 1, due_at=self._due(row))
            if row.state is ReservationState.REQUESTED:
                orphans += 1
                ours = orphaned(books, ours, "its process died while reserving", row.created_at)
            else:
                resumed += 1
                if row.open_charges == 0:
                    ours = closing(replace(ours, sealed=True), self.now)
            books.save_reservation(ours)
        calls: list[ChargeRow] = []
        charges = books.charges_owned(*whose, self.at_once - len(holds))
        for charge in charges:
            mine = replace(charge, owner=terms.owner, due_at=self._due(charge))
            if charge.state is not ChargeState.OPEN:
                books.save_charge(mine)
                resumed += 1
            elif charge.via == DEDUCT and charge.amount is not None:
                # A flat price that may have left: the same id makes no second charge, so it is sent until answered.
                kept = charge.checked_step(ChargeState.COMMITTED)
                books.save_charge(replace(mine, state=kept, committed_at=self.now, due_at=self.now))
                resumed += 1
            else:
                books.save_charge(mine)
                calls.append(self._close(books, mine))
        more = len(holds) + len(charges) == self.at_once
        return Adopted(Recovered(len(calls), resumed, orphans), tuple(calls), more)

    def _due(self, row: ReservationRow | ChargeRow) -> float | None:
        """What waits to be sent is tried at once: its owner's clock may have run ahead of ours."""
        if row.due_at is None or row.state not in _SENDS:
            return row.due_at
        return min(row.due_at, self.now)

    def _close(self, books: Books, charge: ChargeRow) -> ChargeRow:
        measured: Measured | None = None
        if self.terms.on_crash == "reserved":
            measured = Measured(Decimal(charge.estimate), "reserved", charge.lines)
        elif self.terms.on_crash == "checkpoint" and charge.exact is not None:
            measured = Measured(Decimal(charge.exact), charge.basis or "counted", charge.lines)
        step = (
            Release(charge.ledger, charge.id, charge.epoch, PROCESS_DIED, self.now, lost=True)
            if measured is None
            else Commit(charge.ledger, charge.id, charge.epoch, measured, self.now, self.terms.rounding)
        )
        return step.apply(books).charge or charge


@frozen
class TakeOverdue(Operation[int]):
    """
    Take the rows that their owner, though it seems to live, has left alone for too long: stopped, say, or hung.

    An open reservation is so recovered at its expiry whoever owns it. Should the owner wake up, the epoch has moved.
    """

    terms: Terms
    now: float

    def apply(self, books: Books) -> int:
        terms, before = self.terms, self.now - OVERDUE_AFTER
        taken = 0
        for due in books.overdue(terms.ledger, terms.principal, before, _AT_ONCE):
            if due.kind == "reservation":
                row = books.reservation(due.key)
                if row is None or row.owner == terms.owner or row.state not in HOLDING:
                    continue
                ours = replace(row, owner=terms.owner, epoch=row.epoch + 1, due_at=self.now)
                if row.state is ReservationState.REQUESTED:
                    # Its gate hangs: were its charge left behind, recovery would take the call for one that ran.
                    ours = orphaned(books, ours, "no answer was recorded", row.created_at)
                books.save_reservation(ours)
            else:
                charge = books.charge(terms.ledger, due.key)
                if charge is None or charge.owner == terms.owner or charge.due_at is None:
                    continue
                books.save_charge(replace(charge, owner=terms.owner, due_at=self.now))
            taken += 1
        return taken


@frozen
class TakeKey(Operation[int]):
    """
    Let a rotated API key take over the rows of the one before it; only a person can say that it is the same account.

    Charges that wait for a person come along too. Rows of processes that live stay theirs until those end.
    """

    durable: ClassVar[bool] = True
    ledger: str
    before: str
    after: str

    def apply(self, books: Books) -> int:
        return books.rename_principal(self.ledger, self.before, self.after)


@frozen
class Keys(Operation["dict[str, int]"]):
    """Read how many rows that have not ended each key has, by its fingerprint."""

    reads: ClassVar[bool] = True
    ledger: str

    def apply(self, books: Books) -> dict[str, int]:
        return books.principals(self.ledger)


def recover(terms: Terms, at_once: int = ADOPTED_AT_ONCE) -> Flow[Recovered]:
    """Take over what dead owners left, `at_once` rows a transaction, and what living ones left alone for too long."""
    now: Moment = yield Now()
    found: tuple[list[str], bool] = yield Journal(Abandoned(terms, now.wall))
    dead, overdue = found
    total = Recovered()
    for owner in dead:
        more = True
        while more:
            adopted: Adopted = yield Journal(Adopt(terms, owner, now.wall, at_once))
            total += adopted.counts
            more = adopted.more
            for call in adopted.calls:
                fields = settled_fields(call, via=call.via, amount=call.amount or 0)
                yield Emit("crashed", fields | {"state": str(call.state), "reason": PROCESS_DIED})
    if overdue:
        taken: int = yield Journal(TakeOverdue(terms, now.wall))
        total += Recovered(resumed=taken)
    if total != Recovered():
        yield Emit("recovered", {"closed": total.closed, "resumed": total.resumed, "orphans": total.orphans})
    return total
