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
from collections import deque
from typing import TYPE_CHECKING, Final

from countwerk_meter._drivers.landings import landed
from countwerk_meter._flow.backoff import ceiling
from countwerk_meter._flow.overview import Agenda, Due
from countwerk_meter._flow.recover import Recovered, recover
from countwerk_meter._flow.settle import leave, probe
from countwerk_meter._flow.verdict import Pass, Verdict
from countwerk_meter._metering.alarm import Alarm, Bell
from countwerk_meter._metering.departures import Departures
from countwerk_meter._metering.passes import passing, traced
from countwerk_meter._metering.setbacks import Setbacks
from countwerk_meter.errors import CountwerkError

if TYPE_CHECKING:
    from collections.abc import Callable

    from countwerk_meter._drivers.loops import LoopTransports
    from countwerk_meter._drivers.runtime import Runtime
    from countwerk_meter._flow.attempts import Claim
    from countwerk_meter._flow.books import DueRow
    from countwerk_meter._flow.commands import Flow
    from countwerk_meter._flow.terms import Terms
    from countwerk_meter._metering.leases import Leases
    from countwerk_meter.journal import Journal
    from countwerk_meter.telemetry import Telemetry

_IDLE_SECONDS: Final = 30.0
_PROBE_BASE: Final = 0.25
_PROBE_CAP: Final = 30.0
_BEHIND_SECONDS: Final = 120.0
_AGAIN_SECONDS: Final = 1.0
# Rows that are read at once, for each request that may be under way: reading them sorts all that is due.
_AHEAD: Final = 16
# After so many doubtful probes for one account another one is asked for, if it has anything due.
_PROBES_FOR_ONE: Final = 2
RECOVER_SECONDS: Final = 10.0


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
        retry_kept: Callable[[float], bool],
        leases: Leases | None = None,
    ) -> None:
        self._runtime = runtime
        self._loops = loops
        self._journal = journal
        self._terms = terms
        self._telemetry = telemetry
        self._concurrency = concurrency
        self._progress = progress
        self._retry_kept = retry_kept
        self._leases = leases
        self._random = random.SystemRandom()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._bell: Bell | None = None
        self._alarm: Alarm | None = None
        self._start_at = 0.0
        self._stopping = False
        self._running: set[tuple[str, str]] = set()
        # What was read and waits for a place, and until when it is good: rows that fall due later may be more urgent.
        self._ahead: deque[DueRow] = deque()
        self._ahead_until = 0.0
        self._departures = Departures(journal, concurrency)
        # When to read again what is due, POSIX seconds, unless notified, which any thread may do.
        self._look_at = 0.0
        self._notified = True
        # Every place is taken, and the next that becomes free is waited for.
        self._full = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._probing: str | None = None
        self._recover_at = time.monotonic() + RECOVER_SECONDS
        self._setbacks = Setbacks()
        self.behind = False

    def notify(self, *, waited_for: bool = False) -> None:
        """Say that something may have fallen due; starts the thread if there is none. Waits for nothing."""
        if self._stopping:
            return
        self._notified = True
        if self._thread is None or not self._thread.is_alive():
            self._start()
        self._awake(waited_for=waited_for)

    def free(self, account_id: str) -> bool:
        """Whether a confirm of this account would leave at once (money rule 7)."""
        now = time.time()
        return (
            self._bell is not None
            and not self._stopping
            and self._probing is None
            and now >= self._setbacks.everybody_until
            and not self._setbacks.hold_back(account_id, now)
            and self._departures.promise(now, len(self._running))
        )

    def leave(self, claim: Claim) -> None:
        """Send a confirm that was opened with its commit. Waits for nothing."""
        self._departures.add(claim)
        if self._bell is None or self._stopping:
            self._departures.take_all_back()
        self._awake()

    def _awake(self, *, waited_for: bool = False) -> None:
        alarm = self._alarm
        if alarm is not None and not waited_for:
            alarm.set()
        else:
            self._ring()

    def _ring(self) -> None:
        bell = self._bell
        if bell is not None:
            bell.ring()

    def _start(self) -> None:
        with self._lock:
            if self._stopping or time.monotonic() < self._start_at:
                return
            if self._thread is not None and self._thread.is_alive():
                return
            self._start_at = time.monotonic() + _AGAIN_SECONDS
            # What a thread before this one left unfinished.
            self._running.clear()
            self._ahead.clear()
            self._tasks.clear()
            self._probing = None
            thread = threading.Thread(target=self._run, name="countwerk-settlement", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._broken(error)
            else:
                self._thread = thread

    def rest(self, timeout: float) -> None:
        """Wait until every pass has told what it did, so many seconds at most: its row ends a moment before."""
        deadline = time.monotonic() + timeout
        while self._running and time.monotonic() < deadline:
            time.sleep(0.001)

    def stop(self, timeout: float) -> None:
        """End the thread; requests in flight get `timeout` seconds."""
        self._stopping = True
        thread = self._thread
        if thread is None:
            return
        self._ring()
        if thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:  # noqa: BLE001 - no file descriptor for a loop, say: the next notice starts it again
            self._broken(error)
        finally:
            self._bell = None
            if self._alarm is not None:
                self._alarm.end()
                self._alarm = None
            self._departures.take_all_back()

    def _broken(self, error: Exception) -> None:
        """Say that there is no thread; until there is one, calls settle inline."""
        self.behind = True
        self._telemetry.event("settlement_failed", {"reason": type(error).__name__})

    async def _main(self) -> None:
        self._bell = bell = Bell()
        self._alarm = Alarm(bell.ring)
        if self._leases is not None:
            self._tasks.add(asyncio.create_task(self._leases.keep(self._runtime, self._is_quiet)))
        while not self._stopping:
            bell.still()
            try:
                timeout = await self._fill()
                if self._retry_kept(_AGAIN_SECONDS):
                    timeout = min(timeout, _AGAIN_SECONDS)
                timeout = min(timeout, await self._take_over())
            except Exception as error:  # noqa: BLE001 - whatever it is, this thread is the only one that settles
                # Locked, or its disk is full: it may be well again.
                timeout, self._notified = _AGAIN_SECONDS, True
                if not isinstance(error, CountwerkError):
                    self._telemetry.event("settlement_failed", {"reason": type(error).__name__})
            await bell.sleep(timeout)
        self._departures.take_all_back()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._terms.settle_timeout)
        await self._loops.aclose()

    def _is_quiet(self) -> bool:
        """Whether the ledger is out of order, or asked everybody to wait."""
        return self._probing is not None or time.time() < self._setbacks.everybody_until

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
                self._look_at = 0.0
                return 0.0
        return RECOVER_SECONDS

    async def _fill(self) -> float:
        """Start what is due and may start; return how long to sleep, in seconds, unless woken."""
        now = time.time()
        self._depart()
        if self._probing is not None:
            return _IDLE_SECONDS
        if now < self._setbacks.everybody_until:
            return self._setbacks.everybody_until - now
        if self._ahead and time.monotonic() > self._ahead_until:
            self._ahead.clear()
            self._look_at = 0.0
        self._launch(now)
        self._full = len(self._running) >= self._concurrency
        if self._full:
            return _IDLE_SECONDS
        if now < self._look_at and not self._notified:
            return self._look_at - now
        # First of all: a notice that comes while the journal is being read counts.
        self._notified, self._look_at = False, now + _IDLE_SECONDS
        limit = self._concurrency * _AHEAD + len(self._running) + len(self._setbacks)
        apart = self._setbacks.accounts(now)
        agenda: Agenda = await landed(
            self._journal.submit(Due(self._terms.ledger, self._terms.owner, now, limit, apart))
        )
        self._depart()
        self._judge_backlog(agenda, limit, now)
        self._ahead.extend(row for row in agenda.rows if (row.kind, row.key) not in self._running)
        self._ahead_until = time.monotonic() + _AGAIN_SECONDS
        self._launch(now)
        waits = self._setbacks.ends(now)
        if agenda.next_due is not None and agenda.next_due > now:
            waits.append(agenda.next_due)
        if len(agenda.rows) >= limit:
            # There is more: read on as soon as there is a place.
            waits.append(now)
        self._look_at = min(self._look_at, *waits) if waits else self._look_at
        return min(max(self._look_at - now, 0.01), _IDLE_SECONDS)

    def _depart(self) -> None:
        """Send the confirms that were opened with their commits, unless nothing may leave just now."""
        while (claim := self._departures.next()) is not None:
            name = ("reservation", claim.row.key)
            if self._is_quiet() or len(self._running) >= self._concurrency:
                # Calls that ended together each found a place, and there are not as many: these are due (rule 12).
                self._departures.take_back(claim)
                self._departures.take_all_back()
                self._look_at = 0.0
            elif name in self._running:
                # Read as due before it came here, it has its pass already, which sends a confirm of its own.
                self._departures.take_back(claim)
            else:
                self._pass(name, claim.row.account_id, leave(self._terms, claim))

    def _launch(self, now: float) -> None:
        """Start passes over what was read, as many as may run at once; the rest of it is read no second time."""
        while self._ahead and len(self._running) < self._concurrency:
            row = self._ahead.popleft()
            name = (row.kind, row.key)
            if not self._setbacks.hold_back(row.account_id, now, name):
                self._pass(name, row.account_id, passing(self._terms, row.kind, row.key))

    def _pass(self, name: tuple[str, str], account_id: str, flow: Flow[Pass]) -> None:
        """Run one pass over a row beside the others."""
        self._running.add(name)
        task = asyncio.create_task(self._settle(name, account_id, flow))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _judge_backlog(self, agenda: Agenda, limit: int, now: float) -> None:
        """New calls settle inline while more is due than fits, and the oldest hold is about to expire."""
        soonest = min((row.expires_at for row in agenda.rows if row.expires_at is not None), default=None)
        full = len(agenda.rows) >= limit
        self.behind = full and soonest is not None and soonest - now < _BEHIND_SECONDS

    async def _settle(self, name: tuple[str, str], account_id: str, flow: Flow[Pass]) -> None:
        span = self._telemetry.settling(*name)
        try:
            done = await self._runtime.arun(traced(flow, span))
        except Exception as error:  # noqa: BLE001 - a journal that cannot be written now, or a defect: the row stays due
            done = Pass(Verdict.LATER, account_id)
            if self._setbacks.failed(name, time.time()):
                why = {"account_id": account_id, "key": name[1], "reason": type(error).__name__}
                self._telemetry.event("settlement_failed", why)
        else:
            self._setbacks.went(name)
            span.set_attribute("countwerk.verdict", done.verdict.value)
        finally:
            span.end()
            self._running.discard(name)
        if done.verdict is not Verdict.ENDED or done.work:
            self._look_at = 0.0
        self._act_on(done)
        self._progress()
        if self._bell is not None and (self._full or self._ahead or self._notified or self._look_at <= time.time()):
            self._bell.ring_here()

    def _act_on(self, done: Pass) -> None:
        now = time.time()
        if done.verdict is not Verdict.DOUBTFUL:
            self._setbacks.heard_of(done.account_id)
        if done.wait:
            self._setbacks.pause(done.wait, now)
        if done.verdict is Verdict.PARKED and self._setbacks.park(done.account_id, now):
            self._telemetry.event("parked", {"account_id": done.account_id})
        if done.verdict in {Verdict.DOUBTFUL, Verdict.PAUSED} and self._probing is None:
            self._probing = done.account_id
            task = asyncio.create_task(self._probe(done))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._setbacks.forget_what_is_over(now)

    async def _probe(self, why: Pass) -> None:
        """
        Ask for a balance, one request at a time, until there is a definite answer.

        Where one account never gets one, another is asked for: it alone is out of order then, and waits alone.
        """
        asked_for, silent = why.account_id, set[str]()
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
                asked = await self._runtime.arun(probe(self._terms, asked_for))
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
            if asked.verdict is Verdict.DOUBTFUL and attempt >= _PROBES_FOR_ONE:
                silent.add(asked_for)
                asked_for = await self._another(silent) or why.account_id
                if asked_for == why.account_id:
                    silent.clear()
        for account_id in silent - {asked_for}:
            self._setbacks.rest(account_id, time.time())
        self._probing = None
        self._look_at = 0.0
        if paused and not self._stopping:
            self._telemetry.event("resumed", {"account_id": why.account_id})
        if self._bell is not None:
            self._bell.ring_here()

    async def _another(self, tried: set[str]) -> str | None:
        """Return another account that has something due."""
        due = Due(self._terms.ledger, self._terms.owner, time.time(), 1, frozenset(tried))
        try:
            agenda: Agenda = await landed(self._journal.submit(due))
        except CountwerkError:
            return None
        return agenda.rows[0].account_id if agenda.rows else None
