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

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from langchain_core.messages import BaseMessage
from pydantic import BaseModel

if TYPE_CHECKING:
    from uuid import UUID

    from countwerk_meter_langchain.runs import Chain, Runs
    from countwerk_meter_langchain.steps import Task

BRANCH: Final = "map:key:"
STRUCTURAL: Final = ("seq:step:", BRANCH)
_REMEMBERED: Final = 10_000
# Between the namespaces of nested graphs, and before a task's id.
_WITHIN: Final = "|"
_TASK: Final = ":"
# What the path of a task begins with that was sent to its node.
_SENT: Final = "__pregel_push"
# What a provider, or LangGraph, gives a message anew with each attempt.
_PASSING: Final = {"id", "response_metadata", "usage_metadata"}

Label = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stands:
    """
    Where in its graph a task is.

    Attributes:
        at: The graph's step, the task's node and path, and what was sent to it; None: it is not certain.
        given: What was given to a task that another one called; None: nobody called it, or it is not certain.
        number: Of a call: how many its caller made before it, in all attempts.

    """

    at: str | None = None
    given: str | None = None
    number: int = 0

    def called(self, number: int) -> str:
        """Return where a call of this number is."""
        return f"{self.at} call {number} {self.given}"


NOWHERE: Final = Stands()


@dataclass(slots=True)
class Siblings:
    """The chains below one parent: in which order those of one label began, and which of them ran at once."""

    began: dict[Label, int] = field(default_factory=dict[Label, int])
    running: dict[Label, list[Chain]] = field(default_factory=dict[Label, "list[Chain]"])
    tasks: dict[str, Chain] = field(default_factory=dict[str, "Chain"])

    def begin(self, chain: Chain) -> None:
        """Count a chain; the attempts of one call count once."""
        if chain.space is not None:
            chain.first = self.tasks.setdefault(chain.space, chain)
        if chain.stands.given is not None and chain.first is not None and chain.first is not chain:
            chain.order = chain.first.order
        else:
            chain.order = self.began.get(chain.label, 0)
            self.began[chain.label] = chain.order + 1
        beside = self.running.setdefault(chain.label, [])
        beside.append(chain)
        if len(beside) > 1:
            for each in beside:
                each.beside = True

    def end(self, chain: Chain) -> None:
        """Note that a chain is over."""
        beside = self.running.get(chain.label, [])
        if chain in beside:
            beside.remove(chain)


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
        self._met: OrderedDict[tuple[str, ...], _Met] = OrderedDict()

    def first(self, task: Task, path: tuple[UUID, ...]) -> tuple[str, ...]:
        """Return what names the task that stood first where this one stands; itself, where that is not certain."""
        with self._lock:
            found = self._place(task, path)
            if found is None:
                return task.named
            place, chains = found
            met = self._met.setdefault(place, _Met(task.named, chains))
            self._met.move_to_end(place)
            if len(self._met) > _REMEMBERED:
                self._met.popitem(last=False)
        return task.named if any(chain.beside for chain in met.chains) else met.parts

    def _place(self, task: Task, path: tuple[UUID, ...]) -> tuple[tuple[str, ...], tuple[Chain, ...]] | None:
        """Return the place of a nested graph's task, and the chains that lead there; None: it is not certain."""
        spaces = task.space.split(_WITHIN)
        # A number counts the graphs that the task has ever run, in all its attempts.
        tasks = [at for at, space in enumerate(spaces) if not space.isdigit()]
        if len(tasks) == 1 or not all(_TASK in spaces[at] for at in tasks):
            return None
        outer = self._runs.attempt(path, spaces[0])
        place = [task.thread, spaces[0]]
        led: list[Chain] = []
        for at in tasks[1:]:
            inner = self._runs.attempt(path, _WITHIN.join(spaces[: at + 1]))
            if outer is None or inner is None:
                return None
            chain, *between, caller = self._runs.between(path, outer, inner)
            if chain is None or caller is None or any(each is None or each.beside for each in between):
                return None
            led += [each for each in between if each is not None]
            way = tuple(json.dumps([*each.label, each.order]) for each in reversed(between) if each is not None)
            stands = _called(chain, caller, way) if chain.stands.given is not None else chain.stands.at
            if stands is None:
                return None
            place += [*way, stands]
            outer = inner
        return tuple(place), tuple(led)


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


def label_of(name: object, tool: str | None, tags: object, given: str | None = None) -> Label:
    """
    Return what tells a chain from others below the same parent.

    That is its name, its key in a step, its tool call's id, and what a call was given.
    """
    listed = cast("Sequence[object]", tags) if isinstance(tags, Sequence) else ()
    keys = [tag for tag in listed if isinstance(tag, str) and tag.startswith(STRUCTURAL)]
    return (str(name or ""), tool or "", *keys, *(() if given is None else (given,)))


def stands_at(metadata: Mapping[str, object], space: str, given: object) -> Stands:
    """
    Return where in a nested graph a task is.

    LangGraph sets the metadata with the namespace: what a client said before them is gone.
    """
    if _WITHIN not in space:
        return NOWHERE
    path = metadata.get("langgraph_path")
    node = f"{metadata.get('langgraph_step')} {metadata.get('langgraph_node')}"
    if not isinstance(path, tuple) or path[:1] != (_SENT,):
        return Stands(f"{node} {path}")
    try:
        sent = json.dumps(_told(given), sort_keys=True, default=_plain)
    except Exception:  # noqa: BLE001 - an object of the app's: whatever it raises, the node must run
        return NOWHERE
    digest = hashlib.sha256(sent.encode()).hexdigest()
    if path[-1] is not True:
        return Stands(f"{node} {path} {digest}")
    # The path begins with the caller's, which stands in the place already.
    return Stands(node, digest, cast("int", path[2]))


def _told(given: object) -> object:
    """Return what is a task's own of what was sent to it: an agent's tool is sent the whole state with its call."""
    if not isinstance(given, Mapping):
        return given
    sent = cast("Mapping[str, object]", given)
    return sent["tool_call"] if sent.get("__type") == "tool_call_with_context" else sent


def _plain(value: object) -> Any:
    if isinstance(value, BaseMessage):
        return value.model_dump(exclude=_PASSING)
    if isinstance(value, BaseModel):
        return value.model_dump()
    raise TypeError(f"a {type(value).__name__} says nothing certain of itself")
