"""
What looks after the calls and blocks that nobody may tell the end of: from time to time, and as the process ends.

There is one timer for a process: a handler may be made for each request, and a thread for each of them would be many.
While calls of a handler are open it is kept alive here, so that they are ended although the request, and the handler
with it, is gone.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from typing import Final, Protocol

import countwerk_meter.meter  # noqa: F401  # pyright: ignore[reportUnusedImport] - its exit comes first, and so runs last


class Watched(Protocol):
    """What looks after open calls, or blocks."""

    def look_after(self) -> float | None:
        """End what can be ended; return in how many seconds to look again, None: there is nothing left."""
        ...

    def idle(self) -> bool:
        """Whether nothing is left to be ended."""
        ...

    def end_all(self) -> None:
        """End all that is open: the process ends."""
        ...

    def forget_open(self) -> None:
        """Begin a forked child with nothing open: what there is stays its parent's."""
        ...


class Reaper:
    """Looks after whatever is watched, now and then. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._watched: dict[int, Watched] = {}
        self._enlisted: weakref.WeakSet[Watched] = weakref.WeakSet()

    def enlist(self, one: Watched) -> None:
        """Tell this one, as long as it is there, when the process ends and when it was forked."""
        self._enlisted.add(one)

    @property
    def armed(self) -> bool:
        """Whether a look is due some time."""
        timer = self._timer
        return timer is not None and timer.is_alive()

    def watch(self, one: Watched, seconds: float) -> None:
        """Look after this one within so many seconds, unless it is idle before. What it watches for is there by now."""
        with self._lock:
            self._watched[id(one)] = one
            if not self.armed:
                self._arm(seconds)

    def leave(self, one: Watched) -> None:
        """Let go of this one, if it is idle."""
        with self._lock:
            if one.idle():
                self._watched.pop(id(one), None)

    def reset(self) -> None:
        """Watch nothing, with a lock and a timer to come."""
        self._lock = threading.RLock()
        self._timer = None
        self._watched = {}

    def forked(self) -> None:
        """Begin anew in a child process: the thread is not there, and the lock may have been held."""
        self.reset()
        for one in list(self._enlisted):
            one.forget_open()

    def at_exit(self) -> None:
        """End what is still open before the meters drain: this is registered after theirs, so it runs before."""
        for one in list(self._enlisted):
            one.end_all()

    def _arm(self, seconds: float) -> None:
        timer = threading.Timer(seconds, self._look)
        timer.daemon = True
        timer.name = "countwerk-langchain"
        if sys.is_finalizing():
            return
        try:
            timer.start()
        except RuntimeError:
            # No thread to be had: the next call tidies up, or the process' end.
            return
        self._timer = timer

    def _look(self) -> None:
        with self._lock:
            self._timer = None
            watched = list(self._watched.values())
        waits: list[float] = []
        for one in watched:
            wait = one.look_after()
            if wait is None:
                self.leave(one)
            else:
                waits.append(wait)
        with self._lock:
            if waits and not self.armed:
                self._arm(min(waits))


REAPER: Final = Reaper()
atexit.register(REAPER.at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=REAPER.forked)
