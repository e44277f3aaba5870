"""
A metered call from its gate to its charge: what `meter.reserve(...)` gives.

The amount is committed before the result goes back to the app (money rule 7), and once the model has answered nothing
here raises into user code.
"""

from __future__ import annotations

import asyncio
import enum
import threading
import warnings
from decimal import Decimal
from typing import TYPE_CHECKING, Self

from countwerk_meter._flow.ending import Checkpoint, Commit, Measured, Release, Seal
from countwerk_meter._metering import scope
from countwerk_meter._metering.amounts import Ending, Measurements, ending_of, measured_of
from countwerk_meter._metering.gate import gate_flow
from countwerk_meter._metering.handle import Settlement
from countwerk_meter._wire.requests import AMOUNT_LIMIT
from countwerk_meter.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future
    from contextlib import AbstractContextManager
    from types import TracebackType

    from countwerk_meter._flow.ending import Committed
    from countwerk_meter._flow.reserve import Gate
    from countwerk_meter._flow.rows import ChargeRow
    from countwerk_meter._metering.engine import Engine
    from countwerk_meter._metering.spec import Spec
    from countwerk_meter.events import EventId
    from countwerk_meter.usage import Usage


class Mode(enum.Enum):
    """How a call is paid for."""

    OWN = "own"  # its own hold
    DRAW = "draw"  # drawn on the enclosing block's hold
    COVERED = "covered"  # inside a flat price: what it uses is noted there, not added
    ASIDE = "aside"  # inside a model call that an integration meters: counted there, once
    REPLAYED = "replayed"  # charged before; the work goes on and nothing more is charged


