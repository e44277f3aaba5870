"""
Taking over what a dead process left behind.

Its open calls follow a stated policy: the last checkpoint, what was reserved, or nothing. Its reserves that may have
left are in doubt. Everything else is settled as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar

from countwerk_meter._flow.begin import orphaned
from countwerk_meter._flow.books import Operation
from countwerk_meter._flow.ending import Commit, Measured, Release
from countwerk_meter._flow.rows import DEDUCT
from countwerk_meter._flow.states import WAITING, ChargeState, ReservationState

if TYPE_CHECKING:
    from countwerk_meter._flow.books import Books

_EVERY = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was taken over: calls closed by the policy, rows that go on, reserves in doubt."""

    closed: int = 0
    resumed: int = 0
    orphans: int = 0


@dataclass(frozen=True, slots=True)
class Adopt(Operation[Recovered]):
    """Make a dead owner's rows ours, in one transaction, so that two recoverers never take one row both."""

    durable: ClassVar[bool] = True
    ledger: str
    dead: str
    owner: str
    on_crash: str
    now: float
    rounding: str = "ceil"

    def apply(self, books: Books) -> Recovered:
        live = frozenset(
            {
                ReservationState.REQUESTED,
                ReservationState.HELD,
                ReservationState.CLOSING,
                ReservationState.ORPHAN_POSSIBLE,
            }
        )
        closed = resumed = orphans = 0
        for row in books.reservations(self.ledger, live, _EVERY):
            if row.owner != self.dead:
                continue
            row = replace(row, owner=self.owner, epoch=row.epoch + 1)  # noqa: PLW2901 - the row, moved on
            if row.state is ReservationState.REQUESTED:
                orphans += 1
                row = orphaned(books, row, "its process died while reserving", row.created_at)  # noqa: PLW2901
            else:
                resumed += 1
                if row.state is ReservationState.HELD and row.open_charges == 0:
                    row = replace(  # noqa: PLW2901
                        row, sealed=True, state=row.checked_step(ReservationState.CLOSING), due_at=self.now
                    )
            books.save_reservation(row)
        for charge in reversed(books.charges(self.ledger, frozenset({ChargeState.OPEN, *WAITING}), _EVERY)):
            if charge.owner != self.dead:
                continue
            charge = replace(charge, owner=self.owner)  # noqa: PLW2901 - the charge, moved on
            if charge.state is not ChargeState.OPEN:
                books.save_charge(charge)
                resumed += 1
            elif charge.via == DEDUCT and charge.amount is not None:
                # A flat price that may have left: the same id makes no second charge, so it is sent until answered.
                kept = charge.checked_step(ChargeState.COMMITTED)
                books.save_charge(replace(charge, state=kept, committed_at=self.now, due_at=self.now))
                resumed += 1
            else:
                books.save_charge(charge)
                closed += 1
                self._close(books, charge.id, charge.epoch, charge.exact, charge.lines, charge.estimate, charge.basis)
        return Recovered(closed, resumed, orphans)

    def _close(
        self,
        books: Books,
        charge_id: str,
        epoch: int,
        exact: str | None,
        lines: str | None,
        estimate: int,
        basis: str | None,
    ) -> None:
        measured: Measured | None = None
        if self.on_crash == "reserved":
            measured = Measured(Decimal(estimate), "reserved", lines)
        elif self.on_crash == "checkpoint" and exact is not None:
            measured = Measured(Decimal(exact), basis or "counted", lines)
        if measured is None:
            Release(self.ledger, charge_id, epoch, "its process died", self.now).apply(books)
        else:
            Commit(self.ledger, charge_id, epoch, measured, self.now, self.rounding).apply(books)
