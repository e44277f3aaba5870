"""
Waiting until all that settles by itself has.

The journal is asked, since progress may come from another process: less and less often while something is left, so that
whoever waits takes little from those who settle.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

from countwerk_meter._flow.overview import Due, Waiting

if TYPE_CHECKING:
    from countwerk_meter._flow.books import DueRow, Operation
    from countwerk_meter._metering.engine import Engine

T = TypeVar("T")

# Whatever the deadline, the journal has a moment to answer.
_A_MOMENT: Final = 0.25
# Between two questions at the longest, beyond the wait for something to move; all in seconds.
_PAUSE: Final = 0.02
_ROWS: Final = 64


def flushed(engine: Engine, timeout: float, *, inline: bool) -> bool:
    """
    Wait so many seconds at most; False: something has not settled.

    `inline`: no thread settles, so it is done right here.
    """
    deadline, notify_at, pause = time.monotonic() + timeout, 0.0, 0.0
    while True:
        try:
            # A row that was tried and backs off, or is out just now, is due later, and has not settled.
            waiting = _waiting(engine, deadline)
            rows: tuple[DueRow, ...] = ()
            if inline or not waiting:
                # Sorted, and so not read again for each of many that settle one after another.
                rows = _ask(engine, Due(engine.terms.ledger, engine.terms.owner, engine.now(), _ROWS), deadline).rows
            # A commit that was queued before these may have failed meanwhile, and is kept in memory (money rule 7).
            waiting = waiting or bool(rows) or bool(engine.commits)
        except TimeoutError:
            return False
        left = deadline - time.monotonic()
        if not waiting:
            engine.settlement.rest(min(max(left, 0), _A_MOMENT))
            return engine.commits.told(max(deadline - time.monotonic(), _A_MOMENT))
        if left <= 0:
            return False
        if inline:
            # No thread tries again what could not be written (money rule 7).
            engine.commits.retry(left)
            engine.inline.settle(tuple((row.kind, row.key) for row in rows), within=left)
            if not rows:
                engine.wait_for_progress(min(left, 0.05))
            continue
        if time.monotonic() >= notify_at:
            # Not for each row that settles: it reads what is due anew.
            engine.settlement.notify(waited_for=True)
            notify_at = time.monotonic() + _A_MOMENT
        engine.wait_for_progress(left)
        time.sleep(min(pause, max(deadline - time.monotonic(), 0)))
        pause = min(2 * pause + 0.0005, _PAUSE)


def _waiting(engine: Engine, deadline: float) -> bool:
    ahead = _end_leases(engine, deadline)
    return ahead or bool(engine.commits) or _ask(engine, Waiting(engine.terms.ledger, engine.terms.owner), deadline)


def _end_leases(engine: Engine, deadline: float) -> bool:
    """Seal what was taken ahead, so that what was drawn on it settles now; whether any is on its way."""
    if engine.leases is None:
        return False
    for sealed in engine.leases.end_all("flushed"):
        sealed.result(max(deadline - time.monotonic(), _A_MOMENT))
    return engine.leases.coming


def _ask(engine: Engine, operation: Operation[T], deadline: float) -> T:
    """Read the journal, which may be locked or hang: no longer than until the deadline, and a moment at least."""
    return engine.journal.submit(operation).result(max(deadline - time.monotonic(), _A_MOMENT))
