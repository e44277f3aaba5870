"""How much a call holds, and how much it cost: from what the app passed and what was measured to credits."""

from __future__ import annotations

import dataclasses
import json
import threading
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal

from countwerk_meter._flow.ending import Measured
from countwerk_meter._frozen import frozen
from countwerk_meter._wire.requests import AMOUNT_LIMIT, checked_amount
from countwerk_meter.errors import ConfigurationError, CountwerkError, PricingError
from countwerk_meter.pricing import PriceProfile
from countwerk_meter.pricing._price import EXACT
from countwerk_meter.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Kind = Literal["amount", "price", "estimate"]
_POOLS = {
    "llm_input_tokens": "input_tokens",
    "llm_output_tokens": "output_tokens",
    "llm_cache_read_tokens": "cache_read_tokens",
    "llm_cache_write_tokens": "cache_write_tokens",
    "llm_reasoning_tokens": "reasoning_tokens",
    "llm_requests": "requests",
}


def checked_prices(prices: PriceProfile | str | Path | Mapping[str, Any] | None) -> PriceProfile | None:
    """
    Load a price profile, and refuse one whose own hash does not fit its rules: it is not what was published.

    Raises:
        PricingError: It is malformed (`INVALID_PROFILE`), or `RULESET_HASH_MISMATCH`.

    """
    if prices is None:
        return None
    profile = prices if isinstance(prices, PriceProfile) else PriceProfile.load(prices)
    if profile.stated_hash and profile.stated_hash != profile.ruleset_hash:
        raise PricingError(
            f"the price profile {profile.profile_version_id} states a rulesetHash that its rules do not have, so it is "
            "not what was published; one of your own may leave it out (`countwerk-meter price lint` says what it is)",
            code="RULESET_HASH_MISMATCH",
            field="rulesetHash",
        )
    return profile


# Why a block around nested calls owes nothing itself.
NESTED: Final = "charged by its nested calls"


@frozen
class Hold:
    """How many credits to hold, and what the number means."""

    kind: Kind
    credits: int


def hold_of(
    amount: int | None,
    price: int | None,
    estimate: Usage | None,
    prices: PriceProfile | None,
    attributes: Mapping[str, str],
) -> Hold:
    """
    Read the three arguments that exclude each other.

    Raises:
        ConfigurationError: None or two of them, or an estimate without a price profile.
        InvalidRequestError: An amount that is no whole number above 0.
        PricingError: The profile cannot price the estimate; better known before the call than after.

    """
    given = [
        name for name, value in (("amount", amount), ("price", price), ("estimate", estimate)) if value is not None
    ]
    if len(given) != 1:
        raise ConfigurationError(f"pass exactly one of amount, price and estimate, not {' and '.join(given) or 'none'}")
    if amount is not None:
        return Hold("amount", checked_amount(amount))
    if price is not None:
        return Hold("price", checked_amount(price, "price"))
    if not isinstance(estimate, Usage):
        raise ConfigurationError("estimate must be a Usage")
    if prices is None:
        raise ConfigurationError(
            "an estimate needs a price profile: pass prices to Meter, or use Meter.from_env() and COUNTWERK_PRICES"
        )
    return Hold("estimate", price_in(prices, attributes)(estimate))


def price_in(prices: PriceProfile, attributes: Mapping[str, str]) -> Callable[[Usage], int]:
    """Return what prices a usage in whole credits, rounded up, at least one."""
    return lambda usage: max(prices.price(_dimensions(usage, prices, attributes), attributes).credits_to_deduct, 1)


def _dimensions(usage: Usage, prices: PriceProfile, attributes: Mapping[str, str]) -> dict[str, Decimal | int]:
    return usage.measured(lambda dimension: prices.prices(dimension, attributes))


def measured_of(usage: Usage | None, dimensions: Mapping[str, int | Decimal] | None) -> tuple[Usage, bool]:
    """
    Put a record together; False: some of it cannot be understood, and counts as unknown usage.

    It never raises, because the model has answered (money rule 7). The dimensions of tokens are the pools of `Usage`.
    """
    measured = usage or Usage()
    understood = True
    for name, quantity in (dimensions or {}).items():
        try:
            pool = _POOLS.get(name)
            if pool is None:
                measured = measured + Usage(dimensions={name: quantity})
            else:
                measured = dataclasses.replace(measured, **{pool: getattr(measured, pool) + int(quantity)})
        except (CountwerkError, TypeError, ValueError, ArithmeticError):
            understood = False
    return measured, understood


