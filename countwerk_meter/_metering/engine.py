"""
The machinery of one Meter: journal, runtime, settlement, telemetry, and what is shared between its calls.

It lives once per process: after a fork (gunicorn preload) it starts anew, with an owner, connections and a thread of
its own.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import threading
import time
import uuid
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from countwerk_meter._drivers.choice import async_transport, import_all, sync_transport
from countwerk_meter._drivers.clock import Clock
from countwerk_meter._drivers.loops import LoopTransports
from countwerk_meter._drivers.runtime import Runtime
from countwerk_meter._drivers.shadow import AsyncShadowTransport, ShadowLedger
from countwerk_meter._flow.recover import Recovered, recover
from countwerk_meter._metering.commits import Commits
from countwerk_meter._metering.flushing import flushed
from countwerk_meter._metering.inline import InlineSettlement
from countwerk_meter._metering.learner import Learner
from countwerk_meter._metering.leases import Leases
from countwerk_meter._metering.ongoing import Gate, Ongoing
from countwerk_meter._metering.scope import refusing
from countwerk_meter._metering.settlement import SettlementThread
from countwerk_meter.errors import ConfigurationError, CountwerkError, InvalidRequestError, JournalError
from countwerk_meter.events import EventId, Ordinals, derive
from countwerk_meter.journal.latch import Latch

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine, Generator, Iterable

    import httpx

    from countwerk_meter._drivers.endpoint import Endpoint
    from countwerk_meter._drivers.runtime import Between
    from countwerk_meter._flow.attempts import Claim
    from countwerk_meter._flow.rows import ChargeRow
    from countwerk_meter._flow.terms import Terms
    from countwerk_meter._metering.call import Call
    from countwerk_meter._metering.reservation import Reservation
    from countwerk_meter._metering.spec import Spec
    from countwerk_meter.journal import Journal
    from countwerk_meter.pricing import PriceProfile
    from countwerk_meter.telemetry import Telemetry

T = TypeVar("T")

_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()
_AT_EXIT_SECONDS = 2.0
_LAST_WORD_SECONDS = 0.25


class Engine:
    """See the module's docstring. Everything here may be used from any thread and any event loop."""

    def __init__(
        self,
        endpoint: Endpoint,
        terms: Terms,
        journal: Journal,
        telemetry: Telemetry,
        *,
        prices: PriceProfile | None,
        background: bool,
        concurrency: int,
        require_trace: bool,
        shadow: bool,
        http: httpx.Client | None,
        own_journal: bool,
        leases: bool = False,
    ) -> None:
        self._own_journal = own_journal
        # Nothing is held where nothing is enforced, and so nothing ahead.
        self._leasing = leases and not shadow
        self._endpoint = endpoint
        self.terms = terms
        self.journal = journal
        self.telemetry = telemetry
        self.prices = prices
        self.background = background
        self._concurrency = concurrency
        self._require_trace = require_trace
        self.shadow = shadow
        self._shadow_ledger: ShadowLedger | None = None
        self._between: Between | None = None
        self._transport = sync_transport(endpoint, http)
        import_all()
        self._ordinals = Ordinals()
        self.commits = Commits(journal, telemetry, self.follow, self._leave)
        self.inline = InlineSettlement(self)
        self.learner = Learner(journal, terms.ledger)
        # Gates that go on whoever stops waiting for them, by their event loops.
        self._tasks: dict[asyncio.AbstractEventLoop, set[asyncio.Task[Any]]] = {}
        self._progress = Latch()
        self._lock = threading.RLock()
        self.closed = False
        # What a gate lets through from here on nobody waits for.
        self.over = False
        self._drained = False
        self._ongoing = Ongoing()
        self._live()
        _ENGINES.add(self)

    def _live(self) -> None:
        self._pid = os.getpid()
        self.terms = dataclasses.replace(self.terms, owner=uuid.uuid4().hex)
        self.journal.join(self.terms.owner)
        self.clock = Clock()
        self._loops = LoopTransports(lambda: async_transport(self._endpoint))
        self.asking = Runtime(None, self._transport, self._loops, self.clock, self.telemetry)
        self.runtime, settling = self._shadowed() if self.shadow else self._real()
        settler = Runtime(self.journal, None, settling, self.clock, self.telemetry)
        self.leases = self._no_leases_yet()
        self._runtimes = (self.runtime, self.asking, settler)
        self.interpose(self._between)
        self.settlement = SettlementThread(
            settler,
            settling,
            self.journal,
            self.terms,
            self.telemetry,
            self._concurrency,
            self.progressed,
            self.commits.retry,
            self.leases,
        )

    def _no_leases_yet(self) -> Leases | None:
        if not self._leasing:
            return None
        return Leases(self.journal, self.terms, self.clock, self.telemetry, self.follow)

    def interpose(self, between: Between | None) -> Between | None:
        """Put somebody between this meter and its ledger, on every way to it, or nobody; return who was there."""
        before, self._between = self._between, between
        for runtime in self._runtimes:
            runtime.between = between
        return before

    def _real(self) -> tuple[Runtime, LoopTransports]:
        runtime = Runtime(self.journal, self._transport, self._loops, self.clock, self.telemetry)
        return runtime, LoopTransports(lambda: async_transport(self._endpoint))

    def _shadowed(self) -> tuple[Runtime, LoopTransports]:
        """Return the same on a ledger that holds and charges nothing."""
        ledger = ShadowLedger(self.terms.ledger, self.terms.principal, self.journal, self._transport)
        loops = LoopTransports(lambda: AsyncShadowTransport(ledger))
        self._shadow_ledger = ledger
        return Runtime(self.journal, ledger, loops, self.clock, self.telemetry), loops

    def let_through(self, error: CountwerkError, account_id: str, operation: str) -> None:
        """
        Let a call go on that would have been refused, if nothing is enforced; else raise what refused it.

        A call that cannot be made at all, because an argument is wrong, is refused in any case.
        """
        if not self.shadow or isinstance(error, ConfigurationError | InvalidRequestError):
            refusing(error)
            raise error
        fields = {"account_id": account_id, "operation": operation, "reason": type(error).__name__}
        self.telemetry.event("let_through", fields)

    def ready(self) -> None:
        """
        Refuse a new call that could not be charged.

        Raises:
            CountwerkError: The meter is closed.
            JournalError: A charge could not be written, and still cannot (money rule 7).

        """
        if self.closed:
            raise CountwerkError("this meter is closed")
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    self._live()
        if self.commits and self.commits.retry(self.terms.reserve_timeout):
            raise JournalError(
                f"the journal {self.journal.name} cannot be written, so no new call is let through; "
                f"{len(self.commits)} charges wait in memory"
            )

    def forget_the_parent(self) -> None:
        """
        Begin a forked child with nothing of the parent's: its open calls and unwritten commits stay its own.

        Nor are its locks, which another of its threads may have held at the fork and here nobody would let go of.
        """
        self._lock = threading.RLock()
        self._progress = Latch()
        self._ongoing = Ongoing()
        self.commits.forget()
        self.learner.forget()
        self.leases = self._no_leases_yet()

    @property
    def patience(self) -> float:
        """Seconds that a gate waits for the journal: its budget, and a moment to write down how it ended (I6)."""
        return self.terms.reserve_timeout + _LAST_WORD_SECONDS

    def now(self) -> float:
        """Return this machine's time, POSIX seconds."""
        return self.clock.now().wall

    def name(self, spec: Spec) -> EventId:
        """Derive a call's `usage_event_id`."""
        return derive(
            spec.account_id,
            spec.operation,
            self._ordinals,
            explicit=spec.usage_event_id,
            step=spec.step,
            require_trace=self._require_trace,
        )

    def terms_for(self, spec: Spec, *, durable: bool) -> Terms:
        """Return the terms of one call: a durable step that is met again goes on, others are refused."""
        replay = spec.on_replay or ("run" if durable else self.terms.on_replay)
        unavailable = spec.on_unavailable or self.terms.on_unavailable
        if replay == self.terms.on_replay and unavailable == self.terms.on_unavailable:
            return self.terms
        return dataclasses.replace(self.terms, on_replay=replay, on_unavailable=unavailable)

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Keep a task alive until it ends, whoever stops waiting for it."""
        loop = task.get_loop()
        kept = self._tasks.get(loop)
        if kept is None:
            self._give_up_what_hangs()
            kept = self._tasks[loop] = set()
        kept.add(task)
        task.add_done_callback(kept.discard)

    def _give_up_what_hangs(self, until: float | None = None) -> None:
        """
        End the gates of loops that were closed under them: nobody goes on there, and each has a connection.

        Each waits for the journal, so it is done beside the caller, who waits for it `until` then at most.
        """
        closed = [known for known in list(self._tasks) if known.is_closed()]
        gates = [task.get_coro() for loop in closed for task in self._tasks.pop(loop, ())]
        if not gates:
            return
        thread = threading.Thread(target=_close_coroutines, args=(gates,), name="countwerk-gates", daemon=True)
        with contextlib.suppress(RuntimeError):  # at the exit, where no thread starts any more
            thread.start()
            thread.join(0 if until is None else max(until - time.monotonic(), 0))

    @contextlib.contextmanager
    def gate_span(self, reservation: Reservation, loop: asyncio.AbstractEventLoop | None = None) -> Generator[None]:
        """Wrap a gate in the span `countwerk.reserve`; closing waits for it. `loop`: the event loop that it runs on."""
        gate = Gate(loop)
        self._ongoing.arrived(gate)
        try:
            event = reservation.event()
            span = self.telemetry.reserving(reservation.account_id, reservation.operation, reservation.amount, event.id)
            try:
                yield
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                raise
            finally:
                span.end()
        finally:
            self._ongoing.answered(gate)
            self.progressed()

    def tell(self, event: str, charge: ChargeRow, **more: Any) -> None:
        """Tell whoever listens about a charge."""
        self.telemetry.event(event, charge.named() | more)

    def leaves_at_once(self, account_id: str) -> bool:
        """Whether the settlement behind the app would send a confirm of this account's at once (money rule 7)."""
        return self.background and self.settlement.free(account_id)

    def _leave(self, claim: Claim) -> None:
        self.settlement.leave(claim)

    def follow(self, work: bool) -> None:
        """Say that something was written, and whether settlement has something to do."""
        if work and self.background:
            self.settlement.notify()
        self.progressed()

    def began(self, call: Call) -> None:
        """Note that a call is open: its charge, or that of the block that covers it, still needs the journal."""
        self._ongoing.began(call)
        if call.usage_event_id:
            self.telemetry.opened(call.operation, 1)

    def ended(self, call: Call) -> None:
        """Note that a call is over, and its charge queued."""
        self._ongoing.ended(call)
        if call.usage_event_id:
            self.telemetry.opened(call.operation, -1)
        self.progressed()

    def progressed(self) -> None:
        """Wake whoever waits for a settlement."""
        with self._progress:
            self._progress.notify_all()

    def wait_for_progress(self, seconds: float | None) -> None:
        """Wait until something moved, or a quarter of a second at most: progress may come from another process."""
        with self._progress:
            self._progress.wait(0.25 if seconds is None else min(seconds, 0.25))

    def recover(self) -> Recovered:
        """Take over what dead processes left in this journal, and settle it."""
        total = self.runtime.run(recover(self.terms))
        if total != Recovered() and self.background:
            self.settlement.notify()
        return total

    def flush(self, timeout: float, *, inline: bool = False) -> bool:
        """Wait until all that settles by itself has, settling it here if no thread does; False: something has not."""
        return flushed(self, timeout, inline=inline or not self.background)

    def close(self, timeout: float, *, at_exit: bool = False) -> bool:
        """
        Drain for `timeout` seconds, then let go; the rest stays in the journal.

        At exit no thread may start any more, not even to resolve a name: what is left is settled right here.
        """
        if self.closed:
            return self._drained
        self.closed = True
        if self._pid != os.getpid():
            return True
        if self.leases is not None:
            self.leases.close()
        self.learner.flush()
        deadline = time.monotonic() + timeout
        self._give_up_what_hangs(deadline)
        with contextlib.suppress(CountwerkError):
            if at_exit:
                self.settlement.stop(timeout / 2)
            while self._ongoing.any() and not at_exit and time.monotonic() < deadline:
                self.wait_for_progress(deadline - time.monotonic())
            self._drained = self.flush(max(deadline - time.monotonic(), 0), inline=at_exit)
        self.settlement.stop(max(deadline - time.monotonic(), 0.5))
        self.over = True
        if self._shadow_ledger is not None:
            self._shadow_ledger.close()
        self._transport.close()
        if self._ongoing.any():
            # What they will have cost is still committed; whoever recovers this process' rows settles it.
            self._drained = False
            return False
        self.journal.leave(self.terms.owner)
        if self._own_journal:
            self.journal.close(max(deadline - time.monotonic(), _LAST_WORD_SECONDS))
        return self._drained

    async def aclose_loop(self) -> None:
        """Close the running loop's connections."""
        await self._loops.aclose()


def _close_coroutines(gates: Iterable[Coroutine[Any, Any, Any] | Generator[Any, Any, Any]]) -> None:
    for gate in gates:
        # What it closes may want its loop.
        with contextlib.suppress(Exception):
            gate.close()


def _after_fork() -> None:
    for engine in list(_ENGINES):
        engine.forget_the_parent()


os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _close_all() -> None:
    """Drain what is left for a bounded time; a library installs no signal handler."""
    for engine in list(_ENGINES):
        engine.close(_AT_EXIT_SECONDS, at_exit=True)
