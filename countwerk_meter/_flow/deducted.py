"""Journal operation of a deduct: what came of it (the last row of the outcome table in RULES.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from countwerk_meter._flow.books import Operation
from countwerk_meter._flow.legs import add_late, mirror
from countwerk_meter._flow.rows import DEDUCT, ChargeRow, replace
from countwerk_meter._flow.states import CHARGE_STEPS, WAITING, ChargeState
from countwerk_meter._frozen import frozen

if TYPE_CHECKING:
    from countwerk_meter._flow.books import Books


@frozen
class Recorded:
    """The charge as it stands now (None: there is none), and what the answer left short."""

    charge: ChargeRow | None
    late: ChargeRow | None = None


@frozen
class Deducted(Operation[Recorded]):
    """
    Record what came of a deduct: settled, uncollected, unresolved, or (`committed`) still waiting, until `due_at`.

    Two workers may send the same id, and what one of them learned late must not undo what the other knows: a step
    that is not in the table changes nothing. A success is the truth whenever it comes.
    """

    ledger: str
    charge_id: str
    state: ChargeState
    now: float
    reason: str | None = None
    due_at: float | None = None
    actual: int | None = None

    def apply(self, books: Books) -> Recorded:
        charge = books.charge(self.ledger, self.charge_id)
        if charge is None or charge.via != DEDUCT or charge.amount is None:
            return Recorded(charge)
        waits = self.state is ChargeState.COMMITTED and charge.state in WAITING
        state = charge.state if waits else self.state
        if not waits and state is not charge.state and state not in CHARGE_STEPS[charge.state]:
            return Recorded(charge)
        if state is charge.state and state not in WAITING:
            return Recorded(charge)
        settled = state is ChargeState.SETTLED
        after = replace(
            charge,
            state=state,
            reason=None if settled else charge.reason if waits else self.reason,
            due_at=self.due_at,
            failures=0 if settled else charge.failures + 1,
        )
        books.save_charge(after)
        mirror(books, after)
        late: ChargeRow | None = None
        if settled and self.actual is not None and self.actual < charge.share:
            late = add_late(books, charge, charge.share - max(self.actual, 0), self.now)
        return Recorded(after, late)
