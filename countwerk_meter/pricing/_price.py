"""
What a pricing run answers: exact credits line by line, and the payloads that the vendor's tools read.

A `Price` is a record of what was decided; nothing in it is rounded but `credits_to_deduct`, which says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Context, Decimal
from functools import reduce
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from countwerk_meter.pricing._rules import RateRule

# Wide enough that products and sums of anything a double can hold are exact; only the digits in use cost anything.
EXACT: Final = Context(prec=2_000)
RUNTIME_ENGINE_VERSION: Final = "runtime-v2"


class PriceLine(NamedTuple):
    """
    One dimension's part of a price. (A tuple, because it is made several times in every pricing.)

    Attributes:
        quantity: As measured, in the dimension's own unit.
        credits_per_unit: The rule's rate.
        credits: Quantity times rate, exact.
        cost_eur: The vendor's own cost in EUR, None where the rule states none.

    """

    dimension: str
    quantity: Decimal
    credits_per_unit: Decimal
    credits: Decimal
    cost_per_unit_eur: Decimal | None
    cost_eur: Decimal | None
    rule_id: str

    def payload(self) -> dict[str, Any]:
        """Return the line as the contract's `breakdown` has it."""
        line: dict[str, Any] = {
            "dimensionKey": self.dimension,
            "qty": _plain(self.quantity),
            "creditsPerUnit": _plain(self.credits_per_unit),
            "credits": _plain(self.credits),
        }
        if self.cost_per_unit_eur is not None and self.cost_eur is not None:
            line["costPerUnitEur"] = _plain(self.cost_per_unit_eur)
            line["costEur"] = _plain(self.cost_eur)
        line["ruleId"] = self.rule_id
        return line


@dataclass(frozen=True, slots=True)
class Price:
    """
    The price of one usage, in credits.

    Attributes:
        total: Credits, the exact sum of the breakdown.
        breakdown: One line for each dimension that a rule priced, in the order given.
        rule_ids: The rules used, in that order.
        ruleset_hash: Fingerprint of the profile's active rules, as computed here.
        unmatched_dimensions: What no active rule matched, and what is therefore not in the total.
        quarantine_reason: `RULESET_HASH_MISMATCH` or `UNMATCHED_DIMENSION` (RUNTIME only); None for a sound price.
        dimensions: What was priced, as given.
        attributes: What rules were matched against, as given.

    """

    total: Decimal
    breakdown: tuple[PriceLine, ...]
    rule_ids: tuple[str, ...]
    ruleset_hash: str
    profile_version_id: str
    profile_engine_version: str | None
    eur_per_credit: Decimal
    unmatched_dimensions: tuple[str, ...] = ()
    quarantine_reason: str | None = None
    dimensions: Mapping[str, int | Decimal | float | str] = field(
        default_factory=dict[str, "int | Decimal | float | str"], repr=False, hash=False
    )
    attributes: Mapping[str, str] = field(default_factory=dict[str, str], repr=False, hash=False)
    runtime_engine_version: str = RUNTIME_ENGINE_VERSION

    @property
    def credits_to_deduct(self) -> int:
        """The total rounded up to whole credits."""
        return math.ceil(self.total)

    @property
    def cost_total_eur(self) -> Decimal | None:
        """What the vendor's own rules say it cost, over the lines that state a cost; None where none does."""
        costs = [line.cost_eur for line in self.breakdown if line.cost_eur is not None]
        return reduce(EXACT.add, costs) if costs else None

    def payload(self, *, to_deduct: bool = True) -> dict[str, Any]:
        """
        Return the result under the contract's names, as plain JSON data.

        Numbers are whole, or the nearest doubles, as the vendor's own runtime writes them: for filing and showing.
        The exact decimals are in this object.

        Args:
            to_deduct: Include `totalCreditsToDeduct`, the total rounded up.

        """
        data: dict[str, Any] = {"totalCredits": _plain(self.total)}
        if to_deduct:
            data["totalCreditsToDeduct"] = self.credits_to_deduct
        data |= {
            "breakdown": [line.payload() for line in self.breakdown],
            "ruleIdsUsed": list(self.rule_ids),
            "rulesetHash": self.ruleset_hash,
            "profileVersionId": self.profile_version_id,
            "profileEngineVersion": self.profile_engine_version,
            "runtimeEngineVersion": self.runtime_engine_version,
        }
        if self.unmatched_dimensions:
            data["unmatchedDimensions"] = list(self.unmatched_dimensions)
        if self.quarantine_reason is not None:
            data["quarantineReason"] = self.quarantine_reason
        return data

    def record(self) -> dict[str, Any]:
        """
        Return what a bill is explained from months later, when the profile may be gone, as plain JSON data.

        Numbers are decimals as text, exact: quantity times `credits_per_unit` is `credits`, and the lines' credits add
        up to the whole's. What was not priced stands under `unmatched`, and what casts doubt on it under `quarantine`.
        """
        data: dict[str, Any] = {
            "credits": str(self.total),
            "rules": list(self.rule_ids),
            "breakdown": [
                {
                    "dimension": line.dimension,
                    "quantity": str(line.quantity),
                    "credits_per_unit": str(line.credits_per_unit),
                    "credits": str(line.credits),
                    "rule": line.rule_id,
                }
                for line in self.breakdown
            ],
            "profile": self.profile_version_id,
            "ruleset_hash": self.ruleset_hash,
        }
        if self.unmatched_dimensions:
            data["unmatched"] = list(self.unmatched_dimensions)
        if self.quarantine_reason is not None:
            data["quarantine"] = self.quarantine_reason
        return data

    def audit(self, timestamp: datetime | str, *, to_deduct: bool = True) -> dict[str, Any]:
        """
        Return the audit payload: the result with what went in, as plain JSON data.

        Args:
            timestamp: When the usage was priced; a datetime must know its zone, a text is passed on as it is.
            to_deduct: Include `totalCreditsToDeduct`.

        Raises:
            ValueError: The datetime has no zone.

        """
        cost = self.cost_total_eur
        return {
            **self.payload(to_deduct=to_deduct),
            "dimensions": {
                name: quantity if isinstance(quantity, str) else _plain(quantity)
                for name, quantity in self.dimensions.items()
            },
            "attributes": dict(self.attributes),
            "eurPerCredit": _plain(self.eur_per_credit),
            "costTotalEur": None if cost is None else _plain(cost),
            "timestamp": timestamp if isinstance(timestamp, str) else _instant(timestamp),
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """
    Why one dimension was priced as it was.

    Attributes:
        quantity: As given, or None where it is passed over (not finite, or not above 0).
        rule: The rule chosen, or None.
        others: Every other rule of this dimension, by id, each with the reason why it was not chosen.

    """

    dimension: str
    quantity: Decimal | None
    rule: RateRule | None
    others: tuple[tuple[str, str], ...]


def _plain(value: Decimal | float) -> int | float | None:
    if not math.isfinite(value):
        return None  # as JSON.stringify has it
    return int(value) if value == int(value) else float(value)


def _instant(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError("the timestamp of an audit needs a time zone")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
