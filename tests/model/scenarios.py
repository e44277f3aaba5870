"""What the processes of each scenario do, and how much may go wrong meanwhile."""

from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import NamedTuple

from countwerk_meter._flow.charge import charge_at_once
from countwerk_meter._flow.commands import Emit, Journal, Now
from countwerk_meter._flow.deduct import deduct
from countwerk_meter._flow.ending import Checkpoint, Commit, Measured, Release, Seal
from countwerk_meter._flow.recover import recover
from countwerk_meter._flow.reserve import draw, reserve
from countwerk_meter._flow.rows import DEDUCT, ChargeRow, ReservationRow
from countwerk_meter._flow.settle import settle
from countwerk_meter._flow.terms import Terms
from countwerk_meter.errors import CountwerkError

from .state import ACCOUNT, LEDGER, OPERATION, VALIDITY, Left, wall_time

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
        deep: The same where there is time (`COUNTWERK_TEST_DEEP=1`); all phases are walked then.
        history: What has happened, without a fault, before the exploration begins: (thread, program).
        threads: Who does what.
        costs: What each logical usage really costs, by id.
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


def _charge(terms, name, estimate):
    return ChargeRow(
        id=name, ledger=LEDGER, principal="p", owner=terms.owner, account_id=ACCOUNT, operation=OPERATION,
        created_at=wall_time(0), estimate=estimate,
    )  # fmt: skip


def _hold(terms, amount, key="k1"):
    return ReservationRow(
        key=key, ledger=LEDGER, principal="p", owner=terms.owner, account_id=ACCOUNT, operation=OPERATION,
        amount=amount, validity=VALIDITY, created_at=wall_time(0), settle_with=terms.settle_with,
    )  # fmt: skip


def _told(event, name):
    return Emit(event, {"usage_event_id": name})


def _committed(terms, charge, used, *, seal=True):
    """Commit what a call used, as the end of a block does."""
    now = yield Now()
    measured = Measured(Decimal(used), "set")
    done = yield Journal(
        Commit(LEDGER, charge.id, charge.epoch, measured, now.wall, terms.rounding, seal, owner=terms.owner)
    )
    yield _told("superseded" if done.superseded else "used", charge.id)


def _checkpointed(charge, known):
    yield Journal(Checkpoint(LEDGER, charge.id, charge.epoch, Measured(Decimal(known), "provider")))


def call(terms, used, hold=5, known=0, name="e1", key="k1"):
    """Pass the gate, run one model call, maybe checkpoint it, commit what it used: nothing is a release."""
    try:
        gate = yield from reserve(terms, _charge(terms, name, hold), _hold(terms, hold, key))
    except CountwerkError:
        return None
    yield _told("ran", name)
    return None if used is None else ("ending", _process(terms), gate.charge.epoch, used, known, name)


def ending(terms, epoch, used, known=0, name="e1"):
    """End a call that runs."""
    charge = replace(_charge(terms, name, 0), epoch=epoch)
    if known:
        yield from _checkpointed(charge, known)
    if used:
        yield from _committed(terms, charge, used)
    else:
        now = yield Now()
        yield Journal(Release(LEDGER, charge.id, charge.epoch, "nothing used", now.wall))
        yield _told("released", name)


def flat(terms, price, name="e1"):
    """Charge a flat price at once: what the call costs is known, and it runs once it is paid for."""
    charge = replace(_charge(terms, name, price), amount=price, share=price, via=DEDUCT, basis="price")
    try:
        paid = yield from charge_at_once(terms, charge)
    except CountwerkError:
        return
    if paid.owner == terms.owner:
        yield _told("used", name)


def drawing(terms, used, name="e2", key="k1"):
    """Run a call on another one's open hold."""
    gate = yield from draw(terms, _charge(terms, name, used), key)
    if gate is not None:
        yield _told("ran", name)
        yield from _committed(terms, gate.charge, used, seal=False)


def block(terms, first, second, hold=6):
    """Reserve once, for two calls."""
    try:
        gate = yield from reserve(terms, _charge(terms, "e1", first), _hold(terms, hold), shared=True)
    except CountwerkError:
        return None
    yield _told("ran", "e1")
    return ("within", _process(terms), gate.hold.key, first, second)


