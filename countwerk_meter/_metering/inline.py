"""Settling at once, on the caller's own thread or loop: where no thread does it, or where it is behind."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from countwerk_meter._flow.attempts import unsent
from countwerk_meter._flow.commands import Journal, Now
from countwerk_meter._flow.overview import Agenda, Due
from countwerk_meter._flow.recover import Recovered, recover
from countwerk_meter._flow.settle import leave
from countwerk_meter._flow.verdict import Pass, Verdict
from countwerk_meter._metering.passes import passing, traced
from countwerk_meter._metering.settlement import RECOVER_SECONDS

if TYPE_CHECKING:
    from collections.abc import Generator
    from concurrent.futures import Future

    from countwerk_meter._flow.attempts import Claim
    from countwerk_meter._flow.commands import Flow, Moment
    from countwerk_meter._flow.ending import Committed
    from countwerk_meter._flow.rows import ReservationRow
    from countwerk_meter._flow.terms import Terms
    from countwerk_meter._metering.engine import Engine

    Work = tuple[tuple[str, str], ...]

# Rows that an inline settlement takes up beside its own.
_TAKEN_UP = 4
# Seconds between two looks for them, while all that was tried here has ended.
_LOOK_SECONDS = 1.0


class InlineSettlement:
    """Settles what a call has just committed, and what follows from it, within `reserve_timeout`. Never raises."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._recover_at = time.monotonic() + RECOVER_SECONDS
        self._look_at = 0.0

    @property
    def wanted(self) -> bool:
        """Whether nobody else settles what a call has just committed."""
        return not self._engine.background or self._engine.settlement.behind

    def after(self, done: Committed, *, sends: bool) -> None:
        """Settle what a commit leads to, if nobody else does; `sends`: its confirm was opened for us to send."""
        work, attempt = done.work if self.wanted else (), done.attempt if sends else None
        if attempt or work:
            self.settle(work, attempt)

    async def aafter(self, done: Committed, *, sends: bool) -> None:
        """Do the same on the running event loop."""
        work, attempt = done.work if self.wanted else (), done.attempt if sends else None
        if attempt or work:
            passes = self._passes(work, attempt)
            flow = next(passes, None)
            while flow is not None:
                try:
                    made = await self._engine.runtime.arun(flow, within=self._engine.patience)
                except Exception:  # noqa: BLE001 - the model has answered: the journal keeps the row for later
                    made = None
                flow = _next(passes, made)

    def never_left(self, future: Future[Committed]) -> None:
        """Close the confirm that was opened with a commit, because nobody who would send it waits for it any more."""
        attempt = None if future.exception() is not None else future.result().attempt
        if attempt is not None:
            closed = self._engine.journal.submit(unsent(attempt.row, self._engine.now()))
            closed.add_done_callback(self._closed)

    def _closed(self, _: Future[ReservationRow | None]) -> None:
        self._look_at = 0.0
        self._engine.follow(True)

    def settle(self, work: Work, attempt: Claim | None = None, *, within: float | None = None) -> None:
        """Settle these rows, and first of all the one whose confirm is open; `within`: seconds, if that is less."""
        passes = self._passes(work, attempt, within)
        patience = self._engine.patience if within is None else min(self._engine.patience, within)
        flow = next(passes, None)
        while flow is not None:
            try:
                done = self._engine.runtime.run(flow, within=patience)
            except Exception:  # noqa: BLE001 - as above
                done = None
            flow = _next(passes, done)

    def _passes(
        self, work: Work, attempt: Claim | None = None, within: float | None = None
    ) -> Generator[Flow[Pass], Pass | None]:
        """Yield the flows that settle `work` and what follows from it; sent None where one failed, and then over."""
        engine = self._engine
        budget = engine.terms.reserve_timeout if within is None else min(engine.terms.reserve_timeout, within)
        deadline = time.monotonic() + budget
        terms = dataclasses.replace(engine.terms, settle_timeout=budget)
        waiting, taken = list(work), engine.background
        if attempt is not None:
            waiting.insert(0, ("reservation", attempt.row.key))
        done: Pass | None = None
        while waiting and time.monotonic() < deadline:
            kind, key = waiting.pop(0)
            span = engine.telemetry.settling(kind, key)
            flow = passing(terms, kind, key) if attempt is None else leave(terms, attempt)
            attempt = None
            try:
                done = yield traced(flow, span)
            finally:
                span.end()
            if done is None or done.verdict is not Verdict.ENDED:
                self._look_at = 0.0
            if done is None:
                break
            waiting.extend(done.work)
            if not waiting and not taken and time.monotonic() >= self._look_at:
                # Nobody else comes back to what failed before, or what a dead process left.
                taken = True
                if time.monotonic() >= self._recover_at:
                    self._recover_at = time.monotonic() + RECOVER_SECONDS
                    yield _passed(recover(terms))
                found = yield _fallen_due(terms)
                waiting.extend(found.work if found is not None else ())
                self._look_at = 0.0 if waiting else time.monotonic() + _LOOK_SECONDS
        engine.progressed()


def _passed(flow: Flow[Recovered]) -> Flow[Pass]:
    yield from flow
    return Pass(Verdict.ENDED, "")


def _fallen_due(terms: Terms) -> Flow[Pass]:
    """Look what is due, as a pass whose work it is."""
    now: Moment = yield Now()
    agenda: Agenda = yield Journal(Due(terms.ledger, terms.owner, now.wall, _TAKEN_UP))
    return Pass(Verdict.ENDED, "", work=tuple((row.kind, row.key) for row in agenda.rows))


def _next(passes: Generator[Flow[Pass], Pass | None], done: Pass | None) -> Flow[Pass] | None:
    try:
        return passes.send(done)
    except StopIteration:
        return None
