"""
How the ledger behaves: what `PUT /_sandbox/settings` changes.

The rule: a setting that is not understood is refused, never passed over, so that a test with a typing error fails
where the error is.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import Literal, cast

from countwerk_meter.sandbox.contract import JsonObject

Ds24 = Literal["ok", "missing", "invalid"]
Overage = Literal["reject", "allow"]

# A year of requests a second: beyond that a limit is a typing error.
_MAX_NUMBER = 10**9


class SettingError(ValueError):
    """A control call that asks for something that does not exist."""


@dataclass(slots=True)
class RateLimit:
    """So many requests in so many seconds on the sandbox's clock, and what Retry-After says (None: not sent)."""

    requests: int
    per_seconds: float
    retry_after: str | None
    # Without an answer of its own, Retry-After says when the next request would pass.
    computed: bool
    _sent: deque[int] = field(default_factory=deque[int])

    def pass_or_wait(self, now: int) -> tuple[bool, str | None]:
        """Count a request: (it may pass, what Retry-After says if it may not)."""
        opens = now - round(self.per_seconds * 1000)
        while self._sent and self._sent[0] <= opens:
            self._sent.popleft()
        if len(self._sent) < self.requests:
            self._sent.append(now)
            return True, None
        if not self.computed:
            return False, self.retry_after
        first = self._sent[0] if self._sent else now
        return False, str(max(1, math.ceil((first - opens) / 1000)))


@dataclass(slots=True)
class Settings:
    ds24: Ds24 = "ok"
    overage: Overage = "reject"
    rate_limit: RateLimit | None = None
    # Order id -> how often it still answers ORDER_NOT_MAPPED_YET; None: until it is taken off the list.
    unmapped_orders: dict[str, int | None] = field(default_factory=dict[str, int | None])
    forbidden_accounts: frozenset[str] = frozenset()
    # Every answer's data carries a field, and purchase-links an option type, that no reader has heard of.
    extra_fields: bool = False
    # What faults with a probability are drawn with.
    seed: int = 0
    random: Random = field(default_factory=lambda: Random(0))  # noqa: S311 - draws faults, not secrets

    def update(self, change: JsonObject) -> None:
        """Apply what a control call asks for: all of it, or, if any of it is not understood, nothing."""
        draft = {name: _read(name, value) for name, value in change.items()}
        for name, value in draft.items():
            setattr(self, name, value)
        if "seed" in draft:
            self.random = Random(self.seed)  # noqa: S311 - draws faults, not secrets

    def still_unmapped(self, order_id: str) -> bool:
        """Say whether an order is not mapped yet, and count the try."""
        if order_id not in self.unmapped_orders:
            return False
        left = self.unmapped_orders[order_id]
        if left is None:
            return True
        if left <= 0:
            del self.unmapped_orders[order_id]
            return False
        self.unmapped_orders[order_id] = left - 1
        return True

    def as_json(self) -> JsonObject:
        limit = self.rate_limit
        return {
            "ds24": self.ds24,
            "overage": self.overage,
            "rate_limit": None
            if limit is None
            else {"requests": limit.requests, "per_seconds": limit.per_seconds, "retry_after": limit.retry_after},
            "unmapped_orders": [{"order_id": order, "times": left} for order, left in self.unmapped_orders.items()],
            "forbidden_accounts": sorted(self.forbidden_accounts),
            "extra_fields": self.extra_fields,
            "seed": self.seed,
        }


def number(value: object, name: str, *, least: float = 0) -> float:
    """Read a finite number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= _MAX_NUMBER:
        raise SettingError(f"{name} must be a number from {least} to {_MAX_NUMBER}")
    return value


def whole(value: object, name: str, *, least: int = 0) -> int:
    """Read an integer of at least `least`."""
    if type(value) is not int or not least <= value <= _MAX_NUMBER:
        raise SettingError(f"{name} must be an integer from {least} to {_MAX_NUMBER}")
    return value


def only(given: JsonObject, allowed: frozenset[str], what: str) -> None:
    """Refuse fields that do not exist."""
    unknown = sorted(set(given) - allowed)
    if unknown:
        raise SettingError(f"{what} has no {', '.join(unknown)}; it has {', '.join(sorted(allowed))}")


def header_text(value: str | None, name: str) -> str | None:
    """Refuse what cannot stand in a header."""
    if value is not None and not (value.isascii() and value.isprintable()):
        raise SettingError(f"{name} must be printable ASCII")
    return value


def retry_after_text(value: object) -> str | None:
    """Read what a Retry-After header is to say: seconds, an HTTP date, or nothing."""
    if value is None or isinstance(value, str):
        return header_text(value, "retry_after")
    seconds = number(value, "retry_after")
    return str(int(seconds)) if seconds == int(seconds) else str(seconds)


def _read(name: str, value: object) -> object:
    match name:
        case "ds24":
            return _one_of(name, value, "ok", "missing", "invalid")
        case "overage":
            return _one_of(name, value, "reject", "allow")
        case "rate_limit":
            return None if value is None else _rate_limit(value)
        case "unmapped_orders":
            return dict(_unmapped(entry) for entry in _list(name, value))
        case "forbidden_accounts":
            return frozenset(_text(name, entry) for entry in _list(name, value))
        case "extra_fields":
            if not isinstance(value, bool):
                raise SettingError("extra_fields must be true or false")
            return value
        case "seed":
            return whole(value, name)
        case _:
            raise SettingError(f"there is no setting {name!r}")


def _one_of(name: str, value: object, *choices: str) -> str:
    if value not in choices:
        raise SettingError(f"{name} must be one of {', '.join(choices)}")
    return cast("str", value)


def _rate_limit(value: object) -> RateLimit:
    if not isinstance(value, dict):
        raise SettingError("rate_limit must be an object or null")
    given = cast("JsonObject", value)
    only(given, frozenset({"requests", "per_seconds", "retry_after"}), "rate_limit")
    return RateLimit(
        whole(given.get("requests"), "rate_limit.requests"),
        number(given.get("per_seconds"), "rate_limit.per_seconds"),
        retry_after_text(given.get("retry_after")),
        computed="retry_after" not in given,
    )


def _unmapped(entry: object) -> tuple[str, int | None]:
    if isinstance(entry, dict):
        given = cast("JsonObject", entry)
        only(given, frozenset({"order_id", "times"}), "an unmapped order")
        times = given.get("times")
        return _text("unmapped_orders", given.get("order_id")), None if times is None else whole(times, "times")
    return _text("unmapped_orders", entry), None


def _list(name: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise SettingError(f"{name} must be a list")
    return cast("list[object]", value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise SettingError(f"{name} holds strings")
    return value
