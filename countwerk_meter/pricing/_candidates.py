"""
The rules that may price one dimension, laid out so that a call meets few of them.

A profile of fifty rules mostly repeats a handful of dimensions for many models. So the rules of a dimension are shared
out once, at load, by the value of the attribute that most of them ask for. The rule chosen is the one that a walk
through all of them, in their order of precedence, would come to first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from countwerk_meter.pricing._rules import RateRule

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from countwerk_meter.pricing._rules import Conditions

    Candidate = tuple[Conditions, RateRule]


@dataclass(frozen=True, slots=True)
class Candidates:
    """
    The active rules of one dimension, best first.

    Attributes:
        key: The attribute by whose value they are shared out; empty where no rule asks for any.
        by_value: For each value of it that some rule wants: every rule that it meets, with the other conditions left.
        otherwise: The rules that do not ask for that attribute.

    """

    key: str
    by_value: Mapping[str, Sequence[Candidate]]
    otherwise: Sequence[Candidate]

    def first(self, attributes: Mapping[str, str]) -> RateRule | None:
        """Return the first rule that matches, or None."""
        value = cast("object", attributes.get(self.key))
        # What an untyped caller passes matches nothing, and need not be hashable.
        found = self.by_value.get(value, self.otherwise) if isinstance(value, str) else self.otherwise
        for conditions, rule in found:
            for key, allowed in conditions:
                if attributes.get(key) not in allowed:
                    break
            else:
                return rule
        return None


def candidates(rules: Iterable[RateRule]) -> dict[str, Candidates]:
    """Sort the active rules by precedence, and share them out by dimension and value."""
    by_dimension: dict[str, list[Candidate]] = {}
    for rule in sorted(rules, key=RateRule.precedence):
        if not rule.disabled:
            by_dimension.setdefault(rule.dimension, []).append((rule.conditions, rule))
    return {dimension: _shared_out(listed) for dimension, listed in by_dimension.items()}


def _shared_out(listed: list[Candidate]) -> Candidates:
    asked = Counter(key for conditions, _ in listed for key, _ in conditions)
    if not asked:
        return Candidates("", {}, listed[:1])
    key = max(asked, key=lambda each: asked[each])
    wanted = [dict(conditions).get(key) for conditions, _ in listed]
    by_value: dict[str, list[Candidate]] = {value: [] for values in wanted for value in values or ()}
    otherwise: list[Candidate] = []
    for (conditions, rule), values in zip(listed, wanted, strict=True):
        left = tuple(condition for condition in conditions if condition[0] != key)
        lists = [otherwise, *by_value.values()] if values is None else [by_value[value] for value in set(values)]
        for each in lists:
            # Behind a rule without conditions nothing is ever reached.
            if not each or each[-1][0]:
                each.append((left, rule))
    return Candidates(key, by_value, otherwise)
