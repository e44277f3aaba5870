"""Rows to SQLite and back: the columns are the fields of the two row classes."""

from __future__ import annotations

from dataclasses import fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from countwerk_meter._flow.books import DueRow
from countwerk_meter._flow.rows import ChargeRow, ReservationRow
from countwerk_meter._flow.states import ENDED, HOLDING, LISTED, LIVE, OVER, ChargeState, ReservationState

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Iterable
    from enum import StrEnum

_RESERVATION: Final = tuple(field.name for field in fields(ReservationRow))
_CHARGE: Final = tuple(field.name for field in fields(ChargeRow))


def _upsert(table: str, columns: tuple[str, ...], key: str) -> str:
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    keys = set(key.split(", "))
    updates = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in keys)
    return f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT ({key}) DO UPDATE SET {updates}"  # noqa: S608 - our own names


def _select(table: str, columns: tuple[str, ...], rest: str) -> str:
    return f"SELECT {', '.join(columns)} FROM {table} WHERE {rest}"  # noqa: S608 - our own names


def _in(states: Collection[StrEnum]) -> str:
    """Return states as SQL literals: our own words, and only so do partial indexes serve."""
    return "(" + ", ".join(f"'{state}'" for state in sorted(states)) + ")"


_SAVE_RESERVATION: Final = _upsert("reservation", _RESERVATION, "key")
_SAVE_CHARGE: Final = _upsert("charge", _CHARGE, "ledger, id")
_RESERVATION_BY_KEY: Final = _select("reservation", _RESERVATION, "key = ?")
_HOLDING: Final = _select(
    "reservation",
    _RESERVATION,
    f"ledger = ? AND principal = ? AND account_id = ? AND state IN {_in(HOLDING)}",
)
_RESERVATIONS_OWNED: Final = _select(
    "reservation", _RESERVATION, f"ledger = ? AND owner = ? AND state IN {_in(HOLDING)}"
)
_CHARGES_OWNED: Final = _select(
    "charge", _CHARGE, f"ledger = ? AND owner = ? AND state IN {_in(LIVE)} ORDER BY created_at, id"
)
_ENDED_CHARGES: Final = _select(
    "charge",
    _CHARGE,
    f"ledger = ? AND created_at >= ? AND created_at < ? AND state IN {_in(ENDED)}"
    " AND (lines IS NOT NULL OR metadata IS NOT NULL OR description IS NOT NULL) ORDER BY created_at, id LIMIT ?",
)
_OLD_RESERVATIONS: Final = _select(
    "reservation", ("key", "reservation_id"), f"ledger = ? AND created_at < ? AND state IN {_in(OVER)} LIMIT ?"
)
_CHARGE_BY_ID: Final = _select("charge", _CHARGE, "ledger = ? AND id = ?")
_CHARGES_OF: Final = _select(
    "charge",
    _CHARGE,
    "reservation_key = ? AND parent IS NULL ORDER BY committed_at IS NULL, committed_at, id",
)
_OWED: Final = _select(
    "charge",
    _CHARGE,
    "ledger = ? AND principal = ? AND account_id = ? AND (state = 'uncollected' OR reason = 'deferred')"
    " AND state IN ('uncollected', 'open', 'committed')",
)
_DUE: Final = """
SELECT kind, key, account_id, ends FROM (
    SELECT 'reservation' AS kind, key, account_id, due_at, expires_at AS ends FROM reservation
    WHERE owner = :owner AND due_at IS NOT NULL AND due_at <= :before AND ledger = :ledger
    UNION ALL
    SELECT 'charge', id, account_id, due_at, NULL FROM charge
    WHERE owner = :owner AND due_at IS NOT NULL AND due_at <= :before AND ledger = :ledger
) ORDER BY ends IS NULL, ends, due_at LIMIT :limit
"""
_NEXT_DUE: Final = """
SELECT min(due_at) FROM (
    SELECT due_at FROM reservation WHERE owner = :owner AND due_at IS NOT NULL AND ledger = :ledger
    UNION ALL
    SELECT due_at FROM charge WHERE owner = :owner AND due_at IS NOT NULL AND ledger = :ledger
)
"""
_OVERDUE: Final = f"""
SELECT kind, key, account_id, ends FROM (
    SELECT 'reservation' AS kind, key, account_id, due_at, expires_at AS ends FROM reservation
    WHERE due_at <= :before AND ledger = :ledger AND principal = :principal AND state IN {_in(HOLDING)}
    UNION ALL
    SELECT 'charge', id, account_id, due_at, NULL FROM charge
    WHERE due_at <= :before AND ledger = :ledger AND principal = :principal AND state IN {_in(LIVE)}
) ORDER BY due_at LIMIT :limit
"""  # noqa: S608 - our own words
_LIVE: Final = f"""
SELECT owner, principal FROM reservation WHERE ledger = :ledger AND state IN {_in(HOLDING)}
UNION ALL
SELECT owner, principal FROM charge WHERE ledger = :ledger AND state IN {_in(LIVE)}
"""  # noqa: S608 - our own words
_OWNERS: Final = f"SELECT DISTINCT owner FROM ({_LIVE}) WHERE principal = coalesce(:principal, principal)"  # noqa: S608 - our own words
_PRINCIPALS: Final = f"SELECT principal, count(*) FROM ({_LIVE}) GROUP BY principal"  # noqa: S608 - our own words
_RENAME: Final = tuple(
    f"UPDATE {table} SET principal = :after WHERE ledger = :ledger AND principal = :before AND state IN {_in(states)}"  # noqa: S608 - our own words
    for table, states in (("reservation", HOLDING), ("charge", LIVE | LISTED))
)


