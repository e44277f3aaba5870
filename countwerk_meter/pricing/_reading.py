"""
Reading a price profile, and saying in one sentence what is wrong with it.

Numbers become decimals exactly as they are written; unknown fields are passed over, because the vendor adds some; what
is there must have the right type, because a price must never rest on a guess.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Final, NoReturn, cast

from countwerk_meter.errors import PricingError
from countwerk_meter.pricing._ecmascript import paired
from countwerk_meter.pricing._rules import RateRule

Source = str | os.PathLike[str] | Mapping[str, object]

INVALID_PROFILE: Final = "INVALID_PROFILE"
_MOST_DIGITS: Final = 100
"""Digits of a number beyond which it is taken for garbage: sums then stay exact."""


class Fields:
    """The fields of a profile or of one of its rules, each read with its type or refused by name."""

    __slots__ = ("_data", "_rule_id", "_where")

    def __init__(self, data: Mapping[str, object], where: str, rule_id: str | None = None) -> None:
        self._data = data
        self._where = where
        self._rule_id = rule_id

    def get(self, field: str) -> object:
        """Return the field's value, None where it is null or missing."""
        return self._data.get(field)

    def refuse(self, field: str, wanted: str) -> NoReturn:
        """Raise what is wrong with the field."""
        given = self.get(field)
        state = f"is {_shown(given)}" if given is not None else "is null" if field in self._data else "is missing"
        raise invalid(f"{self._where}: {field} must be {wanted}, but {state}", rule_id=self._rule_id, field=field)

    def text(self, field: str) -> str:
        """Return a text that must be there and not be empty."""
        value = self.get(field)
        if not isinstance(value, str) or not value:
            self.refuse(field, "a non-empty text")
        return paired(value)

    def optional_text(self, field: str) -> str | None:
        """Return a text, None where it is null or missing."""
        value = self.get(field)
        if value is not None and not isinstance(value, str):
            self.refuse(field, "a text")
        return None if value is None else paired(value)

    def number(self, field: str, wanted: str = "a number of at least 0") -> Decimal:
        """Return a number of at least 0 that must be there."""
        value = self.optional_number(field, wanted)
        return self.refuse(field, wanted) if value is None else value

    def optional_number(
        self, field: str, wanted: str = "a number of at least 0", *, signed: bool = False
    ) -> Decimal | None:
        """Return a number, None where it is null or missing."""
        value = self.get(field)
        if value is None:
            return None
        # A number handed over as a float counts as written the short way: 0.1, not 0.1000000000000000055.
        exact = Decimal(repr(value)) if isinstance(value, float) else value
        if isinstance(exact, bool) or not isinstance(exact, int | Decimal) or not _in_range(exact):
            self.refuse(field, wanted)
        if exact < 0 and not signed:
            self.refuse(field, wanted)
        return Decimal(exact)


def invalid(message: str, *, rule_id: str | None = None, field: str | None = None) -> PricingError:
    """Return the error for a profile that cannot be used."""
    return PricingError(message, code=INVALID_PROFILE, rule_id=rule_id, field=field)


def read_source(source: Source) -> Fields:
    """Return the profile's fields from a path, a JSON text (which begins with `{` or `[`) or a mapping."""
    if isinstance(source, Mapping):
        return Fields(source, "the price profile")
    text, origin = _text(source)
    try:
        data = cast("object", json.loads(text, parse_float=Decimal, parse_constant=_no_constant))
    except RecursionError:
        raise invalid(f"{origin} is nested too deeply") from None
    except ValueError as error:
        raise invalid(f"{origin} is not readable JSON: {error}") from None
    if not isinstance(data, dict):
        raise invalid(f"{origin} must hold a JSON object, not {_shown(data)}")
    return Fields(cast("dict[str, object]", data), origin)


def read_rules(profile: Fields, *, unique_ids: bool = True) -> tuple[RateRule, ...]:
    """Return the profile's rules, in its order; two of one id are refused unless that is left to the caller."""
    listed = profile.get("rateRules")
    if not isinstance(listed, list | tuple):
        profile.refuse("rateRules", "a list")
    rules = tuple(_rule(item, index) for index, item in enumerate(cast("list[object]", listed)))
    seen: set[str] = set()
    for rule in rules:
        if unique_ids and rule.id in seen:
            raise invalid(f"rule {rule.id}: id must be unique, but another rule has it", rule_id=rule.id, field="id")
        seen.add(rule.id)
    return rules


def _rule(item: object, index: int) -> RateRule:
    if not isinstance(item, Mapping):
        raise invalid(f"rateRules[{index}] must be an object, but is {_shown(item)}", field="rateRules")
    data = cast("Mapping[str, object]", item)
    rule_id = Fields(data, f"rateRules[{index}]").text("id")
    fields = Fields(data, f"rule {rule_id}", rule_id)
    created_at = fields.get("createdAt")
    return RateRule(
        id=rule_id,
        dimension=fields.text("dimensionKey"),
        credits_per_unit=fields.number("creditsPerUnit"),
        cost_per_unit_eur=fields.optional_number("costPerUnitEur"),
        attributes_match=_attributes(fields),
        priority=fields.optional_number("priority", "a number", signed=True) or 0,
        status=fields.optional_text("status") or "active",
        # Unreadable is allowed here and means oldest.
        created_at=created_at if isinstance(created_at, str) else None,
    )


def _attributes(fields: Fields) -> tuple[tuple[str, str | tuple[str, ...]], ...]:
    name, wanted = "attributesMatch", "an object whose values are texts or lists of texts"
    given = fields.get(name)
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        fields.refuse(name, wanted)
    read: list[tuple[str, str | tuple[str, ...]]] = []
    for key, value in cast("Mapping[str, object]", given).items():
        if isinstance(value, str):
            read.append((paired(key), paired(value)))
        elif isinstance(value, list | tuple):
            values = cast("list[object]", value)
            texts = tuple(paired(each) for each in values if isinstance(each, str))
            if len(texts) < len(values):
                fields.refuse(name, wanted)
            read.append((paired(key), texts))
        else:
            fields.refuse(name, wanted)
    return tuple(read)


def _text(source: str | os.PathLike[str]) -> tuple[str, str]:
    if isinstance(source, str) and (text := source.lstrip("\ufeff \t\r\n"))[:1] in {"{", "["}:
        return text, "the price profile"
    path = Path(source)
    try:
        return path.read_text(encoding="utf-8-sig"), f"the price profile {path}"
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise invalid(f"the price profile {path} cannot be read: {reason}") from None


def _in_range(value: Decimal | int) -> bool:
    """Whether JavaScript has the number too, neither as infinity nor as 0 for what is not 0."""
    if isinstance(value, Decimal) and (not value.is_finite() or len(value.as_tuple().digits) > _MOST_DIGITS):
        return False
    try:
        double = float(value)
    except OverflowError:
        return False
    return math.isfinite(double) and bool(double) == bool(value)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool | str):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, int | float | Decimal):
        text = str(value)
    else:
        return "a list" if isinstance(value, list | tuple) else "an object" if isinstance(value, Mapping) else "no JSON"
    return text if len(text) <= 60 else text[:57] + "..."
