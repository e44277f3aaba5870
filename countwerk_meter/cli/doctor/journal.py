"""Whether the journal opens, and what waits in it: for settlement, for a person, or for another API key's word."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from countwerk_meter._drivers.endpoint import Endpoint
from countwerk_meter._flow.overview import Owners
from countwerk_meter._metering.operations import Operations
from countwerk_meter.cli.doctor.finding import Finding
from countwerk_meter.cli.existing_journal import file_of, ledger_named
from countwerk_meter.errors import ConfigurationError, JournalError
from countwerk_meter.journal import open_journal
from countwerk_meter.journal.opening import shown

if TYPE_CHECKING:
    from pathlib import Path

    from countwerk_meter.journal import Journal


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
        return [Finding("journal", shown(url) if url else str(path), "problem", str(error))]
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
    version = "" if store.schema_version is None else f", schema version {store.schema_version}"
    found = [Finding("journal", store.name, "ok", f"opens and can be written{version}")]
    if path is not None and path.stat().st_mode & 0o077:
        found.append(Finding("journal", "file mode", "note", "others may read it", f"chmod 600 {path}"))
    try:
        ledger = ledger_named(base_url)
    except ConfigurationError:
        return found
    dead = [owner for owner in store.run(Owners(ledger)) if not store.is_alive(owner)]
    if dead:
        number = "1 process" if len(dead) == 1 else f"{len(dead)} processes"
        detail = f"{number} ended without settling everything"
        found.append(Finding("journal", "left behind", "note", detail, "countwerk-meter settle"))
    operations = Operations(store, ledger)
    return [*found, *_listed(operations), *_other_keys(operations, base_url)]


def _listed(operations: Operations) -> list[Finding]:
    listed = [item for item in operations.listed() if item.decidable]
    if not listed:
        return []
    number = "1 row" if len(listed) == 1 else f"{len(listed)} rows"
    stake = sum(item.credits for item in listed)
    kinds = ", ".join(sorted({item.kind for item in listed}))
    detail = f"{number} over {stake:,} credits: {kinds}"
    return [Finding("journal", "to decide", "note", detail, "countwerk-meter reconcile")]


def _other_keys(operations: Operations, base_url: str | None) -> list[Finding]:
    """Name the keys whose rows nobody with this key settles; a key is only known by its fingerprint."""
    try:
        ours = Endpoint.of(None, base_url, allow_http=True).fingerprint
    except ConfigurationError:
        return []
    return [
        Finding(
            "journal",
            "another API key",
            "note",
            f"{key} has {number} rows that have not ended",
            f"if this key opens the same accounts: countwerk-meter recover --take-over-key {key}",
        )
        for key, number in sorted(operations.keys().items())
        if key != ours
    ]
