"""What the SQLite tests share: a path, and journals that are closed whatever happens."""

import pytest

from countwerk_meter.journal import SqliteJournal


@pytest.fixture
def path(tmp_path):
    """Where the journal is."""
    return tmp_path / "journal.db"


@pytest.fixture
def opened(path):
    """Open the journal at `path`; closed at the end."""
    journals = []

    def make(at=path, **options):
        journals.append(SqliteJournal(at, **options))
        return journals[-1]

    yield make
    for journal in journals:
        journal.close()
