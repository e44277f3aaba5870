"""What a metered call is, and what it used, as the app tells it: recorded, set, or kept as a checkpoint."""

from __future__ import annotations

import enum
import threading
import warnings
from decimal import Decimal
from typing import TYPE_CHECKING

from countwerk_meter._flow.ending import Checkpoint, Measured
from countwerk_meter._metering.amounts import Ending, Measurements, ending_of, measured_of, named_of
from countwerk_meter._metering.handle import Settlement
from countwerk_meter._wire.requests import AMOUNT_LIMIT
from countwerk_meter.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from countwerk_meter._flow.ending import Committed
    from countwerk_meter._flow.rows import ChargeRow, ReservationRow
    from countwerk_meter._metering.engine import Engine
    from countwerk_meter._metering.funding import Funding
    from countwerk_meter._metering.reservation import Reservation
    from countwerk_meter._metering.spec import Spec
    from countwerk_meter.events import EventId
    from countwerk_meter.usage import Usage


class Mode(enum.Enum):
    """How a call is paid for."""

    OWN = "own"  # its own hold
    DRAW = "draw"  # drawn on the enclosing block's hold
    COVERED = "covered"  # inside a flat price: what it uses is noted there, not added
    ASIDE = "aside"  # counted elsewhere, by an integration; or it would have been refused, and nothing is enforced
    REPLAYED = "replayed"  # charged before; the work goes on and nothing more is charged


