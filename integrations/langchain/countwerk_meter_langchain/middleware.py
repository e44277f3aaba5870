"""
The middleware for `create_agent`: one reservation for the agent's run, and flat prices for its tools.

Two rules. It counts nothing itself: it hangs the callback handler on the calls in its brackets, so that a model call is
metered in one place and in one way, whoever makes it; where a handler of the same meter is on the run already, it hangs
none. And what it opens it ends, whatever becomes of the call.
"""

# ruff: noqa: ARG002 - the hooks' signatures are LangChain's

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, NotRequired, cast

from langchain.agents.middleware import AgentMiddleware, AgentState
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.utils.function_calling import convert_to_openai_tool

from countwerk_meter import (
    ChargeInProgressError,
    InsufficientCreditsError,
)
from countwerk_meter_langchain.accounts import Accounts
from countwerk_meter_langchain.agents import RUN_KEY, known, new_run
from countwerk_meter_langchain.blocks import Blocks
from countwerk_meter_langchain.counting import DEFAULT_OUTPUT_TOKENS, estimate, input_tokens
from countwerk_meter_langchain.gate import DEFAULT_VALIDITY_MINUTES
from countwerk_meter_langchain.handler import CountwerkCallbackHandler
from countwerk_meter_langchain.pausing import pause, take_resume_value
from countwerk_meter_langchain.tools import called, checked_tool_prices, failure_of, step_of_tool
from countwerk_meter_langchain.visits import Visit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping
    from contextlib import AbstractContextManager

    from langchain.agents.middleware import ModelRequest, ModelResponse
    from langchain_core.runnables import RunnableConfig
    from langgraph.prebuilt.tool_node import ToolCallRequest

    from countwerk_meter import Meter, Reservation
    from countwerk_meter.events import Step
    from countwerk_meter_langchain.accounts import AccountOf
    from countwerk_meter_langchain.tools import Called


class _State(AgentState[Any]):
    """The agent's state, and the name of its run's reservation."""

    countwerk_run: NotRequired[Annotated[str, PrivateStateAttr]]


