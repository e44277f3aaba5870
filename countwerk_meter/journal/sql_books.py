"""`Books` over a connection of a SQL database: rows are read and written, and nothing else is known here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Protocol

from countwerk_meter._flow.books import DueRow
from countwerk_meter._flow.rows import ChargeRow, ReservationRow, made
from countwerk_meter._flow.states import ChargeState, ReservationState
from countwerk_meter.journal.statements import CHARGE, RESERVATION

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from countwerk_meter.journal.statements import Statements


class Cursor(Protocol):
    """What a statement answers."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""
        ...

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        ...

    def fetchall(self) -> list[Any]:
        """Return every row."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """Go through the rows."""
        ...


# Asked of a dict, a state costs a quarter of what its class would take.
_RESERVATION_STATES: Final[Mapping[str, ReservationState]] = {str(state): state for state in ReservationState}
_CHARGE_STATES: Final[Mapping[str, ChargeState]] = {str(state): state for state in ChargeState}


def reservation_of(values: Iterable[Any]) -> ReservationRow:
    """Read a row of the reservations' table."""
    row = dict(zip(RESERVATION, values, strict=True))
    row["state"] = _RESERVATION_STATES[row["state"]]
    for flag in ("sealed", "confirm_delivered", "cancel_then_deduct"):
        row[flag] = bool(row[flag])
    return made(ReservationRow, row)


def charge_of(values: Iterable[Any]) -> ChargeRow:
    """Read a row of the charges' table."""
    row = dict(zip(CHARGE, values, strict=True))
    row["state"] = _CHARGE_STATES[row["state"]]
    row["draw"] = bool(row["draw"])
    return made(ChargeRow, row)


class SqlBooks(ABC):
    """The journal's rows inside one open transaction."""

    def __init__(self, statements: Statements) -> None:
        self._sql = statements

    @abstractmethod
    def _execute(self, query: str, values: Sequence[Any]) -> Cursor: ...

    @abstractmethod
    def is_dead(self, owner: str) -> bool:
        """See `Books`."""

    def reservation(self, key: str) -> ReservationRow | None:
        """See `Books`, here and below."""
        values = self._execute(self._sql.reservation, (key,)).fetchone()
        return None if values is None else reservation_of(values)

    def knows_reservation_id(self, ledger: str, reservation_id: str) -> bool:
        return self._execute(self._sql.knows, (ledger, reservation_id) * 2).fetchone() is not None

    def charge(self, ledger: str, charge_id: str) -> ChargeRow | None:
        values = self._execute(self._sql.charge, (ledger, charge_id)).fetchone()
        return None if values is None else charge_of(values)

    def charges_of(self, reservation_key: str) -> list[ChargeRow]:
        return self._charges(self._sql.charges_of, (reservation_key,))

    def open_reservations(self, ledger: str, principal: str, account_id: str) -> list[ReservationRow]:
        return self._reservations(self._sql.holding, (ledger, principal, account_id))

    def owed(self, ledger: str, principal: str, account_id: str) -> list[ChargeRow]:
        return self._charges(self._sql.owed, (ledger, principal, account_id))

    def charged(self, ledger: str, account_id: str) -> int:
        (total,) = self._execute(self._sql.charged, (ledger, account_id)).fetchone()
        return int(total)

    def due(self, ledger: str, owner: str, before: float, limit: int, without: Collection[str] = ()) -> list[DueRow]:
        accounts = tuple(without)
        found = self._execute(self._sql.due(len(accounts)), (owner, before, ledger, *accounts) * 2 + (limit,))
        return [DueRow(*row) for row in found]

    def next_due(self, ledger: str, owner: str, after: float) -> float | None:
        (due,) = self._execute(self._sql.next_due, (owner, after, ledger) * 2).fetchone()
        return due

    def charges(self, ledger: str, states: Collection[ChargeState] | None, limit: int) -> list[ChargeRow]:
        return self._charges(self._sql.charges(states or list(ChargeState)), (ledger, limit))

    def reservations(self, ledger: str, states: Collection[ReservationState], limit: int) -> list[ReservationRow]:
        return self._reservations(self._sql.reservations(states), (ledger, limit))

    def owners(self, ledger: str, principal: str | None) -> set[str]:
        found = self._execute(self._sql.owners, (ledger, ledger))
        return {owner for owner, key in found if principal is None or key == principal}

    def principals(self, ledger: str) -> dict[str, int]:
        return dict(self._execute(self._sql.principals, (ledger, ledger)).fetchall())

    def rename_principal(self, ledger: str, before: str, after: str) -> int:
        return sum(self._execute(statement, (after, ledger, before)).rowcount for statement in self._sql.rename)

    def reservations_owned(self, ledger: str, principal: str, owner: str, limit: int) -> list[ReservationRow]:
        return self._reservations(self._sql.reservations_owned, (ledger, principal, owner, limit))

    def charges_owned(self, ledger: str, principal: str, owner: str, limit: int) -> list[ChargeRow]:
        return self._charges(self._sql.charges_owned, (ledger, principal, owner, limit))

    def moving(self, ledger: str, owner: str) -> bool:
        return self._execute(self._sql.moving, (ledger, owner) * 2).fetchone() is not None

    def overdue(self, ledger: str, principal: str, before: float, limit: int) -> list[DueRow]:
        found = self._execute(self._sql.overdue, (before, ledger, principal) * 2 + (limit,))
        return [DueRow(*row) for row in found]

    def ended_charges(self, ledger: str, after: float, before: float, limit: int) -> list[ChargeRow]:
        return self._charges(self._sql.ended_charges, (ledger, after, before, limit))

    def forget_reservations(self, ledger: str, before: float, limit: int) -> int:
        old = self._execute(self._sql.old_reservations, (ledger, before, limit)).fetchall()
        for key, reservation_id in old:
            if reservation_id is not None:
                self._execute(self._sql.keep_pruned, (ledger, reservation_id))
            self._execute(self._sql.forget, (key,))
        return len(old)

    def carry(self, ledger: str, account_id: str) -> Decimal:
        values = self._execute(self._sql.carry, (ledger, account_id)).fetchone()
        return Decimal(0) if values is None else Decimal(values[0])

    def set_carry(self, ledger: str, account_id: str, fraction: Decimal) -> None:
        self._execute(self._sql.set_carry, (ledger, account_id, str(fraction)))

    def history(self, ledger: str, account_id: str, operation: str, model: str) -> str | None:
        values = self._execute(self._sql.history, (ledger, account_id, operation, model)).fetchone()
        return None if values is None else str(values[0])

    def save_history(self, ledger: str, account_id: str, operation: str, model: str, sizes: str) -> None:
        self._execute(self._sql.save_history, (ledger, account_id, operation, model, sizes))

    def save_reservation(self, row: ReservationRow) -> None:
        self._execute(self._sql.save_reservation, tuple(getattr(row, name) for name in RESERVATION))

    def save_charge(self, row: ChargeRow) -> None:
        self._execute(self._sql.save_charge, tuple(getattr(row, name) for name in CHARGE))

    def _reservations(self, query: str, values: Sequence[Any]) -> list[ReservationRow]:
        return [reservation_of(found) for found in self._execute(query, values)]

    def _charges(self, query: str, values: Sequence[Any]) -> list[ChargeRow]:
        return [charge_of(found) for found in self._execute(query, values)]