class Call:
    """
    One metered call, without its gate and its end.

    Attributes:
        max_tokens: With `clamp=True`, the output tokens that the balance pays for, to be passed to the model; None
            where all of the estimate is held.

    """

    def __init__(self, engine: Engine, spec: Spec, parent: Reservation | None) -> None:
        self._engine = engine
        self._spec = spec
        self._parent = parent
        self._mode = Mode.OWN
        self._event: EventId | None = None
        # What its gate tried to begin, with a hold of its own or without, and what it began.
        self.tried: tuple[ChargeRow, ReservationRow | None] | None = None
        self._charge: ChargeRow | None = None
        self._hold_id: str | None = None
        self._records = Measurements(engine.prices)
        self._set: int | None = None
        self._cancelled: str | None = None
        self._yielded = False
        self._scope: AbstractContextManager[None] | None = None
        self._lock = threading.RLock()
        self.open = False
        self.draws = 0
        self.steps = 0
        self._nested_charged: list[int] = []
        self._own_charged: int | None = None
        self.max_tokens: int | None = None
        self.fundings: list[Funding] = []
        self._funding: Funding | None = None
        self._ahead = False
        # It failed, and so owed nothing of its flat price; and it still owes nothing, but a call in it may be running.
        self._given_back = self._free = False
        # Its commit, while it is for whoever waits to send the confirm that is opened with it.
        self._mine_to_send: Future[Committed] | None = None
        # The lease that it drew on; nested calls draw on it too.
        self.lease: str | None = None

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
    def given_back(self) -> bool:
        """Whether this flat block failed and so owed nothing of its price; a call in it may still make that due."""
        return self._given_back

    @property
    def charged(self) -> int | None:
        """Credits committed for this block and, of its account, the calls inside it; None until its end is."""
        return None if self._own_charged is None else self._own_charged + sum(self._nested_charged)

    @property
    def settlement(self) -> Settlement:
        """What becomes of the charge: `.wait(timeout)`, `await`, `.state`, `.basis`, `.amount`."""
        return Settlement(self._engine, self.usage_event_id)

    @property
    def recorded(self) -> bool:
        """Whether anything was recorded or set."""
        return bool(self._records.lines) or self._records.unpriced or self._set is not None

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
            usage: Tokens, as `Usage.of(answer)` gives them; None without dimensions: the provider did not say, which is
                not free: the block then costs at least what it held, or what nested calls left of that, whatever else
                was recorded in it.
            model: Becomes the attribute `model` that price rules match.
            attributes: Further attributes.
            dimensions: Further measured quantities, by dimension name.
            counted: These are tokens that were counted here, not reported by the provider.

        Never raises for a usage that the profile cannot price: that is charged as what was held, or as the part that
        can be priced if that is more. Outside the block it is not charged, and a warning says so.

        """
        self._warn_unless_open()
        target = self._covering()
        if target._mode is Mode.ASIDE:
            return
        if usage is None and not dimensions:
            target._records.unknown()
            return
        try:
            measured, understood = measured_of(usage, dimensions)
            named = named_of(model, attributes)
            self._learn(usage, named.get("model"), counted=counted)
            target._records.add(measured, named, counted=counted, understood=understood)
        except Exception:  # noqa: BLE001 - the model has answered: what cannot be read is unknown (money rule 13)
            target._records.unknown()
            return
        if measured.unexplained_tokens and target._charge is not None:
            self._engine.tell("usage_mismatch", target._charge, tokens=measured.unexplained_tokens)

    def _covering(self) -> Call:
        """Return the block whose flat price covers this call, or the call itself."""
        block: Call = self
        while block._mode is Mode.COVERED and block._parent is not None:
            block = block._parent
        return block

    def _learn(self, usage: Usage | None, model: str | None, *, counted: bool) -> None:
        """Let later holds learn from an answer that was reported whole, and was not cut short by a cap of ours."""
        if usage is None or counted or self._mode is Mode.ASIDE:
            return
        output = usage.output_tokens + usage.reasoning_tokens
        if self.max_tokens is None or output < self.max_tokens:
            taken = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
            self._engine.learner.observe(self.account_id, self.operation, model, taken, output)

    def settle(self, amount: int) -> None:
        """
        Set what the call costs: a whole number of credits, 0 for nothing. A flat `price` stays that price.

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

    def _warn_unless_open(self) -> None:
        if not self.open:
            text = (
                "this reservation is not open, so nothing is charged for this: record inside `with meter.reserve(...)`"
            )
            warnings.warn(text, RuntimeWarning, stacklevel=3)

    def usable_parent(self) -> Reservation | None:
        """Return the enclosing block that this call may draw on: open, of the same meter and account."""
        parent = self._parent
        return parent if parent is not None and parent.open and self._is_alike(parent) else None

    def _is_alike(self, other: Call) -> bool:
        """Whether another call is of the same meter and account."""
        return other._engine is self._engine and other.account_id == self.account_id

    def block(self) -> Reservation | None:
        """Return the enclosing block that holds the credits, or drew on a lease, looking through what drew on it."""
        parent = self.usable_parent()
        while parent is not None and parent._mode is Mode.DRAW and parent.lease is None:
            parent = parent.usable_parent()
        return parent

    def drawn_on(self) -> None:
        """Note a nested charge, in every block around it that charges only what it recorded itself."""
        parent = self.usable_parent()
        while parent is not None:
            parent.draws += 1
            # Only a framework names its step: it saw that call itself.
            parent.steps += self._spec.step is not None
            parent = parent.usable_parent() if parent._mode is Mode.DRAW else None

    def _is_covered(self, block: Reservation | None) -> bool:
        """Whether the block around pays for this call; also one that was given up, and owed nothing of its price."""
        if block is not None:
            return block.flat or block._mode is Mode.ASIDE
        gone = self._parent
        return gone is not None and gone._given_back and self._is_alike(gone)

    def event(self) -> EventId:
        """Name the charge, once."""
        if self._event is None:
            self._event = self._engine.name(self._spec)
        return self._event

    def _ending(self, error: BaseException | None) -> Ending:
        """Decide what to charge. Nothing that was recorded may raise here any more: the model has answered."""
        try:
            return self._decided(error)
        except Exception:  # noqa: BLE001 - see above: what cannot be understood is unknown usage (money rule 13)
            return Ending(Measured(Decimal(self._spec.hold.credits), "reserved"), unpriced=True)

    def _decided(self, error: BaseException | None) -> Ending:
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
