"""Whether the configuration and the price profile are what they have to be."""

from __future__ import annotations

import os
from typing import Final

from countwerk_meter._drivers.choice import transport_chosen
from countwerk_meter.cli.doctor.finding import Finding, Status
from countwerk_meter.cli.existing_journal import ledger_named
from countwerk_meter.errors import ConfigurationError, PricingError
from countwerk_meter.journal.opening import shown
from countwerk_meter.pricing import PriceProfile

_AREA: Final = "configuration"
_PRICES: Final = "COUNTWERK_PRICES"
_OPTIONAL: Final[dict[str, tuple[Status, str]]] = {
    "COUNTWERK_JOURNAL": ("ok", "not set: the file in your state directory"),
    # Seldom what is wanted.
    _PRICES: ("note", "not set: recorded usage is charged as what was held"),
}


def configuration(base_url: str | None) -> list[Finding]:
    """Say which variables are set. The key's value is never shown, nor a URL that may hold one."""
    found: list[Finding] = []
    key = os.environ.get("COUNTWERK_API_KEY", "")
    if key.strip():
        found.append(Finding(_AREA, "COUNTWERK_API_KEY", "ok", "set"))
    else:
        advice = "export COUNTWERK_API_KEY, in the server's environment only"
        found.append(Finding(_AREA, "COUNTWERK_API_KEY", "problem", "not set", advice))
    try:
        where = ledger_named(base_url)
        detail = where if base_url else f"not set: {where}"
        found.append(Finding(_AREA, "COUNTWERK_BASE_URL", "ok", detail))
    except ConfigurationError as error:
        found.append(Finding(_AREA, "COUNTWERK_BASE_URL", "problem", str(error)))
    product = os.environ.get("COUNTWERK_AI_PRODUCT_ID")
    if product:
        found.append(Finding(_AREA, "COUNTWERK_AI_PRODUCT_ID", "ok", product))
    else:
        advice = "export it for Meter.from_env(), or pass ai_product_id to Meter"
        found.append(Finding(_AREA, "COUNTWERK_AI_PRODUCT_ID", "note", "not set", advice))
    for name, unset in _OPTIONAL.items():
        value = os.environ.get(name)
        status, detail = ("ok", _place(value) if name == _PRICES else shown(value)) if value else unset
        found.append(Finding(_AREA, name, status, detail))
    return [*found, *_enforcement(), *_transport()]


def _enforcement() -> list[Finding]:
    """Say whether users are charged at all."""
    name, value = "COUNTWERK_ENFORCEMENT", os.environ.get("COUNTWERK_ENFORCEMENT") or "on"
    if value not in {"on", "shadow"}:
        return [Finding(_AREA, name, "problem", f"{value!r} is neither on nor shadow, and no Meter starts")]
    if value == "shadow":
        return [Finding(_AREA, name, "note", "shadow: nothing is reserved, charged or refused", "unset it to go live")]
    return [Finding(_AREA, name, "ok", "on")]


def _transport() -> list[Finding]:
    name = "COUNTWERK_TRANSPORT"
    value = os.environ.get(name)
    try:
        chosen = transport_chosen()
    except ConfigurationError as error:
        return [Finding(_AREA, name, "problem", str(error))]
    return [Finding(_AREA, name, "ok", value or f"not set: {chosen}")]


def _place(prices: str) -> str:
    """Return where a profile is: a file's path, or that it stands there itself."""
    return "inline JSON" if prices.lstrip().startswith("{") else prices


def prices(path: str | None) -> list[Finding]:
    """Say whether the price profile can be read, and whether it is what it says it is."""
    if not path:
        return []
    try:
        profile = PriceProfile.load(path)
    except PricingError as error:
        return [Finding("prices", _place(path), "problem", str(error))]
    path = _place(path)
    active = sum(not rule.disabled for rule in profile.rules)
    if profile.stated_hash is not None and profile.stated_hash != profile.ruleset_hash:
        detail = f"states the rulesetHash {profile.stated_hash}, but its rules have {profile.ruleset_hash}"
        return [
            Finding(
                "prices",
                path,
                "problem",
                detail,
                "take it anew from where it is published; one of your own may do without",
            )
        ]
    detail = f"{profile.profile_version_id}, {active} active rules, {profile.ruleset_hash[:12]}"
    return [Finding("prices", path, "ok", detail)]
