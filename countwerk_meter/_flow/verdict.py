"""What one pass over a row came to; the settlement loop acts on it (money rule 12)."""

from __future__ import annotations

from enum import Enum

from countwerk_meter._frozen import frozen


class Verdict(Enum):
    """How the pass ended."""

    ENDED = "ended"  # nothing more to do for this row
    LATER = "later"  # a definite answer; try again when due
    RELEASE = "release"  # 402 on a deduct whose own hold may be what is missing: give that back first
    DOUBTFUL = "doubtful"  # no definite answer, or never sent: probe before anything else settles
    PAUSED = "paused"  # 401: all settlement stops until the key works again
    PARKED = "parked"  # 403: this account waits


@frozen
class Pass:
    """
    One pass.

    Attributes:
        verdict: How it ended.
        account_id: Whose row it was.
        due_at: When to come back, POSIX seconds; None when ended.
        work: `(kind, key)` of other rows that fell due.
        charges: Ids of the charges that ended.
        wait: Seconds that the ledger asked everybody to wait (429), or None.

    """

    verdict: Verdict
    account_id: str
    due_at: float | None = None
    work: tuple[tuple[str, str], ...] = ()
    charges: tuple[str, ...] = ()
    wait: float | None = None
