"""From a reply to its outcome in the tables of `states.py`, and to when a row that did not end is tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from countwerk_meter._flow.backoff import PARKED_FOR, SETTLE_BASE, SETTLE_CAP, ceiling
from countwerk_meter._flow.states import Outcome
from countwerk_meter._flow.verdict import Pass, Verdict
from countwerk_meter._frozen import frozen
from countwerk_meter._wire.replies import Answer, InDoubt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from countwerk_meter._flow.commands import Moment
    from countwerk_meter._flow.rows import ChargeRow, ReservationRow
    from countwerk_meter._wire.replies import Reply

_NOT_FOUND: Final = "RESERVATION_NOT_FOUND"
_BY_STATUS: Final[Mapping[int, Outcome]] = {
    401: Outcome.BAD_KEY,
    402: Outcome.NO_CREDITS,
    403: Outcome.FORBIDDEN,
    429: Outcome.RATE_LIMITED,
}
_VERDICTS: Final[Mapping[Outcome, Verdict]] = {
    Outcome.BAD_KEY: Verdict.PAUSED,
    Outcome.FORBIDDEN: Verdict.PARKED,
    Outcome.RATE_LIMITED: Verdict.LATER,
}


def outcome_of(reply: Reply) -> Outcome:
    """Return the column of the outcome table that a reply stands in (money rule 1)."""
    if not isinstance(reply, Answer):
        return Outcome.IN_DOUBT if isinstance(reply, InDoubt) else Outcome.NOT_SENT
    said = reply.envelope
    if said.code == _NOT_FOUND:
        return Outcome.NOT_FOUND
    return Outcome.DONE if said.ok else _BY_STATUS.get(said.status, Outcome.REJECTED)


def outcome_of_confirm(reply: Reply) -> Outcome:
    """Return the outcome of a confirm: a success that says `confirmed: false` says nothing definite."""
    if isinstance(reply, Answer) and reply.envelope.ok and reply.envelope.data.get("confirmed") is False:
        return Outcome.IN_DOUBT
    return outcome_of(reply)


def outcome_of_cancel(reply: Reply) -> Outcome:
    """Return the outcome of a cancel: a success counts only if it says `cancelled: true`, else as a 404."""
    if isinstance(reply, Answer) and reply.envelope.ok and reply.envelope.data.get("cancelled") is not True:
        return Outcome.NOT_FOUND
    return outcome_of(reply)


def why(reply: Reply) -> str:
    """Return a refusal's code, or why there was no answer."""
    if isinstance(reply, Answer):
        return reply.envelope.code or "refused"
    return reply.reason


def retry_after(reply: Reply) -> float | None:
    """Return how long the ledger asked to wait, in seconds, if it did."""
    if isinstance(reply, Answer):
        return reply.envelope.retry_after
    return reply.retry_after if isinstance(reply, InDoubt) else None


@frozen
class Again:
    """When a row that this reply did not end is due again (POSIX seconds), and what its pass came to."""

    due: float
    verdict: Verdict
    wait: float | None

    def passed(self, account_id: str) -> Pass:
        """Return the pass."""
        return Pass(self.verdict, account_id, self.due, wait=self.wait)


def again(row: ReservationRow | ChargeRow, outcome: Outcome, reply: Reply, now: Moment) -> Again:
    """Back off: exponentially by the row's own failures, and at least as long as the ledger asked."""
    asked = retry_after(reply)
    wait = PARKED_FOR if outcome is Outcome.FORBIDDEN else asked or 0.0
    return Again(max(backoff(row, now), now.wall + wait), _VERDICTS.get(outcome, Verdict.DOUBTFUL), asked)


def backoff(row: ReservationRow | ChargeRow, now: Moment) -> float:
    """Return when a row that failed so often is due again, POSIX seconds."""
    return now.wall + ceiling(row.failures, base=SETTLE_BASE, cap=SETTLE_CAP)
