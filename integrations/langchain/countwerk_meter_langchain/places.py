"""
Where a task of a graph stands that runs in another graph's task, so that it is known again when that one is retried.

LangGraph makes such a graph anew with each attempt of the node around it, and its tasks get other ids. What stays is
the place: which of the node's graphs it is, in the order in which they start, and the graph's own step and path.

What a task calls (`@task`) gets another id with each attempt as well, because LangGraph numbers the calls of all
attempts through. What stays is what is called and what it is given, and which of the calls alike it is.

A place that is not certain is none: graphs of one name that ran at once may start in another order, and what a graph
sends to a node may be something else. The call is then charged as one of its own.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from countwerk_meter_langchain.chains import WITHIN

if TYPE_CHECKING:
    from uuid import UUID

    from countwerk_meter_langchain.chains import Chain
    from countwerk_meter_langchain.runs import Runs
    from countwerk_meter_langchain.steps import Task

_REMEMBERED: Final = 10_000
# Before a task's id in its namespace.
_TASK: Final = ":"

Place = tuple[object, ...]


class _Found(NamedTuple):
    """A place, the chains that lead there, and the run of the outermost task that all of it is in."""

    place: Place
    chains: tuple[Chain, ...]
    outermost: Chain


@dataclass(frozen=True, slots=True)
class _Met:
    """The task that a place belonged to first, and the chains that led there."""

    parts: tuple[str, ...]
    chains: tuple[Chain, ...]


class Places:
    """Knows the tasks of nested graphs again. Safe to use from any thread."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._lock = threading.Lock()
        self._met: OrderedDict[Place, _Met] = OrderedDict()

    def first(self, task: Task, path: tuple[UUID, ...]) -> tuple[str, ...]:
        """Return what names the task that stood first where this one stands; itself, where that is not certain."""
        with self._lock:
            found = self._place(task, path)
            if found is None or found.place == _outermost(task):
                return task.named
            met = self._met.setdefault(found.place, _Met(task.named, found.chains))
            self._met.move_to_end(found.place)
            if len(self._met) > _REMEMBERED:
                self._met.popitem(last=False)
        return task.named if any(chain.beside for chain in met.chains) else met.parts

    def _place(self, task: Task, path: tuple[UUID, ...]) -> _Found | None:
        """Return the place of a task; None: it is not certain."""
        inner = self._runs.attempt(path, task.space)
        # A number counts the graphs that a task has ever run, in all its attempts.
        if inner is None or not all(_TASK in space or space.isdigit() for space in task.space.split(WITHIN)):
            return None
        around, above = self._runs.around(inner), path[path.index(inner) + 1 :]
        if around is None:
            (chain,) = self._runs.between(path, inner, inner)
            return None if WITHIN in task.space or chain is None else _Found(_outermost(task), (), chain.first or chain)
        outer, found = self._runs.attempt(above, around.space), self._place(around, above)
        if outer is None or found is None:
            return None
        chain, *between, caller = self._runs.between(path, outer, inner)
        if chain is None or caller is None or any(each is None or each.beside for each in between):
            return None
        way = tuple(json.dumps([*each.label, each.order]) for each in reversed(between) if each is not None)
        stands = _called(chain, caller, way) if chain.stands.given is not None else chain.stands.at
        own: Place = ()
        if not task.space.startswith(around.space + WITHIN):
            # A thread of its own, which says nothing of where the one around it stands: known within one run.
            own = found.outermost, task.thread
        if stands is None or (own and (task.kept or WITHIN in task.space)):
            return None
        led = (*found.chains, *(each for each in between if each is not None))
        return _Found((*found.place, *way, *own, stands), led, found.outermost)


def _outermost(task: Task) -> Place:
    return task.thread, task.space


def _called(chain: Chain, caller: Chain, way: tuple[str, ...]) -> str | None:
    """Return where a call stands among those of all attempts of its caller; None: it is not certain."""
    first, stands = caller.first or caller, chain.stands
    alike = (*way, *chain.label, str(chain.order))
    if caller is first:
        # Numbered from 0 on, as whenever the caller's task is made anew: its number is certain.
        first.calls.setdefault(alike, (stands.number, chain))
        return stands.called(stands.number)
    if chain.beside:
        return None
    if alike not in first.calls:
        # The first attempts did not come to it: it is counted on from those before it that they did come to.
        number = None if caller.ahead is None else stands.number - caller.ahead
        taken = any(number == other and stands.given == met.stands.given for other, met in first.calls.values())
        first.calls[alike] = (None if taken else number, chain)
    number, met = first.calls[alike]
    if met.beside:
        return None
    if number is None:
        return f"{met.space} in another attempt"
    if caller.ahead is None:
        caller.ahead = stands.number - number
    return stands.called(number)
