"""From a URL to a journal: `memory:`, `sqlite:///relative.db`, `sqlite:////absolute.db`, `postgresql://...`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import platformdirs

from countwerk_meter.errors import ConfigurationError
from countwerk_meter.journal.memory import MemoryJournal
from countwerk_meter.journal.port import Journal
from countwerk_meter.journal.sqlite import SqliteJournal


def default_path() -> Path:
    """Return the journal of this user: a file in their state directory, which a reboot keeps."""
    return Path(platformdirs.user_state_dir("countwerk-meter", appauthor=False)) / "journal.db"


def shown(url: str) -> str:
    """Return a journal's URL without what may be secret in it: all but a database's host and name."""
    if "://" not in url or url.startswith("sqlite:"):
        return url
    scheme, rest = url.split("://", 1)
    place = rest.split("?", 1)[0].rsplit("@", 1)[-1]
    return f"{scheme}://{place}"


def open_journal(where: str | Journal | None) -> Journal:
    """
    Open the journal that a URL names; None: the user's own file.

    Raises:
        ConfigurationError: A URL of another kind, or psycopg is not installed.
        JournalError: The file cannot be opened, is damaged, or is not a journal; the database cannot be used.

    """
    if isinstance(where, Journal):
        return where
    if where is None:
        return SqliteJournal(default_path())
    if where == "memory:":
        return MemoryJournal()
    if where.startswith("sqlite:///"):
        path = unquote(where.removeprefix("sqlite:///"))
        if path:
            return SqliteJournal(path)
    if where.startswith(("postgresql://", "postgres://")):
        from countwerk_meter.journal.postgres import PostgresJournal

        return PostgresJournal(where)
    raise ConfigurationError(
        "the journal must be memory:, sqlite:///relative.db, sqlite:////absolute.db or postgresql://host/database"
    )
