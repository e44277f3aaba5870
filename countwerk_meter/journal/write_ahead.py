"""
Bringing a SQLite journal's write-ahead log to the disk, once a commit has let go of the file.

`PRAGMA synchronous = FULL` syncs inside of the commit, while every other process waits for the file; and since SQLite
waits by sleeping, one that is unlucky waits for seconds. So commits are as with `NORMAL`, and what has to be on the
disk (money rules 4 and 7) is synced behind them. Others see it meanwhile. What they send because of it is behind a
synced commit of their own, and that brings this one with it, for it is one log.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3

_to_disk: Final = getattr(os, "fdatasync", os.fsync)


class WriteAheadLog:
    """The log beside the file of one connection, which keeps it from being deleted while it is open."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        _, _, file = db.execute("PRAGMA database_list").fetchone()
        self._path = f"{file}-wal"
        self._number: int | None = None
        self._failed = False

    def sync(self) -> None:
        """
        Bring all that was committed to the disk, whoever committed it.

        Raises:
            OSError, sqlite3.Error: It may not be there.

        """
        if not self._failed:
            try:
                if self._number is None:
                    self._number = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
                _to_disk(self._number)
            except OSError:
                # A system tells of this once, and then takes what it could not write for written.
                self._failed = True
            else:
                return
        # It still reads what it did not write: the file itself can have it, and be synced.
        busy, pages, moved = self._db.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
        if busy or moved != pages:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._failed = False

    def close(self) -> None:
        """Let go of the log. No lock of SQLite's is on it."""
        number, self._number = self._number, None
        if number is not None:
            os.close(number)