def within(terms, key, first, second):
    """Run a second call on the block's hold, and end both, and the block."""
    nested = yield from draw(terms, _charge(terms, "e2", second), key)
    if nested is not None:
        yield _told("ran", "e2")
    yield from _committed(terms, _charge(terms, "e1", first), first, seal=False)
    if nested is not None:
        yield from _committed(terms, nested.charge, second, seal=False)
    now = yield Now()
    yield Journal(Seal(key, now.wall))


def _process(terms):
    return "abc".index(terms.owner)


PROGRAMS = {
    "settle": settle,
    "deduct": deduct,
    "recover": lambda terms, _key: recover(terms),
    "call": call,
    "ending": ending,
    "flat": flat,
    "drawing": drawing,
    "block": block,
    "within": within,
}


def worked(program):
    """Return threads of which the first one runs a program once, beside the settlement of all processes."""
    return (Runs(0, program), *WORKERS)


CALL, SMALL_CALL = ("call", 0, 3), ("call", 0, 7)
REFUSALS = {
    "confirm-reservation": ("INSUFFICIENT_CREDITS", "RATE_LIMIT_EXCEEDED", "INVALID_API_KEY", "INVALID_INPUT"),
    "cancel-reservation": ("RATE_LIMIT_EXCEEDED", "FORBIDDEN", "INVALID_INPUT"),
    "deduct": ("INSUFFICIENT_CREDITS", "RATE_LIMIT_EXCEEDED", "INVALID_INPUT"),
    "reserve": ("INSUFFICIENT_CREDITS", "RATE_LIMIT_EXCEEDED", "INVALID_INPUT"),
}

DOUBT = frozenset({"doubt"})
SETTLED_LATER = {"threads": (Runs(0), *WORKERS), "costs": {"e1": 3}, "history": ((0, CALL),)}

