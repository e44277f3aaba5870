"""
A metered call from its gate to its charge: what `meter.reserve(...)` gives.

The amount is committed before the result goes back to the app (money rule 7), and once the model has answered nothing
here raises into user code.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING, Self

from countwerk_meter._drivers.runtime import Ran
from countwerk_meter._flow.ending import Commit, Release, Seal
from countwerk_meter._flow.rows import LEASE, replace
from countwerk_meter._metering import scope
from countwerk_meter._metering.call import Call, Mode
from countwerk_meter._metering.funding import Funding
from countwerk_meter._metering.gate import gate_flow
from countwerk_meter.errors import ConfigurationError, CountwerkError

if TYPE_CHECKING:
    from collections.abc import Generator
    from concurrent.futures import Future
    from contextlib import AbstractContextManager
    from types import TracebackType

    from countwerk_meter._flow.ending import Committed
    from countwerk_meter._flow.reserve import Gate
    from countwerk_meter._flow.rows import ChargeRow


class Reservation(Call):
    """
    One metered call.

    Use it with `with` or `async with`; integrations that have no block call `begin` and `finish` (or their async
    twins) and say with `entered()` where it is current. Safe to record into from any thread.
    """

    def entered(self) -> AbstractContextManager[None]:
        """Make this the reservation that nested calls draw on, for the length of a `with`."""
        return scope.entered(self)

    def begin(self) -> Self:
        """Pass the gate, or raise. Blocks the calling thread."""
        if self._steps_aside():
            return self
        with self._let_through(), self._engine.gate_span(self):
            try:
                self._engine.runtime.run(gate_flow(self), within=self._engine.patience)
            except BaseException as error:
                # Ctrl-C just behind the gate: nobody would end the call.
                self.finish_now(error)
                raise
        return self

    async def abegin(self) -> Self:
        """Pass the gate, or raise. A caller that is cancelled leaves no hold behind: it is given back when it lands."""
        if self._steps_aside():
            return self
        with self._let_through(), self._engine.gate_span(self, asyncio.get_running_loop()):
            runtime, patience = self._engine.runtime, self._engine.patience
            flow = gate_flow(self)
            command = runtime.started(flow)
            if isinstance(command, Ran):
                return self
            task = asyncio.ensure_future(runtime.arun(flow, within=patience, command=command))
            self._engine.keep(task)
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                task.add_done_callback(self._abandoned)
                raise
            except GeneratorExit:
                # Its loop was closed: nobody calls back there any more.
                if task.done():
                    self._abandoned(task)
                raise
        return self

    def resume(self) -> None:
        """Take up a call again that was given up and answers after all: its cost goes under `<id>.late` (rule 15)."""
        if self.open:
            return
        if self._charge is not None and self._mode is not Mode.REPLAYED:
            self.open = True
            self._engine.began(self)
        elif self._charge is not None:
            self.open = True
        elif self._mode is Mode.COVERED:
            self.open = True
            self._engine.began(self)

    def finish(self, error: BaseException | None = None) -> None:
        """End the call and charge it. Waits for the commit; never raises."""
        future = self._surely_ended(error, waits=True)
        if future is None:
            return
        try:
            done = self._engine.commits.outcome(future)
            if done is not None:
                self._engine.inline.after(done, sends=self._sends())
        finally:
            self._sends_nothing()

    def _surely_ended(self, error: BaseException | None, *, waits: bool) -> Future[Committed] | None:
        """Queue the end of the call: wherever Ctrl-C strikes, what it used is committed all the same."""
        try:
            return self._end(error, waits=waits)
        except BaseException:
            self._end(error)
            self._sends_nothing()
            raise

    def _sends(self) -> bool:
        """Take the confirm that is opened with the commit, if it is for whoever waits; it is sent from here on."""
        future, self._mine_to_send = self._mine_to_send, None
        return future is not None

    def _sends_nothing(self) -> None:
        """Let go of the confirm that was to be sent by whoever waits for the commit: it counts for nothing (rule 4)."""
        future, self._mine_to_send = self._mine_to_send, None
        if future is not None:
            future.add_done_callback(self._engine.inline.never_left)

    async def afinish(self, error: BaseException | None = None) -> None:
        """End the call and charge it. Awaits the commit; never raises, but for a cancellation of the caller."""
        cut = isinstance(error, asyncio.CancelledError | GeneratorExit)
        future = self._surely_ended(error, waits=not cut)
        if future is None:
            return
        if cut:
            # No await is safe here: the commit is queued, and waited for briefly.
            self._engine.commits.outcome(future, brief=True)
            return
        try:
            done = await self._engine.commits.aoutcome(future)
            if done is not None:
                await self._engine.inline.aafter(done, sends=self._sends())
        finally:
            self._sends_nothing()

    def finish_now(self, error: BaseException | None = None) -> None:
        """End the call where nothing may block or be awaited: the commit is queued and waited for 100 ms at most."""
        future = self._end(error)
        if future is not None:
            self._engine.commits.outcome(future, brief=True)

    def __enter__(self) -> Self:
        scope.warn_on_a_loop()
        try:
            self.begin()
            self._enter()
        except BaseException as error:
            self._leave()
            self.finish_now(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._leave()
        finally:
            # Even if Ctrl-C strikes just now: a block that stayed open would pay for the next call.
            try:
                self.finish(error)
            except BaseException:
                # Before it had begun.
                self.finish_now(error)
                raise

    async def __aenter__(self) -> Self:
        try:
            await self.abegin()
            self._enter()
        except BaseException as error:
            self._leave()
            self.finish_now(error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._leave()
        finally:
            try:
                await self.afinish(error)
            except BaseException:
                self.finish_now(error)
                raise

    def _enter(self) -> None:
        self._scope = self.entered()
        self._scope.__enter__()

    def _leave(self) -> None:
        if self._scope is not None:
            self._scope.__exit__(None, None, None)
            self._scope = None

    def draws_from(self, funding: Funding, *, ahead: bool = False) -> None:
        """Note on which hold this call draws; `ahead`: the journal's word on it was not waited for."""
        self._funding, self._ahead = funding, ahead

    @contextlib.contextmanager
    def _let_through(self) -> Generator[None]:
        """Where nothing is enforced, a call that would have been refused goes on, and nothing is noted of it."""
        try:
            yield
        except CountwerkError as error:
            self._engine.let_through(error, self.account_id, self.operation)
            self._mode = Mode.ASIDE
            self.open = True
        else:
            scope.refusing(None)

    def _steps_aside(self) -> bool:
        if self.open or self._charge is not None:
            raise ConfigurationError("a reservation is used once: call meter.reserve(...) again")
        parent = self.usable_parent()
        if scope.in_model_call():
            self._mode = Mode.ASIDE
        elif self._is_covered(parent):
            self._mode = Mode.COVERED
        else:
            return False
        self.open = True
        if self._mode is Mode.COVERED:
            self._engine.began(self)
        return True

    def passed(self, gate: Gate) -> None:
        """Take up the call that a gate has let through."""
        self._charge = gate.charge
        self.open = True
        if gate.replayed:
            self._mode = Mode.REPLAYED
            return
        clamp, held = self._spec.clamp, gate.charge.estimate
        if clamp is not None and held < self._spec.hold.credits:
            self.max_tokens = clamp.tokens(held)
            self._spec = dataclasses.replace(self._spec, hold=dataclasses.replace(self._spec.hold, credits=held))
        if gate.hold is not None:
            self._hold_id = gate.hold.reservation_id
            self.fundings = [Funding(gate.hold)]
        elif gate.charge.draw:
            self._mode = Mode.DRAW
            if (gate.charge.reservation_key or "").startswith(LEASE):
                self.lease = gate.charge.reservation_key
        self._engine.began(self)

    def _abandoned(self, task: asyncio.Task[Gate]) -> None:
        """Give back what a cancelled caller's gate brought after all."""
        if not task.cancelled() and task.exception() is None:
            self.give_up("the caller was cancelled while reserving")

    def give_up(self, reason: str) -> None:
        """End a call that its gate has let through and that never ran: nothing is charged."""
        self._cancelled = reason
        self.finish_now()

    def _end(self, error: BaseException | None, *, waits: bool = False) -> Future[Committed] | None:
        """Queue the end of the call; `waits`: whoever ends it settles it as well, if nobody else does."""
        if not self.open:
            return None
        if self._mode is Mode.COVERED:
            due = self._ran_in(self._covering(), error)
            self.open = False
            self._engine.ended(self)
            return due
        if self._mode in {Mode.ASIDE, Mode.REPLAYED}:
            self.open = False
            if self._charge is not None:
                self._seal([funding.key for funding in self.fundings], self._charge)
            return None
        assert self._charge is not None
        ending = self._ending(error)
        charge, moment = self._charge, self._engine.clock.now()
        now, sends = moment.wall, waits and self._engine.inline.wanted
        # A draw ends no block, and so has no confirm that could leave.
        seals = bool(self.fundings)
        operation: Commit | Release
        if ending.measured is None:
            operation = Release(charge.ledger, charge.id, charge.epoch, ending.reason, now, seal=seals)
        else:
            operation = Commit(
                charge.ledger,
                charge.id,
                charge.epoch,
                ending.measured,
                now,
                self._engine.terms.rounding,
                seal=seals,
                owner=self._engine.terms.owner,
                begins=replace(charge, reservation_key=None, draw=False) if self._ahead else None,
                leaves=moment if seals and (sends or self._engine.leaves_at_once(self.account_id)) else None,
            )
        for funding in self.fundings:
            funding.close()
        future = self._put(operation, charge, sends=sends)
        if future is None:
            return None
        if ending.unpriced:
            self._engine.tell("unpriced", charge, amount=self.amount)
        future.add_done_callback(self._told)
        extra = [funding.key for funding in self.fundings if funding.key != charge.reservation_key]
        self._seal(extra, charge)
        self._engine.ended(self)
        if ending.measured is None and self.flat and self._cancelled is None:
            self._free = self._given_back = True
            return self._due_after_all() or future
        return future

    def _ran_in(self, block: Call, error: BaseException | None) -> Future[Committed] | None:
        """Note in the flat block around that this call ran; should that have ended, and free, its price is due now."""
        if self._cancelled is not None:
            return None
        if error is None or self._yielded:
            block.yielded()
        return block._due_after_all() if isinstance(block, Reservation) else None

    def _due_after_all(self) -> Future[Committed] | None:
        """Charge a flat block's price that it failed without owing, while a call in it was still running (rule 15)."""
        with self._lock:
            if not self._free or not (self.recorded or self._yielded):
                return None
            self._free = False
        try:
            self.resume()
            return self._end(None)
        except BaseException:
            # Ctrl-C: whoever ends the call once more finds it due still.
            self._free = True
            raise

    def _put(self, operation: Commit | Release, charge: ChargeRow, *, sends: bool) -> Future[Committed] | None:
        """Queue the end of the call, once, whoever else ends it; None: somebody else did."""
        mine = False
        try:
            with self._lock:
                if not self.open:
                    return None
                mine = True
                self.open = False
            future = self._engine.commits.put(operation, charge, sends=sends)
        except BaseException:
            if mine:
                # Carried out a second time, the very same operation changes nothing.
                self._engine.commits.put(operation, charge)
            raise
        self._mine_to_send = future if sends else None
        return future

    def _told(self, future: Future[Committed]) -> None:
        """Note what was committed, here and in the account's blocks around. Called in the journal's thread."""
        if future.cancelled() or future.exception() is not None:
            return
        done = future.result()
        self._own_charged = 0 if done.charge is None or done.superseded else done.charge.amount or 0
        # Once: a call that was given up, and answers after all, has given its credits back.
        funding, self._funding = self._funding, None
        if funding is not None and self._charge is not None:
            funding.give(self._charge.estimate - (0 if done.charge is None else done.charge.share))
            if self._ahead and (done.charge is None or done.charge.reservation_key is None):
                funding.gone()
        around = self._parent
        while around is not None and self._is_alike(around):
            # No lock: whoever is interrupted while holding one would stop the journal's thread.
            around._nested_charged.append(self._own_charged)
            around = around._parent

    def _seal(self, keys: list[str], charge: ChargeRow) -> None:
        """End the holds that nested calls took for this block; its own is ended with its charge."""
        for key in list(keys):
            self._engine.commits.put(Seal(key, self._engine.now()), charge)
