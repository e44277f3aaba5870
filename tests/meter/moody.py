"""A journal in memory that can be told what to fail at."""

from countwerk_meter import JournalError
from countwerk_meter.journal import MemoryJournal
from countwerk_meter.journal.outcome import Outcome


class Moody(MemoryJournal):
    """`fails`: how often each step fails from here on, by its name."""

    def __init__(self):
        super().__init__()
        self.fails = {}

    def submit(self, operation):
        name = type(operation).__name__
        if self.fails.get(name, 0):
            self.fails[name] -= 1
            failed = Outcome()
            failed.set_exception(JournalError("it cannot be read"))
            return failed
        return super().submit(operation)
