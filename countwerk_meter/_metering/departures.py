"""
The confirms that were opened with their commits and leave at once (money rule 7), and the places kept for them.

What does not leave after all is closed again in the journal: nobody has sent it (rule 4).
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from countwerk_meter._flow.attempts import unsent

if TYPE_CHECKING:
    from countwerk_meter._flow.attempts import Claim
    from countwerk_meter.journal import Journal

# A place is kept for a commit for so long.
_KEPT_SECONDS: Final = 0.1


class Departures:
    """Safe from any thread, without a lock: a commit's own thread brings them, settlement's sends them."""

    def __init__(self, journal: Journal, places: int) -> None:
        self._journal = journal
        self._places = places
        self._leaving: deque[Claim] = deque()
        # When places were promised to those that are still being committed, POSIX seconds.
        self._promised: deque[float] = deque()

    def promise(self, now: float, running: int) -> bool:
        """Whether there is a place beside those that run; it is kept for a moment, until the commit is written."""
        with contextlib.suppress(IndexError):  # another thread took the last one
            while self._promised[0] < now - _KEPT_SECONDS:
                self._promised.popleft()
        if running + len(self._leaving) + len(self._promised) >= self._places:
            return False
        self._promised.append(now)
        return True

    def add(self, claim: Claim) -> None:
        """Bring one whose commit is written."""
        self._leaving.append(claim)
        with contextlib.suppress(IndexError):
            self._promised.popleft()

    def next(self) -> Claim | None:
        """Take the one that waits longest."""
        try:
            return self._leaving.popleft()
        except IndexError:
            return None

    def take_back(self, claim: Claim) -> None:
        """Close one that does not leave after all."""
        self._journal.submit(unsent(claim.row, time.time()))

    def take_all_back(self) -> None:
        """Close all that wait."""
        while (claim := self.next()) is not None:
            self.take_back(claim)
