"""
The callback handler: it stands at the door of every model call of a LangChain run.

Two rules. A start hook lets the call through or raises, on the sync and the async path alike; so every hook is a plain
`def` with `raise_error` on and `run_inline` off: LangChain then runs it on a thread
where there is an event loop, and lets its exception out. And a settling hook never raises, because that would take the
model's answer, or hide the provider's error.
"""

# ruff: noqa: ARG002 - the hooks' signatures are LangChain's

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.runnables.config import var_child_runnable_config

from countwerk_meter import ConfigurationError, InsufficientCreditsError
from countwerk_meter.events import Step
from countwerk_meter_langchain.accounts import Accounts
from countwerk_meter_langchain.claims import Claim, claims_of
from countwerk_meter_langchain.counting import DEFAULT_OUTPUT_TOKENS, estimate, input_tokens, output_cap
from countwerk_meter_langchain.runs import Run, Runs
from countwerk_meter_langchain.settling import Settling, enter_batch, leave_batch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import ChatGenerationChunk, GenerationChunk, LLMResult

    from countwerk_meter import Meter, Reservation, Usage
    from countwerk_meter_langchain.accounts import AccountOf
    from countwerk_meter_langchain.runs import Batch

_DEFAULT_VALIDITY_MINUTES: Final = 15


