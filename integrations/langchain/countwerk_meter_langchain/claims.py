"""
Which handler meters a call that several of one meter's handlers see: the first of them, so that it is counted once.

A run id alone names no call, because it may be a client's choice. All handlers of one call
are handed the same `options` object, and a claim holds on to it, so that its identity names the call while it runs.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

    from countwerk_meter import Meter


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """One call, as one account's use of one operation."""

    run_id: UUID
    options: object
    account_id: str
    operation: str

    @property
    def key(self) -> tuple[UUID, int, str, str]:
        """What two handlers would claim alike."""
        return self.run_id, id(self.options), self.account_id, self.operation


class Claims:
    """The claims of one meter's handlers. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claimed: dict[tuple[UUID, int, str, str], Claim] = {}

    def take(self, claim: Claim) -> bool:
        """Claim a call; False: another handler has, and this one steps aside."""
        with self._lock:
            return self._claimed.setdefault(claim.key, claim) is claim

    def release(self, claim: Claim) -> None:
        """Let a call go that has ended."""
        with self._lock:
            self._claimed.pop(claim.key, None)


_lock = threading.Lock()
_of: weakref.WeakKeyDictionary[Meter, Claims] = weakref.WeakKeyDictionary()


def claims_of(meter: Meter) -> Claims:
    """Return what all handlers of a meter share."""
    with _lock:
        return _of.setdefault(meter, Claims())
