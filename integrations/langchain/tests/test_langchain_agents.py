"""An agent's run is one reservation: drawn on, topped up, refused before the call that does not fit, counted once."""

import asyncio
import json
import threading

import pytest
from countwerk_meter_langchain import CountwerkAgentMiddleware, CountwerkCallbackHandler, reaping
from langchain.agents import create_agent, middleware
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from pydantic import Field

from countwerk_meter import ConfigurationError, InsufficientCreditsError


def call(name, number=1):
    return {"name": name, "args": {"question": "q"}, "id": f"call_{name}_{number}", "type": "tool_call"}


@pytest.fixture
def agent_model(fakes):
    """Make a model that calls tools as told, then answers; each call costs 6."""

    class Agent(fakes.Chat):
        turns: list = Field(default_factory=list)

        def bind_tools(self, tools, **kwargs):
            return self

        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            self._pass(0)
            wanted = self.turns[len(self.calls) - 1] if len(self.calls) <= len(self.turns) else []
            message = AIMessage("" if wanted else "done", tool_calls=wanted, usage_metadata=self._usage)
            return ChatResult(generations=[ChatGeneration(message=message)])

        def _stream(self, messages, stop=None, run_manager=None, **kwargs):
            message = self._generate(messages).generations[0].message
            chunks = [
                {"name": one["name"], "args": json.dumps(one["args"]), "id": one["id"], "index": index}
                for index, one in enumerate(message.tool_calls)
            ]
            yield ChatGenerationChunk(message=AIMessageChunk(message.content, tool_call_chunks=chunks))
            yield ChatGenerationChunk(message=AIMessageChunk("", usage_metadata=self._usage))

        async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
            for chunk in self._stream(messages):
                yield chunk

    def make(*turns):
        return Agent(turns=[[call(one, number) for number, one in enumerate(turn)] for turn in turns])

    return make


@tool
def search(question: str) -> str:
    """Search."""
    return "found"


@tool
def broken(question: str) -> str:
    """Fail."""
    raise LookupError("nothing there")


ASK = {"messages": [("human", "x")]}


def run(app, path, given=ASK, config=None):
    return app.invoke(given, config) if path == "sync" else asyncio.run(app.ainvoke(given, config))


def metered(bench, **options):
    return CountwerkAgentMiddleware(bench.meter, **({"account_id": "acct"} | options))


both = pytest.mark.parametrize("path", ["sync", "async"])
attached = pytest.mark.parametrize("handler", ["without", "with"])


def config(bench, handler, **options):
    callbacks = [CountwerkCallbackHandler(bench.meter, account_id="acct", **options)] if handler == "with" else []
    return {"callbacks": callbacks, "configurable": {"thread_id": "t"}}


def settled(audit):
    """What was charged; a block of a step that can be met again is settled with 0."""
    return sorted((c.operation, c.amount) for c in audit.charges if c.state == "settled" and c.amount)


@both
@attached
def test_one_reservation_for_the_run(bench, agent_model, path, handler):
    """Three model calls and two priced tool calls draw on one hold, and are counted once."""
    model = agent_model(["search"], ["search"])
    app = create_agent(model, [search], middleware=[metered(bench, hold=100, tool_prices={"search": 2})])
    run(app, path, config=config(bench, handler))
    assert len(model.calls) == 3
    assert bench.reserves() == 1
    audit = bench.audit()
    assert settled(audit) == [("llm.call", 6)] * 3 + [("tool.call", 2)] * 2
    assert audit.spent == 22


@both
@attached
def test_tools_at_once(bench, agent_model, fakes, path, handler):
    """Tools that run beside each other, with models in them, draw on the one hold, each under its own id."""
    model = fakes.Chat()

    @tool
    def ask(question: str) -> str:
        """Ask a model."""
        return model.invoke(question).text

    app = create_agent(
        agent_model(["search", "search", "ask", "ask"]),
        [search, ask],
        middleware=[metered(bench, hold=150, tool_prices={"search": 2})],
    )
    run(app, path, config=config(bench, handler))
    assert bench.reserves() == 1
    audit = bench.audit()
    assert settled(audit) == [("llm.call", 6)] * 4 + [("tool.call", 2)] * 2
    assert len({charge.usage_event_id for charge in audit.charges}) == 7


