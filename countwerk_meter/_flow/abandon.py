"""
Giving up a call whose gate was cut short.

Nothing ran, so nothing is charged, and no hold or open charge stays behind that nobody would end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from countwerk_meter._flow.begin import Fail
from countwerk_meter._flow.books import Operation
from countwerk_meter._flow.ending import Release
from countwerk_meter._flow.states import ChargeState, ReservationState
from countwerk_meter._frozen import frozen

if TYPE_CHECKING:
    from countwerk_meter._flow.books import Books
    from countwerk_meter._flow.rows import ChargeRow, ReservationRow

_REASON = "interrupted while reserving"


@frozen
class Abandon(Operation[bool]):
    """
    End what this gate began, wherever it stood; True: a hold may have been made (money rule 3).

    The id alone does not say whose charge it is: somebody else's, met under the same id, is left alone.
    """

    charge: ChargeRow
    now: float
    hold: ReservationRow | None = None
    in_doubt: bool = False

    def apply(self, books: Books) -> bool:
        row = books.reservation(self.hold.key) if self.hold is not None else None
        if row is not None and row.state is ReservationState.REQUESTED:
            state = ChargeState.ORPHANED if self.in_doubt else ChargeState.CANCELLED
            Fail(row, state, _REASON, self.now).apply(books)
            return self.in_doubt
        met = books.charge(self.charge.ledger, self.charge.id)
        if met is not None and met.owner == self.charge.owner and met.created_at == self.charge.created_at:
            seal = self.hold is not None
            Release(met.ledger, met.id, met.epoch, _REASON, self.now, seal=seal).apply(books)
        return False
