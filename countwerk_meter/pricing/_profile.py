"""
`PriceProfile`: the vendor's rules, loaded once and asked for every call.

All that can be settled at load is settled there (types, order of the rules, the hash), so that pricing is a few lookups
and exact multiplications. The rule kept: what has no price is an error or is named, never silently free.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Final, Literal, cast

from countwerk_meter.errors import PricingError
from countwerk_meter.pricing._candidates import candidates
from countwerk_meter.pricing._collation import is_exact
from countwerk_meter.pricing._price import EXACT, Explanation, Price, PriceLine
from countwerk_meter.pricing._reading import Source, read_rules, read_source
from countwerk_meter.pricing._rules import RateRule, why_it_lost
from countwerk_meter.pricing._ruleset_hash import ruleset_hash

if TYPE_CHECKING:
    from collections.abc import Mapping

Mode = Literal["STRICT", "RUNTIME"]
Quantity = int | Decimal | float | str

_ZERO: Final = Decimal(0)
_NO_ATTRIBUTES: Final[Mapping[str, str]] = {}


class PriceProfile:
    """
    A price profile: what each measured dimension costs in credits.

    Attributes:
        profile_version_id: The vendor's name for this version.
        engine_version: The engine that the vendor wrote it for, or None.
        eur_per_credit: What a credit is worth, in EUR.
        rules: Every rule, disabled ones too, in the profile's order.
        ruleset_hash: Fingerprint of the rules that are not disabled.
        stated_hash: The fingerprint that the profile itself states, or None.

    """

    __slots__ = (
        "_candidates",
        "_mismatch",
        "engine_version",
        "eur_per_credit",
        "profile_version_id",
        "rules",
        "ruleset_hash",
        "stated_hash",
    )

    def __init__(
        self,
        profile_version_id: str,
        eur_per_credit: Decimal,
        rules: tuple[RateRule, ...],
        *,
        engine_version: str | None = None,
        stated_hash: str | None = None,
    ) -> None:
        self.profile_version_id = profile_version_id
        self.eur_per_credit = eur_per_credit
        self.rules = rules
        self.engine_version = engine_version
        self.stated_hash = stated_hash
        self.ruleset_hash = ruleset_hash(rules)
        self._mismatch = self.hash_mismatch()
        self._candidates = candidates(rules)

    @classmethod
    def load(cls, source: Source) -> PriceProfile:
        """
        Read a profile.

        Args:
            source: A path, a JSON text (it begins with a brace), or the document as a mapping.

        Raises:
            PricingError: `INVALID_PROFILE`, naming the rule and the field at fault.

        """
        return cls._read(source)

    @classmethod
    def _read(cls, source: Source, *, unique_ids: bool = True) -> PriceProfile:
        """Read a profile as `load` does; one whose ids are not unique too, where only to look it over."""
        fields = read_source(source)
        wanted = "a number above 0"
        eur_per_credit = fields.number("eurPerCredit", wanted)
        return cls(
            fields.text("profileVersionId"),
            eur_per_credit or fields.refuse("eurPerCredit", wanted),
            read_rules(fields, unique_ids=unique_ids),
            engine_version=fields.optional_text("engineVersion"),
            stated_hash=fields.optional_text("rulesetHash") or None,
        )

    def __repr__(self) -> str:
        return f"PriceProfile({self.profile_version_id!r}, {len(self.rules)} rules, {self.ruleset_hash[:12]})"

    def price(
        self,
        dimensions: Mapping[str, Quantity],
        attributes: Mapping[str, str] | None = None,
        mode: Mode = "STRICT",
    ) -> Price:
        """
        Turn measured quantities into credits, exactly.

        Args:
            dimensions: Quantity by dimension name; what is not finite or not above 0 is passed over. A float counts as
                it is written (`0.1`).
            attributes: What rules are matched against, such as `model`.
            mode: STRICT refuses what it cannot price, RUNTIME leaves it out and says so in the answer.

        Raises:
            PricingError: `INVALID_QUANTITY`, `INVALID_MODE`; in STRICT also `UNMATCHED_DIMENSION`, with the first such
                dimension as `field`, and `RULESET_HASH_MISMATCH`.

        """
        strict = mode == "STRICT"
        if not strict and mode != "RUNTIME":
            raise PricingError(f"the mode must be STRICT or RUNTIME, not {mode}", code="INVALID_MODE", field="mode")
        if strict and self._mismatch is not None:
            raise PricingError(self._mismatch, code="RULESET_HASH_MISMATCH", field="rulesetHash")
        given = _NO_ATTRIBUTES if attributes is None else attributes
        total = _ZERO
        lines: list[PriceLine] = []
        used: list[str] = []
        unmatched: list[str] = []
        multiply = EXACT.multiply
        for dimension, measured in dimensions.items():
            quantity = _quantity(dimension, measured)
            if quantity is None:
                continue
            rule = self._rule_for(dimension, given)
            if rule is None:
                unmatched.append(dimension)
                continue
            credit, cost = multiply(quantity, rule.credits_per_unit), rule.cost_per_unit_eur
            total = EXACT.add(total, credit)
            lines.append(
                PriceLine(
                    dimension,
                    quantity,
                    rule.credits_per_unit,
                    credit,
                    cost,
                    None if cost is None else multiply(quantity, cost),
                    rule.id,
                )
            )
            used.append(rule.id)
        if unmatched and strict:
            raise PricingError(
                f"no active rule of profile {self.profile_version_id} matches {', '.join(unmatched)}"
                f" with {_shown(given)}",
                code="UNMATCHED_DIMENSION",
                field=unmatched[0],
            )
        return Price(
            total,
            tuple(lines),
            tuple(used),
            self.ruleset_hash,
            self.profile_version_id,
            self.engine_version,
            self.eur_per_credit,
            tuple(unmatched),
            # A ruleset that is not what it says it is casts doubt on every line, so that comes first.
            "RULESET_HASH_MISMATCH" if self._mismatch is not None else "UNMATCHED_DIMENSION" if unmatched else None,
            dict(dimensions),
            dict(given),
        )

    def hash_mismatch(self) -> str | None:
        """Say in words that the profile's own hash does not fit its rules, or None where it does or states none."""
        if self.stated_hash is None or self.stated_hash == self.ruleset_hash:
            return None
        inexact = not all(is_exact(rule.id) and is_exact(rule.dimension) for rule in self.rules if not rule.disabled)
        hint = "; some of its names are in characters whose order may differ from the vendor's" if inexact else ""
        return (
            f"profile {self.profile_version_id} states the rulesetHash {self.stated_hash},"
            f" but its rules have {self.ruleset_hash}{hint}"
        )

    def prices(self, dimension: str, attributes: Mapping[str, str] | None = None) -> bool:
        """Say whether an active rule prices the dimension for these attributes."""
        return self._rule_for(dimension, _NO_ATTRIBUTES if attributes is None else attributes) is not None

    def explain(
        self, dimensions: Mapping[str, Quantity], attributes: Mapping[str, str] | None = None
    ) -> tuple[Explanation, ...]:
        """
        Say for each dimension which rule is chosen, and why each other rule for it is not.

        Raises:
            PricingError: `INVALID_QUANTITY`.

        """
        given = _NO_ATTRIBUTES if attributes is None else attributes
        return tuple(self._explanation(name, _quantity(name, quantity), given) for name, quantity in dimensions.items())

    def _rule_for(self, dimension: str, attributes: Mapping[str, str]) -> RateRule | None:
        found = self._candidates.get(dimension)
        return None if found is None else found.first(attributes)

    def _explanation(self, dimension: str, quantity: Decimal | None, attributes: Mapping[str, str]) -> Explanation:
        chosen = None if quantity is None else self._rule_for(dimension, attributes)
        others: list[tuple[str, str]] = []
        for rule in sorted(self.rules, key=RateRule.precedence):
            if rule.dimension != dimension or rule is chosen:
                continue
            reason = rule.mismatch(attributes)
            if reason is None:
                reason = "the quantity is passed over" if chosen is None else why_it_lost(rule, chosen)
            others.append((rule.id, reason))
        return Explanation(dimension, quantity, chosen, tuple(others))


def _quantity(dimension: str, measured: Quantity) -> Decimal | None:
    """Return the exact quantity, or None for one that is passed over."""
    kind = type(measured)
    if kind is int:
        value = Decimal(measured)
    elif kind is Decimal:
        value = cast("Decimal", measured)
    else:
        value = _converted(dimension, measured)
    if not value.is_finite() or value <= 0:
        return None
    # JavaScript has no such numbers: too small is 0, and too large is a mistake that must not be free.
    magnitude = value.adjusted()
    if magnitude > 308:
        raise PricingError(f"the quantity of {dimension} is too large", code="INVALID_QUANTITY", field=dimension)
    return value if magnitude >= -324 else None


def _converted(dimension: str, measured: object) -> Decimal:
    if isinstance(measured, float | str | int | Decimal) and not isinstance(measured, bool):
        try:
            return Decimal(repr(float(measured)) if isinstance(measured, float) else measured)
        except InvalidOperation:
            pass
    raise PricingError(
        f"the quantity of {dimension} must be a number, not {measured!r}", code="INVALID_QUANTITY", field=dimension
    )


def _shown(attributes: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in attributes.items()) or "no attributes"