@both
@attached
def test_topped_up_when_the_next_call_does_not_fit(bench, agent_model, path, handler):
    """Without a size of its own the hold is the first call's estimate, and grows as it must."""
    model = agent_model(["search"], ["search"])
    app = create_agent(model, [search], middleware=[metered(bench)])
    run(app, path, config=config(bench, handler))
    assert bench.reserves() >= 2
    assert bench.audit().spent == 18


@both
@attached
def test_denied_before_the_call_that_does_not_fit(make_bench, agent_model, path, handler):
    """The second call is not made, and the first is charged."""
    bench = make_bench(balance=14)
    model = agent_model(["search"], ["search"])
    app = create_agent(model, [search], middleware=[metered(bench)])
    with pytest.raises(InsufficientCreditsError):
        run(app, path, config=config(bench, handler))
    assert len(model.calls) == 1
    assert bench.audit().spent == 6


@both
def test_denied_at_once(broke, agent_model, path):
    """No credits: no call, nothing charged."""
    model = agent_model()
    with pytest.raises(InsufficientCreditsError):
        run(create_agent(model, [search], middleware=[metered(broke)]), path)
    assert model.calls == []
    assert broke.audit().spent == 0


@both
def test_a_tool_that_cannot_be_paid_is_not_called(make_bench, agent_model, path):
    """A priced tool is refused before it runs."""
    bench = make_bench(balance=20)
    asked = []

    @tool
    def costly(question: str) -> str:
        """Search."""
        asked.append(question)
        return "found"

    app = create_agent(agent_model(["costly"]), [costly], middleware=[metered(bench, tool_prices={"costly": 50})])
    with pytest.raises(InsufficientCreditsError):
        run(app, path)
    assert asked == []
    assert bench.audit().spent == 6


@both
@attached
@pytest.mark.parametrize("fails", ["tool", "model"])
def test_what_was_used_is_charged_when_the_run_fails(bench, agent_model, fakes, path, handler, fails):
    """A run that breaks in a tool, or in a model, is charged what it used until then."""
    model = agent_model(["broken"] if fails == "tool" else ["search"])
    if fails == "model":
        answer = model._generate

        def fail(*args, **kwargs):
            if model.calls:
                raise fakes.ProviderError("provider")
            return answer(*args, **kwargs)

        object.__setattr__(model, "_generate", fail)
    app = create_agent(model, [search, broken], middleware=[metered(bench, hold=50, tool_prices={"broken": 3})])
    with pytest.raises((LookupError, fakes.ProviderError)):
        run(app, path, config=config(bench, handler))
    assert bench.reserves() == 1
    assert bench.audit().spent == 6


def test_cancelled_run(bench, agent_model):
    """A run that times out is charged what it used, and keeps no hold."""
    model = agent_model(["search"])

    async def hang(question: str) -> str:
        """Search."""
        await asyncio.Event().wait()

    app = create_agent(model, [tool("search")(hang)], middleware=[metered(bench, tool_prices={"search": 2})])

    async def timed_out():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(app.ainvoke(ASK), 1.0)

    asyncio.run(timed_out())
    assert bench.audit().spent == 6


@both
@attached
def test_a_nested_agent_draws_on_the_same_reservation(bench, agent_model, path, handler):
    """An agent that is another one's tool, metered itself or not, takes from the outer run's hold."""
    inner_model, plain_model = agent_model(["search"]), agent_model()
    inner = create_agent(inner_model, [search], middleware=[metered(bench, tool_prices={"search": 2})])
    plain = create_agent(plain_model, [])

    @tool
    def ask(question: str) -> str:
        """Ask another agent."""
        inner.invoke(ASK)
        return "done"

    @tool
    def ask_plain(question: str) -> str:
        """Ask an agent without a meter of its own."""
        plain.invoke(ASK)
        return "done"

    outer = agent_model(["ask", "ask_plain"])
    app = create_agent(outer, [ask, ask_plain], middleware=[metered(bench, hold=200)])
    run(app, path, config=config(bench, handler))
    assert len(outer.calls) + len(inner_model.calls) + len(plain_model.calls) == 5
    assert bench.reserves() == 1
    assert bench.audit().spent == 5 * 6 + 2


