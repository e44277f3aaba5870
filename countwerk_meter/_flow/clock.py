"""Judging a hold by the ledger's clock, and by no other (money rule 6)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from countwerk_meter._flow.commands import Moment
    from countwerk_meter._flow.rows import ReservationRow

GUARD_SECONDS: Final = 5.0


class Life(Enum):
    """What the ledger's clock says of a hold."""

    ALIVE = "alive"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


def life_of(row: ReservationRow, moment: Moment) -> Life:
    """Say whether a hold is alive, with a guard of 5 s for what is on its way."""
    if moment.ledger is None or row.expires_at is None:
        return Life.UNKNOWN
    return Life.ALIVE if moment.ledger < row.expires_at - GUARD_SECONDS else Life.EXPIRED