class Reservation:
    """
    One metered call.

    Use it with `with` or `async with`; integrations that have no block call `begin` and `finish` (or their async
    twins) and say with `entered()` where it is current. Safe to record into from any thread.
    """

    def __init__(self, engine: Engine, spec: Spec, parent: Reservation | None) -> None:
        self._engine = engine
        self._spec = spec
        self._parent = parent
        self._mode = Mode.OWN
        self._event: EventId | None = None
        self._charge: ChargeRow | None = None
        self._hold_id: str | None = None
        self._records = Measurements(engine.prices)
        self._set: int | None = None
        self._cancelled: str | None = None
        self._yielded = False
        self._scope: AbstractContextManager[None] | None = None
        self._lock = threading.Lock()
        self.open = False
        self.draws = 0
        self.fundings: list[str] = []

    def __repr__(self) -> str:
        return f"<Reservation {self._spec.operation} {self.usage_event_id or 'not begun'}>"

    @property
    def engine(self) -> Engine:
        """The meter's machinery, for integrations that ask whether two calls share a meter."""
        return self._engine

    @property
    def spec(self) -> Spec:
        """What was asked for."""
        return self._spec

    @property
    def account_id(self) -> str:
        """Whose credits these are."""
        return self._spec.account_id

    @property
    def operation(self) -> str:
        """What the credits are for."""
        return self._spec.operation

    @property
    def usage_event_id(self) -> str:
        """The charge's id; empty before the block begins, or where the call is counted elsewhere."""
        return self._charge.id if self._charge is not None else ""

    @property
    def reservation_id(self) -> str | None:
        """The ledger's name for the hold; None where there is none of its own."""
        return self._hold_id

    @property
    def amount(self) -> int:
        """Credits held, or for a nested draw set aside."""
        return self._spec.hold.credits

    @property
    def replayed(self) -> bool:
        """Whether this very charge was made before, so that nothing more is charged."""
        return self._mode is Mode.REPLAYED

    @property
    def flat(self) -> bool:
        """Whether what nested calls use is covered by this block's flat price."""
        return self._spec.hold.kind == "price" or (
            self._mode is Mode.COVERED and self._parent is not None and self._parent.flat
        )

    @property
    def settlement(self) -> Settlement:
        """What becomes of the charge: `.wait(timeout)`, `await`, `.state`, `.basis`, `.amount`."""
        return Settlement(self._engine, self.usage_event_id)

    @property
    def recorded(self) -> bool:
        """Whether anything was recorded or set."""
        return bool(self._records.lines) or self._set is not None

    def record(
        self,
        usage: Usage | None,
        *,
        model: str | None = None,
        attributes: Mapping[str, str] | None = None,
        dimensions: Mapping[str, int | Decimal] | None = None,
        counted: bool = False,
    ) -> None:
        """
        Add what one call used. Each record is priced as a line of its own, and the lines add up.

        Args:
            usage: Tokens, as `Usage.of(answer)` gives them; None: the provider did not say, which is not free.
            model: Becomes the attribute `model` that price rules match.
            attributes: Further attributes.
            dimensions: Further measured quantities, by dimension name.
            counted: These are tokens that were counted here, not reported by the provider.

        Never raises for a usage that the profile cannot price: that is charged as what was held, or as the part that
        can be priced if that is more. Outside the block it is not charged, and a warning says so.

        """
        self._warn_unless_open()
        if usage is None and not dimensions:
            return
        measured, understood = measured_of(usage, dimensions)
        named = {**({"model": model} if model else {}), **(attributes or {})}
        target = self
        while target._mode is Mode.COVERED and target._parent is not None:
            target = target._parent
        if target._mode is not Mode.ASIDE:
            target._records.add(measured, named, counted=counted, understood=understood)

    def settle(self, amount: int) -> None:
        """
        Set what the call costs: a whole number of credits, 0 for nothing.

        Raises:
            ConfigurationError: It is no whole number, or below 0.

        """
        if isinstance(amount, bool) or not isinstance(amount, int) or not 0 <= amount <= AMOUNT_LIMIT:  # pyright: ignore[reportUnnecessaryIsInstance] - callers without types
            raise ConfigurationError("settle takes a whole number of credits, 0 or more and below 2^53")
        self._warn_unless_open()
        self._set = amount

    def cancel(self, reason: str = "cancelled by the app") -> None:
        """Charge nothing, whatever was recorded, and give the hold back when the block ends."""
        self._cancelled = reason

    def checkpoint(self) -> None:
        """Keep what was recorded so far in the journal, so that a crash does not lose it. Does not wait."""
        if self._charge is not None and self._mode is not Mode.REPLAYED:
            measured = self._so_far()
            if measured is not None:
                charge = self._charge
                self._engine.journal.submit(Checkpoint(charge.ledger, charge.id, charge.epoch, measured))

    def yielded(self) -> None:
        """Note that something reached the consumer: from here on unknown usage is not free (money rule 13)."""
        self._yielded = True

    def entered(self) -> AbstractContextManager[None]:
        """Make this the reservation that nested calls draw on, for the length of a `with`."""
        return scope.entered(self)

    def begin(self) -> Self:
        """Pass the gate, or raise. Blocks the calling thread."""
        if self._steps_aside():
            return self
        with self._engine.gate_span(self):
            self._passed(self._engine.runtime.run(gate_flow(self), within=self._engine.patience))
        return self

    async def abegin(self) -> Self:
        """Pass the gate, or raise. A caller that is cancelled leaves no hold behind: it is given back when it lands."""
        if self._steps_aside():
            return self
        with self._engine.gate_span(self):
            task = asyncio.ensure_future(self._engine.runtime.arun(gate_flow(self), within=self._engine.patience))
            self._engine.keep(task)
            try:
                gate = await asyncio.shield(task)
            except asyncio.CancelledError:
                task.add_done_callback(self._abandoned)
                raise
            self._passed(gate)
        return self

    def resume(self) -> None:
        """Take up a call again that was given up and answers after all: its cost goes under `<id>.late` (rule 15)."""
        if self._charge is not None and not self.open:
            self.open = True
            self._engine.opened(self.operation, 1)

    def finish(self, error: BaseException | None = None) -> None:
        """End the call and charge it. Waits for the commit; never raises."""
        future = self._end(error)
        if future is None:
            return
        done = self._engine.commits.outcome(future)
        if done is not None:
            self._engine.inline.after(done.work)

    async def afinish(self, error: BaseException | None = None) -> None:
        """End the call and charge it. Awaits the commit; never raises, but for a cancellation of the caller."""
        future = self._end(error)
        if future is None:
            return
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            # No await is safe here: the commit is queued, and waited for briefly.
            self._engine.commits.outcome(future, brief=True)
            return
        done = await self._engine.commits.aoutcome(future)
        if done is not None:
            await self._engine.inline.aafter(done.work)

    def finish_now(self, error: BaseException | None = None) -> None:
        """End the call where nothing may block or be awaited: the commit is queued and waited for 100 ms at most."""
        future = self._end(error)
        if future is not None:
            self._engine.commits.outcome(future, brief=True)

    def __enter__(self) -> Self:
        scope.warn_on_a_loop()
        self.begin()
        self._scope = self.entered()
        self._scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._leave()
        finally:
            # Even if Ctrl-C strikes just now: a block that stayed open would pay for the next call.
            self.finish(error)

    async def __aenter__(self) -> Self:
        await self.abegin()
        self._scope = self.entered()
        self._scope.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._leave()
        finally:
            await self.afinish(error)

    def _warn_unless_open(self) -> None:
        if not self.open:
            text = (
                "this reservation is not open, so nothing is charged for this: record inside `with meter.reserve(...)`"
            )
            warnings.warn(text, RuntimeWarning, stacklevel=3)

    def _leave(self) -> None:
        if self._scope is not None:
            self._scope.__exit__(None, None, None)
            self._scope = None

    def usable_parent(self) -> Reservation | None:
        """Return the enclosing block that this call may draw on: open, of the same meter and account."""
        parent = self._parent
        if (
            parent is not None
            and parent.open
            and parent._engine is self._engine
            and parent.account_id == self.account_id
        ):
            return parent
        return None

    def block(self) -> Reservation | None:
        """Return the enclosing block that holds the credits, looking through blocks that only drew on it."""
        parent = self.usable_parent()
        while parent is not None and parent._mode is Mode.DRAW:
            parent = parent.usable_parent()
        return parent

    def drawn_on(self) -> None:
        """Note a nested charge, in every block around it that charges only what it recorded itself."""
        parent = self.usable_parent()
        while parent is not None:
            parent.draws += 1
            parent = parent.usable_parent() if parent._mode is Mode.DRAW else None

    def event(self) -> EventId:
        """Name the charge, once."""
        if self._event is None:
            self._event = self._engine.name(self._spec)
        return self._event

    def _steps_aside(self) -> bool:
        if self.open or self._charge is not None:
            raise ConfigurationError("a reservation is used once: call meter.reserve(...) again")
        parent = self.usable_parent()
        if scope.in_model_call():
            self._mode = Mode.ASIDE
        elif parent is not None and parent.flat:
            self._mode = Mode.COVERED
        else:
            return False
        self.open = True
        return True

    def _passed(self, gate: Gate) -> None:
        self._charge = gate.charge
        self.open = True
        if gate.replayed:
            self._mode = Mode.REPLAYED
            return
        if gate.hold is not None:
            self._hold_id = gate.hold.reservation_id
            self.fundings = [gate.hold.key]
        elif gate.charge.draw:
            self._mode = Mode.DRAW
        self._engine.opened(self.operation, 1)

    def _abandoned(self, task: asyncio.Task[Gate]) -> None:
        """Give back what a cancelled caller's gate brought after all."""
        if not task.cancelled() and task.exception() is None:
            self._passed(task.result())
            self._cancelled = "the caller was cancelled while reserving"
            self.finish_now()

    def _end(self, error: BaseException | None) -> Future[Committed] | None:
        with self._lock:
            if not self.open:
                return None
            self.open = False
        if self._mode in {Mode.COVERED, Mode.ASIDE, Mode.REPLAYED}:
            if self._charge is not None:
                self._seal(self.fundings, self._charge)
            return None
        assert self._charge is not None
        ending = self._ending(error)
        charge, now = self._charge, self._engine.now()
        operation: Commit | Release
        if ending.measured is None:
            operation = Release(charge.ledger, charge.id, charge.epoch, ending.reason, now, seal=bool(self.fundings))
        else:
            operation = Commit(
                charge.ledger,
                charge.id,
                charge.epoch,
                ending.measured,
                now,
                self._engine.terms.rounding,
                seal=bool(self.fundings),
                owner=self._engine.terms.owner,
            )
        if ending.unpriced:
            self._engine.tell("unpriced", charge, amount=self.amount)
        future = self._engine.commits.put(operation, charge)
        self._seal([key for key in self.fundings if key != charge.reservation_key], charge)
        self._engine.opened(self.operation, -1)
        return future

    def _seal(self, keys: list[str], charge: ChargeRow) -> None:
        """End the holds that nested calls took for this block; its own is ended with its charge."""
        for key in list(keys):
            self._engine.commits.put(Seal(key, self._engine.now()), charge)

    def _ending(self, error: BaseException | None) -> Ending:
        return ending_of(
            self._spec.hold,
            self._records,
            set_amount=self._set,
            cancelled=self._cancelled,
            failed=error is not None,
            yielded=self._yielded,
            drawn_on=self.draws > 0,
            durable=self.event().durable or self._spec.usage_event_id is not None,
        )

    def _so_far(self) -> Measured | None:
        if self._set is not None:
            return Measured(Decimal(self._set), "set", self._records.as_json())
        return self._records.measured(self.amount) if self._records.lines else None
