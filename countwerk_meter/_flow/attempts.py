"""
Journal operations of settlement: attempts opened before they leave, closed by what came back (money rules 4, 5, 8).

Opening is a compare-and-swap on (row, epoch), so two settlers never send the first confirm of one row twice; an answer
is recorded whoever owns the row by then, because it is the truth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from countwerk_meter._flow.books import Operation
from countwerk_meter._flow.legs import add_late, late_of
from countwerk_meter._flow.rows import CONFIRM, DEDUCT, ChargeRow, ReservationRow, replace
from countwerk_meter._flow.states import WAITING, ChargeState, ReservationState
from countwerk_meter._frozen import frozen

if TYPE_CHECKING:
    from countwerk_meter._flow.books import Books

CANCEL, INFERRED = "cancel", "inferred"
_PENDING = frozenset({ReservationState.HELD, ReservationState.CLOSING})
# A late success is the truth, whatever somebody closed the row as.
_CONFIRMABLE = frozenset({ReservationState.CLOSING, ReservationState.UNRESOLVED, ReservationState.CLOSED})
_CARRIED = frozenset({ChargeState.COMMITTED, ChargeState.UNRESOLVED, ChargeState.CLOSED})


@frozen
class Claim:
    """A reservation with its charges, as the journal has them."""

    row: ReservationRow
    charges: tuple[ChargeRow, ...]


@frozen
class Load(Operation["Claim | None"]):
    """Read a reservation and its charges."""

    reads: ClassVar[bool] = True
    key: str

    def apply(self, books: Books) -> Claim | None:
        row = books.reservation(self.key)
        return None if row is None else Claim(row, tuple(books.charges_of(self.key)))


@frozen
class OpenAttempt(Operation["ReservationRow | None"]):
    """
    Commit `attempt n open` before a confirm or a cancel leaves; None: somebody else moved the row, send nothing.

    The first confirm freezes the amount. After a cancel no confirm opens any more (I7).
    """

    durable: ClassVar[bool] = True
    key: str
    epoch: int
    kind: str
    amount: int = 0
    then_deduct: bool = False

    def apply(self, books: Books) -> ReservationRow | None:
        row = books.reservation(self.key)
        if row is None or row.epoch != self.epoch or row.state is not ReservationState.CLOSING:
            return None
        if self.kind == CONFIRM:
            row = confirming(row, self.amount)
        else:
            row = replace(
                row,
                cancels=row.cancels + 1,
                cancels_open=row.cancels_open + 1,
                cancel_then_deduct=row.cancel_then_deduct or self.then_deduct,
                epoch=row.epoch + 1,
            )
        books.save_reservation(row)
        return row


def confirming(row: ReservationRow, amount: int) -> ReservationRow:
    """Return a row with one more confirm open, for the amount that the first one freezes (money rule 4)."""
    assert row.cancels == 0
    assert row.frozen in {None, amount}
    return replace(
        row,
        confirms=row.confirms + 1,
        confirms_open=row.confirms_open + 1,
        frozen=amount,
        epoch=row.epoch + 1,
    )


@frozen
class CloseAttempt(Operation["ReservationRow | None"]):
    """
    Close an attempt that a definite answer or NotSent ended without ending the row; try again at `due_at`.

    A row that somebody else ended meanwhile stays ended, and is not due again.
    """

    key: str
    kind: str
    delivered: bool
    due_at: float
    failed: bool = True

    def apply(self, books: Books) -> ReservationRow | None:
        row = books.reservation(self.key)
        if row is None:
            return None
        row = _closed(row, self.kind, delivered=self.delivered)
        if row.state is ReservationState.CLOSING:
            row = replace(row, due_at=self.due_at, failures=row.failures + self.failed)
        books.save_reservation(row)
        return row


def unsent(row: ReservationRow, now: float) -> CloseAttempt:
    """Return the step that closes a confirm which never left: it counts for nothing, and the row is due (rule 4)."""
    return CloseAttempt(row.key, CONFIRM, delivered=False, due_at=now, failed=False)


@frozen
class Postpone(Operation[None]):
    """Leave the row as it is, an attempt in doubt included, and come back at `due_at`."""

    key: str
    due_at: float
    doubtful_confirm: bool = False
    failed: bool = True

    def apply(self, books: Books) -> None:
        row = books.reservation(self.key)
        if row is None:
            return
        row = replace(row, confirm_delivered=row.confirm_delivered or self.doubtful_confirm)
        if row.state in _PENDING:
            row = replace(row, due_at=self.due_at, failures=row.failures + self.failed)
        books.save_reservation(row)


def _closed(row: ReservationRow, kind: str | None, *, delivered: bool) -> ReservationRow:
    if kind == CONFIRM:
        return replace(
            row,
            confirms_open=max(row.confirms_open - 1, 0),
            confirm_delivered=row.confirm_delivered or delivered,
        )
    return replace(row, cancels_open=max(row.cancels_open - (kind == CANCEL), 0))


@frozen
class Ended:
    """What the end of a reservation leaves: the charges that ended with it, and deducts that are now due."""

    row: ReservationRow | None = None
    charges: tuple[ChargeRow, ...] = ()
    deducts: tuple[str, ...] = ()
    excess: int = 0


@frozen
class Confirmed(Operation[Ended]):
    """
    Record that the confirm was carried out: its charges are settled.

    An answer that names less leaves the shortfall under `<id>.late`; one that names more is an event (rule 1).
    """

    key: str
    actual: int | None
    now: float

    def apply(self, books: Books) -> Ended:
        row = books.reservation(self.key)
        if row is None or row.state not in _CONFIRMABLE:
            return Ended(row)
        return _settled(books, row, self.now, actual=self.actual)


def _settled(
    books: Books, row: ReservationRow, now: float, *, actual: int | None = None, reason: str | None = None
) -> Ended:
    row = replace(
        _closed(row, CONFIRM, delivered=True),
        state=row.checked_step(ReservationState.CONFIRMED),
        reason=reason,
        due_at=None,
        failures=0,
    )
    books.save_reservation(row)
    settled: list[ChargeRow] = []
    twice = 0
    for charge in books.charges_of(row.key):
        if charge.via == CONFIRM and charge.share and charge.state in _CARRIED:
            if charge.state is ChargeState.CLOSED and late_of(books, charge, charge.closed_at) is not None:
                twice += charge.share  # somebody said that it was not charged, and had it deducted
            done = replace(charge, state=charge.checked_step(ChargeState.SETTLED), reason=None, due_at=None)
            books.save_charge(done)
            settled.append(done)
    frozen = row.frozen or 0
    named = frozen if actual is None else max(actual, 0)
    deducts: list[str] = []
    if named < frozen and settled:
        late = add_late(books, settled[-1], frozen - named, now)
        if late.due_at is None:
            settled.append(late)
        else:
            deducts.append(late.id)
    return Ended(row, tuple(settled), tuple(deducts), max(named - frozen, 0) + twice)


@frozen
class NotThere(Operation[Ended]):
    """
    Read a 404 on a confirm: only time, a committed cancel and the other attempts say what it means (rule 8).

    Decided on the row as it is now, not as it was when the confirm left: another worker may have moved it.
    """

    durable: ClassVar[bool] = True
    key: str
    alive: bool
    first: bool
    now: float

    def apply(self, books: Books) -> Ended:
        row = books.reservation(self.key)
        if row is None or row.state is not ReservationState.CLOSING:
            return Ended(row)
        if self.alive and row.confirms_open > 1 and row.cancels == 0:
            return _settled(books, row, self.now, reason=INFERRED)
        reason = "vanished" if self.alive and self.first and row.cancels == 0 else "expired"
        return End(self.key, ReservationState.UNRESOLVED, reason, self.now, closes=CONFIRM).apply(books)


@frozen
class End(Operation[Ended]):
    """
    End a reservation otherwise: cancelled, expired, or unresolved.

    With `deduct`, each of its charges is deducted under its own id, for exactly the part that the confirm would
    have carried (money rules 5, 8). Otherwise charges that wait on the confirm become unresolved with it: none is
    left waiting for what never comes (I3).
    """

    durable: ClassVar[bool] = True
    key: str
    state: ReservationState
    reason: str | None
    now: float
    deduct: bool = False
    closes: str | None = None

    def apply(self, books: Books) -> Ended:
        row = books.reservation(self.key)
        if row is None:
            return Ended(row)
        row = _closed(row, self.closes, delivered=True)
        if row.state is not ReservationState.CLOSING:
            books.save_reservation(row)
            return Ended(row)
        row = replace(row, state=row.checked_step(self.state), reason=self.reason, due_at=None, failures=0)
        books.save_reservation(row)
        return _end_charges(books, row, self.now, deduct=self.deduct, reason=self.reason)


@frozen
class Convert(Operation[Ended]):
    """
    Turn the charges of a hold that expired, or whose time is unknown, into deducts (money rule 8).

    A cancel is committed on the row in the same transaction, so no confirm leaves any more; the deducts do not wait.
    """

    durable: ClassVar[bool] = True
    key: str
    epoch: int
    now: float

    def apply(self, books: Books) -> Ended:
        row = books.reservation(self.key)
        if row is None or row.epoch != self.epoch or row.state is not ReservationState.CLOSING:
            return Ended(None)
        assert row.confirms_open == 0
        assert not row.confirm_delivered
        row = replace(row, cancels=row.cancels + 1, epoch=row.epoch + 1, due_at=self.now)
        books.save_reservation(row)
        return _end_charges(books, row, self.now, deduct=True, reason="expired")


def _end_charges(books: Books, row: ReservationRow, now: float, *, deduct: bool, reason: str | None) -> Ended:
    ended: list[ChargeRow] = []
    deducts: list[str] = []
    for charge in books.charges_of(row.key):
        if charge.state not in WAITING or not charge.share:
            continue
        if charge.via == DEDUCT or deduct:
            after = replace(charge, via=DEDUCT, due_at=now)
            deducts.append(after.id)
        else:
            after = replace(charge, state=charge.checked_step(ChargeState.UNRESOLVED), reason=reason, due_at=None)
            ended.append(after)
        books.save_charge(after)
    return Ended(row, tuple(ended), tuple(deducts))


@frozen
class ExpireOrphan(Operation["ReservationRow | None"]):
    """End a reserve in doubt whose validity has passed: whatever was held is given back by now (I4)."""

    key: str

    def apply(self, books: Books) -> ReservationRow | None:
        row = books.reservation(self.key)
        if row is None or row.state is not ReservationState.ORPHAN_POSSIBLE:
            return None
        row = replace(row, state=row.checked_step(ReservationState.EXPIRED), due_at=None)
        books.save_reservation(row)
        return row


@frozen
class Lapse(Operation["ReservationRow | None"]):
    """
    End an open block's hold that has expired (an open reservation is recovered at its expiry, whoever owns it).

    With charges committed on it the row goes to settlement, which deducts them; an open call that ends later is
    deducted under its own id. None: its block ended first.
    """

    key: str
    now: float

    def apply(self, books: Books) -> ReservationRow | None:
        row = books.reservation(self.key)
        if row is None or row.state is not ReservationState.HELD:
            return None
        state = ReservationState.CLOSING if row.committed else ReservationState.EXPIRED
        due = self.now if state is ReservationState.CLOSING else None
        row = replace(row, state=row.checked_step(state), sealed=True, due_at=due, failures=0, reason="lapsed")
        books.save_reservation(row)
        return row


@frozen
class LoadCharge(Operation["ChargeRow | None"]):
    """Read a charge."""

    reads: ClassVar[bool] = True
    ledger: str
    charge_id: str

    def apply(self, books: Books) -> ChargeRow | None:
        return books.charge(self.ledger, self.charge_id)
