"""Who is busy: what each account's calls of each operation have just been asking for."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from countwerk_meter._flow.backoff import ceiling
from countwerk_meter._flow.lease import Wanted

if TYPE_CHECKING:
    from countwerk_meter._flow.commands import Moment

    # An account and an operation.
    Name = tuple[str, str]

# So many calls within so many seconds are busy; a lease is to last for so long at that rate.
BUSY_CALLS: Final = 3
BUSY_SECONDS: Final = 10.0
LASTS_SECONDS: Final = 60.0
# One confirm carries so many charges at most, or a little more: they are all moved on in one transaction.
MOST_DRAWS: Final = 200
_REMEMBERED: Final = 256
_MOST_NAMES: Final = 10_000
_REST_BASE: Final = 2.0
REST_CAP: Final = 60.0


class Demand:
    """What was asked for in the last seconds, and what spoke against a lease. Safe from any thread, without a lock."""

    def __init__(self) -> None:
        self._noted: dict[Name, deque[tuple[float, int]]] = {}
        self._resting: dict[Name, float] = {}
        self._refusals: dict[Name, int] = {}

    def note(self, name: Name, now: Moment, estimate: int) -> None:
        """Note one call."""
        noted = self._noted.get(name)
        if noted is None:
            if len(self._noted) >= _MOST_NAMES:
                # Who is busy is soon noted again.
                self._noted, self._resting, self._refusals = {}, {}, {}
            noted = self._noted.setdefault(name, deque(maxlen=_REMEMBERED))
        noted.append((now.monotonic, estimate))

    def _recent(self, name: Name, now: Moment) -> list[tuple[float, int]]:
        noted = self._noted.get(name)
        after = now.monotonic - BUSY_SECONDS
        return [] if noted is None else [each for each in noted.copy() if each[0] > after]

    def deserves_a_lease(self, name: Name, now: Moment) -> bool:
        """Whether these calls are busy, and nothing spoke against a lease just now."""
        rests = max(self._resting.get(name, 0.0), self._resting.get((name[0], ""), 0.0))
        return rests <= now.monotonic and len(self._recent(name, now)) >= BUSY_CALLS

    def rate(self, name: Name, now: Moment) -> float:
        """Return how many of these calls there are a second."""
        recent = self._recent(name, now)
        full = len(recent) == _REMEMBERED
        return len(recent) / (max(now.monotonic - recent[0][0], 0.1) if full else BUSY_SECONDS)

    def wanted(self, name: Name, now: Moment) -> Wanted:
        """Return what these calls would ask for while a lease lasts, at most for as many as one carries."""
        recent = self._recent(name, now)
        if not recent:
            return Wanted(0, 0)
        calls = min(self.rate(name, now) * LASTS_SECONDS, MOST_DRAWS)
        estimates = [estimate for _, estimate in recent]
        return Wanted(int(calls * sum(estimates) / len(estimates)), max(estimates))

    def smallest(self, name: Name, now: Moment) -> int:
        """Return the smallest of these calls; 1 if there was none."""
        return min((estimate for _, estimate in self._recent(name, now)), default=1)

    def refused(self, name: Name, now: Moment, asked: float | None) -> None:
        """Let these calls do without a lease for a while, longer each time, and as long as the ledger asked."""
        refusals = self._refusals[name] = self._refusals.get(name, 0) + 1
        rest = max(ceiling(refusals, base=_REST_BASE, cap=REST_CAP), min(asked or 0.0, REST_CAP))
        self._resting[name] = now.monotonic + rest

    def granted(self, name: Name) -> None:
        """Forget what spoke against a lease."""
        self._refusals.pop(name, None)
        self._resting.pop(name, None)

    def called_back(self, account_id: str, now: Moment) -> None:
        """Let all calls of an account do without for a while: its credits are needed elsewhere."""
        self._resting[account_id, ""] = now.monotonic + REST_CAP
