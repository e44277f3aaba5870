"""
Settlement behind the app: one daemon thread with an event loop of its own, whatever the app is.

It depends on no loop of the app's and blocks none. After a doubtful answer one probe at a time asks whether the ledger
is well, and nothing else settles until it is (money rule 12).
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from countwerk_meter._flow.backoff import PARKED_FOR, SETTLE_BASE, SETTLE_CAP, ceiling
from countwerk_meter._flow.commands import Emit
from countwerk_meter._flow.deduct import deduct
from countwerk_meter._flow.overview import Agenda, Due
from countwerk_meter._flow.recover import Recovered, recover
from countwerk_meter._flow.settle import probe, settle
from countwerk_meter._flow.verdict import Pass, Verdict
from countwerk_meter.errors import CountwerkError
from countwerk_meter.telemetry import link_to

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span

    from countwerk_meter._drivers.loops import LoopTransports
    from countwerk_meter._drivers.runtime import Runtime
    from countwerk_meter._flow.commands import Flow
    from countwerk_meter._flow.terms import Terms
    from countwerk_meter.journal import Journal
    from countwerk_meter.telemetry import Telemetry

_IDLE_SECONDS: Final = 30.0
_PROBE_BASE: Final = 0.25
_PROBE_CAP: Final = 30.0
_BEHIND_SECONDS: Final = 120.0
_AGAIN_SECONDS: Final = 1.0
RECOVER_SECONDS: Final = 10.0


def passing(terms: Terms, kind: str, key: str) -> Flow[Pass]:
    """Return the flow that makes one pass over a row."""
    return settle(terms, key) if kind == "reservation" else deduct(terms, key)


def traced(flow: Flow[Pass], span: Span) -> Flow[Pass]:
    """Run a flow, linking its span to the traces of the calls that it settles."""
    reply: Any = None
    while True:
        try:
            command = flow.send(reply)
        except StopIteration as stop:
            return stop.value
        if isinstance(command, Emit) and command.event == "settling":
            for trace_id, span_id in command.fields["traces"]:
                for link in link_to(trace_id, span_id):
                    span.add_link(link.context)
            reply = None
        else:
            reply = yield command


class SettlementThread:
    """Settles an owner's due rows, earliest expiry first, so many at once."""

    def __init__(
        self,
        runtime: Runtime,
        loops: LoopTransports,
        journal: Journal,
        terms: Terms,
        telemetry: Telemetry,
        concurrency: int,
        progress: Callable[[], None],
        retry_kept: Callable[[], bool],
    ) -> None:
        self._runtime = runtime
        self._loops = loops
        self._journal = journal
        self._terms = terms
        self._telemetry = telemetry
        self._concurrency = concurrency
        self._progress = progress
        self._retry_kept = retry_kept
        self._random = random.SystemRandom()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._ready = threading.Event()
        self._stopping = False
        self._running: set[tuple[str, str]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._probing: str | None = None
        self._recover_at = time.monotonic() + RECOVER_SECONDS
        self._not_before = 0.0
        self._parked: dict[str, float] = {}
        self._retry_at: dict[tuple[str, str], float] = {}
        self._failures: dict[tuple[str, str], int] = {}
        self.behind = False

    def notify(self) -> None:
        """Say that something may have fallen due; starts the thread the first time."""
        if self._stopping:
            return
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="countwerk-settlement", daemon=True)
                    self._thread.start()
            self._ready.wait()
        loop, wake = self._loop, self._wake
        if loop is not None and wake is not None:
            try:
                loop.call_soon_threadsafe(wake.set)
            except RuntimeError:  # the loop has just closed: the journal keeps the row for the next start
                return

    def stop(self, timeout: float) -> None:
        """End the thread; requests in flight get `timeout` seconds."""
        self._stopping = True
        loop, wake, thread = self._loop, self._wake, self._thread
        if loop is None or wake is None or thread is None:
            return
        if loop.is_running():
            loop.call_soon_threadsafe(wake.set)
        thread.join(timeout)

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        while not self._stopping:
            self._wake.clear()
            try:
                timeout = await self._fill()
            except CountwerkError:
                # Locked, or its disk is full: it may be well again, and this thread is the only one that settles.
                timeout = _AGAIN_SECONDS
            if self._retry_kept():
                timeout = min(timeout, _AGAIN_SECONDS)
            timeout = min(timeout, await self._take_over())
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                pass
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._terms.settle_timeout)
        await self._loops.aclose()

    async def _take_over(self) -> float:
        """Look now and then for what dead or hung processes left; return when to look again, in seconds."""
        left = self._recover_at - time.monotonic()
        if left > 0:
            return left
        self._recover_at = time.monotonic() + RECOVER_SECONDS
        if self._probing is None:
            try:
                found = await self._runtime.arun(recover(self._terms))
            except CountwerkError:
                return _AGAIN_SECONDS
            if found != Recovered():
                return 0.0
        return RECOVER_SECONDS

    async def _fill(self) -> float:
        """Start what is due and may start; return how long to sleep, in seconds, unless woken."""
        now = time.time()
        if self._probing is not None:
            return _IDLE_SECONDS
        if now < self._not_before:
            return self._not_before - now
        free = self._concurrency - len(self._running)
        if free <= 0:
            return _IDLE_SECONDS
        limit = self._concurrency * 4 + len(self._running) + len(self._retry_at)
        agenda: Agenda = await asyncio.wrap_future(
            self._journal.submit(Due(self._terms.ledger, self._terms.owner, now, limit))
        )
        self._judge_backlog(agenda, limit, now)
        for row in agenda.rows:
            name = (row.kind, row.key)
            if name in self._running or self._parked.get(row.account_id, 0) > now or self._retry_at.get(name, 0) > now:
                continue
            if free == 0:
                break
            free -= 1
            self._running.add(name)
            task = asyncio.create_task(self._settle(row.kind, row.key, row.account_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        waits = [until for until in (*self._retry_at.values(), *self._parked.values()) if until > now]
        if agenda.next_due is not None and agenda.next_due > now:
            waits.append(agenda.next_due)
        return min(max(min(waits, default=now + _IDLE_SECONDS) - now, 0.01), _IDLE_SECONDS)

    def _judge_backlog(self, agenda: Agenda, limit: int, now: float) -> None:
        """New calls settle inline while more is due than fits, and the oldest hold is about to expire."""
        soonest = min((row.expires_at for row in agenda.rows if row.expires_at is not None), default=None)
        full = len(agenda.rows) >= limit
        self.behind = full and soonest is not None and soonest - now < _BEHIND_SECONDS

    async def _settle(self, kind: str, key: str, account_id: str) -> None:
        name = (kind, key)
        span = self._telemetry.settling(kind, key)
        try:
            done = await self._runtime.arun(traced(passing(self._terms, kind, key), span))
        except Exception as error:  # noqa: BLE001 - a journal that cannot be written now, or a defect: the row stays due
            done = Pass(Verdict.LATER, account_id)
            failures = self._failures[name] = self._failures.get(name, 0) + 1
            self._retry_at[name] = time.time() + ceiling(failures, base=SETTLE_BASE, cap=SETTLE_CAP)
            if failures == 1:
                why = {"account_id": account_id, "key": key, "reason": type(error).__name__}
                self._telemetry.event("settlement_failed", why)
        else:
            self._retry_at.pop(name, None)
            self._failures.pop(name, None)
            span.set_attribute("countwerk.verdict", done.verdict.value)
        finally:
            span.end()
            self._running.discard(name)
        self._act_on(done)
        self._progress()
        if self._wake is not None:
            self._wake.set()

    def _act_on(self, done: Pass) -> None:
        now = time.time()
        if done.wait:
            self._not_before = max(self._not_before, now + done.wait)
        if done.verdict is Verdict.PARKED and done.account_id not in self._parked:
            self._parked[done.account_id] = now + PARKED_FOR
            self._telemetry.event("parked", {"account_id": done.account_id})
        if done.verdict in {Verdict.DOUBTFUL, Verdict.PAUSED} and self._probing is None:
            self._probing = done.account_id
            task = asyncio.create_task(self._probe(done))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        for account_id, until in list(self._parked.items()):
            if until <= now:
                del self._parked[account_id]

    async def _probe(self, why: Pass) -> None:
        """Ask for a balance, one request at a time, until there is a definite answer."""
        attempt = 0
        paused = why.verdict is Verdict.PAUSED
        if paused:
            self._telemetry.event("paused", {"account_id": why.account_id})
        wait = why.wait or 0.0
        if paused:
            wait = _PROBE_CAP / 30
        while not self._stopping:
            await asyncio.sleep(wait)
            try:
                asked = await self._runtime.arun(probe(self._terms, why.account_id))
            except Exception:  # noqa: BLE001 - whatever it is, the ledger did not answer
                asked = Pass(Verdict.DOUBTFUL, why.account_id)
            if asked.verdict is Verdict.ENDED:
                break
            if asked.verdict is Verdict.PAUSED and not paused:
                paused = True
                self._telemetry.event("paused", {"account_id": why.account_id})
            longest = ceiling(attempt, base=_PROBE_BASE, cap=_PROBE_CAP)
            wait = asked.wait or self._random.uniform(longest / 2, longest)
            attempt += 1
        self._probing = None
        if paused and not self._stopping:
            self._telemetry.event("resumed", {"account_id": why.account_id})
        if self._wake is not None:
            self._wake.set()
