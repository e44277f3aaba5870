"""What is left of a hold for the calls that draw on it, known here without asking the journal."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from countwerk_meter._flow.clock import is_over

if TYPE_CHECKING:
    from countwerk_meter._flow.rows import ReservationRow


# A child of any of them may draw on what this process holds.
_forks = 0


def _before_fork() -> None:
    global _forks  # noqa: PLW0603 - counted for the whole process
    _forks += 1


os.register_at_fork(before=_before_fork)


class Funding:
    """
    One hold of a block. Safe from any thread.

    What is left here is never more than the journal says: it is taken before a draw is queued there, and given back
    when its end is written.

    Attributes:
        key: The hold's key in the journal.
        queueing: Held from taking credits until the draw that takes them is queued, where nobody waits for it.

    """

    def __init__(self, hold: ReservationRow, taken: int = 0) -> None:
        self.key = hold.key
        # Not the row: ten thousand open blocks would keep as many.
        self._expires_at = hold.expires_at
        self._left = hold.amount - taken
        self._closed = False
        self._forks = _forks
        # Either may be wanted again by who holds it: the collector, wherever it strikes, ends an abandoned block.
        self._lock = threading.RLock()
        self.queueing = threading.RLock()

    @property
    def ours(self) -> bool:
        """Whether nobody but this process draws on it: once there is a forked child, both do."""
        return self._forks == _forks

    def take(self, amount: int, ledger_time: float | None, *, within: bool = False) -> bool:
        """
        Set credits aside; False: they do not fit, or the block or by the ledger's clock the hold is over.

        `within`: for a call inside one that drew on it, for which it is not over.
        """
        if not self.ours:
            return not is_over(self._expires_at, ledger_time)
        with self._lock:
            if (self._closed and not within) or amount > self._left or is_over(self._expires_at, ledger_time):
                return False
            self._left -= amount
            return True

    def give(self, amount: int) -> None:
        """Give credits back."""
        if self.ours:
            with self._lock:
                self._left += amount

    def gone(self) -> None:
        """Let nobody draw any more: the journal says that the hold has moved on. Takes no lock."""
        self._closed = True

    def close(self) -> None:
        """Let nobody draw any more. Draws that were let in before are queued by then, and so come before the end."""
        if self.ours:
            with self.queueing, self._lock:
                self._closed = True
