"""
Pruning: old rows that have ended shrink to what must never be forgotten.

A charge keeps its id, account, operation, state and amount, so that the id met again is still refused (I2). A hold is
deleted; only its id stays known (money rule 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from countwerk_meter._flow.books import Operation
from countwerk_meter._flow.rows import replace
from countwerk_meter._frozen import frozen

if TYPE_CHECKING:
    from countwerk_meter._flow.books import Books

# In one transaction, so that a prune never holds up a call for long.
AT_ONCE: Final = 500


@frozen
class Pruned:
    """What one step shrank and deleted; `after`: where the next one goes on (POSIX seconds), None: there is no more."""

    charges: int = 0
    reservations: int = 0
    after: float | None = None


@frozen
class Prune(Operation[Pruned]):
    """Shrink a ledger's rows that have ended and were begun before `before` (POSIX seconds), so many at most."""

    ledger: str
    before: float
    after: float = 0.0
    limit: int = AT_ONCE

    def apply(self, books: Books) -> Pruned:
        charges = books.ended_charges(self.ledger, self.after, self.before, self.limit)
        for charge in charges:
            books.save_charge(replace(charge, description=None, metadata=None, lines=None))
        reservations = books.forget_reservations(self.ledger, self.before, self.limit)
        more = self.limit in {len(charges), reservations}
        last = charges[-1].created_at if charges else self.after
        return Pruned(len(charges), reservations, last if more else None)
