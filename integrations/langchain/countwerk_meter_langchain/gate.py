"""
The gate that every model call passes: whose credits, how many, under which charge id; or it is refused.

The rule: whatever goes wrong in here, the call is not made, and nothing that was held for it or for its batch stays
held.
"""

from __future__ import annotations

import uuid
import weakref
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.runnables.config import var_child_runnable_config

from countwerk_meter import ConfigurationError
from countwerk_meter.events import Step
from countwerk_meter_langchain.calls import Run
from countwerk_meter_langchain.chains import NOWHERE, Chain, label_of, stands_at
from countwerk_meter_langchain.claims import CLAIMS, Claim
from countwerk_meter_langchain.counting import estimate, input_tokens, model_name, output_cap, requested
from countwerk_meter_langchain.passage import Passage
from countwerk_meter_langchain.runs import Runs
from countwerk_meter_langchain.settling import Settling, enter_batch, leave_batch
from countwerk_meter_langchain.shown import Shown
from countwerk_meter_langchain.steps import SPACE_KEY, Steps, counts_of, current_task
from countwerk_meter_langchain.tools import step_of_tool

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from uuid import UUID

    from langchain_core.messages import BaseMessage

    from countwerk_meter import Meter, Reservation, Usage
    from countwerk_meter_langchain.accounts import Accounts
    from countwerk_meter_langchain.calls import Batch

DEFAULT_VALIDITY_MINUTES: Final = 15


@dataclass(frozen=True, slots=True)
class Terms:
    """What a handler was told: credits in whole numbers, validity in minutes; `pauses`: denials interrupt a graph."""

    operation: str
    amount: int | None
    price: int | None
    output_tokens: int
    validity: int | None
    pauses: bool = False
    tool_operation: str = "tool.call"
    tool_prices: Mapping[str, int] = field(default_factory=dict[str, int])


@contextmanager
def _entering(fail: Callable[[BaseException], None]) -> Generator[None]:
    """Tell `fail` of a call that does not pass its gate, and raise what LangChain does not swallow."""
    try:
        yield
    except BaseException as error:
        fail(error)
        if isinstance(error, NotImplementedError):
            # LangChain takes that one for a missing hook, and lets the call run.
            raise ConfigurationError("the handler's account_id or the meter is not implemented") from error
        raise


@contextmanager
def _claiming(claim: Claim | None) -> Generator[None]:
    """Let go of a claim whose call does not pass its gate."""
    try:
        yield
    except BaseException:
        if claim is not None:
            CLAIMS.release(claim)
        raise


def _own(run_id: UUID) -> tuple[weakref.ref[UUID] | None, UUID]:
    """Return what tells whether LangChain still holds a run's name, and a name to be held here."""
    try:
        return weakref.ref(run_id), uuid.UUID(int=run_id.int)
    except (AttributeError, TypeError):
        # A text, say, which somebody chose: that tells nothing.
        return None, run_id


