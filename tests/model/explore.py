"""Walking every state of a scenario, breadth first, so that a trace to a violation is a shortest one."""

import gc
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, replace

from . import trace
from .books import Violation
from .healing import Healing
from .invariants import Audit
from .steps import Model


@dataclass
class Report:
    """
    What a walk found: how many states and steps there are, and the first violation, with how it came about.

    `met` are the states of rows, the reasons in them and the names of operations that it came by.
    """

    scenario: str
    states: int = 0
    steps: int = 0
    healed: int = 0
    violation: Violation | None = None
    trace: str = ""
    met: frozenset = frozenset()

    def __str__(self):
        found = "0 violations" if self.violation is None else f"violated: {self.violation}"
        return f"{self.scenario}: {self.states} states, {self.steps} steps, {self.healed} on the way to rest, {found}"


@contextmanager
def _uncollected():
    """Keep the collector from walking all states again and again: nothing here is cyclic."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@_uncollected()
def explore(scenario, *, strict=True, deep=False, limit=None):
    """
    Walk a scenario until nothing is new, or to the first violation.

    `deep`: with the larger bounds; `limit`: or until so many states were seen; `strict`: as the journal refuses steps.
    """
    if deep:
        phases = scenario.phases if len(scenario.phases) > 1 else (0, 2)
        scenario = replace(scenario, left=scenario.deep or scenario.left, phases=phases)
    model = Model(scenario, strict=strict)
    audit = Audit(scenario)
    healings = [Healing(model, audit, in_turn=False), Healing(model, audit, in_turn=True)]
    report = Report(scenario.name)
    first = model.begin()
    came = {first: None}
    waiting = deque([first])
    state, after, last = first, None, None
    try:
        while waiting:
            state, last = waiting.popleft(), None
            audit.always(state)
            for healing in healings:
                healing.check(state)
            for action, after in model.steps(state):
                report.steps += 1
                if isinstance(after, Violation):
                    last = action
                    raise after
                if after not in came:
                    came[after] = (state, action)
                    waiting.append(after)
            if limit is not None and len(came) >= limit:
                break
    except Violation as violation:
        report.violation = violation
        report.trace = _trace(model, came, state, last, [step for healing in healings for step in healing.way])
    report.states = len(came)
    report.met = model.journals.met
    report.healed = sum(healing.states for healing in healings)
    return report


def _trace(model, came, state, last, way):
    actions = [] if last is None else [last]
    while came[state] is not None:
        state, action = came[state]
        actions.insert(0, action)
    if way:
        actions += [("from here on", "there are no more faults"), *way]
    return trace.lines(model.scenario, actions)
