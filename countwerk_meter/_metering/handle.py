"""The handle on what becomes of a charge: settlement runs behind the app and never raises into it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from countwerk_meter._flow.attempts import LoadCharge
from countwerk_meter._flow.states import ChargeState

if TYPE_CHECKING:
    from collections.abc import Generator

    from countwerk_meter._flow.rows import ChargeRow
    from countwerk_meter._metering.engine import Engine

# A charge in one of these moves on by itself.
_MOVING = frozenset({ChargeState.OPEN, ChargeState.COMMITTED})


class Settlement:
    """
    What becomes of one charge.

    Awaiting it, or `wait`, ends when the charge is settled, cancelled, uncollected or unresolved.
    """

    def __init__(self, engine: Engine, usage_event_id: str) -> None:
        self._engine = engine
        self._id = usage_event_id

    def _row(self, timeout: float | None = None) -> ChargeRow | None:
        if not self._id:
            return None
        return self._engine.journal.submit(LoadCharge(self._engine.terms.ledger, self._id)).result(timeout)

    @property
    def state(self) -> str:
        """`open`, `committed`, `settled`, `cancelled`, `uncollected`, `unresolved`, ...; empty: counted elsewhere."""
        row = self._row()
        return "" if row is None else str(row.state)

    @property
    def basis(self) -> str | None:
        """How the amount was found: `price`, `provider`, `counted`, `reserved`, `set`; None: not known yet."""
        row = self._row()
        return None if row is None else row.basis

    @property
    def amount(self) -> int | None:
        """Credits charged; None: not known yet."""
        row = self._row()
        return None if row is None else row.amount

    def wait(self, timeout: float | None = None) -> bool:
        """Wait `timeout` seconds, or for ever; True: the charge has ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            try:
                row = self._row(left)
            except TimeoutError:
                return False
            if row is None or row.state not in _MOVING:
                return True
            if left == 0.0:
                return False
            self._engine.wait_for_progress(left)

    def __await__(self) -> Generator[None, None, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        while not await asyncio.to_thread(self.wait, 0.5):
            pass
