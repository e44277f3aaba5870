"""
What runs below what in a graph, and what tells a chain from the others below its parent when it runs again.

The rule: only what is the same in every attempt of a node tells anything, and what says nothing certain of itself is
told apart from everything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from langchain_core.messages import BaseMessage
from pydantic import BaseModel

if TYPE_CHECKING:
    from uuid import UUID

    from countwerk_meter_langchain.steps import Task

BRANCH: Final = "map:key:"
STRUCTURAL: Final = ("seq:step:", BRANCH)
# Between the namespaces of nested graphs.
WITHIN: Final = "|"
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


@dataclass(slots=True, eq=False)
class Chain:
    """
    A chain, tool or retriever that runs.

    Attributes:
        parent: What it runs below.
        space: The checkpoint namespace of the graph's task that it is, or runs in.
        node: It is known to be that task's own run.
        tool: The id of the tool call that it carries out.
        metadata: The run's, where it may say whose credits are taken.
        within: The task of a graph in which it began, on LangGraph's own word.
        stands: Where in a nested graph the task is.
        label: What tells it from others below its parent.
        order: How many of that label began before it below its parent.
        beside: Another one of that label ran at the same time: their order may be another one next time.
        first: The first run of the same task below its parent: this one, unless LangGraph tries the task again.
        calls: The numbers of the calls of a task's attempts, by what tells them apart: kept with its first run.
        ahead: By how much the numbers of this attempt's calls are ahead of those of the first, if that is known.

    """

    parent: UUID | None = None
    space: str | None = None
    node: bool = False
    tool: str | None = None
    metadata: Mapping[str, Any] | None = None
    within: Task | None = None
    stands: Stands = NOWHERE
    label: Label = ()
    order: int = 0
    beside: bool = False
    first: Chain | None = None
    calls: dict[Label, tuple[int | None, Chain]] = field(default_factory=dict["Label", "tuple[int | None, Chain]"])
    ahead: int | None = None


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


def label_of(name: object, tool: str | None, tags: object, given: str | None = None) -> Label:
    """
    Return what tells a chain from others below the same parent.

    That is its name, its key in a step, its tool call's id, and what a call was given.
    """
    listed = cast("Sequence[object]", tags) if isinstance(tags, Sequence) else ()
    keys = [tag for tag in listed if isinstance(tag, str) and tag.startswith(STRUCTURAL)]
    return (str(name or ""), tool or "", *keys, *(() if given is None else (given,)))


def stands_at(metadata: Mapping[str, object], space: str, around: Task | None, given: object) -> Stands:
    """
    Return where in a nested graph a task is.

    LangGraph sets the metadata with the namespace: what a client said before them is gone.
    """
    if around is None and WITHIN not in space:
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
