"""
Faults end, and a fair run leads to rest: every thread goes on, what died is taken over, what is due is settled.

The run from a state is one fixed run, so runs meet, and each state on the way is checked once.
"""

from . import invariants
from .state import LAST, PHASES, Left


class Healing:
    """Remembers which states are known to come to a good rest."""

    def __init__(self, model):
        self._model = model
        self._good = set()
        self.way = []

    @property
    def states(self):
        """How many states on the way to rest were seen."""
        return len(self._good)

    def check(self, state):
        """Follow the fair run from here; raises `Violation`, with the steps so far in `way`."""
        scenario = self._model.scenario
        state = state._replace(left=Left(), wire=(), since=())
        self.way = []
        seen = set()
        while state not in self._good:
            if state in seen:
                raise invariants.Violation("I8", "the same steps follow each other for ever")
            seen.add(state)
            invariants.always(state, scenario.costs)
            action, after = self._next(state)
            if after is None:
                invariants.at_rest(state, scenario.costs)
                break
            self.way.append(action)
            state = after
        self._good |= seen
        self.way = []

    def _next(self, state):
        model, scenario = self._model, self._model.scenario
        for number, thread in enumerate(state.threads):
            if thread.place is not None:
                return (number, "goes on:", thread.place.command, thread.net), model.fair(state, number)
        for number, known in enumerate(scenario.threads):
            if known.works and state.processes[known.process].alive:
                for program in model.passes(state, known.process):
                    return (number, "begins", program), model.started(state, number, program)
        if not any(process.alive for process in state.processes):
            return ("the machine", "starts again"), model.restarted(state)
        invariants.leak(state)
        if state.phase < LAST:
            return ("time", "passes:", PHASES[state.phase + 1]), model.later(state, state.phase + 1)
        return None, None