@both
@attached
def test_a_priced_tool_covers_the_models_in_it(bench, agent_model, fakes, path, handler):
    """Inside a flat price what a model uses is noted, not added."""
    model = fakes.Chat()

    @tool
    def ask(question: str) -> str:
        """Ask a model."""
        return model.invoke(question).text

    app = create_agent(agent_model(["ask"]), [ask], middleware=[metered(bench, hold=50, tool_prices={"ask": 3})])
    run(app, path, config=config(bench, handler, tool_prices={"ask": 3}))
    assert len(model.calls) == 1
    assert settled(bench.audit()) == [("llm.call", 6), ("llm.call", 6), ("tool.call", 3)]


@pytest.mark.parametrize("counted_by", ["middleware", "handler"])
@pytest.mark.parametrize("reports", [True, False], ids=["reported", "not reported"])
def test_a_model_that_outlives_its_cancelled_tool_is_paid_for(bench, agent_model, fakes, counted_by, reports):
    """A sync tool goes on in its thread when the run that called it fails: its price is due once the model answers."""
    asked, failed = threading.Event(), threading.Event()

    class Slow(fakes.Chat):
        def _generate(self, *args, **kwargs):
            asked.set()
            assert failed.wait(20)
            return super()._generate(*args, **kwargs)

    model, ended = Slow(reports=reports), threading.Event()

    @tool
    def ask(question: str) -> str:
        """Ask a model."""
        try:
            return model.invoke(question).text
        finally:
            ended.set()

    @tool
    async def fail(question: str) -> str:
        """Fail beside it."""
        await asyncio.to_thread(asked.wait, 20)
        raise LookupError("nothing there")

    prices = {"ask": 3, "fail": 1}
    own = [metered(bench, hold=50, tool_prices=prices)] if counted_by == "middleware" else []
    given = {"callbacks": [CountwerkCallbackHandler(bench.meter, account_id="acct", tool_prices=prices)]}
    app = create_agent(agent_model(["ask", "fail"]), [ask, fail], middleware=own)

    async def arun():
        with pytest.raises(LookupError):
            await app.ainvoke(ASK, given if counted_by == "handler" else None)
        failed.set()
        assert await asyncio.to_thread(ended.wait, 20)

    asyncio.run(arun())
    assert len(model.calls) == 1
    assert bench.audit().spent == 6 + 3


@both
@attached
def test_any_graph_inside_a_block(bench, agent_model, fakes, path, handler):
    """`meter.reserve(top_up=True)` around a graph of agents, handoffs and branches is one reservation."""
    first, second, third = agent_model(["search"]), agent_model(), fakes.Chat()
    graph = StateGraph(MessagesState)
    graph.add_node("first", create_agent(first, [search], middleware=[metered(bench, tool_prices={"search": 2})]))
    graph.add_node("second", create_agent(second, [], middleware=[metered(bench)]))

    def plain(state):
        own = {"callbacks": [CountwerkCallbackHandler(bench.meter)]} if handler == "without" else None
        return {"messages": [third.invoke("x", own)]}

    graph.add_node("third", plain)
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    graph.add_edge("first", "third")
    app = graph.compile()
    given = config(bench, handler)
    if path == "sync":
        with bench.meter.reserve("acct", "app.run", amount=100, top_up=True):
            app.invoke(ASK, given)
    else:

        async def arun():
            async with bench.meter.reserve("acct", "app.run", amount=100, top_up=True):
                await app.ainvoke(ASK, given)

        asyncio.run(arun())
    assert bench.reserves() == 1
    assert bench.audit().spent == 4 * 6 + 2


@both
@pytest.mark.parametrize("how", ["values", "messages"])
def test_streamed_runs(bench, agent_model, path, how):
    """Streaming an agent's run, its model's tokens too, is counted once."""
    model = agent_model(["search"])
    app = create_agent(model, [search], middleware=[metered(bench, hold=50, tool_prices={"search": 2})])

    async def arun():
        async for _ in app.astream(ASK, stream_mode=how):
            pass

    if path == "sync":
        list(app.stream(ASK, stream_mode=how))
    else:
        asyncio.run(arun())
    assert bench.audit().spent == 14


