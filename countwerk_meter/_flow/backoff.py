"""How long to wait before trying again: exponential, capped, and drawn at random by the driver (full jitter)."""

from __future__ import annotations

from typing import Final

GATE_BASE: Final = 0.05
GATE_CAP: Final = 1.0
SETTLE_BASE: Final = 0.5
SETTLE_CAP: Final = 300.0
UNCOLLECTED_EVERY: Final = 900.0
PARKED_FOR: Final = 300.0
# A gate that has not recorded its outcome so long after its budget is dead: its row is taken up by settlement.
FORSAKEN_AFTER: Final = 60.0


def ceiling(attempt: int, *, base: float, cap: float) -> float:
    """Return the longest wait before attempt `attempt` + 1, in seconds."""
    return min(cap, base * 2 ** min(attempt, 30))


def gate_pause(attempt: int, asked: float | None) -> tuple[float, bool]:
    """
    Return how long somebody who waits pauses after attempt `attempt`, in seconds, and whether to draw it at random.

    What the ledger asked for (`Retry-After`) is kept to as it is.
    """
    return (ceiling(attempt, base=GATE_BASE, cap=GATE_CAP), True) if asked is None else (asked, False)
