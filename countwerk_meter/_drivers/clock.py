"""The clocks: this machine's two, and the ledger's as far as its answers told it (money rule 6)."""

from __future__ import annotations

import time
from typing import Final

from countwerk_meter._flow.commands import Moment

_FRESH_SECONDS: Final = 60.0


class Clock:
    """
    Reads the clocks, and remembers what the ledger last said its time was.

    Carried on from the moment the request left, not from when its answer came: so the estimate is never behind the
    ledger, and a hold is never thought alive for longer than it is.
    """

    __slots__ = ("_sent_at", "_server_time")

    def __init__(self) -> None:
        self._server_time: float | None = None
        self._sent_at = 0.0

    def heard(self, server_time: float | None, sent_at: float) -> None:
        """Note the time in an answer to a request that left at `sent_at` (monotonic seconds)."""
        if server_time is not None and (self._server_time is None or sent_at >= self._sent_at):
            self._server_time, self._sent_at = server_time, sent_at

    def now(self) -> Moment:
        """Return one reading of all three."""
        monotonic = time.monotonic()
        ledger = None
        if self._server_time is not None and monotonic - self._sent_at <= _FRESH_SECONDS:
            ledger = self._server_time + (monotonic - self._sent_at)
        return Moment(monotonic, time.time(), ledger)
