"""
Opening a journal that is there already, and a meter on it.

The rule: a command that only looks must not leave an empty journal behind, so a file that is not there is an answer.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from countwerk_meter import Meter
from countwerk_meter._drivers.endpoint import Endpoint
from countwerk_meter._drivers.shadow import shadow_of
from countwerk_meter.cli.answers import NO, refuse
from countwerk_meter.errors import ConfigurationError
from countwerk_meter.journal import default_path, open_journal

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from countwerk_meter.cli.options import OnCrash, Rounding
    from countwerk_meter.journal import Journal

_SQLITE = "sqlite:///"


def file_of(url: str | None) -> Path | None:
    """Return the file that a journal's URL names; None: the journal is no file."""
    if url is None:
        return default_path()
    return Path(unquote(url.removeprefix(_SQLITE))) if url.startswith(_SQLITE) else None


@contextlib.contextmanager
def opened(command: str, url: str | None, *, as_json: bool) -> Generator[Journal]:
    """Open a journal for a block, or end the command with exit code 1 if there is none."""
    if url == "memory:":
        raise ConfigurationError("a memory: journal cannot be seen from another process; name a file")
    path = file_of(url)
    if path is not None and not path.is_file():
        refuse(command, f"no journal at {path}", NO, as_json=as_json)
    store = open_journal(url)
    try:
        yield store
    finally:
        store.close()


def ledger_named(base_url: str | None, enforcement: str = "on") -> str:
    """Return a base URL as the journal writes it. Needs no key: nothing is sent."""
    ledger = Endpoint.of("not used", base_url, allow_http=True).base_url
    return shadow_of(ledger) if enforcement == "shadow" else ledger


def meter_on(
    store: Journal,
    product: str,
    base_url: str | None,
    on_crash: OnCrash,
    rounding: Rounding,
    on_event: Callable[[str, Mapping[str, Any]], None] | None = None,
) -> Meter:
    """Return a meter on an open journal; it takes over at once what dead processes left, by these policies."""
    return Meter(
        product,
        base_url=base_url,
        journal=store,
        on_event=on_event,
        on_crash=on_crash.value,
        rounding=rounding.value,
    )
