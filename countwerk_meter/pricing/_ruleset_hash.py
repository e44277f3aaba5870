"""
The fingerprint of a ruleset, byte for byte as the vendor's JavaScript makes it.

It covers what decides a price and nothing else, so two profiles with the same hash price alike.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from countwerk_meter.pricing._collation import locale_key
from countwerk_meter.pricing._ecmascript import code_units, number, string

if TYPE_CHECKING:
    from collections.abc import Iterable

    from countwerk_meter.pricing._rules import RateRule


def ruleset_hash(rules: Iterable[RateRule]) -> str:
    """Return the SHA-256, in hex, of the canonical JSON of the rules that are not disabled."""
    return sha256(canonical(rules).encode()).hexdigest()


def canonical(rules: Iterable[RateRule]) -> str:
    """Return the JSON that is hashed: keys sorted at every level, no white space."""
    active = sorted(
        (rule for rule in rules if not rule.disabled),
        key=lambda rule: (locale_key(rule.dimension), locale_key(rule.id)),
    )
    return f"[{','.join(_rule(rule) for rule in active)}]"


def _rule(rule: RateRule) -> str:
    attributes = sorted(rule.attributes_match, key=lambda item: code_units(item[0]))
    cost = "null" if rule.cost_per_unit_eur is None else number(rule.cost_per_unit_eur)
    return (
        f'{{"attributesMatch":{{{",".join(f"{string(key)}:{_wanted(wanted)}" for key, wanted in attributes)}}}'
        f',"costPerUnitEur":{cost}'
        f',"creditsPerUnit":{number(rule.credits_per_unit)}'
        f',"dimensionKey":{string(rule.dimension)}'
        f',"id":{string(rule.id)}'
        f',"priority":{number(rule.priority)}'
        f',"status":{string(rule.status)}}}'
    )


def _wanted(wanted: str | tuple[str, ...]) -> str:
    if isinstance(wanted, str):
        return string(wanted)
    return f"[{','.join(string(value) for value in sorted(wanted, key=code_units))}]"
