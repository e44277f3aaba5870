"""
Reading a price profile for what will surprise its vendor: rules never chosen, usage without a price.

The rule kept: a *problem* is something that no vendor means (a rule that cannot be chosen, a call without a price, a
hash that is not the rules'); a *note* is something that one may mean and should know.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice, product
from typing import TYPE_CHECKING, Final, Literal

from countwerk_meter.errors import PricingError
from countwerk_meter.pricing._profile import PriceProfile
from countwerk_meter.pricing._rules import RateRule, why_it_lost

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from countwerk_meter.pricing._reading import Source

Kind = Literal[
    "malformed",
    "hash-mismatch",
    "duplicate-id",
    "shadowed",
    "unreachable",
    "no-rule",
    "only-some-attributes",
    "priced-in-part",
    "folded",
    "unknown-dimension",
    "unreadable-date",
]

# What frameworks report, and which pool takes over where a dimension has no price (see `Usage.measured`).
PARENTS: Final[Mapping[str, str | None]] = {
    "llm_input_tokens": None,
    "llm_output_tokens": None,
    "llm_cache_read_tokens": "llm_input_tokens",
    "llm_cache_write_tokens": "llm_input_tokens",
    "llm_reasoning_tokens": "llm_output_tokens",
}
_REPORTED: Final = (*PARENTS, "llm_requests")
_NOTES: Final = frozenset({"folded", "unknown-dimension", "unreadable-date"})
_MOST_NAMED: Final = 3
_MOST_POINTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing that the profile's vendor should know.

    Attributes:
        kind: What sort of thing, as a short name for scripts.
        message: One sentence.
        rule_ids: The rules concerned, the one at fault first.
        dimension: The dimension concerned, or None.

    """

    kind: Kind
    message: str
    rule_ids: tuple[str, ...] = ()
    dimension: str | None = None

    @property
    def is_problem(self) -> bool:
        """Whether nobody can mean it; a note otherwise."""
        return self.kind not in _NOTES


def lint(source: Source | PriceProfile) -> tuple[Finding, ...]:
    """
    Look a profile over.

    Args:
        source: A path, a JSON text, the document as a mapping, or a loaded profile.

    Returns:
        Problems first, then notes. A field that will not do is one (`malformed`), and the only one then.

    Raises:
        PricingError: `INVALID_PROFILE`: there is no profile to read (no such file, no JSON, no object).

    """
    try:
        profile = source if isinstance(source, PriceProfile) else PriceProfile._read(source, unique_ids=False)
    except PricingError as error:
        if error.field is None:
            raise
        return (Finding("malformed", str(error), (error.rule_id,) if error.rule_id else ()),)
    findings = [*_identity(profile), *_reach(profile), *_gaps(profile), *_remarks(profile)]
    return tuple(sorted(findings, key=lambda finding: not finding.is_problem))


def _identity(profile: PriceProfile) -> Iterator[Finding]:
    mismatch = profile.hash_mismatch()
    if mismatch is not None:
        yield Finding("hash-mismatch", mismatch)
    for rule_id, count in Counter(rule.id for rule in profile.rules).items():
        if count > 1:
            yield Finding("duplicate-id", f"{count} rules have the id {rule_id}: the profile is refused", (rule_id,))


def _reach(profile: PriceProfile) -> Iterator[Finding]:
    before: dict[str, list[RateRule]] = {}
    for rule in sorted(profile.rules, key=RateRule.precedence):
        if rule.disabled:
            continue
        better = before.setdefault(rule.dimension, [])
        nothing = next((key for key, allowed in rule.conditions if not allowed), None)
        if nothing is not None:
            yield Finding(
                "unreachable",
                f"rule {rule.id} is never chosen: its list of values for {nothing} is empty, and nothing matches it",
                (rule.id,),
                rule.dimension,
            )
            continue
        winners = _winners(rule, better)
        if winners:
            reasons = [f"{winner.id} ({why_it_lost(rule, winner)})" for winner in winners]
            yield Finding(
                "shadowed",
                f"rule {rule.id} is never chosen: where it matches, it loses to {_listed(reasons, 'or')}",
                (rule.id, *(winner.id for winner in winners)),
                rule.dimension,
            )
        better.append(rule)


