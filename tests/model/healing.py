"""
Faults end, and a fair run leads to rest: every thread goes on, what died is taken over, what is due is settled.

Two fair runs are followed from every state: in one, whoever comes first in line goes on for as long as it can; in the
other, each thread takes one step in its turn, so that workers who undo each other's work would do so for ever. Each is
fixed, so runs meet, and each state on the way is checked once.
"""

from .books import Violation
from .invariants import leak
from .state import LAST, PHASES, Left


class Healing:
    """One kind of fair run; remembers which states are known to come to a good rest."""

    def __init__(self, model, audit, *, in_turn):
        self._model = model
        self._audit = audit
        self._in_turn = in_turn
        self._good = set()
        self.way = []

    @property
    def states(self):
        """How many states on the way to rest were seen."""
        return len(self._good)

    def check(self, state):
        """Follow the fair run from here; raises `Violation`, with the steps so far in `way`."""
        at = state._replace(left=Left(), wire=(), since=()), 0
        self.way = []
        seen = set()
        while at not in self._good:
            if at in seen:
                raise Violation("I8", "the same steps follow each other for ever")
            seen.add(at)
            state, turn = at
            self._audit.always(state)
            action, after, turn = self._next(state, turn)
            if after is None:
                self._audit.at_rest(state)
                break
            self.way.append(action)
            at = after, turn if self._in_turn else 0
        self._good |= seen
        self.way = []

    def _next(self, state, turn):
        """Return what happens next, the state after it, and whose turn it is then."""
        model = self._model
        count = len(state.threads)
        # A pass begins only where no other thread of the line can go on, or in the thread's turn.
        for begins in (True,) if self._in_turn else (False, True):
            for number in (*range(turn, count), *range(turn)):
                thread, known = state.threads[number], model.scenario.threads[number]
                if thread.place is not None:
                    action = (number, "goes on:", thread.place.command, thread.net)
                    return action, model.fair(state, number), (number + 1) % count
                if begins and known.works and state.processes[known.process].alive:
                    for program in model.passes(state, known.process):
                        after = model.started(state, number, program)
                        return (number, "begins", program), after, (number + 1) % count
        if not any(process.alive for process in state.processes):
            return ("the machine", "starts again"), model.restarted(state), 0
        leak(state)
        if state.phase < LAST:
            later = state.phase + 1
            return ("time", "passes:", PHASES[later]), model.later(state, later), 0
        return None, None, 0
