"""
Which logical step of a LangGraph graph a call is, so that a resume, a retry or another worker does not charge it twice.

A step is a thread, a checkpoint namespace, a task of it, and the ordinal of the call in that task. Ordinals start again
with each attempt, because a retried or resumed node makes the same calls anew; the run of the node tells attempts
apart. Whatever cannot be told apart for certain is no step: the call is then charged as one of its own, for a call must
not ride for free. Nothing here believes metadata, which may be a client's: a task's scratchpad is an object that only
LangGraph puts into a config.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import WeakKeyDictionary

from langchain_core.runnables.config import var_child_runnable_config

from countwerk_meter.events import Step
from countwerk_meter_langchain.chains import STRUCTURAL
from countwerk_meter_langchain.places import Places

if TYPE_CHECKING:
    from uuid import UUID

    from countwerk_meter import Meter
    from countwerk_meter_langchain.runs import Runs

SPACE_KEY: Final = "langgraph_checkpoint_ns"
_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Task:
    """
    The task of a graph that runs here.

    Attributes:
        thread: The thread's id, or an empty text without one.
        space: The checkpoint namespace, which ends in the task's id.
        task: The task's id: kept by a retry and by a resume.
        kept: Its graph keeps checkpoints.

    """

    thread: str
    space: str
    task: str
    kept: bool

    @property
    def named(self) -> tuple[str, ...]:
        """What names it in a charge's id."""
        return ("langgraph", self.thread, self.space, self.task)


# Whose charges of which operation, and what names them but for their ordinal.
Series = tuple[tuple[str, str], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Named:
    """A step, and which of the ordinals of its attempt's series it took."""

    step: Step
    attempt: UUID
    series: Series
    ordinal: int


@dataclass(slots=True)
class _Ordinals:
    """The ordinals of one series: the next one, and those that were given back."""

    next: int = 0
    free: set[int] = field(default_factory=set[int])

    def take(self) -> int:
        if self.free:
            ordinal = min(self.free)
            self.free.remove(ordinal)
            return ordinal
        self.next += 1
        return self.next - 1


class Counts:
    """
    The ordinals of all handlers of one meter, by attempt. Safe to use from any thread.

    Which of several handlers on a run meters a call is a matter of chance, and another one may meter the next: counting
    each for itself, they would name the two alike.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._attempts: OrderedDict[UUID, dict[Series, _Ordinals]] = OrderedDict()

    def take(self, attempt: UUID, series: Series) -> int:
        """Return the ordinal of a call that starts here."""
        with self._lock:
            ordinal = self._attempts.setdefault(attempt, {}).setdefault(series, _Ordinals()).take()
            if len(self._attempts) > _REMEMBERED:
                self._attempts.popitem(last=False)
            return ordinal

    def back(self, named: Named) -> None:
        """Give an ordinal back."""
        with self._lock:
            ordinals = self._attempts.get(named.attempt, {}).get(named.series)
            if ordinals is not None:
                ordinals.free.add(named.ordinal)

    def forget(self, attempt: UUID) -> None:
        """Forget an attempt that is over."""
        with self._lock:
            self._attempts.pop(attempt, None)


_COUNTS: Final[WeakKeyDictionary[Meter, Counts]] = WeakKeyDictionary()
_COUNTS_LOCK: Final = threading.RLock()


def counts_of(meter: Meter) -> Counts:
    """Return the ordinals of a meter's handlers."""
    with _COUNTS_LOCK:
        return _COUNTS.setdefault(meter, Counts())


def configurable() -> Mapping[str, Any]:
    """Return what LangGraph has put into the config that is current here; empty outside of a graph."""
    config = var_child_runnable_config.get()
    found = cast("object", config.get("configurable")) if config else None
    return cast("Mapping[str, Any]", found) if isinstance(found, Mapping) else {}


def current_task() -> Task | None:
    """Return the task of a graph that runs here, or None."""
    conf = configurable()
    task, space = conf.get("__pregel_task_id"), conf.get("checkpoint_ns")
    scratchpad = conf.get("__pregel_scratchpad")
    # Numbers, texts, lists and dicts can come from a client's JSON; this is an object of LangGraph's own.
    made_here = callable(getattr(scratchpad, "interrupt_counter", None))
    if not made_here or not isinstance(task, str) or not isinstance(space, str) or not space.endswith(f":{task}"):
        return None
    return Task(str(conf.get("thread_id") or ""), space, task, bool(conf.get("__pregel_checkpointer")))


def run_of(conf: Mapping[str, Any]) -> object | None:
    """
    Return what lives as long as the run of the graph that has made this `configurable`; None: that is not known.

    It is LangGraph's loop over the graph's steps. The caller of its stream holds it, and so does each task that runs;
    a client's config cannot bring one.
    """
    schedule = getattr(conf.get("__pregel_call"), "keywords", {}).get("schedule_task")
    loop = getattr(schedule, "__self__", None)
    return loop if hasattr(loop, "__weakref__") else None


class Steps:
    """Names the steps of one handler's calls. Safe to use from any thread."""

    def __init__(self, runs: Runs, counts: Counts) -> None:
        self._runs = runs
        self._places = Places(runs)
        self._counts = counts

    def name(self, path: tuple[UUID, ...], tags: Sequence[str] | None, whose: tuple[str, str]) -> Named | None:
        """
        Return the step that a call is which starts here, or None: it is in no task, or which attempt is not known.

        Args:
            path: What it runs below, from its parent up to the root.
            tags: The run's tags: they tell the branches of a parallel step apart, which run in any order.
            whose: The account and the operation that it is a charge of.

        """
        task = current_task()
        attempt = None if task is None else self._runs.attempt(path, task.space)
        if task is None or attempt is None:
            return None
        parts = self._places.first(task, path)
        parts += tuple(tag for tag in tags or () if tag.startswith(STRUCTURAL))
        parts += tuple(f"below:{key}" for key in self._runs.keys(path, attempt))
        parts += tuple(f"tool:{tool}" for tool in self._runs.tools(path))
        series = (whose, parts)
        ordinal = self._counts.take(attempt, series)
        return Named(Step((*parts, str(ordinal))), attempt, series, ordinal)

    def forget(self, run_id: UUID) -> None:
        """Forget an attempt that is over."""
        self._counts.forget(run_id)

    def within(self, path: tuple[UUID, ...]) -> tuple[str, ...] | None:
        """Return what names the task that runs here, below this path, or None."""
        task = current_task()
        return None if task is None else self._places.first(task, path)

    def back(self, named: Named) -> None:
        """Give an ordinal back that nothing was charged for: what comes next in its place is the same logical call."""
        self._counts.back(named)
