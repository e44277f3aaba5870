"""
A limit on this side for what a PostgreSQL backend may take.

The server's own time limits are kept by the very process that hangs, and the system answers keepalives for it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from countwerk_meter.journal.postgres_server import Connection


class Watch:
    """Cuts a connection off from which nothing came for so many seconds; its thread starts with the first one."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._watched: Connection | None = None
        self._until = 0.0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, connection: Connection) -> None:
        """Watch a connection from now on."""
        with self._lock:
            self._watched, self._until = connection, time.monotonic() + self._seconds
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="countwerk-watch", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Watch it no longer; only then may it be closed."""
        with self._lock:
            self._watched = None

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds / 15):
            with self._lock:
                if self._watched is not None and time.monotonic() > self._until:
                    _cut(self._watched)
                    self._watched = None


def _cut(connection: Connection) -> None:
    with contextlib.suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)
