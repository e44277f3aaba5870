"""Whether the configuration, the journal and the price profile are what they have to be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from countwerk_meter._flow.overview import Charges, Owners
from countwerk_meter._flow.states import ChargeState
from countwerk_meter.cli.doctor.finding import Finding
from countwerk_meter.cli.existing_journal import file_of, ledger_named
from countwerk_meter.errors import ConfigurationError, JournalError, PricingError
from countwerk_meter.journal import open_journal
from countwerk_meter.pricing import PriceProfile

if TYPE_CHECKING:
    from pathlib import Path

    from countwerk_meter.journal import Journal

_AREA: Final = "configuration"
_OPTIONAL: Final = {
    "COUNTWERK_JOURNAL": "not set: the file in your state directory",
    "COUNTWERK_PRICES": "not set: recorded usage is charged as what was held",
}
_ALL: Final = 1_000_000_000


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
        advice = "export it, or pass ai_product_id to Meter"
        found.append(Finding(_AREA, "COUNTWERK_AI_PRODUCT_ID", "note", "not set", advice))
    for name, default in _OPTIONAL.items():
        found.append(Finding(_AREA, name, "ok", os.environ.get(name) or default))
    return found


def prices(path: str | None) -> list[Finding]:
    """Say whether the price profile can be read, and whether it is what it says it is."""
    if not path:
        return []
    try:
        profile = PriceProfile.load(path)
    except PricingError as error:
        return [Finding("prices", path, "problem", str(error))]
    active = sum(not rule.disabled for rule in profile.rules)
    if profile.stated_hash is not None and profile.stated_hash != profile.ruleset_hash:
        detail = f"states the rulesetHash {profile.stated_hash}, but its rules have {profile.ruleset_hash}"
        return [Finding("prices", path, "problem", detail, "take the profile anew from where it is published")]
    detail = f"{profile.profile_version_id}, {active} active rules, {profile.ruleset_hash[:12]}"
    return [Finding("prices", path, "ok", detail)]


def journal(url: str | None, base_url: str | None) -> list[Finding]:
    """Say whether the journal opens and can be written, and what waits in it. Makes none where there is none."""
    path = file_of(url)
    if path is None and url == "memory:":
        return [Finding("journal", "memory:", "note", "charges do not survive the process", "name a file")]
    if path is not None and not path.exists():
        return [_to_be_made(path)]
    try:
        store = open_journal(url)
    except (ConfigurationError, JournalError) as error:
        return [Finding("journal", url or str(path), "problem", str(error))]
    try:
        return _opened(store, path, base_url)
    except JournalError as error:
        return [Finding("journal", store.name, "problem", str(error))]
    finally:
        store.close()


def _to_be_made(path: Path) -> Finding:
    parent = next(each for each in path.absolute().parents if each.exists())
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return Finding("journal", str(path), "ok", "not there yet; the first Meter makes it")
    advice = "make it writable for this user, or name another file with COUNTWERK_JOURNAL=sqlite:///path"
    return Finding("journal", str(path), "problem", f"not there, and {parent} cannot be written", advice)


def _opened(store: Journal, path: Path | None, base_url: str | None) -> list[Finding]:
    found = [Finding("journal", store.name, "ok", "opens and can be written")]
    if path is not None and path.stat().st_mode & 0o077:
        found.append(Finding("journal", "file mode", "note", "others may read it", f"chmod 600 {path}"))
    try:
        ledger = ledger_named(base_url)
    except ConfigurationError:
        return found
    dead = [owner for owner in store.run(Owners(ledger)) if not store.is_alive(owner)]
    if dead:
        detail = f"{len(dead)} processes ended without settling everything"
        found.append(Finding("journal", "left behind", "note", detail, "countwerk-meter settle"))
    stuck = store.run(Charges(ledger, frozenset({ChargeState.UNRESOLVED, ChargeState.UNCOLLECTED}), _ALL))
    if stuck:
        owed = sum(row.amount or 0 for row in stuck)
        detail = f"{len(stuck)} charges over {owed:,} credits are unresolved or uncollected"
        advice = "countwerk-meter charges --state unresolved --state uncollected"
        found.append(Finding("journal", "not charged", "note", detail, advice))
    return found
