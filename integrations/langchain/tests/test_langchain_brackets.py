"""A middleware outside of ours may call what is inside as often as it likes, also at once: each call is one of its own."""

import asyncio
import itertools

import pytest
from countwerk_meter_langchain import CountwerkAgentMiddleware, CountwerkCallbackHandler
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

both = pytest.mark.parametrize("path", ["sync", "async"])
attached = pytest.mark.parametrize("handler", ["without", "with"])
ASK = {"messages": [("user", "x")]}


class Twice(AgentMiddleware):
    """Makes each tool's call twice."""

    def wrap_tool_call(self, request, handler):
        handler(request)
        return handler(request)

    async def awrap_tool_call(self, request, handler):
        await handler(request)
        return await handler(request)


class Again(AgentMiddleware):
    """Makes a tool's call again that failed."""

    def wrap_tool_call(self, request, handler):
        try:
            return handler(request)
        except LookupError:
            return handler(request)

    async def awrap_tool_call(self, request, handler):
        try:
            return await handler(request)
        except LookupError:
            return await handler(request)


@pytest.fixture
def agent(bench, fakes):
    """Make an agent whose model calls a tool once, then answers; each of its calls costs 6."""

    class Asks(fakes.Chat):
        def bind_tools(self, tools, **kwargs):
            return self

        def _generate(self, messages, *args, **kwargs):
            self._pass(0)
            asked = not any(message.type == "tool" for message in messages)
            result = super()._generate(messages)
            calls = [{"name": "look", "args": {"what": "x"}, "id": "call_1"}] if asked else []
            result.generations[0].message = AIMessage("done", tool_calls=calls, usage_metadata=self._usage)
            return result

        async def _agenerate(self, messages, *args, **kwargs):
            return self._generate(messages)

    def make(look, *outside, **options):
        ours = CountwerkAgentMiddleware(bench.meter, account_id="acct", **options)
        return create_agent(Asks(), [tool(look)], middleware=[*outside, ours], checkpointer=InMemorySaver())

    return make


def run(app, path, given, with_config):
    return app.invoke(given, with_config) if path == "sync" else asyncio.run(app.ainvoke(given, with_config))


def config(bench, handler):
    callbacks = [CountwerkCallbackHandler(bench.meter, account_id="acct")] if handler == "with" else []
    return {"callbacks": callbacks, "configurable": {"thread_id": "t"}}


@both
@attached
def test_a_priced_tool_that_is_called_twice(bench, agent, path, handler):
    """The model's id is the same, the calls are not."""
    ran = []

    def look(what: str) -> str:
        """Look something up."""
        ran.append(what)
        return "found"

    run(agent(look, Twice(), tool_prices={"look": 2}), path, ASK, config(bench, handler))
    assert len(ran) == 2
    assert bench.audit().spent == 2 * 6 + 2 * 2


@both
@attached
def test_a_priced_tool_that_is_called_again_when_it_failed(bench, agent, path, handler):
    """That is the same call, and costs its price once."""
    ran = []

    def look(what: str) -> str:
        """Look something up."""
        ran.append(what)
        if len(ran) == 1:
            raise LookupError
        return "found"

    run(agent(look, Again(), tool_prices={"look": 2}), path, ASK, config(bench, handler))
    assert len(ran) == 2
    assert bench.audit().spent == 2 * 6 + 2


@both
@attached
def test_a_priced_tool_that_is_called_twice_and_pauses(bench, agent, path, handler):
    """Resuming makes the first call again, which is not charged again, and goes on with the second."""
    ran = []

    def look(what: str) -> str:
        """Look something up."""
        ran.append(what)
        if len(ran) in {2, 3}:
            interrupt("sure?")
        return "found"

    app = agent(look, Twice(), tool_prices={"look": 2})
    assert "__interrupt__" in run(app, path, ASK, config(bench, handler))
    assert bench.audit().spent == 6 + 2
    run(app, path, Command(resume="yes"), config(bench, handler))
    assert bench.audit().spent == 2 * 6 + 2 * 2


@both
@attached
def test_a_tool_with_a_graph_in_it_that_is_called_twice(bench, fakes, agent, path, handler):
    """The graphs are told apart, although each bracket ends before the next one begins."""
    model = fakes.Chat()
    made = StateGraph(MessagesState)
    made.add_node("ask", lambda state: {"messages": [model.invoke("x")]})
    made.add_edge(START, "ask")
    graph = made.compile()

    def look(what: str) -> str:
        """Look something up."""
        graph.invoke({"messages": []})
        return "found"

    run(agent(look, Twice()), path, ASK, config(bench, handler))
    assert len(model.calls) == 2
    assert bench.audit().spent == 4 * 6


@attached
def test_a_model_that_is_called_twice_at_once(bench, fakes, handler):
    """The end of the first call does not give up the second."""
    number = itertools.count()

    class Slow(fakes.Chat):
        async def _agenerate(self, messages, *args, **kwargs):
            await asyncio.sleep(0.3 * next(number))
            return self._generate(messages)

    class AtOnce(AgentMiddleware):
        async def awrap_model_call(self, request, handler):
            return (await asyncio.gather(handler(request), handler(request)))[0]

    ours = CountwerkAgentMiddleware(bench.meter, account_id="acct")
    app = create_agent(Slow(), [], middleware=[AtOnce(), ours])
    asyncio.run(app.ainvoke(ASK, config(bench, handler)))
    calls = [charge for charge in bench.audit().charges if charge.operation == "llm.call"]
    assert [(charge.state, charge.amount) for charge in calls] == [("settled", 6)] * 2


@both
@pytest.mark.parametrize("wrapped", ["bind", "with_retry", "with_fallbacks"])
def test_a_model_that_is_wrapped(bench, fakes, path, wrapped):
    """What the run holds to begin with is priced by the model in it."""

    class Wraps(AgentMiddleware):
        def wrap_model_call(self, request, handler):
            given = {"bind": {"stop": ["x"]}, "with_fallbacks": {"fallbacks": [request.model]}}.get(wrapped, {})
            return handler(request.override(model=getattr(request.model, wrapped)(**given)))

        async def awrap_model_call(self, request, handler):
            return await handler(self.wrap_model_call(request, lambda changed: changed))

    ours = CountwerkAgentMiddleware(bench.meter, account_id="acct")
    run(create_agent(fakes.Chat(), [], middleware=[Wraps(), ours]), path, ASK, None)
    assert bench.audit().spent == 6


def test_a_handler_below_a_run_that_it_is_not_on_remembers_nothing(bench):
    """It is never told that the run above it is over."""
    handler = CountwerkCallbackHandler(bench.meter, account_id="acct")
    inner = RunnableLambda(lambda x: x) | RunnableLambda(lambda x: x)

    def outer(x, config):
        callbacks = config["callbacks"].copy()
        callbacks.add_handler(handler)
        return inner.invoke(x, {"callbacks": callbacks})

    RunnableLambda(outer).invoke("x")
    assert not handler._runs._chains
    assert not handler._runs._siblings
