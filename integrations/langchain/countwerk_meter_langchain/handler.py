"""
The callback handler: it stands at the door of every model call of a LangChain run.

Two rules. A start hook lets the call through or raises, on the sync and the async path alike; so every hook is a plain
`def` with `raise_error` on and `run_inline` off: LangChain then runs it on a thread
where there is an event loop, and lets its exception out. And a settling hook never raises, because that would take the
model's answer, or hide the provider's error.
"""

# ruff: noqa: ARG002 - the hooks' signatures are LangChain's

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from langchain_core.callbacks import BaseCallbackHandler

from countwerk_meter import ConfigurationError
from countwerk_meter_langchain.accounts import Accounts
from countwerk_meter_langchain.counting import DEFAULT_OUTPUT_TOKENS
from countwerk_meter_langchain.gate import Gate, Terms
from countwerk_meter_langchain.tools import checked_tool_prices, failure_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import ChatGenerationChunk, GenerationChunk, LLMResult

    from countwerk_meter import Meter
    from countwerk_meter_langchain.accounts import AccountOf


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
        validity: Minutes until the ledger gives a hold back by itself. It bounds how long a call keeps its hold that
            was cancelled outside of any chain, where something keeps LangChain's run: LangChain tells nobody of its
            end.
        on_insufficient: `raise`, or inside a LangGraph graph with a checkpointer `interrupt`: the graph pauses with the
            402 payload, without URLs, and resuming it asks again under the same charge id. Elsewhere it raises.
        tool_prices: A flat price in credits for a call of a tool, by the tool's name. What runs inside such a call is
            covered. A call that failed costs nothing, unless models ran in it.
        tool_operation: What a priced tool's credits are for.

    Raises:
        ConfigurationError: Both amount and price; or neither, and the meter has no price profile; a tool's price
            that is no whole number above 0.

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
        on_insufficient: Literal["raise", "interrupt"] = "raise",
        tool_prices: Mapping[str, int] | None = None,
        tool_operation: str = "tool.call",
    ) -> None:
        super().__init__()
        if amount is not None and price is not None:
            raise ConfigurationError("pass amount or price, not both")
        if amount is None and price is None and meter.prices is None:
            raise ConfigurationError(
                "without amount or price the hold is estimated, which needs a price profile: pass prices to Meter, or "
                "use Meter.from_env() and COUNTWERK_PRICES"
            )
        if on_insufficient not in {"raise", "interrupt"}:
            raise ConfigurationError("on_insufficient must be raise or interrupt")
        terms = Terms(
            operation,
            amount,
            price,
            output_tokens,
            validity,
            pauses=on_insufficient == "interrupt",
            tool_operation=tool_operation,
            tool_prices=checked_tool_prices(tool_prices),
        )
        self._gate = Gate(meter, Accounts(account_id, account_from_metadata), terms)
        self._runs = self._gate.runs
        self._settling = self._gate.settling

    def described(self) -> str:
        """Return what the handler was told, in a text that is the same in every process."""
        account = self._gate.accounts.account_id
        named = getattr(account, "__qualname__", type(account).__qualname__)
        who = f"{account.__module__}.{named}" if callable(account) else repr(account)
        return repr((self._gate.meter.ai_product_id, who, self._gate.accounts.from_metadata, self._gate.terms))

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
            self._gate.start(prompt, run_id, parent_run_id, metadata or {}, tags, kwargs)

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
            self._gate.start(prompt, run_id, parent_run_id, metadata or {}, tags, kwargs)

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
        self._settling.ended(run_id, response, parent_run_id)

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
        self._settling.failed(run_id, error, kwargs.get("response"), parent_run_id)

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
        self._gate.chain_began(run_id, parent_run_id, kwargs, inputs)

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
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note a tool, and hold its price; or raise so that it is not called."""
        name = kwargs.get("name") or (serialized or {}).get("name")
        self._gate.tool_began(name, run_id, parent_run_id, metadata or {}, tags, kwargs.get("tool_call_id"), serialized)
        self._gate.chain_began(run_id, parent_run_id, {**kwargs, "metadata": metadata, "tags": tags})

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Give up what still runs below the tool, and charge its price."""
        self._settling.sweep(run_id)
        self._settling.tool_ended(run_id, failure_of(output))

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Give up what still runs below the tool. An interrupt arrives here too, and costs nothing yet."""
        self._settling.sweep(run_id)
        self._settling.tool_ended(run_id, error)

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
        self._gate.chain_began(run_id, parent_run_id, kwargs)

    def on_retriever_end(self, documents: Sequence[Any], *, run_id: UUID, **kwargs: Any) -> None:
        """Give up what still runs below the retriever."""
        self._settling.sweep(run_id)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Give up what still runs below the retriever."""
        self._settling.sweep(run_id)

    def flush(self) -> None:
        """Settle now what was abandoned while it streamed, instead of a moment later. Runs at exit by itself."""
        self._settling.flush()
