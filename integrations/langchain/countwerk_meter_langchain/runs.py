"""
Which model calls are open, below which chains, and which of them belong together.

The rule: every hold that was begun is found again, although LangChain may say nothing more of a call: a batch of which
one prompt was denied, a call that was cancelled or whose gate landed after it was, a stream that was abandoned. Nothing
here waits or talks to the ledger.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from countwerk_meter_langchain.calls import Batch
from countwerk_meter_langchain.chains import BRANCH, Siblings
from countwerk_meter_langchain.claims import CLAIMS
from countwerk_meter_langchain.denials import SECONDS, Denials

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from countwerk_meter_langchain.calls import Run
    from countwerk_meter_langchain.chains import Chain
    from countwerk_meter_langchain.steps import Named, Task

# Memory that nobody tidies up is bounded, oldest first.
_CHAINS: Final = 100_000
_ASIDE: Final = 10_000
_RELEASED: Final = 10_000
_COUNTED: Final = 10_000
_BATCHES: Final = 1_000


class Runs:
    """Everything that one handler remembers. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._chains: OrderedDict[UUID, Chain] = OrderedDict()
        self._siblings: dict[UUID, Siblings] = {}
        self._counted: OrderedDict[UUID, Siblings] = OrderedDict()
        self._brackets: dict[UUID, int] = {}
        self._open: dict[UUID, list[Run]] = {}
        self._under: dict[UUID, dict[int, Run]] = {}
        self._released: OrderedDict[UUID, Run] = OrderedDict()
        self._aside: OrderedDict[UUID, int] = OrderedDict()
        self._left: dict[int, Run] = {}
        self._batches: OrderedDict[int, Batch] = OrderedDict()
        self.denials = Denials()

    def chain_began(self, run_id: UUID, chain: Chain) -> None:
        """Note a chain, tool or retriever, below which model calls may run."""
        with self._lock:
            self._note(run_id, chain)

    def _note(self, run_id: UUID, chain: Chain) -> None:
        if chain.parent is not None and chain.parent in self._chains:
            self._siblings.setdefault(chain.parent, Siblings()).begin(chain)
        self._chains[run_id] = chain
        counted = self._counted.pop(run_id, None)
        if counted is not None:
            self._siblings[run_id] = counted
        if len(self._chains) > _CHAINS:
            gone, _ = self._chains.popitem(last=False)
            self._under.pop(gone, None)
            self._siblings.pop(gone, None)

    def bracket_began(self, run_id: UUID, chain: Chain) -> None:
        """Note a chain of which only a part is told of here, and perhaps several parts at once."""
        with self._lock:
            self._brackets[run_id] = self._brackets.get(run_id, 0) + 1
            if self._brackets[run_id] == 1:
                self._note(run_id, chain)

    def bracket_ended(self, run_id: UUID) -> bool:
        """Whether that was the last of its parts that run now, so that nothing below the chain is told of any more."""
        with self._lock:
            left = self._brackets.pop(run_id, 1) - 1
            if left:
                self._brackets[run_id] = left
            return not left

    def chain_ended(self, run_id: UUID, *, forget: bool = True) -> list[Run]:
        """Forget it, and unless it comes back its denials; return the model calls below it that are still open."""
        with self._lock:
            chain = self._chains.pop(run_id, None)
            siblings = self._siblings.pop(run_id, None)
            if siblings is not None and not forget:
                # It comes back, and what it starts then comes after these.
                self._counted[run_id] = siblings
                if len(self._counted) > _COUNTED:
                    self._counted.popitem(last=False)
            beside = None if chain is None or chain.parent is None else self._siblings.get(chain.parent)
            if chain is not None and beside is not None:
                beside.end(chain)
            if forget:
                self.denials.forget(run_id)
            return list(self._under.pop(run_id, {}).values())

    def path(self, parent: UUID | None) -> tuple[UUID, ...]:
        """Return what a call runs below, from its parent up to the root of the run, as far as this handler was told."""
        found: list[UUID] = []
        with self._lock:
            while parent is not None and parent not in found:
                found.append(parent)
                chain = self._chains.get(parent)
                parent = None if chain is None else chain.parent
        return tuple(found)

    def attempt(self, path: tuple[UUID, ...], space: str) -> UUID | None:
        """
        Return the run of a graph's task that a call is in: another one with each attempt; None: it is not known.

        That is the topmost run of the namespace, if what it runs below was told of too: else it may be a chain within
        the node, and another chain beside it would count its calls from 0 again.
        """
        with self._lock:
            inside = [run_id for run_id in path if run_id in self._chains and self._chains[run_id].space == space]
            if not inside:
                return None
            top = self._chains[inside[-1]]
            return inside[-1] if top.node or top.parent in self._chains else None

    def around(self, attempt: UUID) -> Task | None:
        """Return the task that has called this one, or that runs its graph; None: there is none, or it is not known."""
        with self._lock:
            chain = self._chains.get(attempt)
            graph = self._chains.get(chain.parent) if chain is not None and chain.parent is not None else None
            began = chain if chain is not None and chain.stands.given is not None else graph
            return None if began is None else began.within

    def between(self, path: tuple[UUID, ...], outer: UUID, inner: UUID) -> list[Chain | None]:
        """Return the chains of a path from `inner` up to `outer`; None for one that is not known."""
        with self._lock:
            return [self._chains.get(run_id) for run_id in path[path.index(inner) : path.index(outer) + 1]]

    def keys(self, path: tuple[UUID, ...], attempt: UUID) -> list[str]:
        """Return the keys of the parallel steps that a call is in, within its attempt."""
        with self._lock:
            chains = [self._chains.get(run_id) for run_id in path[: path.index(attempt)]]
        return [key for chain in chains if chain is not None for key in chain.label[2:] if key.startswith(BRANCH)]

    def tools(self, path: tuple[UUID, ...]) -> list[str]:
        """Return the ids of the tool calls that a call runs below."""
        with self._lock:
            chains = [self._chains[run_id] for run_id in path if run_id in self._chains]
        return [chain.tool for chain in chains if chain.tool is not None]

    def metadata(self, path: tuple[UUID, ...]) -> Mapping[str, Any]:
        """Return what was said with the innermost chain of a path that is known."""
        with self._lock:
            chains = [self._chains[run_id] for run_id in path if run_id in self._chains]
        said = [chain.metadata for chain in chains if chain.metadata is not None]
        return said[0] if said else {}

    def of_step(self, named: Named) -> list[Run]:
        """Return the calls of the same step that are still open: an earlier attempt left them behind."""
        return [run for run in self.opened() if run.named is not None and run.named.step == named.step]

    def idle(self) -> bool:
        """Whether no call is open, or streams on although it was given up."""
        return not self._open and not self._left

    def opened(self) -> list[Run]:
        """Return the calls that are open."""
        with self._lock:
            return [run for runs in list(self._open.values()) for run in list(runs)]

    def batch(self, options: object, size: int) -> Batch | None:
        """Return the batch that a starting prompt belongs to, or None where it is alone."""
        if size < 2 or options is None:
            return None
        with self._lock:
            batch = self._batches.get(id(options))
            if batch is None:
                batch = self._batches[id(options)] = Batch(options, size)
                if len(self._batches) > _BATCHES:
                    self._batches.popitem(last=False)
            return batch

    def forget_batch(self, batch: Batch) -> None:
        """Forget a batch that another handler meters."""
        with self._lock:
            if not batch.open and batch.failed is None:
                self._batches.pop(id(batch.options), None)

    def tidy(self) -> None:
        """Forget denials and failed batches that are old: an error holds on to all that it passed through."""
        self.denials.tidy()
        limit = time.monotonic() - SECONDS
        with self._lock:
            for key in [
                key for key, batch in list(self._batches.items()) if batch.failed is not None and batch.began < limit
            ]:
                del self._batches[key]

    def fail(self, batch: Batch, error: BaseException, ended: Run | None = None) -> list[Run]:
        """Mark a batch as one that will not run any further; return its calls that are still open, but for `ended`."""
        with self._lock:
            batch.failed = batch.failed or error
            return [run for run in batch.open if run is not ended]

    def add(self, run: Run, tracked: tuple[UUID, ...]) -> bool:
        """
        Open a call.

        Args:
            run: The call.
            tracked: The chains above it that were running when its gate was entered.

        Returns:
            False: one of them ended meanwhile, or the batch failed, so nobody may be listening any more.

        """
        with self._lock:
            self._open.setdefault(run.run_id, []).append(run)
            if run.batch is not None:
                run.batch.open.append(run)
            for chain in tracked:
                if chain in self._chains:
                    self._under.setdefault(chain, {})[id(run)] = run
            alive = all(chain in self._chains for chain in tracked)
            return alive and (run.batch is None or run.batch.failed is None)

    def tracked(self, path: tuple[UUID, ...]) -> tuple[UUID, ...]:
        """Return those of a path that are known to run now."""
        with self._lock:
            return tuple(chain for chain in path if chain in self._chains)

    def find(self, run_id: UUID) -> Run | None:
        """Return an open call."""
        with self._lock:
            runs = self._open.get(run_id)
            return _told_of(runs, run_id) if runs else None

    def take(self, run_id: UUID) -> Run | None:
        """End a call: return it once, also if it was given up before; None: it is not known, or has ended."""
        with self._lock:
            runs = self._open.get(run_id)
            if runs:
                return self._close(_told_of(runs, run_id))
            # One that another handler meters now may have the id of one that was given up.
            return None if run_id in self._aside else self._released.pop(run_id, None)

    def drop(self, run: Run) -> bool:
        """End this very call; False: somebody else has."""
        with self._lock:
            return run in self._open.get(run.run_id, ()) and self._close(run) is run

    def _close(self, run: Run) -> Run:
        runs = self._open[run.run_id]
        runs.remove(run)
        if not runs:
            del self._open[run.run_id]
        for chain in run.path:
            below = self._under.get(chain)
            if below is not None:
                below.pop(id(run), None)
                if not below:
                    del self._under[chain]
        if run.batch is not None:
            run.batch.open.remove(run)
            if not run.batch.open and run.batch.failed is None:
                self._batches.pop(id(run.batch.options), None)
        if run.claim is not None:
            CLAIMS.release(run.claim)
        return run

    def release(self, run: Run) -> bool:
        """Give up this very call, and remember it, in case it answers after all; False: somebody else has ended it."""
        with self._lock:
            if not self.drop(run):
                return False
            run.released = True
            run.abandoned = False
            self._released[run.run_id] = run
            if len(self._released) > _RELEASED:
                self._released.popitem(last=False)
            return True

    def is_released(self, run: Run) -> bool:
        """Whether this very call was given up, and has not answered."""
        with self._lock:
            return self._released.get(run.run_id) is run

    def heard(self, run_id: UUID) -> Run | None:
        """Return the call that streams something: an open one, or one that was given up."""
        with self._lock:
            runs = self._open.get(run_id)
            return _told_of(runs, run_id) if runs else self._released.get(run_id)

    def given_up(self, run_id: UUID) -> Run | None:
        """Return a call that was given up, and has not answered."""
        with self._lock:
            return self._released.get(run_id)

    def step_aside(self, run_id: UUID) -> None:
        """Note a call that another handler meters: its end is none of ours."""
        with self._lock:
            self._aside[run_id] = self._aside.pop(run_id, 0) + 1
            if len(self._aside) > _ASIDE:
                self._aside.popitem(last=False)

    def was_aside(self, run_id: UUID) -> bool:
        """Whether a call that ends is one that another handler meters. Asked once for each end."""
        with self._lock:
            number = self._aside.pop(run_id, 0)
            if number > 1:
                self._aside[run_id] = number - 1
            return number > 0

    def forget_open(self) -> None:
        """Begin a forked child without its parent's calls: they stay the parent's, and so may a lock of its be held."""
        self._lock = threading.RLock()
        for every in (self._open, self._under, self._released, self._left, self._batches):
            every.clear()

    def older_than(self, seconds: float) -> list[Run]:
        """Return open calls that began so long ago that their hold is gone."""
        limit = time.monotonic() - seconds
        stale: list[Run] = []
        with self._lock:
            for runs in list(self._open.values()):
                if runs[0].began > limit:
                    break
                stale.extend(run for run in runs if run.began <= limit)
        return stale

    def abandon(self, run: Run) -> None:
        """Note that nobody may tell of this call's end."""
        with self._lock:
            if run.released or run.run_id in self._open:
                run.abandoned = True
                self._left[id(run)] = run

    def abandoned(self) -> list[Run]:
        """Return the calls that nobody may tell of the end of, among those that have not ended."""
        with self._lock:
            every = list(self._left.values())
            for run in every:
                here = self._released.get(run.run_id) is run if run.released else run in self._open.get(run.run_id, ())
                if not run.abandoned or not here:
                    del self._left[id(run)]
            return list(self._left.values())


def _told_of(runs: list[Run], run_id: UUID) -> Run:
    """Return that call of several under one id that LangChain means: it tells of each by the same object."""
    return next((run for run in runs if run.named_by is not None and run.named_by() is run_id), runs[0])
