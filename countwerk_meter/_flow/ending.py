"""Journal operations that end a call: the commit that is the charge, the release, the checkpoint, the block's end."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, ClassVar

from countwerk_meter._flow.attempts import Claim, confirming
from countwerk_meter._flow.books import Operation
from countwerk_meter._flow.clock import Life, life_of
from countwerk_meter._flow.legs import OVER, add_late, leg
from countwerk_meter._flow.rows import CONFIRM, DEDUCT, ChargeRow, ReservationRow, replace
from countwerk_meter._flow.states import ChargeState, ReservationState
from countwerk_meter._frozen import frozen
from countwerk_meter.pricing._price import EXACT

if TYPE_CHECKING:
    from countwerk_meter._flow.books import Books
    from countwerk_meter._flow.commands import Moment

# Seconds until somebody else looks after a confirm that was opened with its commit.
ON_ITS_WAY = 15.0
ROUNDINGS = ("ceil", "carry")


@frozen
class Committed:
    """
    What a commit did.

    `work`: `(kind, key)` of what may now be settled. `late`: the part that recovery had left out (rule 15).
    `superseded`: the id was begun anew since, or closed by a person, so this truth has nowhere to go; surfaced as an
    event. `amount`: what it would have charged. `attempt`: what a confirm carries that was opened with the commit, and
    has to leave now.
    """

    charge: ChargeRow | None
    work: tuple[tuple[str, str], ...] = ()
    late: int = 0
    superseded: bool = False
    amount: int | None = None
    attempt: Claim | None = None


@frozen
class Measured:
    """How much a call cost: exact credits, how they were found (`basis`), and the lines that explain them, as JSON."""

    exact: Decimal
    basis: str
    lines: str | None = None


def closing(row: ReservationRow, now: float) -> ReservationRow:
    """Return the reservation, ready for settlement if its block is over and no draw on it is open."""
    if row.state is ReservationState.HELD and row.sealed and row.open_charges == 0:
        return replace(row, state=row.checked_step(ReservationState.CLOSING), due_at=now)
    return row


def _without(row: ReservationRow, charge: ChargeRow, drawn: int = 0, *, seal: bool) -> ReservationRow:
    """Return the reservation without one of its open charges, which drew so much of it."""
    return replace(
        row,
        open_charges=max(row.open_charges - 1, 0),
        promised=max(row.promised - (charge.estimate if charge.draw else 0), 0),
        committed=row.committed + drawn,
        sealed=row.sealed or seal,
    )


def _work(*rows: ReservationRow | ChargeRow | None) -> tuple[tuple[str, str], ...]:
    work: list[tuple[str, str]] = []
    for row in rows:
        if isinstance(row, ReservationRow) and row.state is ReservationState.CLOSING and not row.confirms_open:
            work.append(("reservation", row.key))
        elif isinstance(row, ChargeRow) and row.via == DEDUCT and row.due_at is not None:
            work.append(("charge", row.id))
    return tuple(work)


@frozen
class Commit(Operation[Committed]):
    """
    Make the actual amount durable: this commit is the charge (money rule 7).

    Rounds (rule 11), splits what lies beyond the hold into its own leg, committed together (rule 9), and hands
    what recovery had left out to a late leg (rule 15). `seal` ends the block in the same transaction. `leaves`: when
    the confirm can leave at once, and so its first attempt is opened with it. `begins`: the call, if its draw was not
    waited for: where that found the hold gone, the charge goes under its own id.
    """

    durable: ClassVar[bool] = True
    ledger: str
    charge_id: str
    epoch: int
    measured: Measured
    now: float
    rounding: str = "ceil"
    seal: bool = True
    owner: str | None = None  # who settles what comes late: whoever closed the charge may be dead by now
    leaves: Moment | None = None
    begins: ChargeRow | None = None

    def apply(self, books: Books) -> Committed:
        charge = books.charge(self.ledger, self.charge_id) or self.begins
        if charge is None or charge.epoch != self.epoch:
            return self._superseded(charge)
        row = books.reservation(charge.reservation_key) if charge.reservation_key else None
        exact = self._exact(books, charge, row)
        if charge.state is not ChargeState.OPEN:
            return self._late(books, charge, exact)
        held = row is not None and row.state is ReservationState.HELD and row.frozen is None
        left = row.amount - row.committed if row is not None and held else 0
        amount = self._whole(books, charge.account_id, exact)
        drawn, due_at = min(amount, left), charge.due_at
        if row is None or not held:
            # Deferred, or the hold has moved on without this draw: it goes under its own id (rule 4).
            via, share, due_at = DEDUCT, amount, self.now if amount else None
        elif row.settle_with == DEDUCT:
            via, share = DEDUCT, amount
        else:
            # Of what is over the hold altogether no confirm carries any: it ends as its leg ends.
            via, share = DEDUCT if amount > drawn == 0 else CONFIRM, drawn
        done = replace(
            charge,
            state=charge.checked_step(ChargeState.COMMITTED if amount else ChargeState.SETTLED),
            amount=amount,
            exact=str(exact),
            basis=self.measured.basis,
            lines=self.measured.lines,
            committed_at=self.now,
            via=via,
            share=share,
            due_at=due_at,
        )
        books.save_charge(done)
        over: ChargeRow | None = None
        if amount > share:
            over = leg(done, OVER, amount - share, self.now)
            books.save_charge(over)
        attempt: Claim | None = None
        if row is not None:
            # With deducts the hold is only the admission, and yet draws must not add up to more than it.
            row = closing(_without(row, charge, drawn, seal=self.seal), self.now)
            attempt = self._attempt(books, row, done)
            row = row if attempt is None else attempt.row
            books.save_reservation(row)
        return Committed(done, _work(row, done, over), attempt=attempt)

    def _attempt(self, books: Books, row: ReservationRow, done: ChargeRow) -> Claim | None:
        """Open the first confirm, if the block is over and its hold alive: it leaves at once (money rule 7)."""
        if self.leaves is None or row.state is not ReservationState.CLOSING or not row.committed:
            return None
        if row.settle_with == DEDUCT or life_of(row, self.leaves) is not Life.ALIVE:
            return None
        # Not due while it is on its way: a second attempt beside one that never left could take a 404 for its success.
        row = replace(confirming(row, row.committed), due_at=self.now + ON_ITS_WAY)
        alone = done.share == row.committed
        return Claim(row, (done,) if alone else tuple(books.charges_of(row.key)))

    def _exact(self, books: Books, charge: ChargeRow, row: ReservationRow | None) -> Decimal:
        """Unknown usage is the call's own estimate, at most what other calls left of its hold (rule 13)."""
        exact = self.measured.exact
        if row is None or self.measured.basis != "reserved" or exact > charge.estimate:
            return exact
        taken = row.committed
        if row.state is not ReservationState.HELD or taken == row.amount:
            # Only what went beyond the hold, or came after it, is not in there; a lease has hundreds of charges.
            taken = sum(other.amount or 0 for other in books.charges_of(row.key) if other.id != charge.id)
        return min(exact, Decimal(max(row.amount - taken, 0)))

    def _superseded(self, charge: ChargeRow | None) -> Committed:
        return Committed(charge, superseded=True, amount=int(self.measured.exact.to_integral_value(ROUND_CEILING)))

    def _whole(self, books: Books, account_id: str, exact: Decimal) -> int:
        if self.rounding == "ceil":
            return int(exact.to_integral_value(ROUND_CEILING))
        # Not by the app's own decimal context, which may round.
        total = EXACT.add(books.carry(self.ledger, account_id), exact)
        whole = total.to_integral_value(ROUND_FLOOR)
        books.set_carry(self.ledger, account_id, EXACT.subtract(total, whole))
        return int(whole)

    def _late(self, books: Books, charge: ChargeRow, exact: Decimal) -> Committed:
        """Charge what recovery left out. `exact` then is all that is known: the same truth adds nothing twice."""
        if charge.state is ChargeState.CLOSED:
            # Somebody decided about it, and may have charged it elsewhere: theirs is the last word (I2).
            return self._superseded(charge)
        if charge.state is ChargeState.LOST:
            # Not lost after all: its process lives, and what it used goes under an id of its own.
            charge = replace(charge, state=charge.checked_step(ChargeState.CANCELLED))
            books.save_charge(charge)
        known = Decimal(charge.exact or 0)
        if exact <= known:
            return Committed(charge)
        if self.rounding == "ceil":
            missing = int(exact.to_integral_value(ROUND_CEILING)) - int(known.to_integral_value(ROUND_CEILING))
        else:
            missing = self._whole(books, charge.account_id, EXACT.subtract(exact, known))
        books.save_charge(replace(charge, exact=str(exact)))
        if missing <= 0:
            return Committed(charge)
        theirs = replace(charge, owner=self.owner or charge.owner)
        late = add_late(books, theirs, missing, self.now, basis=self.measured.basis, lines=self.measured.lines)
        return Committed(charge, _work(late), late=missing)


