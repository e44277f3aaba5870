"""The SQL that the stores share: one text for each query of `Books`, in a database's own dialect."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Final

from countwerk_meter._flow.rows import ChargeRow, ReservationRow
from countwerk_meter._flow.states import COLLECTED, ENDED, HOLDING, LISTED, LIVE, OVER

if TYPE_CHECKING:
    from collections.abc import Collection
    from enum import StrEnum

RESERVATION: Final = tuple(field.name for field in fields(ReservationRow))
CHARGE: Final = tuple(field.name for field in fields(ChargeRow))


def among(states: Collection[StrEnum], *, spelled_out: bool = False) -> str:
    """
    Return the condition that `state` is one of these, in the order of their definition.

    They are our own words, and only so do partial indexes serve: SQLite takes one for a condition that reads alike.
    `spelled_out`: SQLite writes a list of three or more to a table of its own, each time that an index asks.
    """
    if not states:
        return "state IN ('')"
    order = list(type(next(iter(states))))
    words = [f"'{state}'" for state in sorted(states, key=order.index)]
    if spelled_out:
        return "(" + " OR ".join(f"state = {word}" for word in words) + ")"
    return f"state IN ({', '.join(words)})"


class Statements:
    """
    Every query, with its parameters by position.

    Args:
        prefix: Before each table's name.
        mark: What stands for a parameter.
        skip: Ends a query for rows that are about to be moved: locks them, and leaves out those locked by others.
        hints: Name the index of every query that must not grow with what is settled. SQLite has no statistics of a
            journal, believes that a ledger has ten rows, and reads all of them.

    """

    def __init__(self, prefix: str = "", mark: str = "?", skip: str = "", *, hints: bool = False) -> None:
        self._mark = mark
        self._hints = hints
        self._updates: dict[tuple[str, tuple[str, ...]], str] = {}
        self.reservation_table = f"{prefix}reservation"
        self.charge_table = f"{prefix}charge"
        self.carry_table = f"{prefix}carry"
        self.history_table = f"{prefix}output_history"
        self.pruned_table = f"{prefix}pruned_reservation"
        holding, live = self._among(HOLDING), self._among(LIVE)
        self.save_reservation = self._upsert(self.reservation_table, RESERVATION, ("key",))
        self.save_charge = self._upsert(self.charge_table, CHARGE, ("ledger", "id"))
        self.reservation = self._reservations("key = ?")
        self.knows = self._marked(
            f"SELECT 1 FROM {self.reservation_table} WHERE ledger = ? AND reservation_id = ?"
            f" UNION ALL SELECT 1 FROM {self.pruned_table} WHERE ledger = ? AND reservation_id = ?"
        )
        self.charge = self._charges("ledger = ? AND id = ?")
        self.charges_of = self._charges(
            "reservation_key = ? AND parent IS NULL ORDER BY committed_at IS NULL, committed_at, id"
        )
        self.holding = self._reservations(
            f"ledger = ? AND principal = ? AND account_id = ? AND {holding}", "reservation_holding"
        )
        self.owed = self._charges(
            "ledger = ? AND principal = ? AND account_id = ? AND (state = 'uncollected' OR reason = 'deferred')"
            " AND state IN ('uncollected', 'open', 'committed')",
            "charge_owed",
        )
        self.charged = self._select(
            self.charge_table,
            ("coalesce(sum(share), 0)",),
            f"ledger = ? AND account_id = ? AND {self._among(COLLECTED)}",
            "charge_account",
        )
        self.next_due = self._marked(
            f"SELECT min(due_at) FROM ({self._first_due(self.reservation_table, 'reservation_live', holding, 'holds')}"
            f" UNION ALL {self._first_due(self.charge_table, 'charge_live', live, 'calls')}) AS rows_of_both"
        )
        self.reservations_owned = self._reservations(
            f"ledger = ? AND principal = ? AND owner = ? AND {holding} LIMIT ?{skip}", "reservation_live"
        )
        self.charges_owned = self._charges(
            f"ledger = ? AND principal = ? AND owner = ? AND {live} LIMIT ?{skip}", "charge_live"
        )
        self.moving = self._marked(
            f"SELECT 1 FROM {self.reservation_table}{self._by('reservation_live')}"
            f" WHERE ledger = ? AND owner = ? AND {holding} AND state = 'closing'"
            f" UNION ALL SELECT 1 FROM {self.charge_table}{self._by('charge_live')}"
            f" WHERE ledger = ? AND owner = ? AND {live} AND state = 'committed' LIMIT 1"
        )
        overdue = "due_at <= ? AND ledger = ? AND principal = ? AND"
        self.overdue = self._union(
            overdue,
            "ORDER BY due_at LIMIT ?",
            (f" {holding}{skip}", f" {live}{skip}"),
            ("reservation_live", "charge_live"),
        )
        self.ended_charges = self._charges(
            f"ledger = ? AND created_at >= ? AND created_at < ? AND {self._among(ENDED)}"
            " AND (lines IS NOT NULL OR metadata IS NOT NULL OR description IS NOT NULL)"
            f" ORDER BY created_at, id LIMIT ?{skip}"
        )
        self.old_reservations = self._select(
            self.reservation_table,
            ("key", "reservation_id"),
            f"ledger = ? AND created_at < ? AND {self._among(OVER)} LIMIT ?{skip}",
        )
        self.forget = self._marked(f"DELETE FROM {self.reservation_table} WHERE key = ?")
        self.keep_pruned = self._marked(
            f"INSERT INTO {self.pruned_table} (ledger, reservation_id) VALUES (?, ?) ON CONFLICT DO NOTHING"
        )
        every_live = (
            f"SELECT owner, principal FROM {self.reservation_table}{self._by('reservation_live')}"
            f" WHERE ledger = ? AND {holding}"
            f" UNION ALL SELECT owner, principal FROM {self.charge_table}{self._by('charge_live')}"
            f" WHERE ledger = ? AND {live}"
        )
        self.owners = self._marked(f"SELECT DISTINCT owner, principal FROM ({every_live}) AS live")
        self.principals = self._marked(f"SELECT principal, count(*) FROM ({every_live}) AS live GROUP BY principal")
        self.rename = tuple(
            self._marked(
                f"UPDATE {table} SET principal = ? WHERE ledger = ? AND principal = ? AND {self._among(states)}"
            )
            for table, states in ((self.reservation_table, HOLDING), (self.charge_table, LIVE | LISTED))
        )
        self.carry = self._select(self.carry_table, ("fraction",), "ledger = ? AND account_id = ?")
        self.set_carry = self._upsert(self.carry_table, ("ledger", "account_id", "fraction"), ("ledger", "account_id"))
        calls = ("ledger", "account_id", "operation", "model")
        self.history = self._select(self.history_table, ("sizes",), " AND ".join(f"{name} = ?" for name in calls))
        self.save_history = self._upsert(self.history_table, (*calls, "sizes"), calls)
        self._due_of_all = self._due(0)

    def due(self, without: int) -> str:
        """Rows of an owner that are due, earliest expiry first, so many; not those of so many accounts."""
        # Asked with every look of settlement; accounts are set aside only where something is wrong.
        return self._due(without) if without else self._due_of_all

    def _due(self, without: int) -> str:
        others = f" AND account_id NOT IN ({', '.join('?' * without)})" if without else ""
        return self._union(
            f"owner = ? AND due_at IS NOT NULL AND due_at <= ? AND ledger = ?{others} AND",
            "ORDER BY ends IS NULL, ends, due_at LIMIT ?",
            (f" {self._among(HOLDING)}", f" {self._among(LIVE)}"),
            indexes=("reservation_live", "charge_live"),
        )

    def charges(self, states: Collection[StrEnum]) -> str:
        """Charges of a ledger in these states, newest first, so many."""
        of_these = f"ledger = ? AND {self._among(states)}"
        index = ""
        if LIVE.issuperset(states):
            of_these += f" AND {self._among(LIVE)}"
            index = "charge_live"
        return self._charges(f"{of_these} ORDER BY created_at DESC, id LIMIT ?", index)

    def reservations(self, states: Collection[StrEnum]) -> str:
        """Reservations of a ledger in these states, oldest first, so many."""
        return self._reservations(f"ledger = ? AND {self._among(states)} ORDER BY created_at, key LIMIT ?")

    def update(self, table: str, changed: tuple[str, ...], keys: tuple[str, ...]) -> str:
        """Write some columns of one row."""
        update = self._updates.get((table, changed))
        if update is None:
            columns, where = ", ".join(f"{name} = ?" for name in changed), " AND ".join(f"{name} = ?" for name in keys)
            update = self._updates[table, changed] = self._marked(f"UPDATE {table} SET {columns} WHERE {where}")
        return update

    def _among(self, states: Collection[StrEnum]) -> str:
        return among(states, spelled_out=self._hints)

    def _marked(self, text: str) -> str:
        return text.replace("?", self._mark)

    def _by(self, index: str) -> str:
        return f" INDEXED BY {index}" if index and self._hints else ""

    def _select(self, table: str, columns: tuple[str, ...], rest: str, index: str = "") -> str:
        return self._marked(f"SELECT {', '.join(columns)} FROM {table}{self._by(index)} WHERE {rest}")

    def _reservations(self, rest: str, index: str = "") -> str:
        return self._select(self.reservation_table, RESERVATION, rest, index)

    def _charges(self, rest: str, index: str = "") -> str:
        return self._select(self.charge_table, CHARGE, rest, index)

    def _first_due(self, table: str, index: str, condition: str, name: str) -> str:
        """Of what is open, however much that is, one row is looked at."""
        return (
            f"SELECT * FROM (SELECT due_at FROM {table}{self._by(index)}"
            f" WHERE owner = ? AND due_at > ? AND ledger = ? AND {condition} ORDER BY due_at LIMIT 1) AS {name}"
        )

    def _union(
        self, where: str, rest: str, ends: tuple[str, str] = ("", ""), indexes: tuple[str, str] = ("", "")
    ) -> str:
        """Rows of both tables as `DueRow` has them; each table's own part stands alone, so that it can be locked."""
        both = (
            "SELECT * FROM (SELECT 'reservation' AS kind, key, account_id, due_at, expires_at AS ends"
            f" FROM {self.reservation_table}{self._by(indexes[0])} WHERE {where}{ends[0]}) AS holds"
            " UNION ALL SELECT * FROM"
            " (SELECT 'charge' AS kind, id, account_id, due_at, CAST(NULL AS DOUBLE PRECISION) AS ends"
            f" FROM {self.charge_table}{self._by(indexes[1])} WHERE {where}{ends[1]}) AS calls"
        )
        return self._marked(f"SELECT kind, key, account_id, ends FROM ({both}) AS rows_of_both {rest}")

    def _upsert(self, table: str, columns: tuple[str, ...], keys: tuple[str, ...]) -> str:
        updates = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in keys)
        return self._marked(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
            f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {updates}"
        )