def named_of(model: object, attributes: Mapping[str, object] | None) -> dict[str, str]:
    """Return attributes as the text that price rules match: an enumeration's member is its value."""
    given: dict[str, object] = {**({"model": model} if model else {}), **(attributes or {})}
    return {_text(name): _text(value) for name, value in given.items()}


def _text(value: object) -> str:
    if isinstance(value, Enum):
        value = value.value
    return str.__str__(value) if isinstance(value, str) else str(value)


@dataclass(slots=True)
class Measurements:
    """What was recorded in one block, each record its own priced line. Safe to add to from any thread."""

    prices: PriceProfile | None
    lines: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    exact: Decimal = Decimal(0)
    counted: bool = False
    unpriced: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add(
        self, usage: Usage, attributes: Mapping[str, str], *, counted: bool = False, understood: bool = True
    ) -> None:
        """Price one record. A dimension that no rule prices is noted, never raised (money rule 13)."""
        with self.lock:
            self.unpriced = self.unpriced or not understood
            self._add(usage, attributes, counted=counted)

    def unknown(self) -> None:
        """Note a call whose usage nobody reported: what else was recorded does not pay for it (money rule 13)."""
        with self.lock:
            self.unpriced = True

    def _add(self, usage: Usage, attributes: Mapping[str, str], *, counted: bool) -> None:
        self.counted = self.counted or counted
        if self.prices is None:
            self.unpriced = True
            measured = {name: str(quantity) for name, quantity in usage.measured().items()}
            self.lines.append({"dimensions": measured, "attributes": dict(attributes)})
            return
        dimensions = _dimensions(usage, self.prices, attributes)
        line: dict[str, Any] = {
            "dimensions": {name: str(quantity) for name, quantity in dimensions.items()},
            "attributes": dict(attributes),
        }
        try:
            price = self.prices.price(dimensions, attributes, "RUNTIME")
        except PricingError as error:
            self.unpriced = True
            self.lines.append(line | {"error": error.code})
            return
        if price.unmatched_dimensions or price.quarantine_reason:
            self.unpriced = True
        self.exact = EXACT.add(self.exact, price.total)
        self.lines.append(line | price.record())

    def as_json(self) -> str | None:
        """Return the lines for the journal, or None where nothing was recorded."""
        return json.dumps(self.lines, separators=(",", ":")) if self.lines else None

    def measured(self, reserved: int) -> Measured:
        """Return what the records cost; with something unpriceable among them, at least what was reserved."""
        if self.exact > AMOUNT_LIMIT:
            # No ledger takes it and no journal writes it: a broken report, and so unknown usage (rule 13).
            return Measured(Decimal(reserved), "reserved", self.as_json())
        if self.unpriced:
            return Measured(max(self.exact, Decimal(reserved)), "reserved", self.as_json())
        return Measured(self.exact, "counted" if self.counted else "provider", self.as_json())


@frozen
class Ending:
    """How a call ended: `measured` is None where nothing is charged, and `reason` says why."""

    measured: Measured | None
    reason: str = "nothing used"
    unpriced: bool = False


def ending_of(
    hold: Hold,
    records: Measurements,
    *,
    set_amount: int | None,
    cancelled: str | None,
    failed: bool,
    yielded: bool,
    drawn_on: bool,
    durable: bool = False,
) -> Ending:
    """
    Decide what a block charges.

    `failed`: it ended with an exception. `yielded`: something reached the consumer before. `drawn_on`: nested calls
    drew on it. `durable`: its id can be met again. Once anything was yielded, unknown usage is charged as what was
    reserved (money rule 13).
    """
    lines = records.as_json()
    if cancelled is not None:
        return Ending(None, cancelled)
    if hold.kind == "price":
        if failed and not records.lines and not records.unpriced and not yielded and set_amount is None:
            return Ending(None, "failed")
        return Ending(Measured(Decimal(hold.credits), "price", lines))
    if set_amount is not None:
        return Ending(Measured(Decimal(set_amount), "set", lines) if set_amount else None)
    if records.lines:
        return Ending(records.measured(hold.credits), unpriced=records.unpriced)
    if drawn_on and not records.unpriced:
        if durable and not failed:
            # Done, and settled with 0: a cancelled block that is met again would run and draw a second time.
            return Ending(Measured(Decimal(0), "set"))
        return Ending(None, NESTED)
    if failed and not yielded and not records.unpriced:
        return Ending(None, "failed")
    return Ending(Measured(Decimal(hold.credits), "reserved"), unpriced=records.unpriced or hold.kind == "estimate")
