"""`Books` over a SQLite connection."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from countwerk_meter.journal.sql_books import Cursor, SqlBooks
from countwerk_meter.journal.statements import CHARGE, RESERVATION, Statements

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from countwerk_meter._flow.rows import ChargeRow, ReservationRow

_STATEMENTS: Final = Statements(hints=True)
_values_of_reservation: Final = attrgetter(*RESERVATION)
_values_of_charge: Final = attrgetter(*CHARGE)

R = TypeVar("R", "ReservationRow", "ChargeRow")


class SqliteBooks(SqlBooks):
    """
    The journal's rows inside one open transaction; whether an owner lives, its lock says.

    A row that this transaction has read is written back by what changed in it: nobody else writes meanwhile, and
    every index that holds none of that is left alone.
    """

    def __init__(self, connection: sqlite3.Connection, is_held: Callable[[str], bool]) -> None:
        super().__init__(_STATEMENTS)
        self._db = connection
        self._is_held = is_held
        self._rows: dict[tuple[str, ...], tuple[Any, ...]] = {}

    def forget_rows(self) -> None:
        """Forget what was read: it was undone, or another transaction begins."""
        self._rows.clear()

    def reservation(self, key: str) -> ReservationRow | None:
        return self._read((key,), super().reservation(key), _values_of_reservation)

    def charge(self, ledger: str, charge_id: str) -> ChargeRow | None:
        return self._read((ledger, charge_id), super().charge(ledger, charge_id), _values_of_charge)

    def charges_of(self, reservation_key: str) -> list[ChargeRow]:
        return self._all_read(super().charges_of(reservation_key))

    def charges_owned(self, ledger: str, principal: str, owner: str, limit: int) -> list[ChargeRow]:
        return self._all_read(super().charges_owned(ledger, principal, owner, limit))

    def reservations_owned(self, ledger: str, principal: str, owner: str, limit: int) -> list[ReservationRow]:
        found = super().reservations_owned(ledger, principal, owner, limit)
        for row in found:
            self._read((row.key,), row, _values_of_reservation)
        return found

    def save_reservation(self, row: ReservationRow) -> None:
        values = _values_of_reservation(row)
        self._save((row.key,), values, RESERVATION, ("key",), self._sql.reservation_table, self._sql.save_reservation)

    def save_charge(self, row: ChargeRow) -> None:
        values = _values_of_charge(row)
        key = (row.ledger, row.id)
        self._save(key, values, CHARGE, ("ledger", "id"), self._sql.charge_table, self._sql.save_charge)

    def forget_reservations(self, ledger: str, before: float, limit: int) -> int:
        self.forget_rows()
        return super().forget_reservations(ledger, before, limit)

    def rename_principal(self, ledger: str, before: str, after: str) -> int:
        self.forget_rows()
        return super().rename_principal(ledger, before, after)

    def _all_read(self, charges: list[ChargeRow]) -> list[ChargeRow]:
        for row in charges:
            self._read((row.ledger, row.id), row, _values_of_charge)
        return charges

    def _read(self, key: tuple[str, ...], row: R | None, values: Callable[[R], tuple[Any, ...]]) -> R | None:
        if row is not None:
            self._rows[key] = values(row)
        return row

    def _save(
        self,
        key: tuple[str, ...],
        values: tuple[Any, ...],
        columns: tuple[str, ...],
        keys: tuple[str, ...],
        table: str,
        upsert: str,
    ) -> None:
        before = self._rows.get(key)
        self._rows[key] = values
        if before is None:
            self._execute(upsert, values)
            return
        changed = [at for at, (old, new) in enumerate(zip(before, values, strict=True)) if old != new]
        if changed:
            update = self._sql.update(table, [columns[at] for at in changed], keys)
            self._execute(update, (*(values[at] for at in changed), *key))

    def _execute(self, query: str, values: Sequence[Any]) -> Cursor:
        return self._db.execute(query, values)

    def is_dead(self, owner: str) -> bool:
        return not self._is_held(owner)
