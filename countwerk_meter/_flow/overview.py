"""Journal operations that only look: what is due, what waits, what was charged."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from countwerk_meter._flow.books import Operation
from countwerk_meter._flow.states import ChargeState, ReservationState
from countwerk_meter._frozen import frozen

if TYPE_CHECKING:
    from countwerk_meter._flow.books import Books, DueRow
    from countwerk_meter._flow.rows import ChargeRow, ReservationRow

# A limit that no journal reaches.
EVERY: Final = 1_000_000_000


@frozen
class Agenda:
    """What settlement has to do: rows that are due now, and when the next one after them is (POSIX seconds)."""

    rows: tuple[DueRow, ...]
    next_due: float | None


@frozen
class Due(Operation[Agenda]):
    """Read an owner's agenda, but for the rows of the accounts in `without`."""

    reads: ClassVar[bool] = True
    ledger: str
    owner: str
    now: float
    limit: int
    without: frozenset[str] = frozenset()

    def apply(self, books: Books) -> Agenda:
        rows = books.due(self.ledger, self.owner, self.now, self.limit, self.without)
        return Agenda(tuple(rows), books.next_due(self.ledger, self.owner, self.now))


@frozen
class Charges(Operation["list[ChargeRow]"]):
    """Read charges, newest first."""

    reads: ClassVar[bool] = True
    ledger: str
    states: frozenset[ChargeState] | None = None
    limit: int = 1000

    def apply(self, books: Books) -> list[ChargeRow]:
        return books.charges(self.ledger, self.states, self.limit)


@frozen
class Unsettled(Operation["list[ReservationRow]"]):
    """Read reservations that wait for settlement, and those that the client cannot decide."""

    reads: ClassVar[bool] = True
    ledger: str
    limit: int = 1000
    states: frozenset[ReservationState] = frozenset(
        {ReservationState.CLOSING, ReservationState.UNRESOLVED, ReservationState.ORPHAN_POSSIBLE}
    )

    def apply(self, books: Books) -> list[ReservationRow]:
        return books.reservations(self.ledger, self.states, self.limit)


@frozen
class Owners(Operation["set[str]"]):
    """Read who owns a key's rows that have not ended; None: every key's."""

    reads: ClassVar[bool] = True
    ledger: str
    principal: str | None = None

    def apply(self, books: Books) -> set[str]:
        return books.owners(self.ledger, self.principal)


@frozen
class Waiting(Operation[bool]):
    """Read whether an owner has anything that still settles by itself: not what is uncollected or in doubt."""

    reads: ClassVar[bool] = True
    ledger: str
    owner: str

    def apply(self, books: Books) -> bool:
        return books.moving(self.ledger, self.owner)
