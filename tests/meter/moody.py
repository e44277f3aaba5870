"""A journal in memory that can be told what to fail at."""

from countwerk_meter import JournalError
from countwerk_meter.journal import MemoryJournal
from countwerk_meter.journal.outcome import Outcome


class Moody(MemoryJournal):
    """`fails`: how often each step fails from here on, by its name. `full`: so long everything durable fails."""

    def __init__(self):
        super().__init__()
        self.fails = {}
        self.full = False

    def submit(self, operation):
        name = type(operation).__name__
        if self.fails.get(name, 0):
            self.fails[name] -= 1
            return self._failed("it cannot be read")
        if self.full and operation.durable:
            return self._failed("the journal cannot be written: disk full")
        return super().submit(operation)

    def _failed(self, why):
        failed = Outcome()
        failed.set_exception(JournalError(why))
        return failed
