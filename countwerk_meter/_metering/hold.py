"""A hold as a person sees it who explains a charge: what the ledger calls it, and what became of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from countwerk_meter._flow.rows import LEASE

if TYPE_CHECKING:
    from countwerk_meter._flow.attempts import Claim


@dataclass(frozen=True, slots=True)
class Hold:
    """
    What a charge was drawn from.

    Attributes:
        reservation_id: The ledger's name of it, which its own statement shows; None: it never named one.
        state: `requested`, `held`, `closing`, `confirmed`, `cancelled`, `expired`, `refused`, `orphan_possible`,
            `unresolved` or `closed`.
        lease: Taken ahead, for calls of an account that come often.
        held: Credits that were held.
        confirmed: Credits that a confirm carried, or is to carry; None: there was none.
        calls: How many charges were drawn from it, this one among them.
        expires_at: When it ends, by the ledger's clock; None: the ledger did not say.
        confirms: Confirms that left; `confirms_open`: those without a definite answer.
        cancels: Cancels that left; `cancels_open`: likewise.
        reason: Why it is where it is, where there is something to say.

    """

    reservation_id: str | None
    state: str
    lease: bool
    held: int
    confirmed: int | None
    calls: int
    expires_at: datetime | None
    confirms: int
    confirms_open: int
    cancels: int
    cancels_open: int
    reason: str | None

    @classmethod
    def of(cls, claim: Claim) -> Hold:
        """Read a hold of the journal."""
        row = claim.row
        return cls(
            reservation_id=row.reservation_id,
            state=str(row.state),
            lease=row.key.startswith(LEASE),
            held=row.amount,
            confirmed=row.frozen,
            calls=len(claim.charges),
            expires_at=None if row.expires_at is None else datetime.fromtimestamp(row.expires_at, UTC),
            confirms=row.confirms,
            confirms_open=row.confirms_open,
            cancels=row.cancels,
            cancels_open=row.cancels_open,
            reason=row.reason,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON data, times in ISO 8601."""
        moment = self.expires_at
        return asdict(self) | {"expires_at": None if moment is None else moment.isoformat()}
