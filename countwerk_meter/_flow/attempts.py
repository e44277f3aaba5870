"""
Journal operations of settlement: attempts opened before they leave, closed by what came back (money rules 4, 5, 8).

Opening is a compare-and-swap on (row, epoch), so two settlers never send the first confirm of one row twice; an answer
is recorded whoever owns the row by then, because it is the truth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from countwerk_meter._flow.books import Operation
from countwerk_meter._flow.ending import LATE, leg
from countwerk_meter._flow.rows import CONFIRM, DEDUCT, ChargeRow, ReservationRow
from countwerk_meter._flow.states import WAITING, ChargeState, ReservationState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from countwerk_meter._flow.books import Books

CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Claim:
    """A reservation with its charges, as the journal has them."""

    row: ReservationRow
    charges: tuple[ChargeRow, ...]


@dataclass(frozen=True, slots=True)
class Load(Operation["Claim | None"]):
    """Read a reservation and its charges."""

    reads: ClassVar[bool] = True
    key: str

    def apply(self, books: Books) -> Claim | None:
        row = books.reservation(self.key)
        return None if row is None else Claim(row, tuple(books.charges_of(self.key)))


@dataclass(frozen=True, slots=True)
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
            assert row.cancels == 0
            assert row.frozen in {None, self.amount}
            row = replace(
                row, confirms=row.confirms + 1, confirms_open=row.confirms_open + 1, frozen=self.amount
            )
        else:
            row = replace(
                row,
                cancels=row.cancels + 1,
                cancels_open=row.cancels_open + 1,
                cancel_then_deduct=row.cancel_then_deduct or self.then_deduct,
            )
        row = replace(row, epoch=row.epoch + 1)
        books.save_reservation(row)
        return row


@dataclass(frozen=True, slots=True)
class CloseAttempt(Operation["ReservationRow | None"]):
    """Close an attempt that a definite answer or NotSent ended without ending the row; try again at `due_at`."""

    key: str
    kind: str
    delivered: bool
    due_at: float

    def apply(self, books: Books) -> ReservationRow | None:
        row = books.reservation(self.key)
        if row is None:
            return None
        row = _closed(row, self.kind, delivered=self.delivered)
        row = replace(row, due_at=self.due_at, failures=row.failures + 1)
        books.save_reservation(row)
        return row


@dataclass(frozen=True, slots=True)
class Postpone(Operation[None]):
    """Leave the row as it is, an attempt in doubt included, and come back at `due_at`."""

    key: str
    due_at: float
    doubtful_confirm: bool = False

    def apply(self, books: Books) -> None:
        row = books.reservation(self.key)
        if row is not None:
            delivered = row.confirm_delivered or self.doubtful_confirm
            books.save_reservation(
                replace(row, due_at=self.due_at, failures=row.failures + 1, confirm_delivered=delivered)
            )


def _closed(row: ReservationRow, kind: str, *, delivered: bool) -> ReservationRow:
    if kind == CONFIRM:
        return replace(
            row,
            confirms_open=max(row.confirms_open - 1, 0),
            confirm_delivered=row.confirm_delivered or delivered,
        )
    return replace(row, cancels_open=max(row.cancels_open - 1, 0))


@dataclass(frozen=True, slots=True)
class Ended:
    """What the end of a reservation leaves: the charges that ended with it, and deducts that are now due."""

    row: ReservationRow | None = None
    charges: tuple[ChargeRow, ...] = ()
    deducts: tuple[str, ...] = ()
    excess: int = 0


@dataclass(frozen=True, slots=True)
class Confirmed(Operation[Ended]):
    """
    Record that the confirm was carried out: its charges are settled.

    An answer that names less leaves the shortfall under `<id>.late`; one that names more is an event (rule 1).
    """

    key: str
    actual: int | None
    now: float
    inferred: bool = False

    def apply(self, books: Books) -> Ended:
        row = books.reservation(self.key)
        if row is None or row.state not in {ReservationState.CLOSING, ReservationState.UNRESOLVED}:
            return Ended(row)
        frozen = row.frozen or 0
        actual = frozen if self.actual is None else self.actual
        charges = [
            charge
            for charge in books.charges_of(self.key)
            if charge.via == CONFIRM and charge.state in {ChargeState.COMMITTED, ChargeState.UNRESOLVED}
        ]
        settled = [
            replace(charge, state=charge.checked_step(ChargeState.SETTLED), reason=None, due_at=None)
            for charge in charges
        ]
        row = replace(
            _closed(row, CONFIRM, delivered=True),
            state=row.checked_step(ReservationState.CONFIRMED),
            reason="inferred" if self.inferred else None,
            due_at=None,
            failures=0,
        )
        books.save_reservation(row)
        for charge in settled:
            books.save_charge(charge)
        deducts: list[str] = []
        if actual < frozen and settled:
            late = leg(settled[-1], LATE, frozen - actual, self.now)
            if books.charge(late.ledger, late.id) is None:
                books.save_charge(late)
                deducts.append(late.id)
        return Ended(row, tuple(settled), tuple(deducts), max(actual - frozen, 0))


@dataclass(frozen=True, slots=True)
class End(Operation[Ended]):
    """
    End a reservation otherwise: cancelled, expired, or unresolved.

    With `deduct`, each of its charges is deducted under its own id, for exactly the part that the confirm would
    have carried (money rules 5, 8). Otherwise charges that wait on the confirm become unresolved with it.
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
        if row is None or self.state is not row.state is not ReservationState.CLOSING:
            return Ended(row)
        if self.closes is not None:
            row = _closed(row, self.closes, delivered=True)
        row = replace(row, state=row.checked_step(self.state), reason=self.reason, due_at=None, failures=0)
        books.save_reservation(row)
        return _end_charges(books, row, self.now, deduct=self.deduct, reason=self.reason)


