"""A scenario: one small world, who does what in it, and how much may go wrong in one run."""

from dataclasses import dataclass, field
from typing import NamedTuple

from countwerk_meter._flow.terms import Terms

from .programs import PROGRAMS
from .state import LEDGER, Left

ALL = frozenset({"doubt", "not sent", "twice", "untimed"})
SETTLING = frozenset({"confirm-reservation", "cancel-reservation", "deduct"})


class Known(NamedTuple):
    """A process of the scenario: `born` from the start, `mortal` if it may be killed or given up."""

    owner: str
    born: bool = True
    mortal: bool = True


class Runs(NamedTuple):
    """A thread: of which process, what it does once, and whether it settles and recovers for ever."""

    process: int
    program: tuple | None = None
    works: bool = False


A, B, C = Known("a"), Known("b", mortal=False), Known("c", born=False, mortal=False)
MORTAL_B = Known("b")
WORKERS = (Runs(0, works=True), Runs(1, works=True), Runs(2, works=True))


@dataclass(frozen=True)
class Scenario:
    """
    One small world.

    Attributes:
        name: What it is called.
        left: How much may go wrong in one run.
        deep: The same where there is time (`COUNTWERK_TEST_DEEP=1`), with an expiry in any case.
        history: What has happened, without a fault, before the exploration begins: (thread, program).
        threads: Who does what.
        costs: What each logical usage really costs, by id.
        guess: What may be charged instead where a policy guesses, by id.
        faults: Which faults there are; `faulty`: of which requests; `codes`: refusals, by request.
        phases: What the ledger's time may be before the faults end.
        stale: Whether what was known of it may go stale as it passes.
        heard: Whether the processes know the ledger's time at first.
        terms: What the app chose.

    """

    name: str
    left: Left
    threads: tuple[Runs, ...]
    costs: dict[str, int]
    guess: dict[str, int] = field(default_factory=dict)
    history: tuple[tuple[int, tuple], ...] = ()
    processes: tuple[Known, ...] = (A, B, C)
    faults: frozenset[str] = ALL
    faulty: frozenset[str] = SETTLING
    codes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    phases: tuple[int, ...] = (0, 2)
    stale: bool = False
    heard: bool = True
    terms: dict[str, str] = field(default_factory=dict)
    deep: Left | None = None

    def flow(self, program):
        """Return a program as a flow: an app's, or one pass of settlement."""
        name, process, *args = program
        terms = Terms(
            ledger=LEDGER, principal="p", owner=self.processes[process].owner, ai_product_id="prod", **self.terms
        )
        return PROGRAMS[name](terms, *args)


def worked(program):
    """Return threads of which the first one runs a program once, beside the settlement of all processes."""
    return (Runs(0, program), *WORKERS)
