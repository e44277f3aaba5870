"""What the frameworks around a denied, cancelled or streamed call do with it."""

import asyncio
import time

import pytest
from countwerk_meter_langchain import CountwerkAgentMiddleware, CountwerkCallbackHandler
from langchain.agents import create_agent, middleware
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import RetryPolicy

from countwerk_meter import InsufficientCreditsError

ASK = {"messages": [("human", "x")]}
both = pytest.mark.parametrize("path", ["sync", "async"])


def run(app, path, given=ASK, config=None):
    return app.invoke(given, config) if path == "sync" else asyncio.run(app.ainvoke(given, config))


def config(bench, **options):
    return {"callbacks": [CountwerkCallbackHandler(bench.meter, account_id="acct", **options)]}


def graph(node, **options):
    made = StateGraph(MessagesState)
    made.add_node("node", node, **options)
    made.add_edge(START, "node")
    return made.compile()


@both
def test_the_default_retry_leaves_a_denial_alone(broke, fakes, path):
    """LangGraph's default policy repeats a plain exception, not ours (trap 17)."""
    model, entered = fakes.Chat(), []

    def node(state):
        entered.append(1)
        return {"messages": [model.invoke("x")]}

    with pytest.raises(InsufficientCreditsError):
        run(graph(node, retry_policy=RetryPolicy(initial_interval=0.01)), path, config=config(broke))
    assert len(entered) == 1
    assert model.calls == []


@both
@pytest.mark.parametrize("on", ["run", "agent", "agent, outermost"])
@pytest.mark.parametrize("name", ["ModelRetryMiddleware", "ModelFallbackMiddleware"])
def test_a_middleware_that_tries_again_does_not_get_through(broke, fakes, path, name, on):
    """It may retry a denial, fall back, or swallow it (trap 17): no model runs, and the ledger is asked once."""
    kind = getattr(middleware, name, None)
    if kind is None:
        pytest.skip(f"this langchain has no {name}")
    model, fallback = fakes.Chat(), fakes.Chat()
    steps_around = kind(fallback) if "Fallback" in name else kind(max_retries=2, initial_delay=0.0, jitter=False)
    ours = [CountwerkAgentMiddleware(broke.meter, account_id="acct")] if on != "run" else []
    order = [*ours, steps_around] if on == "agent, outermost" else [steps_around, *ours]
    app = create_agent(model, [], middleware=order)
    try:
        answer = run(app, path, config=config(broke) if on == "run" else None)
    except InsufficientCreditsError:
        pass
    else:
        assert "needs" in answer["messages"][-1].text
    assert model.calls == fallback.calls == []
    assert broke.reserves() == 1
    assert broke.audit().spent == 0


@both
def test_a_tool_retry_does_not_get_through(make_bench, fakes, path):
    """A denial inside of a tool, which a middleware takes for the tool's failure (trap 17)."""
    kind = getattr(middleware, "ToolRetryMiddleware", None)
    if kind is None:
        pytest.skip("this langchain has no ToolRetryMiddleware")
    bench, model, inner = make_bench(balance=12), fakes.Chat(), fakes.Chat(max_tokens=500)
    asked = []

    @tool
    def ask(question: str) -> str:
        """Ask a model."""
        asked.append(1)
        return inner.invoke(question).text

    class Agent(fakes.Chat):
        def bind_tools(self, tools, **kwargs):
            return self

        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            result = super()._generate(messages)
            if len(self.calls) == 1:
                call = {"name": "ask", "args": {"question": "q"}, "id": "1", "type": "tool_call"}
                result.generations[0].message.tool_calls = [call]
            return result

    model = Agent()
    app = create_agent(model, [ask], middleware=[kind(max_retries=2, initial_delay=0.0, jitter=False)])
    with pytest.raises(InsufficientCreditsError):
        run(app, path, config=config(bench))
    assert inner.calls == []
    assert bench.reserves() == 2
    assert bench.audit().spent == 6


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
@pytest.mark.parametrize("metered", ["handler", "middleware"])
def test_a_graph_that_is_cancelled_keeps_no_hold(bench, fakes, how, metered):
    """Nobody tells a handler of a cancelled call (trap 7): its graph's end, or the middleware's bracket, gives it up."""
    model = fakes.Chat(hang_at=0)
    ours = [CountwerkAgentMiddleware(bench.meter, account_id="acct")] if metered == "middleware" else []
    app = create_agent(model, [], middleware=ours)
    given = config(bench) if metered == "handler" else None

    async def go():
        task = asyncio.create_task(app.ainvoke(ASK, given))
        while not model.calls:
            await asyncio.sleep(0.005)
        if how == "cancelled":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(task, 0.05)

    asyncio.run(go())
    audit = bench.audit()
    assert audit.spent == 0
    assert set(audit.states) == {"cancelled"}