@dataclass(frozen=True, slots=True)
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
    waiting: Iterable[ChargeRow] = (c for c in books.charges_of(row.key) if c.state in WAITING)
    for charge in waiting:
        if charge.via == DEDUCT or deduct:
            after = replace(charge, via=DEDUCT, due_at=charge.due_at if charge.due_at is not None else now)
            deducts.append(after.id)
        elif row.state is ReservationState.UNRESOLVED:
            after = replace(charge, state=charge.checked_step(ChargeState.UNRESOLVED), reason=reason)
            ended.append(after)
        else:
            continue
        books.save_charge(after)
    return Ended(row, tuple(ended), tuple(deducts))


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Lapse(Operation["tuple[str, str] | None"]):
    """
    End an open block's hold that has expired (an open reservation is recovered at its expiry, whoever owns it).

    With charges committed on it the row goes to settlement, which deducts them; an open call that ends later is
    deducted under its own id.
    """

    key: str
    now: float

    def apply(self, books: Books) -> tuple[str, str] | None:
        row = books.reservation(self.key)
        if row is None or row.state is not ReservationState.HELD:
            return None
        state = ReservationState.CLOSING if row.committed or row.settle_with == DEDUCT else ReservationState.EXPIRED
        due = self.now if state is ReservationState.CLOSING else None
        books.save_reservation(replace(row, state=row.checked_step(state), sealed=True, due_at=due, reason="lapsed"))
        return ("reservation", row.key) if due else None


@dataclass(frozen=True, slots=True)
class Deducted(Operation["ChargeRow | None"]):
    """Record what came of a deduct: settled, uncollected, unresolved, or try again at `due_at`."""

    ledger: str
    charge_id: str
    state: ChargeState
    now: float
    reason: str | None = None
    due_at: float | None = None
    actual: int | None = None

    def apply(self, books: Books) -> ChargeRow | None:
        charge = books.charge(self.ledger, self.charge_id)
        at_once = charge is not None and charge.state is ChargeState.OPEN and charge.amount is not None
        if charge is None or (charge.state not in WAITING and not at_once):
            return None
        settled = self.state is ChargeState.SETTLED
        after = replace(
            charge,
            state=charge.checked_step(self.state),
            reason=self.reason if not settled else None,
            due_at=self.due_at,
            failures=0 if settled else charge.failures + 1,
        )
        books.save_charge(after)
        if settled and self.actual is not None and self.actual < charge.share:
            late = leg(charge, LATE, charge.share - self.actual, self.now)
            if books.charge(late.ledger, late.id) is None:
                books.save_charge(late)
        return after


@dataclass(frozen=True, slots=True)
class LoadCharge(Operation["ChargeRow | None"]):
    """Read a charge."""

    reads: ClassVar[bool] = True
    ledger: str
    charge_id: str

    def apply(self, books: Books) -> ChargeRow | None:
        return books.charge(self.ledger, self.charge_id)
