"""Judging a hold by the ledger's clock, and where that never named its end by waiting it out (money rule 6)."""

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


def expired_at(row: ReservationRow, ledger_time: float | None) -> bool:
    """Whether a hold is over by then, with a guard of 5 s for what is on its way. Unknown is not over."""
    return is_over(row.expires_at, ledger_time)


def is_over(expires_at: float | None, ledger_time: float | None) -> bool:
    """Say so of a hold of which only its end is known."""
    return ledger_time is not None and expires_at is not None and ledger_time >= expires_at - GUARD_SECONDS


def life_of(row: ReservationRow, moment: Moment) -> Life:
    """Say whether a hold is alive, with a guard of 5 s for what is on its way."""
    if moment.ledger is None or row.expires_at is None:
        return Life.UNKNOWN
    return Life.EXPIRED if expired_at(row, moment.ledger) else Life.ALIVE


def outwaited(row: ReservationRow, since: float) -> float:
    """
    Return when, on this machine's clock, a hold made at `since` is over if the ledger never named its end.

    Its whole validity is waited out, and a minute more for clocks that differ; nothing else is inferred from it.
    """
    return since + row.validity * 60 + 60


def surely_over(row: ReservationRow, moment: Moment) -> bool:
    """Whether the hold ended by its own validity, well past the guard: then nothing has to be sent."""
    if moment.ledger is None or row.expires_at is None:
        return False
    return moment.ledger > row.expires_at + GUARD_SECONDS
