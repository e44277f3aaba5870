"""`Books` over a SQLite connection."""

from __future__ import annotations

from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from countwerk_meter._flow.rows import ChargeRow, ReservationRow, checked_charge, checked_reservation
from countwerk_meter.journal.sql_books import Cursor, SqlBooks
from countwerk_meter.journal.statements import CHARGE, RESERVATION, Statements

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

R = TypeVar("R", ReservationRow, ChargeRow)

_STATEMENTS: Final = Statements(hints=True)
_values_of_reservation: Final = attrgetter(*RESERVATION)
_values_of_charge: Final = attrgetter(*CHARGE)
# A call moves its two rows on four times, most of them within moments; what is older is read again.
_ROWS_KEPT: Final = 1024
# What the file's triggers look at, in an old row and in a new one.
_OF_RESERVATION: Final = ("state", "cancels", "confirms", "frozen")
_OF_CHARGE: Final = ("state", "amount")
_GUARDED_AT: Final = {
    ReservationRow: [RESERVATION.index(name) for name in _OF_RESERVATION],
    ChargeRow: [CHARGE.index(name) for name in _OF_CHARGE],
}
_guarded_of_reservation: Final = attrgetter(*_OF_RESERVATION)
_guarded_of_charge: Final = attrgetter(*_OF_CHARGE)
# Read by key: what was saved and is not written yet is told from here.
_BY_KEY: Final = frozenset({_STATEMENTS.reservation, _STATEMENTS.charge})


def _guarded(row: ReservationRow | ChargeRow) -> Any:
    return _guarded_of_reservation(row) if isinstance(row, ReservationRow) else _guarded_of_charge(row)


def _check(before: ReservationRow | ChargeRow, after: ReservationRow | ChargeRow) -> None:
    """Raise for a step that the file would refuse."""
    if isinstance(before, ReservationRow):
        checked_reservation(before, cast("ReservationRow", after))
    else:
        checked_charge(before, cast("ChargeRow", after))


