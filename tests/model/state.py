"""One state of the model's world, and the clocks that its phases stand for."""

from typing import NamedTuple

from countwerk_meter._flow.commands import Moment

from .books import Snapshot
from .ledger import Ledger, Message, Said
from .places import Place

LEDGER, ACCOUNT, OPERATION = "https://ledger.test", "acct", "app.chat"
VALIDITY = 15
# This machine's clock is behind the ledger's, so that a rule that mixes them up is found out.
_AHEAD = 100.0
_BEGIN = 1_700_000_000.0
# The hold is alive; in its last seconds (the guard); just over; well over; and everything that waited has had its time.
PHASES = ("alive", "last seconds", "expired", "well over", "long after")
_LEDGER_TIMES = tuple(_BEGIN + after for after in (0.0, 897.0, 902.0, 1000.0, 4000.0))
LAST = len(PHASES) - 1


def ledger_time(phase):
    """Return the ledger's POSIX seconds in a phase."""
    return _LEDGER_TIMES[phase]


def wall_time(phase):
    """Return this machine's POSIX seconds in a phase."""
    return _LEDGER_TIMES[phase] - _AHEAD


def moment(phase, *, heard):
    """Return what the clocks read in a phase, for a process that knows the ledger's time or does not."""
    return Moment(wall_time(phase) - _BEGIN + 5000.0, wall_time(phase), ledger_time(phase) if heard else None)


class Process(NamedTuple):
    """A process: `given_up` is one that lives and that the others take for dead."""

    alive: bool = True
    given_up: bool = False
    heard: bool = False


UNSYNCED = "unsynced"


class Thread(NamedTuple):
    """
    What one thread is at.

    `net` is "out" while its request is on the wire, then the answer on its way back; or "unsynced" while its commit is
    on its way to the disk, where everybody sees it already, and `place` is where it goes on then.
    """

    place: Place | None = None
    net: str | Said | None = None


class Left(NamedTuple):
    """What may still go wrong."""

    faults: int = 0
    crashes: int = 0
    steals: int = 0
    power: int = 0
    hung: int = 0
    vanish: int = 0


class State(NamedTuple):
    """
    The world between two steps.

    `since` are the journal's commits from the last synced one to now: power loss goes back to any of them. `wire` are
    requests whose sender does not wait any more. `told` are the events that the invariants ask for.
    """

    phase: int
    journal: Snapshot
    since: tuple[Snapshot, ...]
    ledger: Ledger
    wire: tuple[Message, ...]
    processes: tuple[Process, ...]
    threads: tuple[Thread, ...]
    left: Left
    told: frozenset[tuple[str, str]]
