"""What a Meter may be told, checked at the start: a wrong setting fails in one sentence, before anything is opened."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from countwerk_meter.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "rounding": ("ceil", "carry"),
    "settlement": ("background", "inline"),
    "settle_with": ("confirm", "deduct"),
    "on_unavailable": ("deny", "defer"),
    "on_crash": ("checkpoint", "cancel", "reserved"),
    "on_replay": ("refuse", "run"),
    "enforcement": ("on", "shadow"),
}


def check_options(
    chosen: Mapping[str, str],
    *,
    debt_limit: int,
    reserve_timeout: float,
    settlement_concurrency: int,
    leases: bool = False,
) -> None:
    """
    Check the settings that a type checker cannot.

    Raises:
        ConfigurationError: One of them cannot be; the text says which.

    """
    for name, value in chosen.items():
        if value not in _CHOICES[name]:
            raise ConfigurationError(f"{name} must be {' or '.join(_CHOICES[name])}, not {value!r}")
    check_unavailable(chosen["on_unavailable"], debt_limit)
    if not 0 < reserve_timeout <= 3600:
        raise ConfigurationError("reserve_timeout must be above 0 seconds, and an hour at most")
    if settlement_concurrency < 1 or debt_limit < 0:
        raise ConfigurationError("settlement_concurrency must be above 0, and debt_limit not below 0")
    if leases and (chosen["settlement"], chosen["settle_with"]) != ("background", "confirm"):
        raise ConfigurationError(
            "leases are taken in the background and settled with one confirm each: they need"
            ' settlement="background" and settle_with="confirm"'
        )


def check_unavailable(on_unavailable: str, debt_limit: int) -> None:
    """
    Check what a Meter, or one call, does when the ledger cannot be reached.

    Raises:
        ConfigurationError: It is no choice, or calls would run unpaid without a limit.

    """
    if on_unavailable not in _CHOICES["on_unavailable"]:
        raise ConfigurationError(f"on_unavailable must be deny or defer, not {on_unavailable!r}")
    if on_unavailable == "defer" and debt_limit <= 0:
        raise ConfigurationError('on_unavailable="defer" lets calls run unpaid: it needs a debt_limit above 0')


def from_environment(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return a Meter's arguments from `COUNTWERK_AI_PRODUCT_ID`, `_JOURNAL`, `_PRICES`, `_ENFORCEMENT`; `overrides` win.

    Raises:
        ConfigurationError: Nothing names the AI product.

    """
    named = {
        "ai_product_id": os.environ.get("COUNTWERK_AI_PRODUCT_ID"),
        "journal": os.environ.get("COUNTWERK_JOURNAL"),
        "prices": os.environ.get("COUNTWERK_PRICES"),
        "enforcement": os.environ.get("COUNTWERK_ENFORCEMENT"),
    }
    given = {name: value for name, value in named.items() if value} | dict(overrides)
    if not given.get("ai_product_id"):
        raise ConfigurationError("no AI product: pass ai_product_id or set COUNTWERK_AI_PRODUCT_ID")
    return given