@both
def test_a_message_stream_turns_invoke_into_a_stream(bench, fakes, path):
    """`stream_mode="messages"` makes the model stream (trap 12): without usage it is counted, with it as reported."""
    for reports, told in ((True, ("settled", 6, "provider")), (False, ("settled", 1, "counted"))):
        model = fakes.Chat(reports=reports)

        def node(state, model=model):
            return {"messages": [model.invoke("x")]}

        async def anode(state, model=model):
            return {"messages": [await model.ainvoke("x")]}

        app = graph(node if path == "sync" else anode)

        async def consume(app=app):
            return [part async for part in app.astream(ASK, config(bench), stream_mode="messages")]

        seen = (
            list(app.stream(ASK, config(bench), stream_mode="messages")) if path == "sync" else asyncio.run(consume())
        )
        assert len(seen) > 1
        assert told in bench.audit().told


@both
@pytest.mark.parametrize("at_once", [False, True])
def test_a_consumer_that_leaves_a_graphs_stream(bench, fakes, path, at_once):
    """What was consumed of the graph's stream is charged, at its very first chunk too, and nothing stays held."""
    model = fakes.Chat(hang_at=2) if path == "async" else fakes.Chat()
    handler = CountwerkCallbackHandler(bench.meter, account_id="acct")
    given = {"callbacks": [handler]}

    async def anode(state):
        return {"messages": [await model.ainvoke("x")]}

    def node(state):
        return {"messages": [model.invoke("x")]}

    async def leave():
        stream = graph(anode).astream(ASK, given, stream_mode="messages")
        await anext(stream)
        # LangGraph hands the chunk on while our hook, on a thread of its own, may only just be hearing of it.
        await asyncio.sleep(0 if at_once else 0.5)
        await stream.aclose()

    if path == "async":
        asyncio.run(leave())
    else:
        stream = graph(node).stream(ASK, given, stream_mode="messages")
        next(stream)
        stream.close()
    # The rest of the graph may tell of its end a moment later, from another thread.
    deadline = time.monotonic() + 10
    while bench.meter.charges("open") and time.monotonic() < deadline:
        handler.flush()
        time.sleep(0.01)
    ((state, amount, basis),) = bench.audit().told
    assert (state, amount, basis) in {("settled", 1, "counted"), ("settled", 6, "provider")}


class Refuses(BaseCallbackHandler):
    """Another handler that refuses the call, after ours has let it through."""

    raise_error = True

    def on_chat_model_start(self, *args, **kwargs):
        raise PermissionError("not today")


class Listens(BaseCallbackHandler):
    """Another handler that hears what it is told."""

    def __init__(self):
        self.heard = []

    def on_chat_model_start(self, *args, **kwargs):
        self.heard.append("start")

    def on_llm_error(self, *args, **kwargs):
        self.heard.append("error")

    def on_llm_end(self, *args, **kwargs):
        self.heard.append("end")


@both
def test_a_handler_that_began_before_a_denial_hears_no_end(broke, fakes, path):
    """That is LangChain's way (trap 18): an app's own handler must not wait for one."""
    other = Listens()
    chain = RunnableLambda(lambda x: x) | fakes.Chat()
    with pytest.raises(InsufficientCreditsError):
        run(chain, path, "x", {"callbacks": [other, *config(broke)["callbacks"]]})
    assert other.heard == ["start"]


@both
def test_another_handlers_refusal_gives_our_hold_back(bench, fakes, path):
    """The same happens to ours where another handler refuses the call: the chain's end gives the hold back."""
    chain, model = RunnableLambda(lambda x: x), fakes.Chat()
    with pytest.raises(PermissionError):
        run(chain | model, path, "x", {"callbacks": [*config(bench)["callbacks"], Refuses()]})
    assert model.calls == []
    assert set(bench.audit().states) <= {"cancelled"}


@both
@pytest.mark.parametrize("fails", [False, True])
def test_tool_calls_of_one_id_in_one_node(bench, path, fails):
    """Models repeat ids: each call is made and charged, and what a retry makes again is not charged again."""
    # The oldest langgraph resolves to a langgraph-prebuilt that does not go with it.
    tool_node, left = pytest.importorskip("langgraph.prebuilt", exc_type=ImportError).ToolNode, [1]

    @tool
    def ask(question: str) -> str:
        """Ask."""
        time.sleep(0.05)
        return question

    def after(state):
        if fails and left:
            raise ValueError(left.pop())

    call = {"name": "ask", "args": {"question": "q"}, "id": "1", "type": "tool_call"}
    node = RunnableLambda(lambda state: tool_node([ask]).invoke(state)) | RunnableLambda(lambda x: after(x) or x)
    app = graph(node, retry_policy=RetryPolicy(retry_on=ValueError, initial_interval=0.01))
    run(app, path, {"messages": [AIMessage("", tool_calls=[call, call])]}, config(bench, tool_prices={"ask": 2}))
    assert bench.audit().told == [("settled", 2, "price")] * 2
