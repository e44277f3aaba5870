"""
Which owners live, across machines: each beats every few seconds, by the database's clock, and has a lease.

An owner whose lease ran out is dead to the others. Should it only have been stopped, it beats again and is alive; what
was taken from it meanwhile has moved on (its rows' epochs), so that it does no harm.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, cast

from countwerk_meter._flow.books import Operation
from countwerk_meter.errors import JournalError

if TYPE_CHECKING:
    from countwerk_meter._flow.books import Books
    from countwerk_meter.journal.postgres_books import PostgresBooks
    from countwerk_meter.journal.postgres_server import Connection, Server

BEAT_SECONDS: Final = 5.0
LEASE_SECONDS: Final = 30.0
BEAT: Final = (
    "INSERT INTO countwerk_owner (id, beat_at) SELECT unnest(%s::text[]), clock_timestamp()"
    " ON CONFLICT (id) DO UPDATE SET beat_at = clock_timestamp()"
)
# Long dead: nobody asks for them any more.
_TIDY: Final = (
    "DELETE FROM countwerk_owner WHERE beat_at < clock_timestamp() - interval '7 days'",
    "DELETE FROM countwerk_writer WHERE at < clock_timestamp() - interval '7 days'",
)


@dataclass(frozen=True, slots=True)
class Join(Operation[None]):
    """Announce an owner."""

    owner: str

    def apply(self, books: Books) -> None:
        cast("PostgresBooks", books).join(self.owner)


@dataclass(frozen=True, slots=True)
class Leave(Operation[None]):
    """Take an owner back."""

    owner: str

    def apply(self, books: Books) -> None:
        cast("PostgresBooks", books).leave(self.owner)


@dataclass(frozen=True, slots=True)
class IsDead(Operation[bool]):
    """Read whether an owner is dead."""

    reads: ClassVar[bool] = True
    owner: str

    def apply(self, books: Books) -> bool:
        return books.is_dead(self.owner)


class Heart:
    """Beats for a process' owners, on a connection and a thread of its own: a slow operation does not stop it."""

    def __init__(self, server: Server, seconds: float) -> None:
        self._server = server
        self._seconds = seconds
        self._owners: set[str] = set()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, owner: str) -> None:
        """Beat for an owner from now on."""
        self._owners.add(owner)
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="countwerk-heartbeat", daemon=True)
            self._thread.start()

    def release(self, owner: str) -> None:
        """Beat for it no longer."""
        self._owners.discard(owner)

    def stop(self) -> set[str]:
        """Beat no longer; return whom it beat for."""
        owners, self._owners = self._owners, set()
        self._stopped.set()
        return owners

    def _beat(self) -> None:
        import psycopg

        connection: Connection | None = None
        tidied = False
        while not self._stopped.wait(self._seconds):
            try:
                connection = connection or self._server.opened()
                if self._owners:
                    connection.execute(BEAT, (sorted(self._owners),))
                if not tidied:
                    for statement in _TIDY:
                        connection.execute(statement)
                    tidied = True
            except (psycopg.Error, JournalError):
                # Not reached: the lease goes on running out, and the next beat tries again.
                if connection is not None:
                    with contextlib.suppress(psycopg.Error):
                        connection.close()
                connection = None
        if connection is not None:
            connection.close()
