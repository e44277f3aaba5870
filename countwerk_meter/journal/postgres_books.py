"""`Books` over a PostgreSQL transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from countwerk_meter.journal.postgres_owners import BEAT
from countwerk_meter.journal.sql_books import Cursor, SqlBooks
from countwerk_meter.journal.statements import Statements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from countwerk_meter.journal.postgres_server import Connection

_READING: Final = Statements("countwerk_", "%s")
_MOVING: Final = Statements("countwerk_", "%s", " FOR UPDATE SKIP LOCKED")


class PostgresBooks(SqlBooks):
    """The journal's rows inside one open transaction; an owner lives as long as its lease, by the database's clock."""

    def __init__(self, connection: Connection, lease: float, *, reads: bool) -> None:
        super().__init__(_READING if reads else _MOVING)
        self._db = connection
        self._lease = lease
        self._reads = reads

    def _execute(self, query: str, values: Sequence[Any]) -> Cursor:
        return cast("Cursor", self._db.execute(query.encode(), values))

    def is_dead(self, owner: str) -> bool:
        # Locked, a beat waits until this transaction has ended: the dead do not come alive in the middle of it.
        query = "SELECT beat_at < clock_timestamp() - make_interval(secs => %s) FROM countwerk_owner WHERE id = %s"
        found = self._execute(query + ("" if self._reads else " FOR UPDATE"), (self._lease, owner)).fetchone()
        return found is None or bool(found[0])

    def join(self, owner: str) -> None:
        """Begin an owner's lease."""
        self._execute(BEAT, ([owner],))

    def leave(self, owner: str) -> None:
        """End an owner's lease."""
        self._execute("DELETE FROM countwerk_owner WHERE id = %s", (owner,))