def _reservation(values: Iterable[Any]) -> ReservationRow:
    row = dict(zip(_RESERVATION, values, strict=True))
    row["state"] = ReservationState(row["state"])
    for flag in ("sealed", "confirm_delivered", "cancel_then_deduct"):
        row[flag] = bool(row[flag])
    return ReservationRow(**row)


def _charge(values: Iterable[Any]) -> ChargeRow:
    row = dict(zip(_CHARGE, values, strict=True))
    row["state"] = ChargeState(row["state"])
    row["draw"] = bool(row["draw"])
    return ChargeRow(**row)


class SqliteBooks:
    """The journal's rows inside one open transaction of a connection."""

    def __init__(self, connection: sqlite3.Connection, is_held: Callable[[str], bool]) -> None:
        self._db = connection
        self._is_held = is_held

    def reservation(self, key: str) -> ReservationRow | None:
        values = self._db.execute(_RESERVATION_BY_KEY, (key,)).fetchone()
        return None if values is None else _reservation(values)

    def knows_reservation_id(self, ledger: str, reservation_id: str) -> bool:
        query = (
            "SELECT 1 FROM reservation WHERE ledger = ? AND reservation_id = ?"
            " UNION ALL SELECT 1 FROM pruned_reservation WHERE ledger = ? AND reservation_id = ?"
        )
        return self._db.execute(query, (ledger, reservation_id) * 2).fetchone() is not None

    def charge(self, ledger: str, charge_id: str) -> ChargeRow | None:
        values = self._db.execute(_CHARGE_BY_ID, (ledger, charge_id)).fetchone()
        return None if values is None else _charge(values)

    def charges_of(self, reservation_key: str) -> list[ChargeRow]:
        return [_charge(values) for values in self._db.execute(_CHARGES_OF, (reservation_key,))]

    def open_reservations(self, ledger: str, principal: str, account_id: str) -> list[ReservationRow]:
        return [_reservation(values) for values in self._db.execute(_HOLDING, (ledger, principal, account_id))]

    def owed(self, ledger: str, principal: str, account_id: str) -> list[ChargeRow]:
        return [_charge(values) for values in self._db.execute(_OWED, (ledger, principal, account_id))]

    def due(self, ledger: str, owner: str, before: float, limit: int) -> list[DueRow]:
        values = {"ledger": ledger, "owner": owner, "before": before, "limit": limit}
        return [DueRow(*row) for row in self._db.execute(_DUE, values)]

    def next_due(self, ledger: str, owner: str) -> float | None:
        (due,) = self._db.execute(_NEXT_DUE, {"ledger": ledger, "owner": owner}).fetchone()
        return due

    def charges(self, ledger: str, states: Collection[ChargeState] | None, limit: int) -> list[ChargeRow]:
        query = _select(
            "charge",
            _CHARGE,
            f"ledger = ? AND state IN {_in(states or list(ChargeState))} ORDER BY created_at DESC, id LIMIT ?",
        )
        return [_charge(values) for values in self._db.execute(query, (ledger, limit))]

    def reservations(self, ledger: str, states: Collection[ReservationState], limit: int) -> list[ReservationRow]:
        query = _select(
            "reservation", _RESERVATION, f"ledger = ? AND state IN {_in(states)} ORDER BY created_at, key LIMIT ?"
        )
        return [_reservation(values) for values in self._db.execute(query, (ledger, limit))]

    def owners(self, ledger: str, principal: str | None) -> set[str]:
        found = self._db.execute(_OWNERS, {"ledger": ledger, "principal": principal})
        return {owner for (owner,) in found}

    def principals(self, ledger: str) -> dict[str, int]:
        return dict(self._db.execute(_PRINCIPALS, {"ledger": ledger}).fetchall())

    def rename_principal(self, ledger: str, before: str, after: str) -> int:
        values = {"ledger": ledger, "before": before, "after": after}
        return sum(self._db.execute(statement, values).rowcount for statement in _RENAME)

    def is_dead(self, owner: str) -> bool:
        return not self._is_held(owner)

    def reservations_owned(self, ledger: str, owner: str) -> list[ReservationRow]:
        return [_reservation(values) for values in self._db.execute(_RESERVATIONS_OWNED, (ledger, owner))]

    def charges_owned(self, ledger: str, owner: str) -> list[ChargeRow]:
        return [_charge(values) for values in self._db.execute(_CHARGES_OWNED, (ledger, owner))]

    def overdue(self, ledger: str, principal: str, before: float, limit: int) -> list[DueRow]:
        values = {"ledger": ledger, "principal": principal, "before": before, "limit": limit}
        return [DueRow(*row) for row in self._db.execute(_OVERDUE, values)]

    def ended_charges(self, ledger: str, after: float, before: float, limit: int) -> list[ChargeRow]:
        return [_charge(values) for values in self._db.execute(_ENDED_CHARGES, (ledger, after, before, limit))]

    def forget_reservations(self, ledger: str, before: float, limit: int) -> int:
        old = self._db.execute(_OLD_RESERVATIONS, (ledger, before, limit)).fetchall()
        named = [(ledger, reservation_id) for _, reservation_id in old if reservation_id is not None]
        self._db.executemany("INSERT OR IGNORE INTO pruned_reservation (ledger, reservation_id) VALUES (?, ?)", named)
        self._db.executemany("DELETE FROM reservation WHERE key = ?", [(key,) for key, _ in old])
        return len(old)

    def carry(self, ledger: str, account_id: str) -> Decimal:
        query = "SELECT fraction FROM carry WHERE ledger = ? AND account_id = ?"
        values = self._db.execute(query, (ledger, account_id)).fetchone()
        return Decimal(0) if values is None else Decimal(values[0])

    def set_carry(self, ledger: str, account_id: str, fraction: Decimal) -> None:
        query = (
            "INSERT INTO carry (ledger, account_id, fraction) VALUES (?, ?, ?)"
            " ON CONFLICT (ledger, account_id) DO UPDATE SET fraction = excluded.fraction"
        )
        self._db.execute(query, (ledger, account_id, str(fraction)))

    def save_reservation(self, row: ReservationRow) -> None:
        self._db.execute(_SAVE_RESERVATION, tuple(getattr(row, name) for name in _RESERVATION))

    def save_charge(self, row: ChargeRow) -> None:
        self._db.execute(_SAVE_CHARGE, tuple(getattr(row, name) for name in _CHARGE))
