"""One lease of this process, as far as a call needs to know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from countwerk_meter._flow.lease import DRAWN_ON_FOR

if TYPE_CHECKING:
    from countwerk_meter._flow.commands import Moment
    from countwerk_meter._metering.funding import Funding

# Of the ten minutes: within a call it serves to the last of the thirty, less this.
_GUARD: Final = 0.1


@dataclass(slots=True, eq=False)
class Lease:
    """
    Credits taken ahead, on which calls draw.

    Attributes:
        room: What was left when somebody last looked.
        since: When it was asked for; it is drawn on for `lasts` seconds from then, by both of this machine's clocks.
        used_at: When a call last drew on it, monotonic seconds.
        funding: What is left for draws that do not wait for the journal's word.
        unseen: What was drawn, at its estimate, since somebody was asked to look how it stands.
        ended: Why no call draws on it any more.

    """

    key: str
    account_id: str
    operation: str
    amount: int
    room: int
    since: Moment
    lasts: float
    used_at: float
    funding: Funding
    draws: int = 0
    unseen: int = 0
    ended: str | None = None

    def serves(self, now: Moment, *, within: bool) -> bool:
        """Whether a call may draw on it. `within` one that did, it serves on, as a block does, until it is over."""
        return not self.is_old(now, DRAWN_ON_FOR - _GUARD) if within else self.ended is None and not self.is_old(now)

    def is_old(self, now: Moment, part: float = 1.0) -> bool:
        """Whether it is no longer drawn on: long before it expires, so that no clock has to be right to the minute."""
        passed, by_wall = now.monotonic - self.since.monotonic, now.wall - self.since.wall
        return max(passed, by_wall) >= self.lasts * part or by_wall < -self.lasts
