"""
What the client cannot decide, and closing it by a person's word.

Listed are charges that are unresolved, uncollected or lost, and holds that are unresolved or may be held. Closing one
moves no money, but for a charge of which somebody found that the ledger does not have it: that may be deducted, under
an id of its own, once no confirm of it can arrive any more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Final

from countwerk_meter._flow.books import Operation
from countwerk_meter._flow.legs import add_late
from countwerk_meter._flow.rows import CONFIRM
from countwerk_meter._flow.states import LISTED, WAITING, ChargeState, ReservationState

if TYPE_CHECKING:
    from countwerk_meter._flow.books import Books
    from countwerk_meter._flow.rows import ChargeRow, ReservationRow

# A hold ends by itself after its validity; a minute more for clocks that differ.
_AFTER_VALIDITY: Final = 60.0
_EVERY: Final = 1_000_000_000


class Finding(StrEnum):
    """What somebody found out about a listed row."""

    CHARGED = "charged"  # the ledger has it
    NOT_CHARGED = "not-charged"  # the ledger does not have it
    WRITTEN_OFF = "written-off"  # nobody will find out, or it will not be collected


@dataclass(frozen=True, slots=True)
class Listing:
    """One row that waits for a person: a charge with the hold that it drew on, or a hold alone."""

    charge: ChargeRow | None
    reservation: ReservationRow | None


@dataclass(frozen=True, slots=True)
class Listings(Operation["list[Listing]"]):
    """Read what waits for a person, oldest first."""

    reads: ClassVar[bool] = True
    ledger: str

    def apply(self, books: Books) -> list[Listing]:
        found: list[Listing] = []
        shown: set[str] = set()
        for charge in reversed(books.charges(self.ledger, LISTED, _EVERY)):
            row = books.reservation(charge.reservation_key) if charge.reservation_key else None
            if row is not None:
                shown.add(row.key)
            found.append(Listing(charge, row))
        alone = frozenset({ReservationState.UNRESOLVED, ReservationState.ORPHAN_POSSIBLE})
        found.extend(
            Listing(next(iter(books.charges_of(row.key)), None), row)
            for row in books.reservations(self.ledger, alone, _EVERY)
            if row.key not in shown
        )
        return found


@dataclass(frozen=True, slots=True)
class Closed:
    """What closing did: the row as it stands now, or why it could not be; and the deduct that it made."""

    listing: Listing | None = None
    refusal: str | None = None
    deduct: ChargeRow | None = None


@dataclass(frozen=True, slots=True)
class Close(Operation[Closed]):
    """Close one listed row, by the id of its charge or the journal key of its hold, with who said so and why."""

    durable: ClassVar[bool] = True
    ledger: str
    name: str
    finding: Finding
    note: str
    now: float
    deduct: bool = False
    owner: str = ""

    def apply(self, books: Books) -> Closed:
        charge = books.charge(self.ledger, self.name)
        if charge is None:
            return self._close_hold(books)
        row = books.reservation(charge.reservation_key) if charge.reservation_key else None
        if charge.state not in LISTED:
            if row is not None and row.state in {ReservationState.UNRESOLVED, ReservationState.ORPHAN_POSSIBLE}:
                return self._close_row(books, row, charge)
            return Closed(refusal=f"{charge.id} is {charge.state}, and waits for nobody")
        if self.deduct:
            refusal = self._cannot_deduct(charge, row)
            if refusal is not None:
                return Closed(refusal=refusal)
        done = replace(
            charge,
            state=charge.checked_step(ChargeState.CLOSED),
            closed_as=str(self.finding),
            note=self.note,
            closed_at=self.now,
            due_at=None,
        )
        books.save_charge(done)
        if row is not None and row.state is ReservationState.UNRESOLVED:
            waits = any(other.state is ChargeState.UNRESOLVED for other in books.charges_of(row.key))
            if not waits:
                row = self._closed_row(books, row)
        leg: ChargeRow | None = None
        if self.deduct:
            leg = add_late(books, replace(done, owner=self.owner or done.owner), _part(charge), self.now)
        return Closed(Listing(done, row), deduct=leg)

    def _cannot_deduct(self, charge: ChargeRow, row: ReservationRow | None) -> str | None:
        if self.finding is not Finding.NOT_CHARGED:
            return "only what was not charged can be deducted"
        if charge.state is not ChargeState.UNRESOLVED or charge.via != CONFIRM:
            return f"{charge.id} is {charge.state}: only the confirm of an unresolved charge can be made up for"
        if not _part(charge):
            return f"{charge.id} has no amount that could be deducted"
        if row is not None and self.now < row.created_at + row.validity * 60 + _AFTER_VALIDITY:
            return f"the hold of {charge.id} may still be confirmed: wait until its validity has passed"
        return None

    def _close_hold(self, books: Books) -> Closed:
        row = books.reservation(self.name)
        if row is None or row.ledger != self.ledger:
            return Closed(refusal=f"no charge and no hold {self.name} in this journal")
        if any(charge.state in {ChargeState.UNRESOLVED, *WAITING} for charge in books.charges_of(row.key)):
            return Closed(refusal=f"charges of {self.name} still wait: close each of them by its own id")
        return self._close_row(books, row, None)

    def _close_row(self, books: Books, row: ReservationRow, charge: ChargeRow | None) -> Closed:
        if row.state is ReservationState.ORPHAN_POSSIBLE:
            return Closed(refusal="a hold in doubt ends by itself when its validity has passed; nothing is to close")
        if row.state is not ReservationState.UNRESOLVED:
            return Closed(refusal=f"{self.name} is {row.state}, and waits for nobody")
        if self.deduct:
            return Closed(refusal="a hold without a charge has no amount that could be deducted")
        return Closed(Listing(charge, self._closed_row(books, row)))

    def _closed_row(self, books: Books, row: ReservationRow) -> ReservationRow:
        row = replace(
            row,
            state=row.checked_step(ReservationState.CLOSED),
            closed_as=str(self.finding),
            note=self.note,
            closed_at=self.now,
            due_at=None,
        )
        books.save_reservation(row)
        return row


def _part(charge: ChargeRow) -> int:
    """Return the credits that the charge's own confirm carried; what went under a leg waits by itself."""
    return charge.share
