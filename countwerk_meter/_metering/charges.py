"""A charge as an app sees it: what was charged, to whom, for what, and how the amount was found."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from countwerk_meter._flow.states import ChargeState
from countwerk_meter.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from countwerk_meter._flow.rows import ChargeRow


@dataclass(frozen=True, slots=True)
class Charge:
    """
    One charge of the journal.

    Attributes:
        usage_event_id: Its id; `<id>.over` and `<id>.late` are legs of `parent`.
        state: `open`, `committed`, `settled`, `denied`, `cancelled`, `orphaned`, `uncollected`, `unresolved`, `lost` or
            `closed`.
        amount: Credits; None while the call runs. A leg's credits are part of its parent's amount if it is `.over`.
        basis: How the amount was found: `price`, `provider`, `counted`, `reserved` or `set`.
        exact: Credits before rounding, as a decimal string.
        lines: What was measured and how it was priced.
        reason: Why it is where it is, where there is something to say.
        share: Credits that are charged under this very id: `amount` less what its leg `<id>.over` carries, so that the
            shares of charges and legs add up.
        closed_as: What a person found out about it: `charged`, `not-charged` or `written-off`; with `note` and time.

    """

    usage_event_id: str
    account_id: str
    operation: str
    state: str
    amount: int | None
    basis: str | None
    exact: str | None
    via: str
    parent: str | None
    description: str | None
    trace_id: str | None
    reason: str | None
    created_at: datetime
    committed_at: datetime | None
    lines: tuple[dict[str, Any], ...]
    closed_as: str | None = None
    note: str | None = None
    closed_at: datetime | None = None
    share: int = 0

    @classmethod
    def of(cls, row: ChargeRow) -> Charge:
        """Read a journal row."""
        return cls(
            usage_event_id=row.id,
            account_id=row.account_id,
            operation=row.operation,
            state=str(row.state),
            amount=row.amount,
            basis=row.basis,
            exact=row.exact,
            via=row.via,
            parent=row.parent,
            description=row.description,
            trace_id=row.trace_id,
            reason=row.reason,
            created_at=datetime.fromtimestamp(row.created_at, UTC),
            committed_at=None if row.committed_at is None else datetime.fromtimestamp(row.committed_at, UTC),
            lines=tuple(json.loads(row.lines)) if row.lines else (),
            closed_as=row.closed_as,
            note=row.note,
            closed_at=None if row.closed_at is None else datetime.fromtimestamp(row.closed_at, UTC),
            share=row.share,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON data."""
        data = asdict(self)
        for name in ("created_at", "committed_at", "closed_at"):
            moment: datetime | None = data[name]
            data[name] = None if moment is None else moment.isoformat()
        return data


def states_named(state: str | Iterable[str] | None) -> frozenset[ChargeState] | None:
    """
    Return the states that are named; None: all of them.

    Raises:
        ConfigurationError: There is no such state.

    """
    wanted = [state] if isinstance(state, str) else list(state or ())
    unknown = [name for name in wanted if name not in set(ChargeState)]
    if unknown:
        raise ConfigurationError(f"no charge state {unknown[0]!r}; there are {', '.join(ChargeState)}")
    return frozenset(ChargeState(name) for name in wanted) or None
