"""
The denials that an account met within a run, so that what retries a call does not hammer the ledger.

Two rules. What is kept is the bare denial: its traceback would hold on to the whole conversation. And where a denial is
a pause, it stands for the very call that met it, because each call must pause as itself, and be told from the others
when the graph is resumed.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from countwerk_meter_langchain.pausing import can_pause

if TYPE_CHECKING:
    from uuid import UUID

    from countwerk_meter import InsufficientCreditsError, Reservation

SECONDS: Final = 60.0
_AT_ONCE: Final = 1_000


class Denials:
    """The denials of one handler's runs. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._met: OrderedDict[tuple[UUID, str], tuple[float, InsufficientCreditsError]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._met)

    def note(self, root: UUID, denied: InsufficientCreditsError) -> None:
        """Remember a denial for its root run."""
        self.tidy()
        with self._lock:
            _, known = self._met.get((root, denied.account_id), (0.0, None))
            if known is not None and known.usage_event_id == denied.usage_event_id:
                # Refused from memory, and not for a minute more each time.
                return
            self._met.pop((root, denied.account_id), None)
            self._met[root, denied.account_id] = (time.monotonic(), _bare(denied))
            if len(self._met) > _AT_ONCE:
                self._met.popitem(last=False)

    def check(self, root: UUID, reservation: Reservation, *, pauses: bool) -> None:
        """
        Refuse a call from memory.

        Raises:
            InsufficientCreditsError: Its account met a denial in this root run within the last minute.

        """
        with self._lock:
            at, denied = self._met.get((root, reservation.account_id), (0.0, None))
        if denied is None or time.monotonic() - at >= SECONDS:
            return
        if pauses and can_pause():
            event = reservation.event()
            if event.durable and event.id != denied.usage_event_id:
                return
        raise _bare(denied)

    def forget(self, root: UUID) -> None:
        """Forget those of a run that is over."""
        with self._lock:
            for key in [key for key in list(self._met) if key[0] == root]:
                del self._met[key]

    def tidy(self) -> None:
        """Forget what is too old to count."""
        limit = time.monotonic() - SECONDS
        with self._lock:
            while self._met and next(iter(self._met.values()))[0] <= limit:
                self._met.popitem(last=False)


def _bare(denied: InsufficientCreditsError) -> InsufficientCreditsError:
    """Return a copy without traceback or cause, but with the purchase options, which no copy has by itself."""
    bare = copy.copy(denied)
    bare.purchase_links = denied.purchase_links
    return bare