@both
def test_a_tool_that_interrupts_is_charged_once(bench, agent_model, path):
    """An interrupt is no failure: the tool is called again when the run is resumed, and costs its price then."""

    @tool
    def approve(question: str) -> str:
        """Ask a person."""
        return interrupt("sure?")

    app = create_agent(
        agent_model(["approve"]),
        [approve],
        middleware=[metered(bench, tool_prices={"approve": 2})],
        checkpointer=InMemorySaver(),
    )
    given = config(bench, "without")
    assert run(app, path, config=given)["__interrupt__"]
    assert bench.audit().spent == 6
    run(app, path, Command(resume="yes"), given)
    assert settled(bench.audit()) == [("llm.call", 6), ("llm.call", 6), ("tool.call", 2)]


@both
@pytest.mark.parametrize("balance", [3, 14, 17])
def test_out_of_credits_pauses_the_agent(make_bench, agent_model, path, balance):
    """The first call, the tool, or the second call: whatever does not fit pauses the run, and nothing is paid twice."""
    bench = make_bench(balance=balance)
    model = agent_model(["search"])
    middleware = metered(bench, tool_prices={"search": 9}, on_insufficient="interrupt")
    app = create_agent(model, [search], middleware=[middleware], checkpointer=InMemorySaver())
    given = config(bench, "without")
    (paused,) = run(app, path, config=given)["__interrupt__"]
    assert paused.value["status"] == 402
    bench.sandbox.control.account("acct", balance=1000, ai_product_id="prod")
    assert run(app, path, Command(resume=True), given)["messages"][-1].text == "done"
    assert len(model.calls) == 2
    assert settled(bench.audit()) == [("llm.call", 6), ("llm.call", 6), ("tool.call", 9)]


@both
def test_the_handler_alone_prices_tools(bench, agent_model, path):
    """Tool prices need no middleware: the handler on the run has them as well."""
    model = agent_model(["search"], ["broken"])
    app = create_agent(model, [search, broken])
    prices = {"search": 2, "broken": 3}
    with pytest.raises(LookupError):
        run(app, path, config=config(bench, "with", tool_prices=prices))
    assert settled(bench.audit()) == [("llm.call", 6), ("llm.call", 6), ("tool.call", 2)]


@pytest.mark.parametrize("end", ["exit", "validity"])
def test_a_run_that_breaks_outside_of_its_calls(bench, agent_model, end):
    """Another middleware's hook fails: the run's reservation ends with its validity, or the process, at the latest."""

    class Breaks(middleware.AgentMiddleware):
        def after_model(self, state, runtime):
            raise LookupError("in a hook")

    ours = metered(bench, hold=50)
    with pytest.raises(LookupError):
        create_agent(agent_model(), [], middleware=[ours, Breaks()]).invoke(ASK)
    assert bench.sandbox.control.books("acct")["reserved"] == 50
    if end == "exit":
        reaping.REAPER.at_exit()
    else:
        ours._blocks._validity = 0.0
        ours._blocks.tidy()
    assert bench.audit().spent == 6


def test_two_accounts_that_disagree(bench, agent_model):
    """The middleware's account and the enclosing block's must be the same."""
    model = agent_model()
    app = create_agent(model, [], middleware=[metered(bench)])
    with (
        bench.meter.reserve("other", "app.run", amount=1)
        if False
        else bench.meter.reserve("acct", "app.run", amount=20)
    ):
        with pytest.raises(ConfigurationError, match="different accounts"):
            create_agent(model, [], middleware=[metered(bench, account_id="other")]).invoke(ASK)
        app.invoke(ASK)
    assert len(model.calls) == 1
    assert bench.audit().spent == 6


@pytest.mark.parametrize("price", [0, -1, True, 1.5])
def test_tool_prices_are_checked(bench, price):
    """A price is a whole number of credits above 0."""
    with pytest.raises(ConfigurationError, match="search"):
        metered(bench, tool_prices={"search": price})
