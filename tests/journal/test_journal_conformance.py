"""Every store keeps the port's promises."""

import pytest

from countwerk_meter.journal import Journal, MemoryJournal, SqliteJournal, open_journal
from countwerk_meter.journal.postgres import PostgresJournal
from countwerk_meter.testing.conformance import JournalConformance


class TestMemoryJournal(JournalConformance):
    """The journal that forgets."""

    @pytest.fixture
    def journal(self):
        journal = MemoryJournal()
        yield journal
        journal.close()


class TestSqliteJournal(JournalConformance):
    """The journal on one host."""

    @pytest.fixture
    def journal(self, tmp_path):
        journal = SqliteJournal(tmp_path / "journal.db")
        yield journal
        journal.close()


class TestPostgresJournal(JournalConformance):
    """The journal of apps on many machines."""

    @pytest.fixture
    def journal(self, postgres_url):
        journal = PostgresJournal(postgres_url)
        yield journal
        journal.close()


def test_open_journal_reads_a_url(tmp_path, monkeypatch):
    """`memory:`, a relative and an absolute path, a journal as it is, or the user's own file."""
    from countwerk_meter.errors import ConfigurationError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    made = open_journal("memory:")
    assert (MemoryJournal, "memory:") == (type(made), made.name)
    assert made is open_journal(made)
    for url, path in (
        ("sqlite:///a%20b.db", "a b.db"),
        (f"sqlite:///{tmp_path}/c.db", f"{tmp_path}/c.db"),
        (None, str(tmp_path / "state" / "countwerk-meter" / "journal.db")),
    ):
        journal = open_journal(url)
        assert path == journal.name
        assert isinstance(journal, Journal)
        journal.close()
        assert (tmp_path / path).exists()
    for url in ("mysql:///x", "sqlite:///", "journal.db"):
        with pytest.raises(ConfigurationError):
            open_journal(url)
