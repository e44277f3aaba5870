"""`Books` over a SQLite connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from countwerk_meter.journal.sql_books import Cursor, SqlBooks
from countwerk_meter.journal.statements import Statements

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

_STATEMENTS: Final = Statements()


class SqliteBooks(SqlBooks):
    """The journal's rows inside one open transaction; whether an owner lives, its lock says."""

    def __init__(self, connection: sqlite3.Connection, is_held: Callable[[str], bool]) -> None:
        super().__init__(_STATEMENTS)
        self._db = connection
        self._is_held = is_held

    def _execute(self, query: str, values: Sequence[Any]) -> Cursor:
        return self._db.execute(query, values)

    def is_dead(self, owner: str) -> bool:
        return not self._is_held(owner)
