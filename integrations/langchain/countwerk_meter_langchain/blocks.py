"""
The one reservation of an agent's run: opened before its first call, drawn on by all that follows, ended with the run.

The rule: a block that nobody ends does not stay open. It ends when the agent does, when a call in it fails or pauses
the graph, when its validity is over, and when the process exits.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from countwerk_meter import Reservation

_AT_ONCE: Final = 10_000
_EVERY: weakref.WeakSet[Blocks] = weakref.WeakSet()


class Blocks:
    """The open blocks of one middleware, by the run's key. Safe to use from any thread."""

    def __init__(self, validity_seconds: float) -> None:
        self._validity = validity_seconds
        self._lock = threading.Lock()
        self._open: OrderedDict[str, tuple[float, Reservation]] = OrderedDict()
        _EVERY.add(self)

    def find(self, key: str) -> Reservation | None:
        """Return the run's block, if it is open."""
        with self._lock:
            _, block = self._open.get(key, (0.0, None))
        return block if block is not None and block.open else None

    def keep(self, key: str, block: Reservation) -> Reservation:
        """Make a block the run's, or give it back where another one is by now; return the run's."""
        with self._lock:
            _, other = self._open.get(key, (0.0, None))
            if other is None or not other.open:
                self._open[key] = (time.monotonic(), block)
                other = None
        self.tidy()
        if other is None:
            return block
        _end(block, None)
        return other

    def end(self, key: str, error: BaseException | None = None) -> None:
        """End the run's block: what was drawn on it is charged, the rest is given back. Never raises."""
        with self._lock:
            _, block = self._open.pop(key, (0.0, None))
        if block is not None:
            _end(block, error)

    def tidy(self, *, everything: bool = False) -> None:
        """End the blocks whose hold is over, or all of them."""
        limit = time.monotonic() - self._validity
        with self._lock:
            old = [key for key, (began, _) in self._open.items() if everything or began <= limit]
            old += list(self._open)[: max(len(self._open) - _AT_ONCE, 0)]
        for key in old:
            self.end(key)


def _end(block: Reservation, error: BaseException | None) -> None:
    if not block.draws:
        # Without a draw the block would be charged for itself.
        block.cancel("nothing was drawn on it")
    block.finish_now(error)


@atexit.register
def _at_exit() -> None:
    """End what is still open before the meters drain: this is registered after theirs, so it runs before."""
    for blocks in list(_EVERY):
        blocks.tidy(everything=True)
