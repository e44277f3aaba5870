"""
Committing the ends of calls: the commit is the charge, and never raises into user code (money rule 7).

What cannot be written, because the disk is full say, is kept in memory and tried again; until it is written no new
call is let through.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from countwerk_meter._drivers.runtime import CANCELLED_COMMIT_SECONDS, committed
from countwerk_meter._flow.ending import Commit
from countwerk_meter._flow.rows import replace
from countwerk_meter._metering.teller import Teller
from countwerk_meter.errors import CountwerkError
from countwerk_meter.journal.groups import is_a_writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from countwerk_meter._flow.attempts import Claim
    from countwerk_meter._flow.books import Operation
    from countwerk_meter._flow.ending import Committed
    from countwerk_meter._flow.rows import ChargeRow
    from countwerk_meter.journal import Journal
    from countwerk_meter.telemetry import Telemetry


# The answer goes back after so many seconds at the latest, whatever the journal does: its commit is queued.
COMMIT_SECONDS: Final = 10.0


class Commits:
    """
    The ends of one meter's calls on their way into its journal.

    Args:
        journal: Where they go.
        telemetry: Is told of what failed, came late or was superseded.
        follow: Called after each commit, from the journal's thread; True: settlement has something to do.
        leave: Called from there with a confirm that was opened with its commit, and that nobody who waits sends.

    """

    def __init__(
        self,
        journal: Journal,
        telemetry: Telemetry,
        follow: Callable[[bool], None],
        leave: Callable[[Claim], None],
    ) -> None:
        self._journal = journal
        self._telemetry = telemetry
        self._follow = follow
        self._leave = leave
        self._teller = Teller(telemetry)
        self._kept: dict[int, tuple[Operation[Committed], ChargeRow]] = {}
        # What is queued again and not written yet: queued once more, it would be carried out twice.
        self._queued: dict[int, Future[Committed]] = {}
        self._lock = threading.Lock()

    def told(self, seconds: float) -> bool:
        """Wait until everybody has heard what there was to tell, so long at most."""
        return self._teller.drained(seconds)

    def __len__(self) -> int:
        """Return how many wait in memory."""
        return len(self._kept)

    def forget(self) -> None:
        """Begin a forked child without the parent's: they stay the parent's, and its lock may have been held."""
        self._teller = Teller(self._telemetry)
        self._kept = {}
        self._queued = {}
        self._lock = threading.Lock()

    def put(self, operation: Operation[Committed], charge: ChargeRow, *, sends: bool = False) -> Future[Committed]:
        """
        Queue the end of a call. What follows from it follows by itself, even if nobody waits for the commit.

        `sends`: whoever waits for it sends the confirm that was opened with it.
        """
        future = self._journal.submit(operation)
        future.add_done_callback(lambda done: self._written(operation, charge, done, sends=sends))
        return future

    def _written(
        self, operation: Operation[Committed], charge: ChargeRow, future: Future[Committed], *, sends: bool = False
    ) -> None:
        error = future.exception()
        if error is not None:
            if id(operation) not in self._kept:
                if isinstance(operation, Commit):
                    # Whenever it is written, its confirm does not leave at once.
                    operation = replace(operation, leaves=None)
                self._kept[id(operation)] = (operation, charge)
                self._tell("journal_failed", charge, reason=str(error))
                self._follow(True)
            return
        self._kept.pop(id(operation), None)
        done = future.result()
        if done.superseded:
            self._tell("superseded", charge, amount=done.amount)
        if done.late:
            self._tell("late", charge, amount=done.late)
        if done.attempt is not None and not sends:
            self._leave(done.attempt)
        self._follow(bool(done.work) or (done.attempt is not None and sends))

    def _tell(self, event: str, charge: ChargeRow, **more: object) -> None:
        # Not here: this is the journal's thread, and whoever listens may look into the journal.
        self._teller.tell(event, charge.named() | more)

    def retry(self, seconds: float) -> bool:
        """Try again what could not be written, until one fails or time is up; whether something is still left."""
        if not self._kept:
            return False
        deadline = time.monotonic() + seconds
        if not self._lock.acquire(timeout=seconds):
            return True
        try:
            for name, (operation, charge) in list(self._kept.items()):
                future = self._queued.get(name)
                if future is None:
                    future = self._queued[name] = self._journal.submit(operation)
                try:
                    failed = future.exception(max(deadline - time.monotonic(), 0))
                except TimeoutError:
                    # Whoever looks next sees whether it was written.
                    return True
                del self._queued[name]
                if failed is not None:
                    break
                self._written(operation, charge, future)
        finally:
            self._lock.release()
        return bool(self._kept)

    @staticmethod
    def outcome(future: Future[Committed], *, brief: bool = False) -> Committed | None:
        """Wait for a commit; None: it failed, or it is not written yet, and will be. Never raises."""
        if (is_a_writer() or sys.is_finalizing()) and not future.done():
            # The collector ends an abandoned call wherever it strikes, and when no thread runs any more.
            return None
        try:
            return future.result(CANCELLED_COMMIT_SECONDS if brief else COMMIT_SECONDS)
        except (CountwerkError, TimeoutError):
            return None

    @staticmethod
    async def aoutcome(future: Future[Committed]) -> Committed | None:
        """Do the same on the running event loop. Raises nothing but the caller's own cancellation."""
        with contextlib.suppress(CountwerkError, TimeoutError):
            async with asyncio.timeout(COMMIT_SECONDS):
                return await committed(future)
        return None
