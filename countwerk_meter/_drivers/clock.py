"""The clocks: this machine's two, and the ledger's as far as its answers told it (money rule 6)."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from countwerk_meter._flow.commands import Moment

_FRESH_SECONDS: Final = 60.0


# A machine that slept, or whose wall clock was set, shows it by its two clocks drifting apart by more than this.
_DRIFT_SECONDS: Final = 2.0


class Clock:
    """
    Reads the clocks, and remembers what the ledger last said its time was.

    Carried on from the moment the request left, not from when its answer came: so the estimate is never behind the
    ledger, and a hold is never thought alive for longer than it is. A monotonic clock may stand still while the
    machine sleeps; then the ledger's time is not known any more, and is asked for.
    """

    __slots__ = ("_heard",)

    def __init__(self) -> None:
        # One value, replaced as a whole: it is read and written from many threads.
        self._heard: tuple[float, Moment] | None = None

    def heard(self, server_time: float | None, sent: Moment) -> None:
        """Note the time in an answer to a request that left at `sent`."""
        heard = self._heard
        if server_time is not None and (heard is None or sent.monotonic >= heard[1].monotonic):
            self._heard = server_time, sent

    def sleep(self, seconds: float) -> None:
        """Let time pass on the calling thread."""
        time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        """Let time pass on the running event loop."""
        await asyncio.sleep(seconds)

    def now(self) -> Moment:
        """Return one reading of all three."""
        heard, monotonic, wall = self._heard, time.monotonic(), time.time()
        if heard is None:
            return Moment(monotonic, wall)
        server_time, sent = heard
        passed = monotonic - sent.monotonic
        if passed > _FRESH_SECONDS or abs(wall - sent.wall - passed) > _DRIFT_SECONDS:
            return Moment(monotonic, wall)
        return Moment(monotonic, wall, server_time + passed)