class CountwerkAgentMiddleware(AgentMiddleware[Any, Any]):
    """
    Meters an agent's run on one reservation, which its model and tool calls draw on.

    `create_agent(model, tools, middleware=[CountwerkAgentMiddleware(meter, account_id="acct_123")])`. The run's
    reservation is opened before its first call and topped up when the next estimate does not fit; a call that cannot be
    paid is not made, and what was used is charged whatever happens. Inside a `meter.reserve(...)` block, or another
    agent's run, the calls draw on that instead. With a `CountwerkCallbackHandler` of the same meter on the run, the
    model calls are that handler's, and counted once.

    Args:
        meter: The meter whose ledger is charged.
        account_id: As in `CountwerkCallbackHandler`.
        hold: Credits to hold for the run to begin with; default: what the first call is estimated at.
        operation: What a model call's credits are for.
        run_operation: What the run's reservation is for; nothing is charged under it.
        tool_operation: What a priced tool's credits are for.
        amount: Credits to hold for each model call, as in `CountwerkCallbackHandler`.
        price: A flat price in credits for each model call.
        tool_prices: A flat price in credits for a call of a tool, by the tool's name. What runs inside such a call is
            covered. A call that failed costs nothing, unless models ran in it.
        account_from_metadata: As in `CountwerkCallbackHandler`.
        output_tokens: As in `CountwerkCallbackHandler`.
        validity: Minutes until the ledger gives a hold back by itself; default 15.
        on_insufficient: `raise`, or `interrupt`: the graph pauses, as in `CountwerkCallbackHandler`.

    Raises:
        ConfigurationError: Both amount and price; or neither, and the meter has no price profile; a tool price that is
            no whole number above 0.

    """

    state_schema = _State

    def __init__(
        self,
        meter: Meter,
        *,
        account_id: str | AccountOf | None = None,
        hold: int | None = None,
        operation: str = "llm.call",
        run_operation: str = "agent.run",
        tool_operation: str = "tool.call",
        amount: int | None = None,
        price: int | None = None,
        tool_prices: Mapping[str, int] | None = None,
        account_from_metadata: bool = False,
        output_tokens: int = DEFAULT_OUTPUT_TOKENS,
        validity: int | None = None,
        on_insufficient: Literal["raise", "interrupt"] = "raise",
    ) -> None:
        super().__init__()
        self._handler = CountwerkCallbackHandler(
            meter,
            account_id=account_id,
            operation=operation,
            amount=amount,
            price=price,
            account_from_metadata=account_from_metadata,
            output_tokens=output_tokens,
            validity=validity,
            on_insufficient=on_insufficient,
        )
        self._name_of_terms = known(self._handler)
        self._meter = meter
        self._accounts = None if account_id is None else Accounts(account_id, account_from_metadata)
        self._hold = hold
        self._operation = operation
        self._run_operation = run_operation
        self._tool_operation = tool_operation
        self._fixed = amount if price is None else price
        self._tool_prices = checked_tool_prices(tool_prices)
        self._output_tokens = output_tokens
        self._validity = validity
        self._pauses = on_insufficient == "interrupt"
        self._blocks = Blocks((validity or DEFAULT_VALIDITY_MINUTES) * 60.0)

    def before_agent(self, state: Any, runtime: Any) -> dict[str, Any]:
        """Name the run."""
        return {RUN_KEY: new_run(self._name_of_terms)}

    async def abefore_agent(self, state: Any, runtime: Any) -> dict[str, Any]:
        """Name the run."""
        return self.before_agent(state, runtime)

    def after_agent(self, state: Any, runtime: Any) -> None:
        """End the run's reservation."""
        self._blocks.end(_run_of(state))

    async def aafter_agent(self, state: Any, runtime: Any) -> None:
        """End the run's reservation."""
        await asyncio.to_thread(self._blocks.end, _run_of(state))

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Meter one model call."""
        with self._bracket(request.state) as visit:
            visit.block = self._open(visit, lambda: self._size(request, visit))
            with visit.inside():
                return handler(request)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Meter one model call."""
        with self._bracket(request.state) as visit:
            visit.block = await self._aopen(visit, lambda: self._size(request, visit))
            with visit.inside():
                return await handler(request)

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
        """Charge a tool's price, and meter the model calls that it makes."""
        price = self._tool_prices.get(request.tool_call["name"])
        with self._bracket(request.state, _config_of(request)) as visit:
            if price is None:
                visit.block = self._blocks.find(visit.key, visit.run)
                with visit.inside():
                    return handler(request)
            visit.block = self._open(visit, lambda: {"amount": self._hold or price})
            with visit.inside(), self._called(visit, request) as call:
                charge = self._begin(visit, lambda step: self._reserve_tool(request, visit, price, step), call.step)
                try:
                    with charge.entered():
                        answer = handler(request)
                except BaseException as error:
                    charge.finish(error)
                    call.charged = not charge.given_back
                    raise
                call.failure = failure_of(answer)
                charge.finish(call.failure)
                call.charged = not charge.given_back
                return answer

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]
    ) -> Any:
        """Charge a tool's price, and meter the model calls that it makes."""
        price = self._tool_prices.get(request.tool_call["name"])
        with self._bracket(request.state, _config_of(request)) as visit:
            if price is None:
                visit.block = self._blocks.find(visit.key, visit.run)
                with visit.inside():
                    return await handler(request)
            visit.block = await self._aopen(visit, lambda: {"amount": self._hold or price})
            with visit.inside(), self._called(visit, request) as call:
                charge = await self._abegin(
                    visit, lambda step: self._reserve_tool(request, visit, price, step), call.step
                )
                try:
                    with charge.entered():
                        answer = await handler(request)
                except BaseException as error:
                    await charge.afinish(error)
                    call.charged = not charge.given_back
                    raise
                call.failure = failure_of(answer)
                await charge.afinish(call.failure)
                call.charged = not charge.given_back
                return answer

    @contextlib.contextmanager
    def _bracket(self, state: Any, config: RunnableConfig | None = None) -> Generator[Visit]:
        """Surround one call; when it fails, what the run has used so far is charged."""
        visit = Visit(self._handler, self._meter, self._accounts, _run_of(state), config)
        try:
            yield visit
        except BaseException as error:
            self._blocks.end(visit.key, error)
            raise

    def _open(self, visit: Visit, size: Callable[[], dict[str, Any]]) -> Reservation | None:
        """Return the run's block, opened now if it is not; None: the call draws on what surrounds it."""
        if visit.enclosed:
            return None
        block = self._blocks.find(visit.key, visit.run)
        if block is None:
            sized = size()
            block = self._blocks.keep(
                visit.key,
                self._begin(visit, lambda step: self._reserve_run(visit, sized, step), self._step_of_run(visit)),
                visit.run,
            )
        return block

    async def _aopen(self, visit: Visit, size: Callable[[], dict[str, Any]]) -> Reservation | None:
        if visit.enclosed:
            return None
        block = self._blocks.find(visit.key, visit.run)
        if block is None:
            sized = await asyncio.to_thread(size)
            block = self._blocks.keep(
                visit.key,
                await self._abegin(visit, lambda step: self._reserve_run(visit, sized, step), self._step_of_run(visit)),
                visit.run,
            )
        return block

    def _begin(self, visit: Visit, make: Callable[[Step], Reservation], step: Step) -> Reservation:
        try:
            reservation = self._begun(visit, make, step)
            anew = self._handler._gate.passage.travels.anew(step, visit.path, replayed=reservation.replayed)
            if anew is not None:
                reservation.finish()
                reservation = self._begun(visit, make, anew)
        except InsufficientCreditsError as denied:
            self._refuse(visit, denied)
        return reservation

    def _begun(self, visit: Visit, make: Callable[[Step], Reservation], step: Step) -> Reservation:
        reservation = make(step)
        self._not_denied(visit, reservation)
        if self._pauses:
            take_resume_value(self._meter, reservation)
        try:
            return reservation.begin()
        except ChargeInProgressError:
            # The worker that began this step may have died since.
            self._meter.recover()
            return make(step).begin()

    async def _abegin(self, visit: Visit, make: Callable[[Step], Reservation], step: Step) -> Reservation:
        travels = self._handler._gate.passage.travels
        try:
            reservation = await self._abegun(visit, make, step)
            anew = await asyncio.to_thread(travels.anew, step, visit.path, replayed=reservation.replayed)
            if anew is not None:
                await reservation.afinish()
                reservation = await self._abegun(visit, make, anew)
        except InsufficientCreditsError as denied:
            self._refuse(visit, denied)
        return reservation

    async def _abegun(self, visit: Visit, make: Callable[[Step], Reservation], step: Step) -> Reservation:
        reservation = make(step)
        self._not_denied(visit, reservation)
        if self._pauses:
            await asyncio.to_thread(take_resume_value, self._meter, reservation)
        try:
            return await reservation.abegin()
        except ChargeInProgressError:
            await self._meter.arecover()
            return await make(step).abegin()

    def _not_denied(self, visit: Visit, reservation: Reservation) -> None:
        if visit.node is not None:
            self._handler._runs.denials.check(visit.node, reservation, pauses=self._pauses)

    def _refuse(self, visit: Visit, denied: InsufficientCreditsError) -> NoReturn:
        if visit.node is not None:
            self._handler._runs.denials.note(visit.node, denied)
        if self._pauses:
            pause(denied)
        raise denied

    def _size(self, request: ModelRequest[Any], visit: Visit) -> dict[str, Any]:
        """Return how much to hold for a run that begins with this model call."""
        if self._hold is not None or self._fixed is not None:
            return {"amount": self._hold or self._fixed}
        about = _params_of(request.model)
        own = {"max_tokens": about.get("ls_max_tokens")}
        settings = {**own, **request.model_settings, "tools": [_schema(tool) for tool in request.tools]}
        count = input_tokens(request.messages, settings) + input_tokens(str(request.system_prompt or ""), {})
        model = about.get("ls_model_name")
        learned = self._meter.estimate(
            self._operation,
            account_id=visit.account_id,
            input_tokens=count,
            model=model,
            cold_start=self._output_tokens,
        )
        return {"estimate": estimate(count, settings, learned.output_tokens), "model": model}

    def _step_of_run(self, visit: Visit) -> Step:
        # Only a pause needs a name that is the same when the graph is resumed: nothing is charged under it.
        return step_of_tool(visit.steps, visit.path, f"run:{visit.key}" if self._pauses else None, visit.key)

    def _reserve_run(self, visit: Visit, sized: dict[str, Any], step: Step) -> Reservation:
        return self._meter.reserve(
            visit.account_id, self._run_operation, top_up=True, validity=self._validity, step=step, **sized
        )

    def _called(self, visit: Visit, request: ToolCallRequest) -> AbstractContextManager[Called]:
        whose = visit.account_id, self._tool_operation
        return called(visit.steps, visit.path, request.tool_call, whose)

    def _reserve_tool(self, request: ToolCallRequest, visit: Visit, price: int, step: Step) -> Reservation:
        return self._meter.reserve(
            visit.account_id,
            self._tool_operation,
            price=price,
            validity=self._validity,
            description=request.tool_call["name"],
            step=step,
        )


def _run_of(state: Any) -> str:
    found = cast("dict[str, Any]", state).get(RUN_KEY) if isinstance(state, dict) else getattr(state, RUN_KEY, None)
    return str(found or "")


def _config_of(request: ToolCallRequest) -> RunnableConfig:
    return cast("Any", request).runtime.config


def _params_of(model: Any) -> dict[str, Any]:
    """Return what a model, or the one in what is wrapped around it, says of itself: its name and its output cap."""
    try:
        return dict(model._get_ls_params())
    except Exception:  # noqa: BLE001 - a model that says nothing is priced by name, or refused, at its own gate
        within = getattr(model, "bound", None)
        return {} if within is None else _params_of(within)


def _schema(tool: Any) -> Any:
    try:
        return convert_to_openai_tool(tool)
    except ValueError:
        return str(tool)
