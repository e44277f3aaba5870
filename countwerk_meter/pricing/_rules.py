"""
Rate rules, and which of several matching ones wins.

Highest priority, then newest `createdAt` (missing or unreadable: oldest), then smallest id by UTF-16 code unit, which
is JavaScript's `<`. The order is settled once, at load, so that pricing takes the first match.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from countwerk_meter.pricing._dates import parse_date
from countwerk_meter.pricing._ecmascript import code_units

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

Conditions = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class RateRule:
    """
    One rule of a profile: what a unit of one dimension costs, where the attributes match.

    Attributes:
        credits_per_unit: Credits, exactly as the profile writes them.
        cost_per_unit_eur: The vendor's own cost in EUR, or None.
        attributes_match: For each attribute the value, or the values, that it must have.
        status: `active` unless the profile says otherwise; a `disabled` rule never matches.
        created_at: As written; None where it is missing or no text.

    """

    id: str
    dimension: str
    credits_per_unit: Decimal
    cost_per_unit_eur: Decimal | None = None
    attributes_match: tuple[tuple[str, str | tuple[str, ...]], ...] = ()
    priority: Decimal | int = 0
    status: str = "active"
    created_at: str | None = None

    @property
    def disabled(self) -> bool:
        """Whether the rule is switched off: it neither matches nor counts for the hash."""
        return self.status == "disabled"

    @property
    def created_ms(self) -> int | None:
        """`created_at` in milliseconds since 1970, None where it cannot be read."""
        return None if self.created_at is None else parse_date(self.created_at)

    @property
    def conditions(self) -> Conditions:
        """The attributes that must match, each with all values that do."""
        return tuple((key, (wanted,) if isinstance(wanted, str) else wanted) for key, wanted in self.attributes_match)

    def precedence(self) -> tuple[float, bool, int, bytes]:
        """Return a sort key that puts the rule that wins first."""
        created = self.created_ms
        return -float(self.priority), created is None, -(created or 0), code_units(self.id)

    def mismatch(self, attributes: Mapping[str, str]) -> str | None:
        """Say in words why the rule does not match the attributes, or None where it does."""
        if self.disabled:
            return "disabled"
        for key, allowed in self.conditions:
            if attributes.get(key) not in allowed:
                wanted = " or ".join(allowed) or "nothing"
                given = f"{attributes[key]}, not {wanted}" if key in attributes else f"missing: wants {wanted}"
                return f"{key} is {given}"
        return None


def why_it_lost(rule: RateRule, winner: RateRule) -> str:
    """Say in words why another matching rule goes before this one."""
    if float(rule.priority) != float(winner.priority):
        return f"priority {rule.priority} is below {winner.priority}"
    if rule.created_ms != winner.created_ms:
        unknown = rule.created_ms is None
        return "created at an unknown time: counts as oldest" if unknown else f"created before {winner.id}"
    return f"its id sorts after {winner.id}"
