"""
Reserve credits before a model call, confirm what it really cost, never bill twice.

    from countwerk_meter import Meter, Usage

    meter = Meter.from_env()
    with meter.reserve("acct_123", "app.chat.reply", amount=5) as reservation:
        answer = call_my_model(prompt)
        reservation.record(Usage.of(answer), model="gpt-5")

Docstrings name the money rules by number; they are written down in `_flow/RULES.md` of this package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from countwerk_meter.client import AsyncCountwerkClient, CountwerkClient, PurchaseLinks, PurchaseOption
    from countwerk_meter.errors import (
        ApiError,
        ChargeAlreadySettledError,
        ChargeInProgressError,
        ConfigurationError,
        CountwerkError,
        InsufficientCreditsError,
        JournalError,
        LedgerUnavailableError,
        PricingError,
    )
    from countwerk_meter.meter import Charge, Meter, Reservation, account, current_reservation
    from countwerk_meter.pricing import Price, PriceProfile
    from countwerk_meter.usage import Usage

__all__ = [
    "ApiError",
    "AsyncCountwerkClient",
    "Charge",
    "ChargeAlreadySettledError",
    "ChargeInProgressError",
    "ConfigurationError",
    "CountwerkClient",
    "CountwerkError",
    "InsufficientCreditsError",
    "JournalError",
    "LedgerUnavailableError",
    "Meter",
    "Price",
    "PriceProfile",
    "PricingError",
    "PurchaseLinks",
    "PurchaseOption",
    "Reservation",
    "Usage",
    "account",
    "current_reservation",
]

__version__ = "0.1.0"

_NAMES: Final = {
    "client": ("AsyncCountwerkClient", "CountwerkClient", "PurchaseLinks", "PurchaseOption"),
    "errors": (
        "ApiError",
        "ChargeAlreadySettledError",
        "ChargeInProgressError",
        "ConfigurationError",
        "CountwerkError",
        "InsufficientCreditsError",
        "JournalError",
        "LedgerUnavailableError",
        "PricingError",
    ),
    "meter": ("Charge", "Meter", "Reservation", "account", "current_reservation"),
    "pricing": ("Price", "PriceProfile"),
    "usage": ("Usage",),
}
_HOMES: Final = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what is asked for: a part of the package, or a test run that it is a plugin of, need not load the rest."""
    if name in _NAMES:
        return importlib.import_module(f"{__name__}.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES, *__all__})