class SqliteBooks(SqlBooks):
    """
    The journal's rows over one connection, inside one transaction after another; whether an owner lives, its lock says.

    Nobody else writes meanwhile, so a row is read once and written once, by what changed in it: every index that holds
    none of that is left alone, and calls that draw on one hold share its row. Whatever else is asked of the tables is
    asked once all is written. While no other connection has written, a transaction knows what the one before it knew.
    """

    def __init__(self, connection: sqlite3.Connection, is_held: Callable[[str], bool]) -> None:
        super().__init__(_STATEMENTS)
        self._db = connection
        self._is_held = is_held
        self._stored: dict[tuple[str, ...], tuple[Any, ...]] = {}
        self._known: dict[tuple[str, ...], ReservationRow | ChargeRow] = {}
        self._unwritten: dict[tuple[str, ...], ReservationRow | ChargeRow] = {}
        # Of these holds every charge's name is known.
        self._drawn: dict[str, dict[tuple[str, ...], None]] = {}
        self._version: int | None = None

    def begin(self, transaction: str) -> None:
        """Begin a transaction, knowing what the last one knew, if nobody else has written since."""
        self._db.execute(transaction)
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._version = version
            self.forget_rows()
        elif len(self._stored) > _ROWS_KEPT:
            for key in list(islice(self._stored, len(self._stored) - _ROWS_KEPT // 2)):
                del self._stored[key], self._known[key]
            self._drawn.clear()

    def forget_rows(self) -> None:
        """Forget what was read, and what was not written: it was undone, or somebody else has written."""
        self._stored.clear()
        self._known.clear()
        self._unwritten.clear()
        self._drawn.clear()

    def write(self) -> None:
        """Write what was saved. To be called before the transaction is committed."""
        while self._unwritten:
            self._write_row(*self._unwritten.popitem())

    def _write_row(self, key: tuple[str, ...], row: ReservationRow | ChargeRow) -> None:
        if isinstance(row, ReservationRow):
            table, upsert = self._sql.reservation_table, self._sql.save_reservation
            self._write(key, _values_of_reservation(row), RESERVATION, ("key",), table, upsert)
        else:
            table, upsert = self._sql.charge_table, self._sql.save_charge
            self._write(key, _values_of_charge(row), CHARGE, ("ledger", "id"), table, upsert)

    def reservation(self, key: str) -> ReservationRow | None:
        known = self._known.get((key,))
        return cast("ReservationRow", known) if known is not None else self._read((key,), super().reservation(key))

    def charge(self, ledger: str, charge_id: str) -> ChargeRow | None:
        key = (ledger, charge_id)
        known = self._known.get(key)
        return cast("ChargeRow", known) if known is not None else self._read(key, super().charge(ledger, charge_id))

    def charges_of(self, reservation_key: str) -> list[ChargeRow]:
        drawn = self._drawn.get(reservation_key)
        if drawn is None:
            found = self._all_read(super().charges_of(reservation_key))
            self._drawn[reservation_key] = {(row.ledger, row.id): None for row in found}
            return found
        rows = [cast("ChargeRow", self._known[name]) for name in drawn]
        rows = [row for row in rows if row.reservation_key == reservation_key]
        return sorted(rows, key=lambda row: (row.committed_at is None, row.committed_at or 0.0, row.id))

    def charges_owned(self, ledger: str, principal: str, owner: str, limit: int) -> list[ChargeRow]:
        return self._all_read(super().charges_owned(ledger, principal, owner, limit))

    def reservations_owned(self, ledger: str, principal: str, owner: str, limit: int) -> list[ReservationRow]:
        found = super().reservations_owned(ledger, principal, owner, limit)
        for row in found:
            self._read((row.key,), row)
        return found

    def save_reservation(self, row: ReservationRow) -> None:
        key = (row.key,)
        if key not in self._known:
            # Nobody read it, so it is new: nothing has drawn on it.
            self._drawn[row.key] = {}
        self._save(key, row)

    def save_charge(self, row: ChargeRow) -> None:
        name = (row.ledger, row.id)
        if row.reservation_key in self._drawn and row.parent is None:
            self._drawn[row.reservation_key][name] = None
        self._save(name, row)

    def forget_reservations(self, ledger: str, before: float, limit: int) -> int:
        self.write()
        self.forget_rows()
        return super().forget_reservations(ledger, before, limit)

    def rename_principal(self, ledger: str, before: str, after: str) -> int:
        self.write()
        self.forget_rows()
        return super().rename_principal(ledger, before, after)

    def _all_read(self, charges: list[ChargeRow]) -> list[ChargeRow]:
        for row in charges:
            self._read((row.ledger, row.id), row)
        return charges

    def _read(self, key: tuple[str, ...], row: R | None) -> R | None:
        if row is not None:
            values = _values_of_reservation if isinstance(row, ReservationRow) else _values_of_charge
            self._stored[key] = values(row)
            self._known[key] = row
        return row

    def _save(self, key: tuple[str, ...], row: ReservationRow | ChargeRow) -> None:
        before = self._unwritten.get(key)
        if before is not None and _guarded(before) != _guarded(row):
            stored = self._stored.get(key)
            if stored is None:
                # New: it is written as what it has become, if it may.
                _check(before, row)
            elif _guarded(before) != tuple([stored[at] for at in _GUARDED_AT[type(row)]]):
                # The file checks every step of a row (I7): two of them are not one. The other rows can wait.
                self._write_row(key, before)
        self._known[key] = self._unwritten[key] = row

    def _write(
        self,
        key: tuple[str, ...],
        values: tuple[Any, ...],
        columns: tuple[str, ...],
        keys: tuple[str, ...],
        table: str,
        upsert: str,
    ) -> None:
        before = self._stored.get(key)
        self._stored[key] = values
        if before is None:
            self._db.execute(upsert, values)
            return
        changed = [at for at, (old, new) in enumerate(zip(before, values, strict=True)) if old != new]
        if changed:
            update = self._sql.update(table, tuple([columns[at] for at in changed]), keys)
            self._db.execute(update, [*[values[at] for at in changed], *key])

    def _execute(self, query: str, values: Sequence[Any]) -> Cursor:
        if self._unwritten and query not in _BY_KEY:
            self.write()
        return self._db.execute(query, values)

    def is_dead(self, owner: str) -> bool:
        return not self._is_held(owner)
