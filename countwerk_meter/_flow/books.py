"""
The journal as the flows see it: rows that are read and saved inside one transaction.

An `Operation` is a pure step over `Books`; a store only has to read and write rows. So the rules are written once,
and hold in memory, SQLite and whatever comes next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection
    from decimal import Decimal

    from countwerk_meter._flow.rows import ChargeRow, ReservationRow
    from countwerk_meter._flow.states import ChargeState, ReservationState

R_co = TypeVar("R_co", covariant=True)


class DueRow(NamedTuple):
    """A row that is due: `kind` is `reservation` or `charge`, `expires_at` None where nothing expires."""

    kind: str
    key: str
    account_id: str
    expires_at: float | None


class Books(Protocol):
    """One transaction's view of the journal. Writes become visible to others all together, or not at all."""

    def reservation(self, key: str) -> ReservationRow | None:
        """Return the reservation with this journal key."""
        ...

    def knows_reservation_id(self, ledger: str, reservation_id: str) -> bool:
        """Whether the ledger named this reservation before."""
        ...

    def charge(self, ledger: str, charge_id: str) -> ChargeRow | None:
        """Return the charge with this `usage_event_id`."""
        ...

    def charges_of(self, reservation_key: str) -> list[ChargeRow]:
        """Return the charges that draw on a reservation, in commit order, open ones last."""
        ...

    def open_reservations(self, ledger: str, principal: str, account_id: str) -> list[ReservationRow]:
        """Return what may be held for an account under this key."""
        ...

    def owed(self, ledger: str, principal: str, account_id: str) -> list[ChargeRow]:
        """Return the account's deducts that are not collected, and its deferred calls that are still open."""
        ...

    def charged(self, ledger: str, account_id: str) -> int:
        """Return the credits of an account's charges that are committed or settled."""
        ...

    def due(self, ledger: str, owner: str, before: float, limit: int, without: Collection[str] = ()) -> list[DueRow]:
        """Return an owner's rows that are due, earliest expiry first; not those of the accounts in `without`."""
        ...

    def next_due(self, ledger: str, owner: str, after: float) -> float | None:
        """Return when the next of an owner's rows falls due that is not due yet."""
        ...

    def charges(self, ledger: str, states: Collection[ChargeState] | None, limit: int) -> list[ChargeRow]:
        """Return charges, newest first."""
        ...

    def reservations(self, ledger: str, states: Collection[ReservationState], limit: int) -> list[ReservationRow]:
        """Return reservations in these states, oldest first."""
        ...

    def owners(self, ledger: str, principal: str | None) -> set[str]:
        """Return the owners of a key's rows that have not ended; None: of every key's."""
        ...

    def principals(self, ledger: str) -> dict[str, int]:
        """Return how many rows that have not ended each key has."""
        ...

    def rename_principal(self, ledger: str, before: str, after: str) -> int:
        """Give one key's rows that have not ended, and those that wait for a person, to another; return how many."""
        ...

    def is_dead(self, owner: str) -> bool:
        """Whether an owner is dead now, and, until this transaction ends, stays so. One that never joined is."""
        ...

    def reservations_owned(self, ledger: str, principal: str, owner: str, limit: int) -> list[ReservationRow]:
        """Return holds of an owner that have not ended; without those that another transaction is about to move."""
        ...

    def charges_owned(self, ledger: str, principal: str, owner: str, limit: int) -> list[ChargeRow]:
        """Return charges of an owner that have not ended; without those that another transaction is about to move."""
        ...

    def moving(self, ledger: str, owner: str) -> bool:
        """Return whether an owner has a hold that is closing, or a committed charge."""
        ...

    def overdue(self, ledger: str, principal: str, before: float, limit: int) -> list[DueRow]:
        """Return a key's rows that were due by then, whoever owns them; without those about to be moved."""
        ...

    def ended_charges(self, ledger: str, after: float, before: float, limit: int) -> list[ChargeRow]:
        """Return charges begun in that time that have ended and say more than a tombstone must, oldest first."""
        ...

    def forget_reservations(self, ledger: str, before: float, limit: int) -> int:
        """Delete reservations begun before then that have ended, keeping their ids known; return how many."""
        ...

    def carry(self, ledger: str, account_id: str) -> Decimal:
        """Return the account's fraction of a credit that was used and not charged yet."""
        ...

    def set_carry(self, ledger: str, account_id: str, fraction: Decimal) -> None:
        """Keep the account's fraction."""
        ...

    def history(self, ledger: str, account_id: str, operation: str, model: str) -> str | None:
        """Return the sizes of such calls' answers, as JSON; an account of "" is everybody's."""
        ...

    def save_history(self, ledger: str, account_id: str, operation: str, model: str, sizes: str) -> None:
        """Keep the sizes of such calls' answers."""
        ...

    def save_reservation(self, row: ReservationRow) -> None:
        """Insert or replace a reservation."""
        ...

    def save_charge(self, row: ChargeRow) -> None:
        """Insert or replace a charge. What it draws on is there before it."""
        ...


class Operation(ABC, Generic[R_co]):
    """
    One step over the books, carried out in one transaction.

    `durable` ones are synced to the disk before they are answered (money rules 4 and 7); the others need only
    survive the process. `reads` ones change nothing.
    """

    __slots__: ClassVar[tuple[str, ...]] = ()
    durable: ClassVar[bool] = False
    reads: ClassVar[bool] = False

    @abstractmethod
    def apply(self, books: Books) -> R_co:
        """Carry the step out and return its result. Checks come before the first write."""


AnyOperation = Operation[Any]
