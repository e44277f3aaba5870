"""What waits for a person, as that person sees it: which charge or hold, why, and what speaks for what."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from countwerk_meter._flow.clock import outwaited
from countwerk_meter._flow.rows import ChargeRow
from countwerk_meter._flow.states import ChargeState, ReservationState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from countwerk_meter._flow.reconcile import Listing
    from countwerk_meter._flow.rows import ReservationRow

ORPHAN: Final = "orphan hold"

_WHY: Final[Mapping[str, str]] = {
    "vanished": "the first confirm was answered RESERVATION_NOT_FOUND while the hold should have been alive",
    "expired": "a confirm may have been carried out, and the hold was over before anybody could tell",
    "refused in doubt": "a confirm was refused with 402 while an earlier one was in doubt",
    "rejected": "the ledger refused the request itself",
    "no id left": "a late part needs an id of its own, and its charge's id is too long for one",
    "uncollected": "the account had too few credits; tried again by itself while a process runs",
    "lost": "its process died during the call, and nobody knows what it used; nothing was charged",
    ORPHAN: "its reserve got no definite answer; what may be held ends by itself",
}


@dataclass(frozen=True, slots=True)
class Listed:
    """
    One row that waits for a person.

    Attributes:
        id: What closes it: the charge's `usage_event_id`, or the journal's key of a hold without a charge.
        kind: `vanished`, `expired`, `rejected`, `refused in doubt`, `uncollected`, `lost`, or `orphan hold`.
        why: The same in words.
        decidable: Whether somebody has to close it; an orphan hold ends by itself.
        credits: What is at stake: the part that is not charged, the estimate of a lost call, or what is held.
        reason: What the journal noted, the ledger's code among it.
        principal: Fingerprint of the API key that it was begun under.
        call: `usage_event_id` of the call that a hold alone was made for.
        reservation_id: The ledger's name of the hold; None: it never named one.
        held: Credits that were held.
        expires_at: When the hold ends: by the ledger's clock, or for an orphan its validity by this machine's.
        confirms: Confirms that left; `confirms_open`: those without a definite answer.
        cancels: Cancels that left; `cancels_open`: likewise.
        failures: Tries that failed since it last moved.

    """

    id: str
    kind: str
    why: str
    decidable: bool
    account_id: str
    operation: str
    credits: int
    reason: str | None
    principal: str
    created_at: datetime
    committed_at: datetime | None
    trace_id: str | None
    call: str | None
    reservation_id: str | None
    held: int | None
    expires_at: datetime | None
    confirms: int
    confirms_open: int
    cancels: int
    cancels_open: int
    failures: int

    @classmethod
    def of(cls, listing: Listing) -> Listed:
        """Read a listing of the journal."""
        charge, hold = listing.charge, listing.reservation
        row = charge or hold
        assert row is not None
        kind, of = _kind(listing), charge or listing.call
        return cls(
            id=row.id if isinstance(row, ChargeRow) else row.key,
            kind=kind,
            why=_WHY.get(kind, kind),
            decidable=kind != ORPHAN,
            account_id=row.account_id,
            operation=row.operation,
            credits=row.amount or 0 if charge is None else charge.share or charge.amount or charge.estimate,
            reason=row.reason,
            principal=row.principal,
            created_at=_time(row.created_at),
            committed_at=None if charge is None or charge.committed_at is None else _time(charge.committed_at),
            trace_id=None if of is None else of.trace_id,
            call=None if listing.call is None else listing.call.id,
            reservation_id=None if hold is None else hold.reservation_id,
            held=None if hold is None else hold.amount,
            expires_at=None if hold is None else _end(hold),
            confirms=0 if hold is None else hold.confirms,
            confirms_open=0 if hold is None else hold.confirms_open,
            cancels=0 if hold is None else hold.cancels,
            cancels_open=0 if hold is None else hold.cancels_open,
            failures=row.failures,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON data, times in ISO 8601."""
        data = asdict(self)
        for name in ("created_at", "committed_at", "expires_at"):
            moment = data[name]
            data[name] = None if moment is None else moment.isoformat()
        return data


def _kind(listing: Listing) -> str:
    charge, hold = listing.charge, listing.reservation
    if charge is not None and charge.state is not ChargeState.UNRESOLVED:
        return str(charge.state)
    if charge is None and hold is not None and hold.state is ReservationState.ORPHAN_POSSIBLE:
        return ORPHAN
    reason = (charge.reason if charge is not None else hold and hold.reason) or "unresolved"
    known = (name for name in _WHY if reason.startswith(name))
    return next(known, "unresolved")


def _end(hold: ReservationRow) -> datetime:
    return _time(outwaited(hold, hold.created_at) if hold.expires_at is None else hold.expires_at)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
