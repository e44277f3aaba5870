"""From a URL to a journal: `memory:`, `sqlite:///relative.db`, `sqlite:////absolute.db`."""

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


def open_journal(where: str | Journal | None) -> Journal:
    """
    Open the journal that a URL names; None: the user's own file.

    Raises:
        ConfigurationError: A URL of another kind.
        JournalError: The file cannot be opened, is damaged, or is not a journal.

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
    raise ConfigurationError("the journal must be memory:, sqlite:///relative.db or sqlite:////absolute.db")
