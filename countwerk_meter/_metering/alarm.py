"""
Waking an event loop of another thread; with an alarm, at no cost to whoever wakes it.

A loop is woken through a socket, and writing to one gives up the interpreter's lock: the loop's thread takes it, and
the call that has just ended waits for it. A queue's waiter is woken without that, so one more thread stands between.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# Calls that end together wake the loop together.
_GATHER_SECONDS: Final = 0.005


class Bell:
    """Wakes what sleeps on the event loop that it was made on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake it, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has just closed: nobody sleeps there any more
            self._loop.call_soon_threadsafe(self._rung.set)

    def ring_here(self) -> None:
        """Wake it, from its own loop."""
        self._rung.set()

    def still(self) -> None:
        """Let what rings from now on count."""
        self._rung.clear()

    async def sleep(self, seconds: float) -> None:
        """Sleep so long, or until it is rung."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._rung.wait()


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
