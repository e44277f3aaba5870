"""
The durable store of reservations and charges.

`memory:` for tests and for processes that may forget, `sqlite:///path` for everything on one host.
"""

from __future__ import annotations

from countwerk_meter.journal.memory import MemoryJournal
from countwerk_meter.journal.opening import default_path, open_journal
from countwerk_meter.journal.port import Journal
from countwerk_meter.journal.sqlite import SqliteJournal

__all__ = ["Journal", "MemoryJournal", "SqliteJournal", "default_path", "open_journal"]
