"""
What the client cannot decide, and closing it by a person's word.

Listed are charges that are unresolved, uncollected or lost, and holds that are unresolved or may be held. Closing one
moves no money, but for a charge of which somebody found that the ledger does not have it: that may be deducted, under
an id of its own, once no confirm of it can arrive any more.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Final

from countwerk_meter._flow.attempts import LoadCharge
from countwerk_meter._flow.books import Operation
from countwerk_meter._flow.clock import outwaited, surely_over
from countwerk_meter._flow.commands import Emit, Journal, Now
from countwerk_meter._flow.deduct import settled_fields
from countwerk_meter._flow.legs import add_late, late_of, other_half
from countwerk_meter._flow.overview import EVERY
from countwerk_meter._flow.rows import CONFIRM, replace
from countwerk_meter._flow.settle import probe
from countwerk_meter._flow.states import LISTED, WAITING, ChargeState, ReservationState
from countwerk_meter._frozen import frozen

if TYPE_CHECKING:
    from countwerk_meter._flow.books import Books
    from countwerk_meter._flow.commands import Flow, Moment
    from countwerk_meter._flow.rows import ChargeRow, ReservationRow
    from countwerk_meter._flow.terms import Terms

_ALONE: Final = frozenset({ReservationState.UNRESOLVED, ReservationState.ORPHAN_POSSIBLE})


class Finding(StrEnum):
    """What somebody found out about a listed row."""

    CHARGED = "charged"  # the ledger has it
    NOT_CHARGED = "not-charged"  # the ledger does not have it
    WRITTEN_OFF = "written-off"  # nobody will find out, or it will not be collected


@frozen
class Listing:
    """One row that waits for a person: a charge with the hold that it drew on, or a hold alone, made for a call."""

    charge: ChargeRow | None
    reservation: ReservationRow | None
    call: ChargeRow | None = None


@frozen
class Listings(Operation["list[Listing]"]):
    """Read what waits for a person, oldest first: charges, then holds without one that waits."""

    reads: ClassVar[bool] = True
    ledger: str

    def apply(self, books: Books) -> list[Listing]:
        found: list[Listing] = []
        shown: set[str] = set()
        for charge in reversed(books.charges(self.ledger, LISTED, EVERY)):
            leg = other_half(books, charge)
            if leg is not None and charge.parent is None and leg.state in LISTED:
                continue  # its one leg stands for it, and carries the amount
            row = books.reservation(charge.reservation_key) if charge.reservation_key else None
            if row is not None:
                shown.add(row.key)
            found.append(Listing(charge, row))
        found.extend(
            Listing(None, row, next(iter(books.charges_of(row.key)), None))
            for row in books.reservations(self.ledger, _ALONE, EVERY)
            if row.key not in shown
        )
        return found


@frozen
class Closed:
    """
    What closing did: the row as it stands now, or why it could not be closed.

    `deduct`: the leg that charges it now. `again`: it had been closed before, with the same words.
    """

    listing: Listing | None = None
    refusal: str | None = None
    deduct: ChargeRow | None = None
    again: bool = False


@frozen
class Close(Operation[Closed]):
    """
    Close one listed row, by the id of its charge or the journal key of its hold, with what was found and a note.

    The same words again change nothing. `deduct` needs to know whose key this is and what time it is on the ledger:
    a leg under another key would charge somebody else, and a hold that lives may still be confirmed (I2, rule 6).
    """

    durable: ClassVar[bool] = True
    ledger: str
    name: str
    finding: Finding
    note: str
    moment: Moment
    deduct: bool = False
    principal: str = ""
    owner: str = ""

    def apply(self, books: Books) -> Closed:
        charge = books.charge(self.ledger, self.name)
        if charge is None:
            return self._close_hold(books)
        row = books.reservation(charge.reservation_key) if charge.reservation_key else None
        if charge.state is ChargeState.CLOSED:
            return self._again(books, charge, row)
        if charge.state not in LISTED:
            return Closed(refusal=_not_listed(charge, row))
        refusal = self._cannot_deduct(charge, row) if self.deduct else None
        if refusal is not None:
            return Closed(refusal=refusal)
        half = other_half(books, charge)
        if half is not None and half.state in LISTED:
            self._closed_charge(books, half)
        done = self._closed_charge(books, charge)
        if row is not None and row.state is ReservationState.UNRESOLVED:
            waits = any(other.state is ChargeState.UNRESOLVED for other in books.charges_of(row.key))
            if not waits:
                row = self._closed_row(books, row)
        leg: ChargeRow | None = None
        if self.deduct:
            theirs = replace(done, owner=self.owner)
            leg = replace(add_late(books, theirs, charge.share, self.moment.wall), note=self.note)
            books.save_charge(leg)
        return Closed(Listing(done, row), deduct=leg)

    def _closed_charge(self, books: Books, charge: ChargeRow) -> ChargeRow:
        done = replace(
            charge,
            state=charge.checked_step(ChargeState.CLOSED),
            closed_as=str(self.finding),
            note=self.note,
            closed_at=self.moment.wall,
            due_at=None,
        )
        books.save_charge(done)
        return done

    def _again(self, books: Books, charge: ChargeRow, row: ReservationRow | None) -> Closed:
        leg = late_of(books, charge, charge.closed_at)
        if (charge.closed_as, charge.note, leg is not None) != (str(self.finding), self.note, self.deduct):
            charged = f", and deducted under {leg.id}" if leg is not None else ""
            return Closed(refusal=f"{charge.id} is closed already: {charge.closed_as}{charged}")
        return Closed(Listing(charge, row), deduct=leg, again=True)

    def _cannot_deduct(self, charge: ChargeRow, row: ReservationRow | None) -> str | None:
        if self.finding is not Finding.NOT_CHARGED:
            return "only what was not charged can be deducted"
        if charge.state is not ChargeState.UNRESOLVED or charge.via != CONFIRM or not charge.share or row is None:
            return (
                f"{charge.id} is {charge.state}: only an unresolved confirm can be made up for by a deduct; close it "
                "without one, and if it is owed all the same, charge that under an id of its own (meter.deduct)"
            )
        if charge.principal != self.principal:
            return f"{charge.id} was begun under the API key {charge.principal}, and a deduct needs the same account"
        if row.expires_at is None:
            over = self.moment.wall > outwaited(row, row.created_at)
        elif self.moment.ledger is None:
            return f"the ledger does not say what time it is, so the hold of {charge.id} may still be confirmed"
        else:
            over = surely_over(row, self.moment)
        return None if over else f"the hold of {charge.id} may still be confirmed: wait until it has expired"

    def _close_hold(self, books: Books) -> Closed:
        row = books.reservation(self.name)
        if row is None or row.ledger != self.ledger:
            return Closed(refusal=f"no charge and no hold {self.name} in this journal")
        if self.deduct:
            return Closed(refusal="a hold has no amount that could be deducted; close its charge by its own id")
        if row.state is ReservationState.CLOSED:
            if (row.closed_as, row.note) == (str(self.finding), self.note):
                return Closed(Listing(None, row), again=True)
            return Closed(refusal=f"{row.key} is closed already: {row.closed_as}")
        if row.state is ReservationState.ORPHAN_POSSIBLE:
            return Closed(refusal="a hold in doubt ends by itself when its validity has passed; nothing is to close")
        if row.state is not ReservationState.UNRESOLVED:
            return Closed(refusal=f"{row.key} is {row.state}, and waits for nobody's word")
        if any(charge.state in {ChargeState.UNRESOLVED, *WAITING} for charge in books.charges_of(row.key)):
            return Closed(refusal=f"charges of {row.key} still wait: close each of them by its own id")
        return Closed(Listing(None, self._closed_row(books, row)))

    def _closed_row(self, books: Books, row: ReservationRow) -> ReservationRow:
        row = replace(
            row,
            state=row.checked_step(ReservationState.CLOSED),
            closed_as=str(self.finding),
            note=self.note,
            closed_at=self.moment.wall,
            due_at=None,
        )
        books.save_reservation(row)
        return row


def _not_listed(charge: ChargeRow, row: ReservationRow | None) -> str:
    hold = f"; its hold waits, as {row.key}" if row is not None and row.state is ReservationState.UNRESOLVED else ""
    return f"{charge.id} is {charge.state}, and waits for nobody's word{hold}"


def close_listed(terms: Terms, name: str, finding: Finding, note: str, *, deduct: bool = False) -> Flow[Closed]:
    """Close a listed row, asking for the ledger's time first where a deduct needs it (money rule 6)."""
    moment: Moment = yield Now()
    if deduct and moment.ledger is None:
        charge: ChargeRow | None = yield Journal(LoadCharge(terms.ledger, name))
        if charge is not None:
            yield from probe(terms, charge.account_id)
            moment = yield Now()
    closing = Close(terms.ledger, name, finding, note, moment, deduct, terms.principal, terms.owner)
    done: Closed = yield Journal(closing)
    if done.listing is not None and not done.again:
        yield Emit("closed", _told(done.listing) | {"closed_as": str(finding)})
    return done


def _told(listing: Listing) -> dict[str, Any]:
    charge, row = listing.charge, listing.reservation
    if charge is not None:
        return settled_fields(charge, via=charge.via, amount=charge.share)
    assert row is not None
    return {"account_id": row.account_id, "operation": row.operation, "amount": row.amount}
