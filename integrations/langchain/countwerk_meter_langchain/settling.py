"""
What becomes of a call's hold when the call ends, fails, breaks off, or is never heard of again.

The rule: nothing here raises. Whatever goes wrong, the reservation is finished with what is known, and an event says
so.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from countwerk_meter_langchain.answers import FREE, Streamed, consumed, counted, made_by, reported, shares_usage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from langchain_core.outputs import LLMResult

    from countwerk_meter import Meter, Usage
    from countwerk_meter_langchain.runs import Batch, Run, Runs
    from countwerk_meter_langchain.steps import Named

_LOG: Final = logging.getLogger("countwerk_meter_langchain")

# The end of a chain may be told before the end of the stream inside it, and a consumer that left may have the rest of
# it drained. So a stream whose chain is over is settled only once it has been silent for so long.
GRACE_SECONDS = 5.0

# Set in a start hook, this is seen again only where LangChain's sync path called it: the async path runs each hook in a
# copy of the context.
_batches: ContextVar[tuple[Batch, ...]] = ContextVar("countwerk_langchain_batches", default=())
_SETTLINGS: weakref.WeakSet[Settling] = weakref.WeakSet()


class GivenUp(Exception):  # noqa: N818 - the reason of a release, never raised
    """Nobody will say how this call ended."""


def enter_batch(batch: Batch) -> None:
    """Note that this context runs a batch."""
    if batch not in _batches.get():
        _batches.set((*_batches.get(), batch))


def leave_batch(batch: Batch) -> bool:
    """Forget it; whether it ran on the sync path, where one prompt's failure is the last that is heard."""
    around = _batches.get()
    if batch not in around:
        return False
    _batches.set(tuple(other for other in around if other is not batch))
    return True


