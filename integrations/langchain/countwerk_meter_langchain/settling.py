"""
What becomes of a call's hold when the call ends, fails, breaks off, or is never heard of again.

The rule: nothing here raises. Whatever goes wrong, the reservation is finished with what is known, and an event says
so.
"""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from countwerk_meter_langchain.answers import (
    FREE,
    Streamed,
    consumed,
    counted,
    is_chat,
    made_by,
    reported,
    rest_of,
    shares_usage,
)
from countwerk_meter_langchain.reaping import REAPER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from langchain_core.outputs import LLMResult

    from countwerk_meter import Meter, Usage
    from countwerk_meter_langchain.calls import Batch, Run
    from countwerk_meter_langchain.runs import Runs
    from countwerk_meter_langchain.steps import Steps

_LOG: Final = logging.getLogger("countwerk_meter_langchain")

# The end of a chain may be told before the end of the stream inside it, and a consumer that left may have the rest of
# it drained. So a stream whose chain is over is settled only once it has been silent for so long.
GRACE_SECONDS = 5.0

# Set in a start hook, this is seen again only where LangChain's sync path called it: the async path runs each hook in a
# copy of the context.
_batches: ContextVar[tuple[Batch, ...]] = ContextVar("countwerk_langchain_batches", default=())


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
        unannounced: Callable[[UUID, str | None, UUID | None], Run],
        validity_seconds: float,
        steps: Steps,
        *,
        flat: bool,
    ) -> None:
        self._runs = runs
        self._meter = meter
        self._open_unannounced = unannounced
        self._validity = validity_seconds
        self._steps = steps
        self._flat = flat
        self._warned = False
        REAPER.enlist(self)

    def streaming(self, run_id: UUID, take: Callable[[Streamed], None]) -> None:
        """Note that a call yielded something: from here on it is not free (money rule 13)."""
        run = self._runs.heard(run_id)
        if run is None:
            return
        try:
            take(run.streamed)
        except Exception as error:  # noqa: BLE001 - counting must not stop a stream
            run.streamed.any = True
            self._failed("stream", error)
        run.touched = time.monotonic()
        if run.streamed.any:
            run.reservation.yielded()
            if run.released:
                # Given up, and it goes on: if it ends in nothing again, it is charged for what came since.
                self._abandon(run)

    def yielded(self, run_id: UUID) -> None:
        """Note that a call's consumer was shown something, which may be all that is ever heard of it."""
        self.streaming(run_id, Streamed.began)

    def ended(self, run_id: UUID, response: LLMResult, parent_run_id: UUID | None) -> None:
        """Charge a call that ended."""
        run = self._runs.take(run_id)
        done: Sequence[Run | None] = [run]
        with nullcontext() if run is None else run.alone():
            try:
                if run is None:
                    done = [run := self._unannounced(run_id, response, parent_run_id)]
                if run is not None:
                    done = self._charge(run, response)
            except Exception as error:  # noqa: BLE001 - the model has answered
                self._failed("on_llm_end", error)
            finally:
                for each in done:
                    if each is not None:
                        each.reservation.finish()
                REAPER.leave(self)

    def _charge(self, run: Run, response: LLMResult) -> Sequence[Run | None]:
        """Record what a call used; return the calls that can be finished now."""
        usage = reported(response, ran=run.streamed.ticked or made_by(run.run_id, response))
        if run.released:
            if usage == FREE:
                return []
            # It was given up and answers after all: what it used goes under `<id>.late` (money rule 15).
            run.reservation.resume()
        shares = run.batch is not None and shares_usage(response) and not run.reservation.flat
        if usage == FREE:
            run.reservation.cancel("answered from LangChain's cache")
        elif usage is not None:
            self._record(run, usage, counted=False)
        elif not shares and self._meter.prices is not None:
            # Nobody reported it: what can be counted is charged, before what was held (money rule 13).
            self._record(run, counted(response, run.input_tokens), counted=True)
        return [run] if run.batch is None else self._of_batch(run.batch, run, usage, shares=shares)

    @staticmethod
    def _record(run: Run, usage: Usage, *, counted: bool) -> None:
        """Record what a call used in all: that part of it which was not recorded when the call was given up."""
        rest = usage if run.recorded is None else rest_of(usage, run.recorded)
        first, run.recorded = run.recorded is None, usage
        if first or rest != FREE:
            run.reservation.record(rest, model=run.model, counted=counted)

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

    def failed(
        self, run_id: UUID, error: BaseException, response: LLMResult | None, parent_run_id: UUID | None
    ) -> None:
        """Charge what a call used that failed or was broken off."""
        run = self._runs.take(run_id)
        with nullcontext() if run is None else run.alone():
            try:
                if run is None:
                    run = self._unannounced(run_id, response, parent_run_id, broken=True)
                elif run.released and consumed(run.streamed, response, 0) is not None:
                    run.reservation.resume()
            except Exception as problem:  # noqa: BLE001 - the provider's error must be seen
                self._failed("on_llm_error", problem)
            if run is None:
                return
            self._break_off(run, error, response)
        batch = run.batch
        if batch is not None and leave_batch(batch):
            for other in self._runs.fail(batch, error, run):
                if self._runs.drop(other):
                    self._break_off(other, error, None)

    def _break_off(self, run: Run, error: BaseException, response: LLMResult | None) -> None:
        try:
            used = consumed(run.streamed, response, run.input_tokens) if run.reservation.open else None
            if used is not None:
                usage, counted = used
                run.reservation.yielded()
                self._record(run, usage, counted=counted)
        except Exception as problem:  # noqa: BLE001 - the provider's error must be seen
            self._failed("on_llm_error", problem)
        finally:
            run.reservation.finish(error)
            REAPER.leave(self)
            if not run.streamed.any and not run.reservation.recorded:
                self._give_ordinal_back(run)

    def _give_ordinal_back(self, run: Run) -> None:
        """Give a call's place in its step to the next one, once: another call may have taken it since."""
        if run.named is not None and not run.ordinal_back:
            run.ordinal_back = True
            self._steps.back(run.named)

    def tool_ended(self, run_id: UUID, failure: BaseException | None) -> None:
        """Charge a tool's price; nothing, if it failed and no model ran in it."""
        run = self._runs.take(run_id)
        if run is None:
            return
        with run.alone():
            if run.released:
                if failure is not None:
                    return
                run.reservation.resume()
            run.reservation.finish(failure)
            REAPER.leave(self)
            if failure is not None and run.reservation.given_back:
                # Called again, it is the same call. One that was charged, for the models in it, is not.
                self._give_ordinal_back(run)

    def give_up(self, run: Run) -> None:
        """End a call of which nothing more is to be expected: charge what it streamed, or give its hold back."""
        with run.alone():
            # From here on an answer finds it given up, and waits until it is.
            if self._runs.release(run):
                self._break_off(run, GivenUp(), None)

    def _give_up_again(self, run: Run) -> None:
        """Charge what a call streamed since it was given up."""
        with run.alone():
            if self._runs.is_released(run):
                run.abandoned = False
                run.reservation.resume()
                self._break_off(run, GivenUp(), None)

    def sweep(self, chain: UUID, *, forget: bool = True) -> None:
        """Give up the calls below a chain that is over; unless it comes back, forget its denials too."""
        try:
            if forget:
                self._steps.forget(chain)
            for run in self._runs.chain_ended(chain, forget=forget):
                if run.streamed.any:
                    run.touched = time.monotonic()
                    self._abandon(run)
                else:
                    self.give_up(run)
        except Exception as error:  # noqa: BLE001 - the chain has its answer
            self._failed("sweep", error)

    def tidy(self) -> None:
        """Give up the calls whose hold has expired or that fell silent, and forget refusals that are old."""
        self._runs.tidy()
        for run in self._runs.older_than(self._validity):
            self.give_up(run)
        if not REAPER.armed:
            self.look_after()

    def watch(self) -> None:
        """See to it that an open call is given up once nobody can tell of its end any more."""
        REAPER.watch(self, GRACE_SECONDS)

    def flush(self) -> None:
        """Settle what was abandoned now."""
        self.look_after(at_once=True)

    def forget_open(self) -> None:
        """Begin a forked child with no open calls."""
        self._runs.forget_open()

    def end_all(self) -> None:
        """Give up every open call: the process ends."""
        self.flush()
        for run in self._runs.older_than(0.0):
            self.give_up(run)

    def _abandon(self, run: Run) -> None:
        """Settle this call once it has been silent for a while."""
        self._runs.abandon(run)
        self.watch()

    def look_after(self, *, at_once: bool = False) -> float | None:
        """
        End the calls of which nobody can tell any more, and the abandoned ones that have been silent for long.

        Returns when to look again, None: nothing is left. `at_once`: however short they have been silent.
        """
        wait = self._give_up_unheard()
        for run in self._runs.abandoned():
            left = run.touched + GRACE_SECONDS - time.monotonic()
            if left > 0 and not at_once:
                wait = left if wait is None else min(wait, left)
            elif run.released:
                self._give_up_again(run)
            else:
                self.give_up(run)
        return wait

    def idle(self) -> bool:
        """Whether no call is open, or streams on although it was given up."""
        return self._runs.idle()

    def _give_up_unheard(self) -> float | None:
        """Give up the calls of which nobody can tell any more; return when to look at the others, if there are any."""
        opened = self._runs.opened()
        gone = [run for run in opened if run.named_by is not None and run.named_by() is None]
        for run in gone:
            self.give_up(run)
        return GRACE_SECONDS if len(gone) < len(opened) else None

    def _unannounced(
        self, run_id: UUID, response: LLMResult | None, parent_run_id: UUID | None, *, broken: bool = False
    ) -> Run | None:
        """Open a call that ended here without having begun here; None: it is metered elsewhere, or used nothing."""
        if self._runs.was_aside(run_id) or response is None or is_chat(response):
            # Chat models are announced to every handler.
            return None
        if broken:
            if consumed(Streamed(), response, 0) is None:
                return None
        elif reported(response, ran=False) == FREE or (shares_usage(response) and not self._flat):
            return None
        self._tell("langchain_unannounced", run_id=str(run_id))
        if not self._warned:
            self._warned = True
            _LOG.warning(
                "LangChain did not announce an async text model's call, because another handler on the run is inline "
                "(LangSmith's tracer is): it could not be refused, and is charged after it ran. To have such calls "
                "refused, take the inline handler off the run, call the model from sync code, or use a chat model"
            )
        name = (response.llm_output or {}).get("model_name")
        return self._open_unannounced(run_id, name if isinstance(name, str) else None, parent_run_id)

    def _failed(self, hook: str, error: Exception) -> None:
        self._tell("langchain_hook_failed", hook=hook, error=type(error).__name__)

    def _tell(self, event: str, **fields: Any) -> None:
        self._meter._engine.telemetry.event(event, fields)
