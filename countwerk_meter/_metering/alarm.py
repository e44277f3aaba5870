"""
Waking an event loop of another thread, at no cost to whoever wakes it.

A loop is woken through a socket, and writing to one gives up the interpreter's lock: the loop's thread takes it, and
the call that has just ended waits for it. A queue's waiter is woken without that, so one more thread stands between.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# Calls that end together wake the loop together.
_GATHER_SECONDS: Final = 0.005


class Alarm:
    """
    Calls `ring` on a thread of its own, a moment after it was set, and once for all that set it meanwhile.

    Args:
        ring: Wakes whoever sleeps. Must not raise.

    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._set: queue.SimpleQueue[bool] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="countwerk-alarm", daemon=True).start()

    def set(self) -> None:
        """Ring soon. Waits for nothing, from any thread."""
        self._set.put(True)

    def end(self) -> None:
        """Ring no more."""
        self._set.put(False)

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            goes_on = self._set.get()
            if goes_on:
                time.sleep(_GATHER_SECONDS)
            while not self._set.empty():
                goes_on = self._set.get() and goes_on
            if goes_on:
                self._ring()
