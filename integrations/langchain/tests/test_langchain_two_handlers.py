"""Two handlers of one meter on a run: whichever comes first meters a call, and neither another call nor a hold is lost."""

import asyncio
import itertools
import operator
import time
from typing import Annotated, TypedDict
from uuid import uuid4

import pytest
from countwerk_meter_langchain import CountwerkCallbackHandler
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy

from countwerk_meter import ConfigurationError, InsufficientCreditsError

both = pytest.mark.parametrize("path", ["sync", "async"])
QUICK = RetryPolicy(retry_on=ValueError, initial_interval=0.01, jitter=False)


class State(TypedDict):
    said: Annotated[list, operator.add]


def graph(node):
    made = StateGraph(State)
    made.add_node("node", node, retry_policy=QUICK)
    made.add_edge(START, "node")
    return made.compile()


def run(app, path, given, with_config):
    return app.invoke(given, with_config) if path == "sync" else asyncio.run(app.ainvoke(given, with_config))


def handlers(bench, **options):
    """Make two handlers; on the async path they take turns in being first."""

    def account(number):
        calls = itertools.count(number)

        def slow(metadata):
            time.sleep(0.1 * (next(calls) % 2))
            return "acct"

        return slow

    return [CountwerkCallbackHandler(bench.meter, account_id=account(number), **options) for number in (0, 1)]


@both
def test_calls_of_a_node_that_two_handlers_share(bench, fakes, path):
    """Each call is charged, whoever meters it, and a retry of the node adds nothing."""
    model, fails = fakes.Chat(), [1]

    async def anode(state):
        for _ in range(4):
            await model.ainvoke("x")
        if fails:
            raise ValueError(fails.pop())
        return {"said": []}

    def node(state):
        for _ in range(4):
            model.invoke("x")
        if fails:
            raise ValueError(fails.pop())
        return {"said": []}

    app = graph(RunnableLambda(node, afunc=anode))
    run(app, path, {"said": []}, {"callbacks": handlers(bench)})
    assert len(model.calls) == 8
    assert bench.audit().told == [("settled", 6, "provider")] * 4


@both
@pytest.mark.parametrize("where", ["chain", "graph"])
@pytest.mark.parametrize("asks", [False, True])
def test_a_priced_tool_that_two_handlers_see(bench, fakes, path, where, asks):
    """It costs its price once, and covers what runs in it, whichever handler meters that."""
    model, ran = fakes.Chat(), []

    @tool
    def look(what: str) -> str:
        """Look something up."""
        ran.append(what)
        if asks:
            model.invoke("x")
        return "found"

    chain = RunnableLambda(lambda state: {"type": "tool_call", "name": "look", "args": {"what": "x"}, "id": "1"}) | look
    app = graph(chain | RunnableLambda(lambda answer: {"said": []})) if where == "graph" else chain
    run(app, path, {"said": []}, {"callbacks": handlers(bench, tool_prices={"look": 2})})
    assert ran == ["x"]
    assert bench.audit().spent == 2


@both
def test_another_handlers_refusal_of_a_tool_gives_its_hold_back(make_bench, path):
    """LangChain tells the one that let it through nothing more of it."""
    bench, broke = make_bench(), make_bench()
    ran = []

    @tool
    def look(what: str) -> str:
        """Look something up."""
        ran.append(what)
        return "found"

    lets = CountwerkCallbackHandler(bench.meter, account_id="acct", tool_prices={"look": 2})
    refuses = CountwerkCallbackHandler(broke.meter, account_id="acct", tool_prices={"look": 5_000})
    with pytest.raises(InsufficientCreditsError):
        run(look, path, {"what": "x"}, {"callbacks": [lets, refuses]})
    assert not ran
    assert bench.audit().spent == 0


def test_a_refusal_of_a_tool_is_that_calls_alone(make_bench):
    """Whoever calls tools by hand may describe each call of one with the same object."""
    bench = make_bench(balance=1)
    handler = CountwerkCallbackHandler(bench.meter, account_id="acct", tool_prices={"look": 2})
    about, refused, let = {"name": "look"}, uuid4(), uuid4()
    with pytest.raises(InsufficientCreditsError):
        handler.on_tool_start(about, "x", run_id=refused)
    bench.sandbox.control.account("acct", balance=10, ai_product_id="prod")
    handler.on_tool_start(about, "x", run_id=let)
    handler.on_tool_end("found", run_id=let)
    assert bench.audit().spent == 2


@both
def test_a_tools_gate_that_is_not_implemented(bench, path):
    """LangChain takes that for a missing hook, and would let the tool run (trap 3)."""
    ran = []

    @tool
    def look(what: str) -> str:
        """Look something up."""
        ran.append(what)
        return "found"

    def account(metadata):
        raise NotImplementedError

    handler = CountwerkCallbackHandler(bench.meter, account_id=account, tool_prices={"look": 2})
    with pytest.raises(ConfigurationError):
        run(look, path, {"what": "x"}, {"callbacks": [handler]})
    assert not ran