class Gate:
    """The gate of one handler, and what it remembers. Safe to use from any thread."""

    def __init__(self, meter: Meter, accounts: Accounts, terms: Terms) -> None:
        self.meter = meter
        self.accounts = accounts
        self.terms = terms
        # A run id may be the client's choice: it names a charge only together with this handler.
        self._nonce = uuid.uuid4().hex
        self.runs = Runs()
        self.steps = Steps(self.runs, counts_of(meter))
        self._elsewhere: weakref.WeakValueDictionary[UUID, Claim] = weakref.WeakValueDictionary()
        seconds = (terms.validity or DEFAULT_VALIDITY_MINUTES) * 60.0
        self.settling = Settling(self.runs, meter, self._unannounced, seconds, self.steps, flat=terms.price is not None)
        self.passage = Passage(meter, self.runs, self.steps, self.settling, pauses=terms.pauses)
        self.shown = Shown(self.settling.yielded)

    def chain_began(
        self, run_id: UUID, parent_run_id: UUID | None, kwargs: Mapping[str, Any], given: object = None
    ) -> None:
        """Note a chain, tool or retriever, and what it was given."""
        metadata = cast("Mapping[str, object]", kwargs.get("metadata") or {})
        space = metadata.get(SPACE_KEY)
        tool = kwargs.get("tool_call_id")
        space = space if isinstance(space, str) else None
        tool = tool if isinstance(tool, str) else None
        within = current_task()
        stands = NOWHERE if space is None else stands_at(metadata, space, within, given)
        chain = Chain(
            self._parent(parent_run_id),
            space,
            tool=tool,
            metadata=metadata if self.accounts.ask_metadata else None,
            within=within,
            stands=stands,
            label=label_of(kwargs.get("name"), tool, kwargs.get("tags"), stands.given),
        )
        self.runs.chain_began(_own(run_id)[1], chain)

    def tool_began(
        self,
        name: object,
        run_id: UUID,
        parent_run_id: UUID | None,
        metadata: Mapping[str, Any],
        tags: Sequence[str] | None,
        call_id: object,
        shared: object,
    ) -> None:
        """
        Hold a tool's price, or raise so that it is not called.

        Args:
            name: The tool's.
            run_id: The call's run.
            parent_run_id: What it runs below.
            metadata: The run's.
            tags: The run's.
            call_id: The id that a model gave the call.
            shared: An object that all handlers of this one call are handed.

        """
        price = self.terms.tool_prices.get(name) if isinstance(name, str) else None
        if price is None:
            return

        def refuse(_: BaseException) -> None:
            if shared is not None:
                CLAIMS.refuse(shared, run_id)

        named_by, run_id = _own(run_id)
        with _entering(refuse):
            path = self.runs.path(self._parent(parent_run_id))
            tracked = self.runs.tracked(path)
            account_id = self.accounts.of(metadata)
            operation = self.terms.tool_operation
            claim = None if shared is None else Claim(run_id, shared, self.meter, account_id, operation, alone=True)
            if claim is not None and not CLAIMS.take(claim):
                # What runs in it is covered by the handler's charge that holds the price.
                self._elsewhere[run_id] = CLAIMS.holder(claim)
                return
            # Models repeat the ids of their calls, so the id alone names no call where attempts can be told apart.
            called = call_id if isinstance(call_id, str) else None
            named = self.steps.name(
                path, (*(tags or ()), f"map:key:tool {name} {called or ''}"), (account_id, operation)
            )
            step = named.step if named is not None else step_of_tool(self.steps, path, called, str(run_id))
            with _claiming(claim), self._around(path):
                reservation = self.passage.through(
                    lambda step: self.meter.reserve(
                        account_id,
                        operation,
                        price=price,
                        validity=self.terms.validity,
                        description=str(name),
                        step=step,
                    ),
                    step,
                    named,
                    path,
                )
            self._open(Run(run_id, reservation, None, 0, path, claim=claim, named=named, named_by=named_by), tracked)

    def _around(self, path: tuple[UUID, ...]) -> AbstractContextManager[None]:
        """Return the scope of the priced tool that a call runs in, or an empty one: what runs in it is covered."""
        for run_id in path:
            tool = self.runs.find(run_id) or self._elsewhere.get(run_id) or self.runs.given_up(run_id)
            if tool is not None and tool.reservation is not None:
                return tool.reservation.entered()
        return nullcontext()

    def _parent(self, parent_run_id: UUID | None) -> UUID | None:
        """Return what a run is part of; `with_fallbacks` starts its attempts as roots, but in its own context."""
        if parent_run_id is not None:
            return parent_run_id
        config = var_child_runnable_config.get()
        callbacks = config.get("callbacks") if config else None
        enclosing = callbacks.parent_run_id if isinstance(callbacks, BaseCallbackManager) else None
        return enclosing if enclosing is not None and self.runs.tracked((enclosing,)) else None

    def start(
        self,
        prompt: Sequence[BaseMessage] | str,
        run_id: UUID,
        parent_run_id: UUID | None,
        metadata: Mapping[str, Any],
        tags: Sequence[str] | None,
        kwargs: Mapping[str, Any],
    ) -> None:
        """Let one prompt's call through, or raise."""
        self.settling.tidy()
        size = kwargs.get("batch_size")
        batch = self.runs.batch(kwargs.get("options"), size if isinstance(size, int) else 1)
        if batch is not None:
            enter_batch(batch)
        with _entering(lambda error: self._fail(batch, kwargs.get("options"), error)):
            self._enter(prompt, run_id, parent_run_id, metadata, tags, kwargs, batch)

    def _fail(self, batch: Batch | None, options: object, error: BaseException) -> None:
        """Give back what other handlers, and the other prompts of a batch, hold: nothing more is heard of them."""
        if options is not None:
            CLAIMS.refuse(options)
        if batch is not None:
            leave_batch(batch)
            for run in self.runs.fail(batch, error):
                self.settling.give_up(run)

    def _enter(
        self,
        prompt: Sequence[BaseMessage] | str,
        run_id: UUID,
        parent_run_id: UUID | None,
        metadata: Mapping[str, Any],
        tags: Sequence[str] | None,
        kwargs: Mapping[str, Any],
        batch: Batch | None,
    ) -> None:
        named_by, run_id = _own(run_id)
        # Before anything that may take time: what ends from here on is noticed.
        path = self.runs.path(self._parent(parent_run_id))
        tracked = self.runs.tracked(path)
        if batch is not None and batch.failed is not None:
            raise batch.failed
        account_id = self.accounts.of(metadata)
        options = kwargs.get("options")
        params = requested(kwargs.get("invocation_params") or {}, options)
        model = model_name(metadata, params)
        same_id = self.runs.find(run_id)
        if same_id is not None and (same_id.reservation.account_id, same_id.model) != (account_id, model):
            # LangChain tells of their ends by this id alone: each would be charged for what the other used.
            raise ConfigurationError("this run id is in use by another call: another account's, or another model's")
        claim = None if options is None else Claim(run_id, options, self.meter, account_id, self.terms.operation)
        if claim is not None and not CLAIMS.take(claim):
            self.runs.step_aside(run_id)
            if batch is not None:
                leave_batch(batch)
                self.runs.forget_batch(batch)
            return
        named = self.steps.name(path, tags, (account_id, self.terms.operation))
        with _claiming(claim):
            count = input_tokens(prompt, params)
            step = named.step if named is not None else Step(("langchain", self._nonce, str(run_id)), durable=False)
            with self._around(path):
                reservation = self.passage.through(
                    lambda step: self._reserve(account_id, step, count, params, model),
                    step,
                    named,
                    path,
                )
        self.shown.listen()
        run = Run(run_id, reservation, model, count, path, batch, claim, named, named_by=named_by)
        self._open(run, tracked)

    def _open(self, run: Run, tracked: tuple[UUID, ...]) -> None:
        """Open a call that passed the ledger's gate."""
        batch, claim = run.batch, run.claim
        try:
            added = self.runs.add(run, tracked)
            self.settling.watch()
        except BaseException as error:
            run.reservation.finish_now(error)
            raise
        if not added:
            # Cancelled, or refused with its batch, while it was at the gate: nobody may hear of it again.
            self.settling.give_up(run)
            if batch is not None and batch.failed is not None:
                raise batch.failed
        if claim is not None:
            claim.reservation = run.reservation
            CLAIMS.hold(claim, lambda: self.settling.give_up(run))

    def _reserve(
        self,
        account_id: str,
        step: Step,
        count: int,
        params: Mapping[str, Any],
        model: str | None,
    ) -> Reservation:
        expected: Usage | None = None
        if self.terms.amount is None and self.terms.price is None:
            bound = 0
            if not output_cap(params, 0):
                # What was used before may have to be read from the journal: not where the request names its own cap.
                bound = self.meter.estimate(
                    self.terms.operation, account_id=account_id, input_tokens=count, model=model,
                    cold_start=self.terms.output_tokens,
                ).output_tokens  # fmt: skip
            expected = estimate(count, params, bound)
        return self.meter.reserve(
            account_id,
            self.terms.operation,
            amount=self.terms.amount,
            price=self.terms.price,
            estimate=expected,
            model=model,
            step=step,
            validity=self.terms.validity,
        )

    def _unannounced(self, run_id: UUID, model: str | None, parent_run_id: UUID | None) -> Run:
        """Open a call that LangChain told nobody of until it was over, so that it is charged after all."""
        amount = 1 if self.terms.amount is None and self.terms.price is None else self.terms.amount
        step = Step(parts=("langchain", self._nonce, str(run_id)), durable=False)
        account_id = self.accounts.of(self.runs.metadata(self.runs.path(self._parent(parent_run_id))))
        reservation = self.meter.reserve(
            account_id,
            self.terms.operation,
            amount=amount,
            price=self.terms.price,
            step=step,
            validity=self.terms.validity,
        )
        reservation.begin()
        return Run(run_id, reservation, model, 0, ())
