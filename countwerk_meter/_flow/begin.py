"""Journal operations that begin a charge: a reservation, a draw on an open one, a deferred call, and their refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from countwerk_meter._flow.books import Operation
from countwerk_meter._flow.clock import expired_at, outwaited
from countwerk_meter._flow.rows import DEDUCT, ChargeRow, ReservationRow, replace
from countwerk_meter._flow.states import RESTARTABLE, ChargeState, ReservationState
from countwerk_meter._frozen import frozen

if TYPE_CHECKING:
    from countwerk_meter._flow.books import Books

DEFERRED = "deferred"


@frozen
class Debt:
    """Credits an account owes: deferred calls (open ones at their estimate) and deducts that found no credits."""

    deferred: int = 0
    uncollected: int = 0
    collectable: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """All of it, in credits."""
        return self.deferred + self.uncollected

    def above(self, limit: int) -> bool:
        """Whether a new reserve must be refused: `limit` credits for deferred calls, none for uncollected ones."""
        return self.uncollected > 0 or (self.deferred > 0 and self.total > limit)


@frozen
class Begun:
    """
    What beginning a charge met.

    `met`: the charge that stands under this id and cannot begin anew; then nothing was written.
    `debt`: what the account owes, where it must be collected first or is too high; then nothing was written either.
    """

    charge: ChargeRow | None = None
    met: ChargeRow | None = None
    debt: Debt = Debt()


@frozen
class Held:
    """What our own open reservations hold for an account, in credits, and when the first ends (POSIX seconds)."""

    amount: int = 0
    until: float | None = None


def debt_of(books: Books, charge: ChargeRow) -> Debt:
    """Add up what a charge's account owes under its key: another key may be another vendor's."""
    deferred = uncollected = 0
    collectable: list[str] = []
    for row in books.owed(charge.ledger, charge.principal, charge.account_id):
        owed = row.estimate if row.amount is None else row.share
        if row.state is ChargeState.UNCOLLECTED:
            uncollected += owed
        else:
            deferred += owed
        if row.share and row.state is not ChargeState.OPEN:
            collectable.append(row.id)
    return Debt(deferred, uncollected, tuple(collectable))


def _restarted(books: Books, charge: ChargeRow) -> Begun:
    """
    Meet the id again: denied, cancelled, orphaned or lost begins anew, anything else stands.

    So does a cancelled one that says what it used: its process was thought dead and brought that late, and it is
    charged under a leg (rule 15). A retry of the same step is not a second charge (I2).
    """
    met = books.charge(charge.ledger, charge.id)
    if met is None:
        return Begun(charge=charge)
    same = met.account_id == charge.account_id and met.operation == charge.operation
    came_late = met.state is ChargeState.CANCELLED and met.exact is not None
    if not same or came_late or met.state not in RESTARTABLE:
        return Begun(met=met)
    met.checked_step(ChargeState.OPEN)
    return Begun(charge=replace(charge, epoch=met.epoch + 1))


@frozen
class Begin(Operation[Begun]):
    """Commit the reservation's row and its charge's id before the request leaves (money rule 3)."""

    charge: ChargeRow
    reservation: ReservationRow
    debt_limit: int = 0
    shared: bool = False  # a top-up: the charge is one draw of several on this hold
    collect: bool = False  # debt that can be collected is collected before anything else is held (rule 14)

    def apply(self, books: Books) -> Begun:
        begun = _restarted(books, self.charge)
        if begun.charge is None:
            return begun
        debt = debt_of(books, self.charge)
        if debt.above(self.debt_limit) or (self.collect and debt.collectable):
            return Begun(charge=begun.charge, debt=debt)
        promised = begun.charge.estimate if self.shared else 0
        charge = replace(begun.charge, reservation_key=self.reservation.key, draw=self.shared)
        books.save_reservation(replace(self.reservation, open_charges=1, promised=promised))
        books.save_charge(charge)
        return replace(begun, charge=charge)


@frozen
class Draw(Operation["Begun | None"]):
    """
    Begin a charge on an open reservation; None: it cannot draw on it, nothing was written.

    Its estimate does not fit what is left, the block is over, or, by the ledger's clock, the hold is. `within`: inside
    a call that drew on a lease, and so keeps it from settling, what is left of it serves though nobody else draws now.
    """

    charge: ChargeRow
    reservation_key: str
    ledger_time: float | None = None
    within: bool = False

    def apply(self, books: Books) -> Begun | None:
        begun = _restarted(books, self.charge)
        if begun.charge is None:
            return begun
        row = books.reservation(self.reservation_key)
        if row is None or row.state is not ReservationState.HELD or (row.sealed and not self.within):
            return None
        if row.account_id != self.charge.account_id or expired_at(row, self.ledger_time):
            return None
        if self.charge.estimate > row.amount - row.committed - row.promised:
            return None
        books.save_reservation(
            replace(row, promised=row.promised + self.charge.estimate, open_charges=row.open_charges + 1)
        )
        charge = replace(begun.charge, reservation_key=row.key, draw=True)
        books.save_charge(charge)
        return Begun(charge=charge)


@frozen
class Direct(Operation[Begun]):
    """Commit a flat charge that needs no hold: it is deducted under its own id (money rule 7: durable)."""

    durable: ClassVar[bool] = True
    charge: ChargeRow

    def apply(self, books: Books) -> Begun:
        begun = _restarted(books, self.charge)
        if begun.charge is not None:
            books.save_charge(begun.charge)
        return begun


@frozen
class Defer(Operation[Begun]):
    """
    Let the call run without a hold: the ledger cannot be reached, and the app chose `on_unavailable="defer"`.

    `charge` is as it was begun; one that somebody else began anew in the meantime stands, and nothing was written.
    """

    charge: ChargeRow
    debt_limit: int

    def apply(self, books: Books) -> Begun:
        row = books.charge(self.charge.ledger, self.charge.id)
        if row is None or row.epoch != self.charge.epoch or row.state not in RESTARTABLE:
            return Begun(met=row)
        debt = debt_of(books, self.charge)
        if debt.uncollected or debt.total + row.estimate > self.debt_limit:
            return Begun(debt=replace(debt, deferred=debt.deferred + row.estimate))
        charge = replace(
            row,
            state=row.checked_step(ChargeState.OPEN),
            owner=self.charge.owner,  # recovery may have taken the charge while its gate was thought dead
            epoch=row.epoch + 1,
            reservation_key=None,
            draw=False,
            via=DEDUCT,
            reason=DEFERRED,
        )
        books.save_charge(charge)
        return Begun(charge=charge)


@frozen
class MarkHeld(Operation["ReservationRow | None"]):
    """
    Record the ledger's reservation; None: the journal knows this id already, so the answer is in doubt (rule 1).

    None as well where the call was given up meanwhile: then the hold, now that it has a name, is given back (I4).
    """

    key: str
    reservation_id: str
    amount: int
    expires_at: float | None
    due_at: float
    now: float

    def apply(self, books: Books) -> ReservationRow | None:
        row = books.reservation(self.key)
        if row is None or books.knows_reservation_id(row.ledger, self.reservation_id):
            return None
        named = replace(
            row,
            reservation_id=self.reservation_id,
            amount=self.amount,
            expires_at=self.expires_at,
        )
        if row.state is ReservationState.REQUESTED:
            held = replace(named, state=row.checked_step(ReservationState.HELD), due_at=self.due_at)
            books.save_reservation(held)
            return held
        if row.state is ReservationState.ORPHAN_POSSIBLE:
            closing = replace(named, state=row.checked_step(ReservationState.CLOSING), sealed=True, due_at=self.now)
            books.save_reservation(closing)
        return None


def orphaned(books: Books, row: ReservationRow, reason: str, now: float) -> ReservationRow:
    """Return a reserve that may have made a hold, as such, and save its charge: the call never ran (rule 3)."""
    _end_call(books, row, ChargeState.ORPHANED, reason)
    return replace(
        row,
        state=row.checked_step(ReservationState.ORPHAN_POSSIBLE),
        open_charges=0,
        promised=0,
        sealed=True,
        reason=reason,
        due_at=outwaited(row, now),
    )


def _end_call(books: Books, row: ReservationRow, state: ChargeState, reason: str) -> None:
    for charge in books.charges_of(row.key):
        if charge.state is ChargeState.OPEN:
            books.save_charge(replace(charge, state=charge.checked_step(state), owner=row.owner, reason=reason))


@frozen
class Fail(Operation[Held]):
    """
    End a reserve that made no hold (`refused`) or may have made one (`in_doubt`), and its charge with it.

    A denied charge keeps only its tombstone. Answers with what our other reservations hold for the account. A row
    that is not `requested` any more (it was never written, or recovery was quicker) is left as it is.
    """

    hold: ReservationRow
    charge_state: ChargeState
    reason: str
    now: float

    def apply(self, books: Books) -> Held:
        row = books.reservation(self.hold.key)
        if row is not None and row.state is ReservationState.REQUESTED:
            if self.charge_state is ChargeState.ORPHANED:
                books.save_reservation(orphaned(books, row, self.reason, self.now))
            else:
                _end_call(books, row, self.charge_state, self.reason)
                refused = row.checked_step(ReservationState.REFUSED)
                books.save_reservation(
                    replace(
                        row, state=refused, open_charges=0, promised=0, sealed=True, reason=self.reason, due_at=None
                    )
                )
        return held_by_us(books, self.hold)


@frozen
class Forsake(Operation["ReservationRow | None"]):
    """End a reserve whose gate died without a word, though its process lives: it may have made a hold (rule 3, I8)."""

    key: str
    now: float

    def apply(self, books: Books) -> ReservationRow | None:
        row = books.reservation(self.key)
        if row is None or row.state is not ReservationState.REQUESTED:
            return None
        row = orphaned(books, row, "no answer was recorded", row.created_at)
        books.save_reservation(row)
        return row


@frozen
class Deny(Operation[Held]):
    """Leave the tombstone of a charge that was denied before any request left: the account's debt is too high."""

    charge: ChargeRow
    reason: str

    def apply(self, books: Books) -> Held:
        begun = _restarted(books, self.charge).charge
        if begun is not None:
            if begun.epoch:
                books.save_charge(begun)
            books.save_charge(replace(begun, state=begun.checked_step(ChargeState.DENIED), reason=self.reason))
        return held_by_us(books, self.charge)


def held_by_us(books: Books, of: ReservationRow | ChargeRow) -> Held:
    """Add up what our own open reservations hold, so that nobody is told to buy what is merely in use."""
    rows = books.open_reservations(of.ledger, of.principal, of.account_id)
    ends = [row.expires_at for row in rows if row.expires_at is not None]
    return Held(sum(row.amount for row in rows), min(ends, default=None))


@frozen
class HeldFor(Operation[Held]):
    """Read what our own open reservations hold for a charge's account."""

    reads: ClassVar[bool] = True
    charge: ChargeRow

    def apply(self, books: Books) -> Held:
        return held_by_us(books, self.charge)
