"""
The journals that trials can be run on, each with its own way to be opened, and to be read by the auditor.

A store on a server reads its rows where this one copies files: at death, before anybody else has come.
"""

import shutil

from . import auditor


class SqliteStore:
    """A file of its own for each trial."""

    def url(self, trial):
        """Say where the trial's processes find their journal."""
        return f"sqlite:///{trial.journal}"

    def rows(self, trial):
        """Read what stands in it."""
        return auditor.read_journal(trial.journal)

    def rows_at_death(self, trial):
        """Read it as its process left it, from a copy: looking must change nothing that recovery meets."""
        folder = trial.folder / "dead"
        folder.mkdir()
        for end in ("", "-wal"):
            source = trial.journal.with_name(trial.journal.name + end)
            if source.exists():
                shutil.copy(source, folder)
        return auditor.read_journal(folder / trial.journal.name)

    def forget_owners(self, trial):
        """Make its living owners seem dead: their locks are gone, by a tidy-up of someone's."""
        shutil.rmtree(trial.journal.with_name(trial.journal.name + ".owners"))
