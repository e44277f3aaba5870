"""
The one reservation of an agent's run: opened before its first call, drawn on by all that follows, ended with the run.

The rule: a block that nobody ends does not stay open. It ends when the agent does, when a call in it fails or pauses
the graph, soon after its run was left or broke off between two calls, when its validity is over, and when the process
exits.

Nobody tells of a run that was left. But LangGraph has an object for each run that lives no longer than it; it is looked
at from time to time, because the collector may find it gone at any moment, in the middle of anything. A block is over
only when all the runs that have used it are: one that was interrupted may have been taken up again.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from countwerk_meter_langchain.reaping import REAPER

if TYPE_CHECKING:
    from countwerk_meter import Reservation

# How often the runs of open blocks are looked at.
LOOK_SECONDS = 5.0

_AT_ONCE: Final = 10_000


@dataclass(slots=True, eq=False)
class _Open:
    """
    An open block.

    Attributes:
        block: The reservation.
        runs: What lives as long as the runs that have used it; None: that is not known of one of them.
        began: When it was opened.

    """

    block: Reservation
    runs: list[weakref.ref[object]] | None = field(default_factory=list["weakref.ref[object]"])
    began: float = field(default_factory=time.monotonic)

    def used_by(self, run: object | None) -> None:
        """Note a run that uses it."""
        if self.runs is None:
            return
        if run is None:
            self.runs = None
        elif all(known() is not run for known in self.runs):
            self.runs = [*(known for known in self.runs if known() is not None), weakref.ref(run)]

    @property
    def left(self) -> bool:
        """Whether the runs that have used it are over."""
        return self.runs is not None and all(run() is None for run in self.runs)


class Blocks:
    """The open blocks of one middleware, by the run's key. Safe to use from any thread."""

    def __init__(self, validity_seconds: float) -> None:
        self._validity = validity_seconds
        # The collector may close a call that was left, which ends its block, in a thread that holds the lock.
        self._lock = threading.RLock()
        self._open: OrderedDict[str, _Open] = OrderedDict()
        REAPER.enlist(self)

    def find(self, key: str, run: object | None) -> Reservation | None:
        """
        Return the block of a run that uses it from here on, if it is open.

        Args:
            key: The run's.
            run: What lives as long as it; None: that is not known.

        """
        with self._lock:
            found = self._open.get(key)
            if found is None or not found.block.open:
                return None
            found.used_by(run)
            return found.block

    def keep(self, key: str, block: Reservation, run: object | None) -> Reservation:
        """Make a block the run's, or give it back where another one is by now; return the run's."""
        with self._lock:
            found = self._open.get(key)
            if found is None or not found.block.open:
                found = self._open[key] = _Open(block)
            found.used_by(run)
        REAPER.watch(self, LOOK_SECONDS)
        self.tidy()
        if found.block is not block:
            _end(block, None)
        return found.block

    def end(self, key: str, error: BaseException | None = None) -> None:
        """End the run's block: what was drawn on it is charged, the rest is given back. Never raises."""
        with self._lock:
            found = self._open.pop(key, None)
        if found is not None:
            _end(found.block, error)
            REAPER.leave(self)

    def end_all(self) -> None:
        """End every block: the process ends."""
        self.tidy(everything=True)

    def tidy(self, *, everything: bool = False) -> None:
        """End the blocks whose hold is over or whose runs were left, or all of them."""
        limit = time.monotonic() - self._validity
        with self._lock:
            every = list(self._open.items())
            old = [key for key, each in every if everything or each.began <= limit or each.left]
            old += [key for key, _ in every[: max(len(every) - _AT_ONCE, 0)]]
            over = [self._open.pop(key, None) for key in old]
        for each in over:
            if each is not None:
                _end(each.block, None)

    def look_after(self) -> float | None:
        """End the blocks whose runs were left; return when to look again, None: there is nothing to look at."""
        self.tidy()
        return None if self.idle() else LOOK_SECONDS

    def idle(self) -> bool:
        """Whether no block is open of which the runs are known."""
        return all(each.runs is None for each in list(self._open.values()))

    def forget_open(self) -> None:
        """Begin a forked child with no blocks: they stay its parent's."""
        self._lock = threading.RLock()
        self._open.clear()


def _end(block: Reservation, error: BaseException | None) -> None:
    if not block.draws:
        # Without a draw the block would be charged for itself.
        block.cancel("nothing was drawn on it")
    block.finish_now(error)
