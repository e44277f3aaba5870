"""
The sandbox's own clock: real time plus what a test has advanced it by.

Every time the sandbox states or judges (timestamps, the Date header, expiry, rate limits) comes from here and from
nowhere else, so that a test drives the clock instead of sleeping. It only moves forward, as a ledger's does.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import formatdate


def iso(milliseconds: int) -> str:
    """Return a time as the contract writes it: ISO 8601 with milliseconds and Z."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


class SandboxClock:
    """Milliseconds since 1970, `offset_ms` ahead of `now` (which counts seconds)."""

    __slots__ = ("_date", "_date_of", "_now", "offset_ms")

    def __init__(self, now: Callable[[], float], offset_ms: int = 0) -> None:
        self._now = now
        self.offset_ms = offset_ms
        self._date_of = -1
        self._date = b""

    def now_ms(self) -> int:
        return int(self._now() * 1000) + self.offset_ms

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("the clock only moves forward")
        self.offset_ms += round(seconds * 1000)

    def http_date(self) -> bytes:
        """Return the Date header's value. Kept for a second, since every answer carries it."""
        second = self.now_ms() // 1000
        if second != self._date_of:
            self._date_of = second
            self._date = formatdate(second, usegmt=True).encode("ascii")
        return self._date
