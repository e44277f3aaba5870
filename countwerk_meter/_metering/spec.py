"""What one metered call asks for, checked, and the journal rows that it begins with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from countwerk_meter._flow.rows import ChargeRow, ReservationRow
from countwerk_meter._frozen import frozen
from countwerk_meter._unique import random_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from countwerk_meter._flow.terms import Terms
    from countwerk_meter._metering.amounts import Hold
    from countwerk_meter._metering.estimates import Clamp
    from countwerk_meter.events import EventId, Step

DEFAULT_VALIDITY_MINUTES = 15


@frozen
class Spec:
    """One call, as the app asked for it."""

    account_id: str
    operation: str
    hold: Hold
    usage_event_id: str | None = None
    step: Step | None = None
    description: str | None = None
    metadata: Mapping[str, Any] | None = None
    validity: int = DEFAULT_VALIDITY_MINUTES
    top_up: bool = False
    on_replay: str | None = None
    on_unavailable: str | None = None
    clamp: Clamp | None = None

    def charge(self, terms: Terms, event: EventId, now: float) -> ChargeRow:
        """Return the charge's first row."""
        return ChargeRow(
            id=event.id,
            ledger=terms.ledger,
            principal=terms.principal,
            owner=terms.owner,
            account_id=self.account_id,
            operation=self.operation,
            created_at=now,
            description=self.description,
            estimate=self.hold.credits,
            metadata=json.dumps(dict(self.metadata), separators=(",", ":")) if self.metadata else None,
            trace_id=event.trace_id,
            span_id=event.span_id,
        )

    def reservation(self, terms: Terms, now: float) -> ReservationRow:
        """Return the hold's first row."""
        return ReservationRow(
            key=random_name(),
            ledger=terms.ledger,
            principal=terms.principal,
            owner=terms.owner,
            account_id=self.account_id,
            operation=self.operation,
            amount=self.hold.credits,
            validity=self.validity,
            created_at=now,
            description=self.description,
            settle_with=terms.settle_with,
        )