@frozen
class Release(Operation[Committed]):
    """
    End a call that used nothing: nothing used is a cancel (money rule 10).

    `lost`: nobody knows what it used, and it is not charged; somebody is told, and closes it.
    """

    ledger: str
    charge_id: str
    epoch: int
    reason: str
    now: float
    seal: bool = True
    lost: bool = False

    def apply(self, books: Books) -> Committed:
        charge = books.charge(self.ledger, self.charge_id)
        if charge is None or charge.epoch != self.epoch or charge.state not in {ChargeState.OPEN, ChargeState.LOST}:
            return Committed(charge)
        was_open = charge.state is ChargeState.OPEN
        state = charge.checked_step(ChargeState.LOST if self.lost else ChargeState.CANCELLED)
        done = replace(charge, state=state, reason=self.reason, exact=None, due_at=None)
        books.save_charge(done)
        if not was_open:
            # Given up as lost, and its process lives after all: it used nothing.
            return Committed(done)
        row = books.reservation(charge.reservation_key) if charge.reservation_key else None
        if row is not None:
            row = closing(_without(row, charge, seal=self.seal), self.now)
            books.save_reservation(row)
        return Committed(done, _work(row))


@frozen
class Checkpoint(Operation[None]):
    """Keep what is known of a running call, so that a crash does not lose it."""

    ledger: str
    charge_id: str
    epoch: int
    measured: Measured

    def apply(self, books: Books) -> None:
        charge = books.charge(self.ledger, self.charge_id)
        if charge is not None and charge.epoch == self.epoch and charge.state is ChargeState.OPEN:
            kept = replace(charge, exact=str(self.measured.exact), basis=self.measured.basis, lines=self.measured.lines)
            books.save_charge(kept)


@frozen
class Seal(Operation[Committed]):
    """End a block's extra holds (`top_up`): no further draw, settle once the open ones have ended."""

    key: str
    now: float

    def apply(self, books: Books) -> Committed:
        row = books.reservation(self.key)
        if row is None or row.sealed:
            return Committed(None)
        row = closing(replace(row, sealed=True), self.now)
        books.save_reservation(row)
        return Committed(None, _work(row))
