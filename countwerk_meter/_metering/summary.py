"""A ledger's charges added up: by account, operation and model, what was charged, or would have been, and refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from countwerk_meter._flow.states import COLLECTED, LISTED, ChargeState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from countwerk_meter._flow.rows import ChargeRow


@dataclass(slots=True)
class Total:
    """
    What one account's calls of one operation and model came to.

    Attributes:
        model: The attribute `model` that their usage was priced with, several in alphabetical order; empty without.
        calls: Calls that were charged, those at 0 credits too.
        credits: What they were charged: settled, or committed and on the way.
        refused: Calls that were refused for want of credits, before they ran.
        refused_credits: What those would have held.
        listed: Calls that wait for a person, or for credits; `countwerk-meter reconcile` shows them.

    """

    account_id: str
    operation: str
    model: str
    calls: int = 0
    credits: int = 0
    refused: int = 0
    refused_credits: int = 0
    listed: int = 0


def summary(rows: Iterable[ChargeRow]) -> list[Total]:
    """Add charges up, ordered by account, operation and model. A leg adds its credits to its call's, and is no call."""
    found = list(rows)
    lines = {(row.ledger, row.id): row.lines for row in found if row.lines}
    totals: dict[tuple[str, str, str], Total] = {}
    for row in found:
        key = (row.account_id, row.operation, _model(row.lines or lines.get((row.ledger, row.parent or ""))))
        total = totals.setdefault(key, Total(*key))
        if row.state in COLLECTED:
            total.calls += row.parent is None
            # A leg's part counts with the leg: it may be on the way, or waiting, by itself.
            total.credits += row.share
        elif row.state is ChargeState.DENIED:
            total.refused += 1
            total.refused_credits += row.amount or row.estimate
        elif row.state in LISTED:
            total.listed += 1
    kept = (total for total in totals.values() if total.calls or total.credits or total.refused or total.listed)
    return sorted(kept, key=lambda total: (total.account_id, total.operation, total.model))


def _model(lines: str | None) -> str:
    if not lines:
        return ""
    attributes = (line.get("attributes", {}) for line in json.loads(lines))
    return ", ".join(sorted({str(each["model"]) for each in attributes if each.get("model")}))