class Settling:
    """Ends calls."""

    def __init__(
        self,
        runs: Runs,
        meter: Meter,
        unannounced: Callable[[UUID, str | None], Run],
        validity_seconds: float,
        back: Callable[[Named], None],
    ) -> None:
        self._runs = runs
        self._meter = meter
        self._open_unannounced = unannounced
        self._validity = validity_seconds
        self._back = back
        self._warned = False
        self._timer: threading.Timer | None = None
        self._timer_lock = threading.Lock()
        _SETTLINGS.add(self)

    def streaming(self, run_id: UUID, take: Callable[[Streamed], None]) -> None:
        """Note that a call yielded something: from here on it is not free (money rule 13)."""
        run = self._runs.find(run_id)
        if run is None:
            return
        try:
            take(run.streamed)
        except Exception as error:  # noqa: BLE001 - counting must not stop a stream
            run.streamed.any = True
            self._tell("langchain_hook_failed", hook="stream", error=type(error).__name__)
        run.touched = time.monotonic()
        if run.streamed.any:
            run.reservation.yielded()

    def ended(self, run_id: UUID, response: LLMResult) -> None:
        """Charge a call that ended."""
        run = self._runs.take(run_id)
        done: Sequence[Run | None] = [run]
        try:
            if run is None and reported(response, ran=made_by(run_id, response)) != FREE:
                done = [run := self._unannounced(run_id, response)]
            if run is not None:
                done = self._charge(run, response)
        except Exception as error:  # noqa: BLE001 - the model has answered
            self._tell("langchain_hook_failed", hook="on_llm_end", error=type(error).__name__)
        finally:
            for each in done:
                if each is not None:
                    each.reservation.finish()

    def _charge(self, run: Run, response: LLMResult) -> Sequence[Run | None]:
        """Record what a call used; return the calls that can be finished now."""
        usage = reported(response, ran=run.streamed.ticked or made_by(run.run_id, response))
        if run.released:
            if usage is None or usage == FREE:
                return []
            # It was given up and answers after all: what it used goes under `<id>.late` (money rule 15).
            run.reservation.resume()
        if usage == FREE:
            run.reservation.cancel("answered from LangChain's cache")
        elif usage is not None:
            run.reservation.record(usage, model=run.model)
        shares = run.batch is not None and shares_usage(response) and not run.reservation.flat
        if usage is None and not shares and self._meter.prices is not None:
            # Nobody reported it: what can be counted is charged, before what was held (money rule 13).
            run.reservation.record(counted(response, run.input_tokens), model=run.model, counted=True)
        return [run] if run.batch is None else self._of_batch(run.batch, run, usage, shares=shares)

    @staticmethod
    def _of_batch(batch: Batch, run: Run, usage: Usage | None, *, shares: bool) -> list[Run]:
        done: list[Run] = []
        with batch.lock:
            batch.ended += 1
            batch.known = batch.known or usage is not None
            (batch.sharing if usage is None and shares else done).append(run)
            if batch.known:
                for other in batch.sharing:
                    other.reservation.cancel("counted with the first prompt of its batch")
            last = batch.ended >= batch.size
            if batch.known or last:
                done += batch.sharing
                batch.sharing = []
        if last:
            leave_batch(batch)
        return done

    def failed(self, run_id: UUID, error: BaseException, response: LLMResult | None) -> None:
        """Charge what a call used that failed or was broken off."""
        run = self._runs.take(run_id)
        if run is None and consumed(Streamed(), response, 0) is not None:
            try:
                run = self._unannounced(run_id, response)
            except Exception as problem:  # noqa: BLE001 - the provider's error must be seen
                self._tell("langchain_hook_failed", hook="on_llm_error", error=type(problem).__name__)
        if run is None or run.released:
            return
        self._break_off(run, error, response)
        batch = run.batch
        if batch is not None and leave_batch(batch):
            for other in self._runs.fail(batch, error, run):
                if self._runs.drop(other):
                    self._break_off(other, error, None)

    def _break_off(self, run: Run, error: BaseException, response: LLMResult | None) -> None:
        try:
            used = consumed(run.streamed, response, run.input_tokens)
            if used is not None:
                usage, counted = used
                run.reservation.yielded()
                run.reservation.record(usage, model=run.model, counted=counted)
        except Exception as problem:  # noqa: BLE001 - the provider's error must be seen
            self._tell("langchain_hook_failed", hook="on_llm_error", error=type(problem).__name__)
        finally:
            run.reservation.finish(error)
            if run.named is not None and not run.streamed.any and not run.reservation.recorded:
                self._back(run.named)

    def tool_ended(self, run_id: UUID, failure: BaseException | None) -> None:
        """Charge a tool's price; nothing, if it failed and no model ran in it."""
        run = self._runs.take(run_id)
        if run is None:
            return
        if run.released:
            if failure is not None:
                return
            run.reservation.resume()
        run.reservation.finish(failure)
        if failure is not None and run.named is not None and not run.reservation.recorded:
            self._back(run.named)

    def give_up(self, run: Run) -> None:
        """End a call of which nothing more is to be expected: charge what it streamed, or give its hold back."""
        if not self._runs.drop(run):
            return
        if not run.streamed.any:
            # In case it answers after all, because it was left running on purpose.
            self._runs.keep(run)
        self._break_off(run, GivenUp(), None)

    def sweep(self, chain: UUID, *, forget: bool = True) -> None:
        """Give up the calls below a chain that is over; unless it comes back, forget its denials too."""
        for run in self._runs.chain_ended(chain, forget=forget):
            if run.streamed.any:
                run.abandoned = True
                run.touched = time.monotonic()
                self._arm(GRACE_SECONDS)
            else:
                self.give_up(run)

    def tidy(self) -> None:
        """Give up the calls whose hold has expired, and forget refusals that are old."""
        self._runs.tidy()
        for run in self._runs.older_than(self._validity):
            self.give_up(run)

    def flush(self) -> None:
        """Settle abandoned streams now."""
        for run in self._runs.abandoned():
            self.give_up(run)

    def give_up_all(self) -> None:
        """Give up every open call: the process ends."""
        for run in self._runs.older_than(0.0):
            self.give_up(run)

    def _arm(self, seconds: float) -> None:
        with self._timer_lock:
            if self._timer is None:
                self._timer = threading.Timer(seconds, self._reap)
                self._timer.daemon = True
                self._timer.name = "countwerk-langchain"
                self._timer.start()

    def _reap(self) -> None:
        with self._timer_lock:
            self._timer = None
        wait: float | None = None
        for run in self._runs.abandoned():
            left = run.touched + GRACE_SECONDS - time.monotonic()
            if left <= 0:
                self.give_up(run)
            else:
                wait = left if wait is None else min(wait, left)
        if wait is not None:
            self._arm(wait)

    def _unannounced(self, run_id: UUID, response: LLMResult | None) -> Run | None:
        """Open a call that ended here without having begun here, unless it is one that has ended before."""
        if not self._runs.first_heard(run_id):
            return None
        self._tell("langchain_unannounced", run_id=str(run_id))
        if not self._warned:
            self._warned = True
            _LOG.warning(
                "LangChain did not announce an async text model's call, because another handler on the run is inline "
                "(LangSmith's tracer is): it could not be refused, and is charged after it ran. To have such calls "
                "refused, take the inline handler off the run, call the model from sync code, or use a chat model"
            )
        name = (response.llm_output or {}).get("model_name") if response is not None else None
        return self._open_unannounced(run_id, name if isinstance(name, str) else None)

    def _tell(self, event: str, **fields: Any) -> None:
        self._meter._engine.telemetry.event(event, fields)


@atexit.register
def _at_exit() -> None:
    """End what is still open before the meters drain: this is registered after theirs, so it runs before."""
    for settling in list(_SETTLINGS):
        settling.give_up_all()
