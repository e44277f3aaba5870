"""Who has to wait with settling, and for how long: everybody, an account, a row. Times are POSIX seconds."""

from __future__ import annotations

from typing import Final

from countwerk_meter._flow.backoff import PARKED_FOR, SETTLE_BASE, SETTLE_CAP, ceiling

# A 429 holds its own row back for as long as the ledger asks, and everybody's for so long at most: holds expire.
_LONGEST_PAUSE: Final = 60.0
_REST_SECONDS: Final = 1.0

_Row = tuple[str, str]


class Setbacks:
    """What a process' settlement has run into."""

    def __init__(self) -> None:
        self.everybody_until = 0.0
        self._parked: dict[str, float] = {}
        # Accounts that got no answer while others did: until when they rest, and how often that was so.
        self._resting: dict[str, float] = {}
        self._silences: dict[str, int] = {}
        self._rows: dict[_Row, float] = {}
        self._failures: dict[_Row, int] = {}

    def __len__(self) -> int:
        """Return how many rows wait alone."""
        return len(self._rows)

    def hold_back(self, account_id: str, now: float, row: _Row | None = None) -> bool:
        """Whether this account, or this row of it, has to wait."""
        until = max(self._parked.get(account_id, 0.0), self._resting.get(account_id, 0.0))
        return max(until, 0.0 if row is None else self._rows.get(row, 0.0)) > now

    def accounts(self, now: float) -> frozenset[str]:
        """Return the accounts that have to wait."""
        apart = (*self._parked.items(), *self._resting.items())
        return frozenset(account_id for account_id, until in apart if until > now)

    def ends(self, now: float) -> list[float]:
        """Return when each wait is over."""
        every = (*self._rows.values(), *self._parked.values(), *self._resting.values())
        return [until for until in every if until > now]

    def pause(self, seconds: float, now: float) -> None:
        """Hold everybody back: the ledger asked for it."""
        self.everybody_until = max(self.everybody_until, now + min(seconds, _LONGEST_PAUSE))

    def park(self, account_id: str, now: float) -> bool:
        """Hold an account back that the ledger forbids; whether that is news."""
        news = account_id not in self._parked
        if news:
            self._parked[account_id] = now + PARKED_FOR
        return news

    def rest(self, account_id: str, now: float) -> None:
        """Hold an account back that alone got no answer: shortly at first, for it may just have been unlucky."""
        times = self._silences[account_id] = self._silences.get(account_id, 0) + 1
        self._resting[account_id] = now + ceiling(times, base=_REST_SECONDS, cap=_LONGEST_PAUSE)

    def heard_of(self, account_id: str) -> None:
        """Note that an account got an answer."""
        self._silences.pop(account_id, None)

    def failed(self, row: _Row, now: float) -> bool:
        """Hold a row back whose pass broke off; whether that is news."""
        failures = self._failures[row] = self._failures.get(row, 0) + 1
        self._rows[row] = now + ceiling(failures, base=SETTLE_BASE, cap=SETTLE_CAP)
        return failures == 1

    def went(self, row: _Row) -> None:
        """Note that a row's pass did not break off."""
        self._rows.pop(row, None)
        self._failures.pop(row, None)

    def forget_what_is_over(self, now: float) -> None:
        """Forget accounts that need not wait any more."""
        for apart in (self._parked, self._resting):
            for account_id, until in list(apart.items()):
                if until <= now:
                    del apart[account_id]
