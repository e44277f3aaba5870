"""
Where a task of a graph stands that runs in another graph's task, so that it is known again when that one is retried.

LangGraph makes such a graph anew with each attempt of the node around it, and its tasks get other ids. What stays is
the place: which of the node's graphs it is, in the order in which they start, and the graph's own step and path. A
place that is not certain is none: graphs of one name that ran at once may start in another order, and what a graph
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


@dataclass(slots=True)
class Siblings:
    """The chains below one parent: in which order those of one label began, and which of them ran at once."""

    began: dict[Label, int] = field(default_factory=dict[Label, int])
    running: dict[Label, list[Chain]] = field(default_factory=dict[Label, "list[Chain]"])

    def begin(self, chain: Chain) -> None:
        """Count a chain."""
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
        found = self._place(task, path)
        if found is None:
            return task.named
        place, chains = found
        with self._lock:
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
            stands, *between = self._runs.between(path, outer, inner)
            if stands is None or stands.at is None:
                return None
            for chain in reversed(between):
                if chain is None or chain.beside:
                    return None
                place.append(json.dumps([*chain.label, chain.order]))
                led.append(chain)
            place.append(stands.at)
            outer = inner
        return tuple(place), tuple(led)


def label_of(name: object, tool: str | None, tags: object) -> Label:
    """Return what tells a chain from others below the same parent: its name, its key in a step, its tool call's id."""
    listed = cast("Sequence[object]", tags) if isinstance(tags, Sequence) else ()
    keys = [tag for tag in listed if isinstance(tag, str) and tag.startswith(STRUCTURAL)]
    return (str(name or ""), tool or "", *keys)


def stands_at(metadata: Mapping[str, object], space: str, given: object) -> str | None:
    """
    Return where in a nested graph a task is: the graph's step, the task's node and path, and what was sent to it.

    LangGraph sets these with the namespace: what a client said before them is gone. None: it is not certain.
    """
    if _WITHIN not in space:
        return None
    path = metadata.get("langgraph_path")
    at = f"{metadata.get('langgraph_step')} {metadata.get('langgraph_node')} {path}"
    if not isinstance(path, tuple) or path[:1] != (_SENT,):
        return at
    try:
        sent = json.dumps(_told(given), sort_keys=True, default=_plain)
    except Exception:  # noqa: BLE001 - an object of the app's: whatever it raises, the node must run
        return None
    return f"{at} {hashlib.sha256(sent.encode()).hexdigest()}"


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