SCENARIOS = (
    Scenario(
        "one call, killed or without power",
        Left(faults=1, crashes=1, power=1),
        worked(CALL),
        {"e1": 3},
        deep=Left(faults=2, crashes=1, power=1),
    ),
    Scenario(
        "one call, taken over while it lives",
        Left(faults=1, steals=1),
        worked(CALL),
        {"e1": 3},
        faults=DOUBT,
        faulty=frozenset({"confirm-reservation"}),
        deep=Left(faults=1, crashes=1, steals=1),
    ),
    Scenario(
        "the gate",
        Left(faults=1, crashes=1),
        worked(CALL),
        {"e1": 3},
        faulty=SETTLING | {"reserve"},
        codes=REFUSALS,
        phases=(0, 2, 3),
        deep=Left(faults=2, crashes=1, power=1),
    ),
    Scenario(
        "settling, whatever is answered",
        Left(faults=2, crashes=1),
        **SETTLED_LATER,
        codes=REFUSALS,
        deep=Left(faults=3, crashes=1, power=1),
    ),
    Scenario(
        "settling in the last seconds",
        Left(faults=1),
        **SETTLED_LATER,
        phases=(0, 1, 2, 3),
        stale=True,
        deep=Left(faults=2, power=1),
    ),
    Scenario(
        "two settle one row",
        Left(faults=1),
        (Runs(0, works=True), *WORKERS),
        {"e1": 3},
        history=((0, CALL),),
        faults=frozenset({"doubt", "twice"}),
        deep=Left(faults=2, crashes=1),
    ),
    Scenario(
        "a late truth",
        Left(faults=1, steals=1),
        worked(("ending", 0, 0, 3, 2)),
        {"e1": 3},
        history=((0, ("call", 0, None)),),
        faults=DOUBT,
        faulty=frozenset({"confirm-reservation"}),
        deep=Left(faults=2, crashes=1, steals=1),
    ),
    Scenario(
        "a late truth after what was reserved",
        Left(crashes=1, steals=1),
        worked(("ending", 0, 0, 7)),
        {"e1": 7},
        history=((0, ("call", 0, None)),),
        processes=(A, MORTAL_B, C),
        terms={"on_crash": "reserved"},
        deep=Left(faults=1, crashes=1, steals=1),
    ),
    Scenario(
        "over the hold",
        Left(faults=1, crashes=1),
        (Runs(0), *WORKERS),
        {"e1": 7},
        history=((0, SMALL_CALL),),
        codes={"deduct": ("INSUFFICIENT_CREDITS",)},
        deep=Left(faults=2, crashes=1, power=1),
    ),
    Scenario(
        "settled with deducts",
        Left(faults=1, crashes=1, power=1),
        worked(CALL),
        {"e1": 3},
        terms={"settle_with": "deduct"},
        codes={"deduct": ("INSUFFICIENT_CREDITS",)},
        deep=Left(faults=2, crashes=1, power=1),
    ),
    Scenario(
        "nothing used",
        Left(crashes=1, steals=1),
        worked(("call", 0, 0)),
        {"e1": 0},
        deep=Left(faults=1, crashes=1, steals=1),
    ),
    Scenario(
        "two draws",
        Left(faults=1, crashes=1),
        worked(("block", 0, 3, 2)),
        {"e1": 3, "e2": 2},
        deep=Left(faults=1, crashes=1, power=1),
    ),
    Scenario(
        "draws in two threads",
        Left(crashes=1),
        (Runs(0, ("ending", 0, 0, 3)), Runs(0, ("drawing", 0, 2)), *WORKERS),
        {"e1": 3, "e2": 2},
        history=((0, ("call", 0, None)),),
        phases=(0, 2, 3),
        deep=Left(faults=1, crashes=1, power=1),
    ),
    Scenario(
        "a flat price",
        Left(faults=2, crashes=1),
        worked(("flat", 0, 3)),
        {"e1": 3},
        faults=ALL | {"cut"},
        codes=REFUSALS,
        deep=Left(faults=2, crashes=1, power=1),
    ),
    Scenario(
        "a flat price, twice",
        Left(faults=1, crashes=1),
        (Runs(0, ("flat", 0, 3)), Runs(1, ("flat", 1, 3)), *WORKERS),
        {"e1": 3},
        faults=frozenset({"doubt", "cut"}),
        deep=Left(faults=2, crashes=1),
    ),
    Scenario(
        "a gate that nobody waits for",
        Left(faults=2, crashes=1),
        worked(CALL),
        {"e1": 3},
        faults=frozenset({"doubt", "cut"}),
        faulty=frozenset({"reserve"}),
        deep=Left(faults=3, crashes=1, power=1),
    ),
    Scenario(
        "run on trust",
        Left(faults=2, crashes=1),
        worked(CALL),
        {"e1": 3},
        faulty=frozenset({"reserve", "deduct"}),
        terms={"on_unavailable": "defer", "debt_limit": 10},
        deep=Left(faults=2, crashes=1, power=1),
    ),
    Scenario(
        "an owner that hangs",
        Left(faults=1, hung=1),
        **SETTLED_LATER,
        faults=DOUBT,
        deep=Left(faults=2, hung=2),
    ),
    Scenario(
        "a journal that cannot write",
        Left(faults=2),
        worked(CALL),
        {"e1": 3},
        faults=frozenset({"unwritten", "doubt"}),
        faulty=frozenset({"confirm-reservation"}),
        deep=Left(faults=3, crashes=1),
    ),
    Scenario(
        "begun anew elsewhere",
        Left(steals=1),
        (Runs(0, ("ending", 0, 0, 3)), Runs(1, ("call", 1, 3, 5, 0, "e1", "k2")), *WORKERS),
        {"e1": 3},
        history=((0, ("call", 0, None)),),
    ),
    Scenario(
        "time unknown",
        Left(faults=2),
        **SETTLED_LATER,
        faulty=SETTLING | {"balance"},
        heard=False,
        stale=True,
        deep=Left(faults=3),
    ),
    Scenario(
        "a hold that vanishes",
        Left(faults=2, vanish=1),
        **SETTLED_LATER,
        faults=frozenset({"not sent"}),
        deep=Left(faults=3, vanish=1),
    ),
)