def _winners(rule: RateRule, better: Sequence[RateRule]) -> tuple[RateRule, ...]:
    """Return the rules that together match whatever this one does, or none where it has something left."""
    mine = {key: frozenset(allowed) for key, allowed in rule.conditions}
    # A rule that asks for more than this one does not match where the rest is missing.
    rivals = [(each, {key: frozenset(allowed) for key, allowed in each.conditions}) for each in better]
    rivals = [(each, wants) for each, wants in rivals if wants.keys() <= mine.keys() and each.id != rule.id]
    for each, wants in rivals:
        if all(mine[key] <= allowed for key, allowed in wants.items()):
            return (each,)
    rivals = [(each, wants) for each, wants in rivals if all(mine[key] & allowed for key, allowed in wants.items())]
    if not _covered(list(mine.items()), [wants for _, wants in rivals]):
        return ()
    return tuple(each for each, _ in rivals)


def _covered(left: list[tuple[str, frozenset[str]]], rivals: list[dict[str, frozenset[str]]]) -> bool:
    """Whether every combination of the values left is matched by one of the rivals."""
    if not rivals or not left:
        return bool(rivals)
    (key, values), *others = left
    return all(_covered(others, [wants for wants in rivals if value in wants.get(key, values)]) for value in values)


def _gaps(profile: PriceProfile) -> Iterator[Finding]:
    by_dimension: dict[str, list[RateRule]] = {}
    for rule in profile.rules:
        if not rule.disabled:
            by_dimension.setdefault(rule.dimension, []).append(rule)
    tokens = [rule for name in PARENTS for rule in by_dimension.get(name, ())]
    if tokens:
        for name, parent in PARENTS.items():
            if name in by_dimension:
                continue
            if parent is None:
                yield Finding("no-rule", f"{name}: no active rule, and every model call reports it", (), name)
            elif parent in by_dimension:
                yield Finding("folded", f"{name}: no active rule; the meter charges it as {parent}", (), name)
    for name, rules in by_dimension.items():
        # A pool that has a parent is charged as that wherever it has no price of its own.
        if PARENTS.get(name) is not None or not all(rule.conditions for rule in rules):
            continue
        keys = sorted({key for rule in rules for key, _ in rule.conditions})
        yield Finding(
            "only-some-attributes",
            f"{name}: every rule asks for {_listed(keys)}, so that any other value has no price",
            tuple(rule.id for rule in rules),
            name,
        )
        if PARENTS.get(name, "") is None:
            yield from _in_part(profile, name, tokens)


def _in_part(profile: PriceProfile, name: str, tokens: list[RateRule]) -> Iterator[Finding]:
    unpriced = {
        ", ".join(f"{key}={value}" for key, value in point.items()): rule.dimension
        for rule in tokens
        if rule.dimension != name
        for point in _points(rule)
        if point and not profile.prices(name, point)
    }
    if unpriced:
        others = sorted(set(unpriced.values()))
        yield Finding(
            "priced-in-part",
            f"{name}: no rule for {_listed(list(unpriced))}, which {_listed(others)} has a rule for",
            (),
            name,
        )


def _points(rule: RateRule) -> Iterator[dict[str, str]]:
    keys = [key for key, _ in rule.conditions]
    combinations = product(*(allowed for _, allowed in rule.conditions))
    for values in islice(combinations, _MOST_POINTS):
        yield dict(zip(keys, values, strict=True))


def _remarks(profile: PriceProfile) -> Iterator[Finding]:
    active = [rule for rule in profile.rules if not rule.disabled]
    for name in dict.fromkeys(rule.dimension for rule in active):
        if name.lower().startswith("llm") and name not in _REPORTED:
            alike = get_close_matches(name, _REPORTED, n=1)
            hint = f"; {alike[0]} is meant?" if alike else ""
            ids = tuple(rule.id for rule in active if rule.dimension == name)
            yield Finding("unknown-dimension", f"{name}: not reported by any framework{hint}", ids, name)
    for rule in active:
        if rule.created_at and rule.created_ms is None:
            message = f"rule {rule.id}: createdAt {rule.created_at!r} cannot be read and counts as oldest"
            yield Finding("unreadable-date", message, (rule.id,), rule.dimension)


def _listed(texts: Sequence[str], word: str = "and") -> str:
    named = list(texts[:_MOST_NAMED])
    if len(texts) > _MOST_NAMED:
        named.append(f"{len(texts) - _MOST_NAMED} more")
    return f" {word} ".join(part for part in (", ".join(named[:-1]), named[-1]) if part)