class CountwerkCallbackHandler(BaseCallbackHandler):
    """
    Reserves credits before each model call, and charges what the call really used when it ends.

    Attach it to a run, so that it is inherited by everything in it: `config={"callbacks": [handler]}`. One handler
    serves any number of runs, threads and event loops.

    Args:
        meter: The meter whose ledger is charged.
        account_id: Whose credits: a text, or a callable of the run's metadata. Default: the enclosing reservation's,
            else that of `with countwerk_meter.account(...)`. Two sources that disagree, or none: the call is refused.
        operation: What the credits are for.
        amount: Credits to hold for each call; what it reports is charged, priced with the meter's profile.
        price: A flat price in credits for each call. Without amount and price the hold is estimated from the messages
            and the output cap, priced with the meter's profile.
        account_from_metadata: Also let `metadata["countwerk_account_id"]` of a run say whose credits. Never in a server
            that passes its clients' config through.
        output_tokens: The output that is held for where a call has no cap, until enough such calls were seen: then what
            95 % of them put out.
        validity: Minutes until the ledger gives a hold back by itself. It bounds how long a call that was cancelled
            outside of any chain keeps its hold: LangChain tells nobody of its end.

    Raises:
        ConfigurationError: Both amount and price; or neither, and the meter has no price profile.

    """

    raise_error: bool = True
    run_inline: bool = False

    def __init__(
        self,
        meter: Meter,
        *,
        account_id: str | AccountOf | None = None,
        operation: str = "llm.call",
        amount: int | None = None,
        price: int | None = None,
        account_from_metadata: bool = False,
        output_tokens: int = DEFAULT_OUTPUT_TOKENS,
        validity: int | None = None,
    ) -> None:
        super().__init__()
        if amount is not None and price is not None:
            raise ConfigurationError("pass amount or price, not both")
        if amount is None and price is None and meter.prices is None:
            raise ConfigurationError(
                "without amount or price the hold is estimated, which needs a price profile: pass prices to Meter, or "
                "use Meter.from_env() and COUNTWERK_PRICES"
            )
        self._meter = meter
        self._accounts = Accounts(account_id, account_from_metadata)
        self._operation = operation
        self._amount = amount
        self._price = price
        self._output_tokens = output_tokens
        self._validity = validity
        # A run id may be the client's choice: it names a charge only together with this handler.
        self._nonce = uuid.uuid4().hex
        self._claims = claims_of(meter)
        self._runs = Runs(self._claims)
        seconds = (validity or _DEFAULT_VALIDITY_MINUTES) * 60.0
        self._settling = Settling(self._runs, meter, self._unannounced, seconds)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Hold credits for a chat model's call, or raise so that it is not made."""
        for prompt in messages:
            self._start(prompt, run_id, parent_run_id, metadata or {}, kwargs)

    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Hold credits for a text model's call, or raise so that it is not made."""
        for prompt in prompts:
            self._start(prompt, run_id, parent_run_id, metadata or {}, kwargs)

    def on_llm_new_token(
        self,
        token: str | list[str | dict[str, Any]],
        *,
        chunk: GenerationChunk | ChatGenerationChunk | None = None,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note what was streamed."""
        self._settling.streaming(run_id, lambda streamed: streamed.token(token, chunk))

    def on_stream_event(
        self,
        event: Mapping[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note what was streamed as protocol events: when such a stream fails, nobody hands its part over."""
        self._settling.streaming(run_id, lambda streamed: streamed.event(event))

    def on_llm_end(
        self,
        response: LLMResult,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Charge what the call used."""
        self._settling.ended(run_id, response)

    def on_llm_error(
        self,
        error: BaseException,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Charge what a failed or broken-off call used; nothing, if it gave nothing."""
        self._settling.failed(run_id, error, kwargs.get("response"))

    def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: dict[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Note a chain."""
        self._runs.chain_began(run_id, self._parent(parent_run_id))

    def on_chain_end(self, outputs: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """Give up what still runs below the chain."""
        self._settling.sweep(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Give up what still runs below the chain; a cancelled call is told of nowhere else."""
        self._settling.sweep(run_id)

    def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Note a tool."""
        self._runs.chain_began(run_id, self._parent(parent_run_id))

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Give up what still runs below the tool."""
        self._settling.sweep(run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Give up what still runs below the tool. An interrupt arrives here too, and is no failure."""
        self._settling.sweep(run_id)

    def on_retriever_start(
        self,
        serialized: dict[str, Any],
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Note a retriever."""
        self._runs.chain_began(run_id, self._parent(parent_run_id))

    def on_retriever_end(self, documents: Sequence[Any], *, run_id: UUID, **kwargs: Any) -> None:
        """Give up what still runs below the retriever."""
        self._settling.sweep(run_id)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Give up what still runs below the retriever."""
        self._settling.sweep(run_id)

    def flush(self) -> None:
        """Settle now what was abandoned while it streamed, instead of a moment later. Runs at exit by itself."""
        self._settling.flush()

    def _parent(self, parent_run_id: UUID | None) -> UUID | None:
        """Return what a run is part of; `with_fallbacks` starts its attempts as roots, but in its own context."""
        if parent_run_id is not None:
            return parent_run_id
        config = var_child_runnable_config.get()
        callbacks = config.get("callbacks") if config else None
        enclosing = callbacks.parent_run_id if isinstance(callbacks, BaseCallbackManager) else None
        return enclosing if enclosing is not None and self._runs.tracked((enclosing,)) else None

    def _start(
        self,
        prompt: Sequence[BaseMessage] | str,
        run_id: UUID,
        parent_run_id: UUID | None,
        metadata: Mapping[str, Any],
        kwargs: Mapping[str, Any],
    ) -> None:
        self._settling.tidy()
        size = kwargs.get("batch_size")
        batch = self._runs.batch(kwargs.get("options"), size if isinstance(size, int) else 1)
        if batch is not None:
            enter_batch(batch)
        try:
            self._enter(prompt, run_id, parent_run_id, metadata, kwargs, batch)
        except NotImplementedError as error:
            # LangChain takes that one for a missing hook, and lets the model run.
            self._fail(batch, error)
            raise ConfigurationError("the handler's account_id or the meter is not implemented") from error
        except BaseException as error:
            self._fail(batch, error)
            raise

    def _fail(self, batch: Batch | None, error: BaseException) -> None:
        """Give back what the other prompts of a refused batch hold: nothing more is heard of them."""
        if batch is not None:
            leave_batch(batch)
            for run in self._runs.fail(batch, error):
                self._settling.give_up(run)

    def _enter(
        self,
        prompt: Sequence[BaseMessage] | str,
        run_id: UUID,
        parent_run_id: UUID | None,
        metadata: Mapping[str, Any],
        kwargs: Mapping[str, Any],
        batch: Batch | None,
    ) -> None:
        # Before anything that may take time: what ends from here on is noticed.
        path = self._runs.path(self._parent(parent_run_id))
        tracked = self._runs.tracked(path)
        if batch is not None and batch.failed is not None:
            raise batch.failed
        account_id = self._accounts.of(metadata)
        denial = self._runs.denial(path[-1], account_id) if path else None
        if denial is not None:
            raise denial
        same_id = self._runs.find(run_id)
        if same_id is not None and same_id.reservation.account_id != account_id:
            raise ConfigurationError("this run id is in use by another account's call")
        options = kwargs.get("options")
        claim = None if options is None else Claim(run_id, options, account_id, self._operation)
        if claim is not None and not self._claims.take(claim):
            self._runs.first_heard(run_id)
            return
        params: Mapping[str, Any] = kwargs.get("invocation_params") or {}
        model = _model(metadata, params)
        try:
            count = input_tokens(prompt, params)
            reservation = self._reserve(account_id, run_id, count, metadata, params, model)
            reservation.begin()
        except BaseException as error:
            if claim is not None:
                self._claims.release(claim)
            if path and isinstance(error, InsufficientCreditsError):
                self._runs.denied(path[-1], account_id, error)
            raise
        run = Run(run_id, reservation, model, count, path, batch, claim)
        if not self._runs.add(run, tracked):
            # Cancelled, or refused with its batch, while it was at the gate: nobody may hear of it again.
            self._settling.give_up(run)
            if batch is not None and batch.failed is not None:
                raise batch.failed

    def _reserve(
        self,
        account_id: str,
        run_id: UUID,
        count: int,
        metadata: Mapping[str, Any],
        params: Mapping[str, Any],
        model: str | None,
    ) -> Reservation:
        expected: Usage | None = None
        if self._amount is None and self._price is None:
            bound = 0
            if not output_cap(metadata, params, 0):
                # What was used before may have to be read from the journal: not where the request names its own cap.
                bound = self._meter.estimate(
                    self._operation, account_id=account_id, input_tokens=count, model=model,
                    cold_start=self._output_tokens,
                ).output_tokens  # fmt: skip
            expected = estimate(count, metadata, params, bound)
        return self._meter.reserve(
            account_id,
            self._operation,
            amount=self._amount,
            price=self._price,
            estimate=expected,
            model=model,
            step=Step(parts=("langchain", self._nonce, str(run_id)), durable=False),
            validity=self._validity,
        )

    def _unannounced(self, run_id: UUID, model: str | None) -> Run:
        """Open a call that LangChain told nobody of until it was over, so that it is charged after all."""
        amount = 1 if self._amount is None and self._price is None else self._amount
        step = Step(parts=("langchain", self._nonce, str(run_id)), durable=False)
        account_id = self._accounts.of({})
        reservation = self._meter.reserve(
            account_id, self._operation, amount=amount, price=self._price, step=step, validity=self._validity
        )
        reservation.begin()
        return Run(run_id, reservation, model, 0, ())


def _model(metadata: Mapping[str, Any], params: Mapping[str, Any]) -> str | None:
    """Return the model's name as it is asked for: the answer's may carry a date that no price rule knows."""
    names = (metadata.get("ls_model_name"), params.get("model"), params.get("model_name"))
    return next((name for name in names if isinstance(name, str) and name), None)
